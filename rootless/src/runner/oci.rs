//! The container as libcontainer wants it described.
//!
//! Every field is set: the builders' defaults are somebody else's opinion (`no_new_privs`, limits, resources, masks).
//! User, capabilities, limits, environment and working directory are not in here: they are the executor's work, and the
//! description is written to a file, where secrets have no place.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::report::ProcMode;
use crate::step::{Emulation, Network, StepMount, StepSpec};

/// Hidden from steps (SPEC A5.14).
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only in steps (SPEC A5.14).
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What libcontainer itself puts into /dev.
const STANDARD_DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

pub(super) fn runtime_spec(step: &StepSpec) -> Result<Spec, OciSpecError> {
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0u32).gid(0u32).build()?)
        .args(step.args.clone())
        // Without it libcontainer asks NSS for the user's home, with the container's configuration.
        .env(vec!["HOME=/".to_owned()])
        .cwd("/")
        .rlimits(vec![])
        .build()?;
    process.set_capabilities(None);
    process.set_no_new_privileges(None);
    process.set_rlimits(None);
    process.set_apparmor_profile(None);

    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(step.network)?)
        .masked_paths(masked(step))
        .readonly_paths(owned(step, &READONLY))
        .rootfs_propagation("private")
        .build()?;
    linux.set_resources(None);
    linux.set_devices(None);
    linux.set_seccomp(None);

    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(&step.rootfs).readonly(false).build()?)
        .hostname(&step.hostname)
        .mounts(mounts(step)?)
        .process(process)
        .linux(linux)
        .build()?;
    spec.set_hooks(None);
    Ok(spec)
}

/// With a network of its own a step has no business with the names of the machine's interfaces.
const INTERFACES: [&str; 2] = ["/sys/class/net", "/sys/devices/virtual/net"];

fn masked(step: &StepSpec) -> Vec<String> {
    let mut out = owned(step, &MASKED);
    if step.network != Network::Host && !step.fresh_sys {
        out.extend(owned(step, &INTERFACES));
    }
    out
}

fn owned(step: &StepSpec, paths: &[&str]) -> Vec<String> {
    if step.insecure { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() }
}

/// No user namespace (the worker is in one), no cgroup namespace (the worker has its own); the step process has entered the
/// network namespace it was given.
fn namespaces(network: Network) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let mut types =
        vec![LinuxNamespaceType::Mount, LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts];
    if network == Network::None {
        types.push(LinuxNamespaceType::Network);
    }
    types.into_iter().map(|t| LinuxNamespaceBuilder::default().typ(t).build()).collect()
}

fn mount(kind: &str, source: &Path, target: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
}

fn mounts(step: &StepSpec) -> Result<Vec<Mount>, OciSpecError> {
    let std = |kind: &str, target: &str, options: &[&str]| mount(kind, Path::new(kind), Path::new(target), options);
    let mut out = vec![match step.proc_mode {
        ProcMode::Fresh => std("proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        ProcMode::Bind => mount("bind", "/proc".as_ref(), "/proc".as_ref(), &["rbind", "nosuid", "noexec", "nodev"])?,
    }];
    // A tmpfs, or device nodes and links would end up in the layer.
    out.push(std("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"])?);
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !matches!(step.emulation, Emulation::Ids | Emulation::Errno) {
        // The group of terminals, which must exist in the user namespace.
        pts.push("gid=5");
    }
    out.push(std("devpts", "/dev/pts", &pts)?);
    if !step.mounts.iter().any(|m| m.target() == Path::new("/dev/shm")) {
        let size = format!("size={}", step.shm_size);
        out.push(std("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])?);
    }
    out.push(std("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"])?);
    out.extend(sys_mounts(step)?);
    if step.insecure {
        out.extend(device_mounts(Path::new("/dev"))?);
    }
    if let Some(console) = step.attached.as_ref().and_then(|attached| attached.console.as_ref()) {
        // Programs look in /dev for the name of the terminal they have.
        out.push(mount("bind", console, "/dev/console".as_ref(), &["bind", "rw"])?);
    }
    for m in &step.mounts {
        out.push(match m {
            StepMount::Bind { source, target, readonly } => {
                mount("bind", source, target, &["rbind", if *readonly { "rro" } else { "rw" }])?
            }
            StepMount::Host { source, target, options } => {
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                mount("bind", source, target, &options)?
            }
            StepMount::Tmpfs { target, size, mode } => {
                let mode = format!("mode={mode:o}");
                let size = format!("size={size}");
                let options = ["nosuid", "nodev", &mode, &size];
                mount("tmpfs", "tmpfs".as_ref(), target, if size == "size=0" { &options[..3] } else { &options })?
            }
        });
    }
    Ok(out)
}

fn sys_mounts(step: &StepSpec) -> Result<Vec<Mount>, OciSpecError> {
    let quiet = ["nosuid", "noexec", "nodev"];
    let access = if step.insecure { "rw" } else { "rro" };
    let bind = |source: &Path, target: &str| {
        mount("bind", source, target.as_ref(), &["rbind", quiet[0], quiet[1], quiet[2], access])
    };
    if !step.fresh_sys {
        // A sysfs can be mounted only by who owns the network namespace. The bind brings /sys/fs/cgroup along.
        return Ok(vec![bind("/sys".as_ref(), "/sys")?]);
    }
    let access = if step.insecure { "rw" } else { "ro" };
    let mut out = vec![mount("sysfs", "sysfs".as_ref(), "/sys".as_ref(), &[quiet[0], quiet[1], quiet[2], access])?];
    if let Some(dir) = &step.cgroup_dir {
        out.push(bind(dir, "/sys/fs/cgroup")?);
    }
    Ok(out)
}

/// The machine's devices beyond the standard ones, for insecure steps (SPEC A5.09).
fn device_mounts(dev: &Path) -> Result<Vec<Mount>, OciSpecError> {
    let mut out = Vec::new();
    let mut add = |dir: &Path| -> Result<(), OciSpecError> {
        let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
        let mut paths: Vec<_> = entries.filter_map(Result::ok).collect();
        paths.sort_by_key(fs::DirEntry::file_name);
        for entry in paths {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            let standard = path.file_name().is_some_and(|n| STANDARD_DEVICES.iter().any(|d| n == *d));
            let terminal = ["ptmx", "console"].iter().any(|d| path.ends_with(d));
            if (kind.is_char_device() || kind.is_block_device()) && !standard && !terminal {
                out.push(mount("bind", &path, &path, &["bind", "rw"])?);
            }
        }
        Ok(())
    };
    add(dev)?;
    add(&dev.join("net"))?;
    add(&dev.join("mapper"))?;
    Ok(out)
}
