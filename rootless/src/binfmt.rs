//! Foreign architectures without anything registered on the host: from Linux 6.7 a user namespace can have a
//! `binfmt_misc` of its own, and the `F` flag opens the emulator at registration, so steps need no copy of it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

/// An architecture: what its emulator is called, class, byte order and machine number of its programs.
struct Architecture {
    name: &'static str,
    wide: bool,
    big_endian: bool,
    machine: u16,
}

const ARCHITECTURES: [Architecture; 8] = [
    Architecture { name: "aarch64", wide: true, big_endian: false, machine: 183 },
    Architecture { name: "arm", wide: false, big_endian: false, machine: 40 },
    Architecture { name: "riscv64", wide: true, big_endian: false, machine: 243 },
    Architecture { name: "ppc64le", wide: true, big_endian: false, machine: 21 },
    Architecture { name: "s390x", wide: true, big_endian: true, machine: 22 },
    Architecture { name: "loongarch64", wide: true, big_endian: false, machine: 258 },
    Architecture { name: "x86_64", wide: true, big_endian: false, machine: 62 },
    Architecture { name: "i386", wide: false, big_endian: false, machine: 3 },
];

/// Where emulators are looked for.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"];

/// Registers every static qemu of this machine for the current user namespace, in a file system mounted at `dir`.
///
/// Does nothing where the host has emulators registered, which are inherited, or where there is no emulator. A refusal
/// does not matter here: whether an architecture runs is tried out before a step needs it.
pub(crate) fn register(dir: &Path) {
    let own = if cfg!(target_arch = "x86_64") { &["x86_64", "i386"][..] } else { &[std::env::consts::ARCH][..] };
    let found: Vec<(&Architecture, PathBuf)> = ARCHITECTURES
        .iter()
        .filter(|a| !own.contains(&a.name))
        .filter_map(|a| emulator(a.name).map(|path| (a, path)))
        .collect();
    if found.is_empty() || host_has_emulators() {
        return;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if fs::create_dir_all(dir).is_err() || mount("binfmt_misc", dir, "binfmt_misc", quiet, None).is_err() {
        return;
    }
    for (architecture, path) in found {
        let _ = fs::write(dir.join("register"), architecture.rule(&path));
    }
}

/// A static emulator: its libraries would not be found in a step's root.
fn emulator(name: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(format!("qemu-{name}-static"))).find(|path| path.is_file())
}

fn host_has_emulators() -> bool {
    fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|e| e.file_name().to_string_lossy().starts_with("qemu-"))
    })
}

impl Architecture {
    /// `:name:M::magic:mask:interpreter:flags`: executables and position-independent ones, whatever their ABI says.
    fn rule(&self, interpreter: &Path) -> String {
        let order = |n: u16| if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut magic = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(self.wide), 1 + u8::from(self.big_endian), 1, 0];
        magic.extend([0; 8]);
        magic.extend(order(2));
        magic.extend(order(self.machine));
        let mut mask = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
        mask.extend([0xff; 8]);
        // 2 and 3 are the two kinds of programs.
        mask.extend(order(0xfffe));
        mask.extend([0xff, 0xff]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("\\x{b:02x}")).collect::<String>();
        let (magic, mask) = (hex(&magic), hex(&mask));
        // O: the program is opened for the emulator, C: with the program's own credentials, F: see above.
        format!(":qemu-{}:M::{magic}:{mask}:{}:OCF", self.name, interpreter.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_qemus_own_packages() {
        let rule = ARCHITECTURES[0].rule(Path::new("/usr/bin/qemu-aarch64-static"));
        assert_eq!(
            rule,
            ":qemu-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:/usr/bin/qemu-aarch64-static:OCF"
        );
        let rule = ARCHITECTURES[4].rule(Path::new("/q"));
        assert!(rule.contains("\\x00\\x02\\x00\\x16:") && rule.contains("\\xff\\xfe\\xff\\xff:/q"), "{rule}");
    }
}
