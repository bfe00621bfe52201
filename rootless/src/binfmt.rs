//! Foreign architectures without anything registered on the host: from Linux 6.7 a user namespace can have a
//! `binfmt_misc` of its own, and the `F` flag opens the emulator at registration, so steps need no copy of it.

use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::mount::{MountFlags, mount};

use crate::probe::find_program;

/// An architecture: what its emulator and Go call it, class, byte order and machine number of its programs.
struct Architecture {
    name: &'static str,
    go: &'static str,
    wide: bool,
    big_endian: bool,
    machine: u16,
}

const fn architecture(
    name: &'static str,
    go: &'static str,
    wide: bool,
    big_endian: bool,
    machine: u16,
) -> Architecture {
    Architecture { name, go, wide, big_endian, machine }
}

const ARCHITECTURES: [Architecture; 10] = [
    architecture("aarch64", "arm64", true, false, 183),
    architecture("arm", "arm", false, false, 40),
    architecture("riscv64", "riscv64", true, false, 243),
    architecture("ppc64le", "ppc64le", true, false, 21),
    architecture("s390x", "s390x", true, true, 22),
    architecture("loongarch64", "loong64", true, false, 258),
    architecture("mips64el", "mips64le", true, false, 8),
    architecture("mips64", "mips64", true, true, 8),
    architecture("x86_64", "amd64", true, false, 62),
    architecture("i386", "386", false, false, 3),
];

/// Where emulators are looked for beside PATH.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"];

/// A program that runs those of another architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// In Go's words, as platforms have it.
    pub architecture: &'static str,
    /// A static program of this machine.
    pub path: PathBuf,
}

/// Why something is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its name is not that of an emulator, and nobody said which architecture it is for.
    #[error("{path} does not tell its architecture by its name, as qemu-aarch64 does", path = path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// `NAME=PATH` with an unknown name.
    #[error("unknown architecture \"{0}\"")]
    Architecture(String),
    /// It needs a dynamic loader, or is no program of this machine.
    #[error("{path} is not a static program of this machine", path = path.display())]
    NotStatic {
        /// The file.
        path: PathBuf,
    },
    /// A directory without any.
    #[error("there is no static qemu-ARCHITECTURE in {path}", path = path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

impl Emulator {
    /// The emulator in a file, for the architecture that somebody named or that the file's name ends with.
    ///
    /// # Errors
    /// If the file is none that steps of any root could use.
    pub fn of_file(path: &Path, named: Option<&str>) -> Result<Self, EmulatorError> {
        let found = match named {
            Some(name) => ARCHITECTURES
                .iter()
                .find(|a| a.go == name || a.name == name)
                .ok_or_else(|| EmulatorError::Architecture(name.to_owned()))?,
            None => by_file_name(path).ok_or_else(|| EmulatorError::Name { path: path.to_owned() })?,
        };
        match is_static(path) {
            Ok(true) => Ok(Self { architecture: found.go, path: path.to_owned() }),
            Ok(false) => Err(EmulatorError::NotStatic { path: path.to_owned() }),
            Err(source) => Err(EmulatorError::Io { path: path.to_owned(), source }),
        }
    }

    /// All emulators in a directory.
    ///
    /// # Errors
    /// If it cannot be read, or has none.
    pub fn of_directory(path: &Path) -> Result<Vec<Self>, EmulatorError> {
        let io = |source| EmulatorError::Io { path: path.to_owned(), source };
        let entries = fs::read_dir(path).map_err(io)?.collect::<io::Result<Vec<_>>>().map_err(io)?;
        let mut out: Vec<Self> = entries.iter().filter_map(|entry| Self::of_file(&entry.path(), None).ok()).collect();
        // The same every time, where there are two for one.
        out.sort_by(|a, b| a.path.cmp(&b.path));
        if out.is_empty() { Err(EmulatorError::Empty { path: path.to_owned() }) } else { Ok(out) }
    }

