//! buildah's command line, and podman's where it builds, translated into ours (SPEC D3): `rbuild buildah …`, `rbuild podman …`,
//! or a program called `buildah`.

mod commands;
mod containers_conf;
mod files;
mod flags;
mod globals;
mod sbom;
mod transports;

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory as _;

use super::errors::Failure;
use super::foreign::{Variables, flag};
use super::grammar::{csv_field, did_you_mean};
use super::settings::{usage, variable};
use super::translation::{self, Translation, refused, say};
use super::{args, spelling};
use containers_conf::ContainersConf;
use flags::Build;
use globals::Global;

/// Whose words they are, where they mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Buildah,
    Podman,
}

impl Dialect {
    fn program(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
        }
    }
}

/// Commands that mean the same here, and what they are called.
const SAME: [(&str, &str); 7] = [
    ("info", "info"),
    ("load", "load"),
    ("logout", "logout"),
    ("prune", "prune"),
    ("tag", "tag"),
    ("unshare", "unshare"),
    ("version", "version"),
];
/// Commands that build step by step, and others that have no counterpart.
const MISSING: [&str; 14] = [
    "from",
    "run",
    "copy",
    "add",
    "config",
    "commit",
    "mount",
    "umount",
    "containers",
    "rename",
    "rm",
    "source",
    "mkcw",
    "passwd",
];

/// The command line in our spelling, if it is one of buildah's. What is wrong with it was printed then, and our exit code is the
/// error.
pub(super) fn ours(words: &[OsString]) -> Result<Option<Vec<OsString>>, u8> {
    let program = words.first().and_then(|p| Path::new(p).file_name()?.to_str().map(ToOwned::to_owned));
    let called = program.as_deref() == Some("buildah");
    let at = spelling::command_at(words);
    let start = match words.get(at).and_then(|word| word.to_str()) {
        _ if called => 1,
        // `rbuild podman` may be a directory of that name.
        Some("buildah" | "podman") if words.len() > at + 1 => at + 1,
        _ => return Ok(None),
    };
    let mut out = words[..if called { 1 } else { at }].to_vec();
    let podman = !called && words[at] == "podman";
    let dialect = if podman { Dialect::Podman } else { Dialect::Buildah };
    command(dialect, &words[start..], &mut out)?;
    Ok(Some(out))
}

fn command(dialect: Dialect, words: &[OsString], out: &mut Vec<OsString>) -> Result<(), u8> {
    let mut rest = words.iter();
    // `podman image rm`: what follows is about images.
    let mut of_images = false;
    loop {
        let Some(word) = rest.next().and_then(|word| word.to_str()) else {
            return build_help();
        };
        let (name, joined) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if let Some((value, meaning)) = globals::option(name) {
            if let Global::Refused(why) = meaning {
                return Err(refused(usage(format!("{name}: {why}"))));
            }
            let _ = if value && joined.is_none() { rest.next() } else { None };
            say(&format!("{name} of {} has no meaning here", dialect.program()));
            continue;
        }
        let name = match name {
            "rm" if of_images => "rmi",
            "ls" | "list" if of_images => "images",
            _ => name,
        };
        match name {
            "--root" => {
                let value = joined.map(OsString::from).or_else(|| rest.next().cloned());
                out.extend(["--root".into(), value.unwrap_or_default()]);
            }
            "--debug" => {}
            "--version" | "-v" => out.push("version".into()),
            "--help" | "-h" | "help" => return build_help(),
            "image" | "buildx" if dialect == Dialect::Podman && !of_images => of_images = true,
            "build" | "bud" | "build-using-dockerfile" => return build(dialect, rest.as_slice(), out),
            known if commands::NAMES.contains(&known) => {
                let words: Vec<OsString> = std::iter::once(known.into()).chain(rest.cloned()).collect();
                return commands::translate(&words, out);
            }
            _ => {
                if let Some((_, ours)) = SAME.iter().find(|(theirs, _)| *theirs == name) {
                    out.push((*ours).into());
                    out.extend(rest.cloned());
                    return Ok(());
                }
                return Err(refused(unknown(dialect, name)));
            }
        }
        if out.last().is_some_and(|word| word == "version") {
            return Ok(());
        }
    }
}

