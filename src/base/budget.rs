//! How much memory and how many threads this process may use, from the cgroup and the machine.

use std::fs;

/// Limits every bounded thing (channels, buffers, worker threads) derives from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Threads for CPU work: the cpus this process may run on, capped by the cgroup's quota; at least 1.
    pub cpus: usize,
    /// Bytes of memory the machine or the cgroup allows in all.
    pub memory: u64,
}

impl Budget {
    /// Reads the limits of the calling process. Unreadable limits count as absent.
    #[must_use]
    pub fn detect() -> Self {
        let mut cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(quota) = cgroup_cpus() {
            cpus = cpus.min(quota);
        }
        let memory = cgroup_memory().unwrap_or(u64::MAX).min(physical_memory());
        Self { cpus: cpus.max(1), memory }
    }

    /// Bytes all in-flight buffers of one build may hold together: an eighth of the memory, between 8 and 48 MiB.
    #[must_use]
    pub fn buffers(&self) -> u64 {
        (self.memory / 8).clamp(8 << 20, 48 << 20)
    }
}

fn cgroup_memory() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn cgroup_cpus() -> Option<usize> {
    if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cpu.max") {
        return quota_cpus(&text);
    }
    let quota = fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").ok()?;
    let period = fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_period_us").ok()?;
    quota_cpus(&format!("{} {}", quota.trim(), period.trim()))
}

/// `"150000 100000"` is one and a half cpus: two threads.
fn quota_cpus(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok().map(|n| n.max(1))
}

fn physical_memory() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        })
        .map_or(1 << 30, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_round_up_to_whole_threads() {
        assert_eq!(quota_cpus("150000 100000\n"), Some(2));
        assert_eq!(quota_cpus("50000 100000"), Some(1));
        assert_eq!(quota_cpus("max 100000"), None);
        assert_eq!(quota_cpus("-1 100000"), None);
    }
}