    /// What file names an emulator of an architecture has, without directories (SPEC A5.18).
    #[must_use]
    pub fn file_names(architecture: &str) -> Vec<String> {
        let found = ARCHITECTURES.iter().find(|a| a.go == architecture);
        found.map_or_else(Vec::new, |a| {
            vec![format!("qemu-{}-static", a.name), format!("buildkit-qemu-{}", a.name), format!("qemu-{}", a.name)]
        })
    }

    /// The emulators of this machine for foreign architectures: static ones, as their libraries would not be found in a
    /// step's root.
    #[must_use]
    pub fn of_this_machine() -> Vec<Self> {
        let own = if cfg!(target_arch = "x86_64") { &["x86_64", "i386"][..] } else { &[std::env::consts::ARCH][..] };
        let foreign = ARCHITECTURES.iter().filter(|a| !own.contains(&a.name));
        let find = |a: &Architecture| {
            let names = Self::file_names(a.go);
            let in_places = names.iter().flat_map(|n| PLACES.iter().map(move |place| Path::new(place).join(n)));
            let mut candidates = in_places.chain(names.iter().filter_map(|n| find_program(n)));
            candidates.find_map(|path| Self::of_file(&path, Some(a.go)).ok())
        };
        foreign.filter_map(find).collect()
    }
}

fn by_file_name(path: &Path) -> Option<&'static Architecture> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix("buildkit-").unwrap_or(name).strip_prefix("qemu-")?;
    let name = name.strip_suffix("-static").unwrap_or(name);
    ARCHITECTURES.iter().find(|a| a.name == name)
}

/// Whether a file is a program of this machine that needs no dynamic loader.
fn is_static(path: &Path) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let wide = cfg!(target_pointer_width = "64");
    let mut file = fs::File::open(path)?;
    let mut header = [0; 64];
    if !file.metadata()?.is_file() || file.read_exact(&mut header).is_err() {
        return Ok(false);
    }
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let machine = ARCHITECTURES.iter().find(|a| a.name == own_name()).map(|a| a.machine);
    let class = [0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, if cfg!(target_endian = "big") { 2 } else { 1 }];
    if header[..6] != class || Some(half(18)) != machine || !matches!(half(16), 2 | 3) {
        return Ok(false);
    }
    let (table, size, count) = if wide {
        let offset: [u8; 8] = header[32..40].try_into().unwrap_or_default();
        (u64::from_ne_bytes(offset), half(54), half(56))
    } else {
        let offset: [u8; 4] = header[28..32].try_into().unwrap_or_default();
        (u64::from(u32::from_ne_bytes(offset)), half(42), half(44))
    };
    for at in 0..u64::from(count) {
        let mut kind = [0; 4];
        file.seek(io::SeekFrom::Start(table.saturating_add(at * u64::from(size))))?;
        if file.read_exact(&mut kind).is_err() || u32::from_ne_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Qemu's word for this machine.
fn own_name() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "i386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// The registrations of the current user namespace.
#[derive(Debug)]
pub struct Registrations {
    dir: PathBuf,
    /// A file system of our own is mounted; what was registered in it, by architecture.
    ours: Mutex<Option<Vec<&'static str>>>,
}

impl Registrations {
    /// Nothing happens before the first use. A file system is mounted at `dir` then, in the caller's mount namespace.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, ours: Mutex::new(None) }
    }

    /// The emulators of this machine, where the host has none registered: those are inherited.
    ///
    /// A refusal does not matter here: whether an architecture runs is tried out before a step needs it.
    pub fn add_this_machines(&self) {
        if self.is_mounted() || host_has_emulators() {
            return;
        }
        let found = Emulator::of_this_machine();
        if !found.is_empty() {
            // See above.
            let _ = self.add(&found);
        }
    }

    /// Registers emulators; of two for one architecture the first one counts. What the host has registered is not seen
    /// any more afterwards, so the emulators of this machine are registered along.
    ///
    /// # Errors
    /// If this user namespace cannot have registrations (Linux 6.7), or the kernel refuses one.
    pub fn add(&self, emulators: &[Emulator]) -> io::Result<()> {
        let mut ours = self.ours.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = ours.is_none();
        if first {
            let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            fs::create_dir_all(&self.dir)?;
            mount("binfmt_misc", &self.dir, "binfmt_misc", quiet, None)?;
        }
        let known = ours.get_or_insert_default();
        for emulator in emulators {
            self.register(known, emulator)?;
        }
        if first {
            for emulator in Emulator::of_this_machine() {
                // Nobody asked for these in particular.
                let _ = self.register(known, &emulator);
            }
        }
        Ok(())
    }

    fn is_mounted(&self) -> bool {
        self.ours.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    fn register(&self, known: &mut Vec<&'static str>, emulator: &Emulator) -> io::Result<()> {
        let found = ARCHITECTURES.iter().find(|a| a.go == emulator.architecture);
        let Some(architecture) = found.filter(|a| !known.contains(&a.go)) else { return Ok(()) };
        fs::write(self.dir.join("register"), architecture.rule(&emulator.path)?)?;
        known.push(architecture.go);
        Ok(())
    }
}

fn host_has_emulators() -> bool {
    fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|e| e.file_name().to_string_lossy().starts_with("qemu-"))
    })
}