/// A command that is not here.
fn unknown(dialect: Dialect, name: &str) -> Failure {
    let program = dialect.program();
    if MISSING.contains(&name) {
        return usage(format!("{program} {name}: images are not built by commands here"))
            .hint("write a Containerfile, and build it with `rbuild buildah build`");
    }
    if name.starts_with('-') {
        return usage(format!("{program}: there is no option {name} before the command here"));
    }
    let known = SAME.iter().map(|(name, _)| *name).chain(commands::NAMES).chain(["build", "bud"]);
    usage(format!("{program} {name}: there is no such command here{}", did_you_mean(name, known)))
}

fn build_help() -> Result<(), u8> {
    let _ = definition().print_help();
    Err(0)
}

/// The command line as clap sees it.
pub(super) fn definition() -> clap::Command {
    args::switches(Build::command())
}

fn build(dialect: Dialect, words: &[OsString], out: &mut Vec<OsString>) -> Result<(), u8> {
    let mut given: Build = translation::parsed(definition(), "build", words)?;
    let completed = ContainersConf::read(&variable).and_then(|conf| conf.complete(&mut given));
    let translated = completed.and_then(|()| translate(&given, dialect, &variable)).and_then(|mut translated| {
        // Not behind the context, which is the last word.
        let read = variable(containers_conf::ONLY).map(|_| "--containers-conf-read");
        translated.words.splice(1..1, read.into_iter().chain(["--short-names"]).map(ToOwned::to_owned));
        given.messages.logfile.as_deref().map_or(Ok(()), log_to)?;
        Ok(translated)
    });
    translation::append(translated, out)
}

/// `--logfile`: all that would be printed goes there, the image's ID included.
fn log_to(path: &Path) -> Result<(), Failure> {
    let fail = |e: std::io::Error| usage(format!("--logfile: cannot write {}: {e}", path.display()));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
    rustix::stdio::dup2_stdout(&file).and_then(|()| rustix::stdio::dup2_stderr(&file)).map_err(|e| fail(e.into()))
}

fn translate(given: &Build, dialect: Dialect, env: &Variables<'_>) -> Result<Translation, Failure> {
    if let Some((flag, why)) = given.refused.given() {
        return Err(usage(format!("--{flag}: {why}")));
    }
    let mut out = Translation::build();
    same(given, &mut out);
    let context = files::add(given, env, &mut out)?;
    image(given, dialect, env, &mut out)?;
    steps(given, env, &mut out)?;
    cache(given, &mut out)?;
    sbom::add(&given.sbom, &mut out)?;
    idle(given, &mut out)?;
    transports::outputs(given, env, &mut out)?;
    if !given.registries.tls_verify {
        out.add("registry", "*,insecure=true");
    }
    if let Some(dir) = &given.registries.cert_dir {
        out.add("registry", &format!("*,{}", csv_field("certs", dir)));
    }
    if let Some(path) = &given.registries.signature_policy {
        out.add("signature-policy", &path.display().to_string());
    }
    let quiet = given.messages.quiet;
    if quiet || given.messages.logfile.is_some() {
        out.add("progress", if quiet { "none" } else { "plain" });
    }
    if let (true, Some(file)) = (given.messages.logsplit, &given.messages.logfile) {
        out.add("log-split", &file.display().to_string());
    }
    out.switch("debug", given.messages.log_level.as_deref().is_some_and(|level| ["debug", "trace"].contains(&level)));
    out.words.push(context);
    Ok(out)
}

