//! How many threads this process may use, from the cgroup and the machine.
//!
//! Memory needs no number: everything that is held at once (blocks of a layer, pieces of a transfer) is bounded by these threads.

use std::fs;

/// Limits that worker threads, and so buffers, derive from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Threads for CPU work: the cpus this process may run on, capped by the cgroup's quota; at least 1.
    pub cpus: usize,
}

impl Budget {
    /// Reads the limits of the calling process. Unreadable limits count as absent.
    #[must_use]
    pub fn detect() -> Self {
        let mut cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(quota) = cgroup_cpus() {
            cpus = cpus.min(quota);
        }
        Self { cpus: cpus.max(1) }
    }
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
