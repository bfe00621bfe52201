//! The test program again, as an ordinary user.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user, as `scripts/setup` makes it.
const USER: &str = "rbuild-test";

fn ids() -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(USER))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Runs this program again, as `__broker`, as somebody who may not read the target directory; false if it failed there.
pub(crate) fn again(filter: &[String]) -> bool {
    let Some((uid, gid)) = ids() else {
        println!("skipped: as an ordinary user (no user {USER})");
        return true;
    };
    let dir = tempfile::Builder::new().prefix("rbuild-steps-").tempdir().expect("a temporary directory");
    let exe = dir.path().join("steps");
    std::fs::copy("/proc/self/exe", &exe).expect("a copy of this program");
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    if let Err(e) = std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)) {
        println!("skipped: as {USER}, whose id does not exist here ({e})");
        return true;
    }
    let mut command = Command::new(exe);
    command.arg("__broker").args(filter).current_dir("/").env("TMPDIR", dir.path()).env("HOME", dir.path());
    command.uid(uid).gid(gid).status().expect("this program again").success()
}