fn same(given: &Build, out: &mut Translation) {
    let same = &given.same;
    for (flag, values) in [
        ("build-arg", &same.build_arg),
        ("build-arg-file", &same.build_arg_file),
        ("target", &same.target),
        ("label", &same.label),
        ("annotation", &same.annotation),
        ("unsetenv", &same.unsetenv),
        ("unsetlabel", &same.unsetlabel),
        ("env", &same.env),
        ("secret", &same.secret),
        ("ssh", &same.ssh),
        ("add-host", &same.add_host),
        ("ulimit", &same.ulimit),
        ("shm-size", &same.shm_size),
        ("memory", &same.memory),
        ("memory-swap", &same.memory_swap),
        ("cpu-shares", &same.cpu_shares),
        ("cpu-period", &same.cpu_period),
        ("cpu-quota", &same.cpu_quota),
        ("cpuset-cpus", &same.cpuset_cpus),
        ("cpuset-mems", &same.cpuset_mems),
        ("cgroup-parent", &same.cgroup_parent),
        ("cap-add", &same.cap_add),
        ("cap-drop", &same.cap_drop),
        ("dns", &same.dns),
        ("dns-search", &same.dns_search),
        ("dns-option", &same.dns_option),
        ("source-policy-file", &same.source_policy_file),
        ("iidfile", &same.iidfile),
        ("iidfile-raw", &same.iidfile_raw),
        ("metadata-file", &same.metadata_file),
        ("output", &same.output),
        ("retry", &same.retry),
        ("retry-delay", &same.retry_delay),
        ("creds", &same.creds),
        ("authfile", &same.authfile),
    ] {
        values.iter().for_each(|value| out.add(flag, value));
    }
    for text in &same.build_context {
        let value = text.split_once('=').map(|(name, value)| {
            let image = ["docker://", "container-image://"].iter().find_map(|scheme| value.strip_prefix(scheme));
            image.map_or_else(|| text.clone(), |image| format!("{name}=docker-image://{image}"))
        });
        out.add("build-context", value.as_ref().unwrap_or(text));
    }
}

/// What the image is.
fn image(given: &Build, dialect: Dialect, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let image = &given.image;
    if let Some(from) = &image.from {
        out.add("from", from.strip_prefix("docker://").unwrap_or(from));
    }
    let layers = image.layers.map_or_else(|| flag(env, "BUILDAH_LAYERS"), |given| Ok(Some(given)))?;
    // podman's --squash leaves the base image's layers alone, buildah's does not.
    if image.squash_all || (image.squash && dialect == Dialect::Buildah) {
        out.add("single-layer", "all");
    } else if image.squash || layers == Some(false) {
        out.add("single-layer", "new");
    }
    // Without layers there is no cache, and each stage is one layer; what a variable says is said again by who reads it.
    out.switch("no-cache", given.cache.no_cache || image.layers == Some(false));
    out.switch("omit-history", image.omit_history);
    out.switch("save-stages", image.save_stages);
    out.switch("stage-labels", image.stage_labels);
    out.switch("inherit-labels=false", !image.inherit_labels);
    out.switch("inherit-annotations", image.inherit_annotations);
    image.unsetannotation.iter().for_each(|name| out.add("unsetannotation", name));
    if let Some(epoch) = image.source_date_epoch {
        out.add("build-arg", &format!("SOURCE_DATE_EPOCH={epoch}"));
    }
    out.switch("all-platforms", image.all_platforms);
    if let Some(version) = &image.os_version {
        out.add("os-version", version);
    }
    image.os_feature.iter().for_each(|feature| out.add("os-feature", feature));
    image.platform.iter().for_each(|platform| out.add("platform", &complete(platform)));
    if image.arch.is_some() || image.os.is_some() || image.variant.is_some() {
        if !image.platform.is_empty() {
            return Err(usage("--platform may not be used with --arch, --os or --variant"));
        }
        let host = crate::oci::Platform::host();
        let mut platform = format!(
            "{}/{}",
            image.os.as_deref().unwrap_or(&host.os),
            image.arch.as_deref().unwrap_or(&host.architecture)
        );
        if let Some(variant) = &image.variant {
            platform = format!("{platform}/{variant}");
        }
        out.add("platform", &platform);
    }
    out.switch("build-arg=BUILDKIT_MULTI_PLATFORM=true", image.manifest.is_some());
    Ok(())
}

/// A platform as it is meant: what is missing before a slash or behind one is the machine's.
fn complete(platform: &str) -> String {
    match platform.trim_matches('/') {
        "" | "local" => crate::oci::Platform::host().to_string(),
        rest => rest.to_owned(),
    }
}