impl Architecture {
    /// `:name:M::magic:mask:interpreter:flags`: executables and position-independent ones, whatever their ABI says.
    fn rule(&self, interpreter: &Path) -> io::Result<String> {
        let text = interpreter.to_str().filter(|text| !text.contains([':', '\n']));
        let interpreter = text.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the kernel takes no such name for an emulator: {}", interpreter.display()),
            )
        })?;
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
        // P: the program's first argument is kept, which shells set (qemu 6.0); O: the program is opened for the emulator;
        // C: with the program's own credentials; F: see above.
        Ok(format!(":qemu-{}:M::{magic}:{mask}:{interpreter}:POCF", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_qemus_own_packages() {
        let rule = ARCHITECTURES[0].rule(Path::new("/usr/bin/qemu-aarch64-static")).expect("a name");
        assert_eq!(
            rule,
            ":qemu-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:/usr/bin/qemu-aarch64-static:POCF"
        );
        let rule = ARCHITECTURES[4].rule(Path::new("/q")).expect("a name");
        assert!(rule.contains("\\x00\\x02\\x00\\x16:") && rule.contains("\\xff\\xfe\\xff\\xff:/q"), "{rule}");
        assert!(ARCHITECTURES[0].rule(Path::new("/a:b")).is_err(), "a colon ends the field");
    }

    // SPEC A5.18
    #[test]
    fn emulators_are_known_by_their_names() {
        let name = |text: &str| by_file_name(Path::new(text)).map(|a| a.go);
        assert_eq!(name("/usr/bin/qemu-aarch64"), Some("arm64"));
        assert_eq!(name("qemu-arm-static"), Some("arm"));
        assert_eq!(name("/x/buildkit-qemu-loongarch64"), Some("loong64"));
        assert_eq!(name("/usr/bin/qemu-system-arm"), None);
        assert_eq!(name("/usr/bin/busybox"), None);
    }

    #[test]
    fn what_is_no_static_program_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("qemu-aarch64");
        fs::write(&script, "#!/bin/sh\n").expect("writes");
        let refused = Emulator::of_file(&script, None).expect_err("a script");
        assert!(matches!(refused, EmulatorError::NotStatic { .. }), "{refused}");
        assert!(matches!(Emulator::of_directory(dir.path()), Err(EmulatorError::Empty { .. })));
        assert!(matches!(Emulator::of_file(&script, Some("vax")), Err(EmulatorError::Architecture(_))));
        assert!(matches!(Emulator::of_file(&dir.path().join("none"), Some("arm64")), Err(EmulatorError::Io { .. })));
        assert!(matches!(Emulator::of_file(Path::new("/bin/sh"), None), Err(EmulatorError::Name { .. })));
        // As the test runs, its loader is there: a dynamic program of this machine.
        if let Ok(dynamic) = is_static(Path::new("/bin/sh")) {
            assert!(!dynamic, "/bin/sh has a dynamic loader");
        }
    }
}
