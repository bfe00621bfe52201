//! The processes of a step that has no pid namespace: found through `/proc`, ended with SIGKILL.
//!
//! The step process is their subreaper, so every one of them is its descendant, however it was orphaned.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::sys;

/// How long a step's processes are hunted. What still runs after that cannot be killed (it hangs in the kernel).
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills every descendant of this process and reaps them. Whether all are gone.
pub(super) fn end_all() -> bool {
    let end = Instant::now() + PATIENCE;
    while sys::reap_others(0) && Instant::now() < end {
        // Stopped first, so that none can start another one while the last are found.
        let mut stopped = Vec::new();
        loop {
            let found: Vec<i32> = descendants().into_iter().filter(|pid| !stopped.contains(pid)).collect();
            if found.is_empty() || Instant::now() > end {
                break;
            }
            found.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
            stopped.extend(found);
        }
        stopped.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        std::thread::sleep(Duration::from_micros(300));
    }
    !sys::reap_others(0)
}

fn signal(pid: i32, signal: i32) {
    let Some(signal) = rustix::process::Signal::from_named_raw(signal) else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // An error means that it has ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Every process below this one, zombies included.
fn descendants() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in entries.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses can hold anything.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_ascii_whitespace();
        if fields.next() == Some("Z") {
            continue;
        }
        if let Some(parent) = fields.next().and_then(|p| p.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut out = Vec::new();
    let mut todo = vec![rustix::process::getpid().as_raw_pid()];
    while let Some(pid) = todo.pop() {
        if let Some(below) = children.remove(&pid) {
            out.extend(&below);
            todo.extend(below);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_this_process_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("fits");
        assert!(descendants().contains(&pid));
        child.kill().expect("ours");
        child.wait().expect("ours");
        assert!(!descendants().contains(&pid));
    }
}