/// What RUN has.
fn steps(given: &Build, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let steps = &given.steps;
    match steps.isolation.as_deref() {
        // What is needed for both is found out.
        None | Some("oci" | "rootless" | "") => {}
        Some("chroot") => out.add("isolation", "chroot"),
        Some(other) => {
            let near = did_you_mean(other, ["oci", "rootless", "chroot"]);
            return Err(usage(format!(
                "--isolation: unknown isolation \"{other}\"{near}; expected oci, rootless or chroot"
            )));
        }
    }
    for text in &steps.volume {
        let volume = volume(text, out)?;
        out.add("volume", &volume);
    }
    for text in &steps.device {
        let mut parts = text.splitn(3, ':');
        let device = parts.next().unwrap_or_default();
        let target = parts.next().filter(|part| part.starts_with('/')).unwrap_or(device);
        if !device.starts_with("/dev/") {
            return Err(usage(format!("--device {text}: expected /dev/NAME[:TARGET[:rwm]]"))
                .hint("what the machine's CDI files describe is given with RUN --device=NAME"));
        }
        out.add("volume", &format!("{device}:{target}"));
    }
    match steps.network.as_deref().map(|mode| mode.split(':').next().unwrap_or(mode)) {
        None | Some("" | "default" | "private" | "bridge" | "pasta" | "slirp4netns" | "container") => {}
        Some(mode @ ("host" | "none")) => out.add("network", mode),
        Some("ns") => {
            return Err(usage("--network: namespaces that exist are not joined; expected host, none or private"));
        }
        Some(other) => {
            return Err(usage(format!(
                "--network: there is no network \"{other}\" here; expected host, none or private"
            )));
        }
    }
    let same = &given.same;
    for (flag, values) in [("dns", &same.dns), ("dns-option", &same.dns_option), ("dns-search", &same.dns_search)] {
        if steps.network.as_deref() == Some("none") && !values.is_empty() {
            return Err(usage(format!("the --{flag} option cannot be used with --network=none")));
        }
    }
    if steps.no_hosts && !same.add_host.is_empty() {
        return Err(usage("--no-hosts and --add-host conflict, can not be used together"));
    }
    steps.step_env.iter().for_each(|variable| out.add("step-env", variable));
    if steps.http_proxy.unwrap_or(true) {
        for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"] {
            for name in [name.to_owned(), name.to_uppercase()] {
                let given = given.same.build_arg.iter().any(|text| text.split('=').next() == Some(&name));
                if !given && env(&name).is_some() {
                    out.add("build-arg", &name);
                }
            }
        }
    }
    out.switch("no-hosts", steps.no_hosts);
    if let Some(group) = steps.group_add.iter().find(|group| *group == "keep-groups") {
        return Err(usage(format!("--group-add {group}: groups of this machine mean nothing to a step")));
    }
    steps.group_add.iter().for_each(|group| out.add("group-add", group));
    out.switch("stdin", steps.stdin);
    for text in &steps.security_opt {
        match text.split_once(['=', ':']) {
            None if text == "no-new-privileges" => out.switch("no-new-privileges", true),
            Some(("no-new-privileges", "true")) => out.switch("no-new-privileges", true),
            Some(("label", _) | ("no-new-privileges", "false")) => {}
            Some(("seccomp" | "apparmor", "unconfined")) => {
                out.notices.push(format!(
                    "--security-opt {text}: steps are confined as always (RUN --security=insecure is not)"
                ));
            }
            _ => return Err(usage(format!("--security-opt {text}: steps are confined in one way here"))),
        }
    }
    Ok(())
}

/// `SOURCE:TARGET[:OPTIONS]` with those options that mean something here.
fn volume(text: &str, out: &mut Translation) -> Result<String, Failure> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(usage(format!("--volume {text}: expected SOURCE:TARGET[:OPTIONS]")));
    };
    let mut access = String::new();
    for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" | "rw" | "O" => access = format!(":{option}"),
            // Labels matter to SELinux only.
            "z" | "Z" if !Path::new("/sys/fs/selinux/enforce").exists() => {}
            "z" | "Z" => out.notices.push(format!("--volume {text}: files are not labelled for SELinux here")),
            "private" | "rprivate" | "bind" | "rbind" | "" => {}
            other => return Err(usage(format!("--volume {text}: the option \"{other}\" is not supported"))),
        }
    }
    Ok(format!("{source}:{target}{access}"))
}

/// Where base images and results of steps come from.
fn cache(given: &Build, out: &mut Translation) -> Result<(), Failure> {
    let cache = &given.cache;
    let policy = match (&cache.pull, cache.pull_always, cache.pull_never) {
        (_, true, true) => return Err(usage("--pull-always and --pull-never contradict each other")),
        (_, true, _) => "always",
        (_, _, true) => "never",
        (Some(policy), ..) => policy.as_str(),
        (None, ..) => "missing",
    };
    match policy.to_ascii_lowercase().as_str() {
        "true" | "always" | "newer" | "ifnewer" | "1" => out.switch("pull", true),
        "missing" | "ifmissing" => {}
        "never" | "false" | "0" => out.switch("pull-never", true),
        other => {
            let known = ["always", "missing", "never", "newer", "true", "false"];
            return Err(usage(format!(
                "--pull: unknown policy \"{other}\"{}; expected {}",
                did_you_mean(other, known),
                known.join(", ")
            )));
        }
    }
    for repository in &cache.cache_from {
        out.add("cache-from", &format!("type=registry,{}", csv_field("ref", repository)));
    }
    for repository in &cache.cache_to {
        out.add("cache-to", &format!("type=registry,{},mode=max", csv_field("ref", repository)));
    }
    if let Some(age) = &cache.cache_ttl {
        let none = age.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<f64>().is_ok_and(|age| age == 0.0);
        // Nothing is younger than that.
        if none { out.switch("no-cache", !given.cache.no_cache) } else { out.add("cache-ttl", age) }
    }
    Ok(())
}

/// What is always so; asking for the opposite is a mistake.
fn idle(given: &Build, out: &mut Translation) -> Result<(), Failure> {
    let idle = &given.idle;
    for (flag, mode) in [("ipc", &idle.ipc), ("pid", &idle.pid), ("uts", &idle.uts), ("cgroupns", &idle.cgroupns)] {
        match mode.as_deref() {
            None | Some("private" | "container" | "") => {}
            Some(other) => {
                return Err(usage(format!("--{flag} {other}: steps have a namespace of their own; expected private")));
            }
        }
    }
    match idle.userns.as_deref().map(|mode| mode.split(':').next().unwrap_or(mode)) {
        None | Some("private" | "container" | "host" | "auto" | "") => {}
        Some(other) => return Err(usage(format!("--userns {other}: namespaces that exist are not joined"))),
    }
    for (flag, wrong, why) in [
        (
            "skip-unused-stages=false",
            !idle.skip_unused_stages,
            "stages that nothing needs are never built; --target builds one",
        ),
        ("identity-label", idle.identity_label == Some(true), "images do not say who built them"),
        ("compat-volumes", idle.compat_volumes == Some(true), "what RUN writes below a VOLUME is kept"),
    ] {
        if wrong {
            return Err(usage(format!("--{flag}: {why}")));
        }
    }
    if !idle.layer_label.is_empty() {
        out.notices.push("--layer-label has no meaning here: there are no images of steps to label".into());
    }
    for (flag, given) in [
        ("runtime", idle.runtime.is_some()),
        ("runtime-flag", !idle.runtime_flag.is_empty()),
        ("storage-driver", idle.storage_driver.is_some()),
        ("storage-opt", !idle.storage_opt.is_empty()),
        ("log-rusage", idle.log_rusage),
        ("rusage-logfile", idle.rusage_logfile.is_some()),
        ("blob-cache", idle.blob_cache.is_some()),
    ] {
        if given {
            out.notices.push(format!(
                "--{flag} has no meaning here: steps are run without a runtime's program, in the store's way, and say how long they took"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
