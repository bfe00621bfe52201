//! kaniko's command line, translated into that of `rbuild build` (SPEC D1, D2): `rbuild kaniko …`, or a program called
//! `executor` or `warmer`.

mod bakefile;
mod context;
mod flags;
mod warmer;

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory as _;

use super::errors::Failure;
use super::foreign::{Variables, flag};
use super::grammar::{csv_field, did_you_mean};
use super::settings::{usage, variable};
use super::translation::{self, Translation};
use super::{args, spelling};
use crate::oci::Reference;
use crate::oci::layout::MARKER_NAME;
use flags::{Baker, CacheFlags, Digests, Executor, Idle, Messages, Pusher, RegistryFlags, Warmer};

/// How the names of files with certificates end.
const CERTIFICATES: [&str; 4] = ["crt", "pem", "cer", "cert"];
/// Where the warmer puts images if nothing else is said.
const CACHE_DIR: &str = "/cache";
/// Transfers are tried again so often without a word.
const USUAL_RETRIES: u32 = 5;

/// The command line in our spelling, if it is one of kaniko's. What is wrong with it was printed then, and our exit code is the
/// error.
pub(super) fn ours(words: &[OsString]) -> Result<Option<Vec<OsString>>, u8> {
    let program = words.first().and_then(|p| Path::new(p).file_name()?.to_str().map(ToOwned::to_owned));
    let at = spelling::command_at(words);
    let start = match program.as_deref() {
        Some("executor" | "warmer") => 1,
        _ if words.get(at).is_some_and(|word| word == "kaniko") => at + 1,
        _ => return Ok(None),
    };
    let (before, rest) = words.split_at(start);
    let mut out = match program.as_deref() {
        Some("executor" | "warmer") => before.to_vec(),
        _ => before[..at].to_vec(),
    };
    let (command, rest) = match rest.split_first() {
        _ if program.as_deref() == Some("warmer") => ("warmer", rest),
        Some((first, after)) if ["version", "login", "push", "bake", "warmer"].iter().any(|known| first == known) => {
            (first.to_str().unwrap_or_default(), after)
        }
        _ => ("", rest),
    };
    match command {
        "version" => out.push("version".into()),
        // Its flags are docker's, as ours are.
        "login" => {
            out.push("login".into());
            out.extend(rest.iter().cloned());
        }
        "push" => {
            let given: Pusher = translation::parsed(args::switches(Pusher::command()), "executor push", rest)?;
            add_root(&given.idle, &mut out);
            translation::append(push(&given, &variable), &mut out)?;
        }
        "warmer" => {
            let given: Warmer = translation::parsed(args::switches(Warmer::command()), "warmer", rest)?;
            translation::append(warmer::translate(&given), &mut out)?;
        }
        "bake" => {
            let given: Baker = translation::parsed(args::switches(Baker::command()), "executor bake", rest)?;
            let given = bakefile::executor(given).map_err(translation::refused)?;
            add_root(&given.idle, &mut out);
            translation::append(translate(&given, &variable), &mut out)?;
        }
        _ => {
            let given: Executor = translation::parsed(definition(), "executor", rest)?;
            add_root(&given.idle, &mut out);
            translation::append(translate(&given, &variable), &mut out)?;
        }
    }
    Ok(Some(out))
}

/// The store is below kaniko's own directory, if that is named, and no other is.
fn add_root(given: &Idle, out: &mut Vec<OsString>) {
    let root = given.kaniko_dir.as_ref().map(|dir| dir.join("rbuild"));
    if let Some(root) = root.filter(|_| !out.iter().skip(1).any(|w| w.to_string_lossy().starts_with("--root"))) {
        out.extend(["--root".into(), root.into_os_string()]);
    }
}

/// The command line as clap sees it.
pub(super) fn definition() -> clap::Command {
    args::switches(Executor::command())
}

fn translate(given: &Executor, env: &Variables<'_>) -> Result<Translation, Failure> {
    let result = &given.result;
    let no_push = result.no_push || flag(env, "KANIKO_NO_PUSH")?.unwrap_or(false);
    if result.destination.is_empty() && !no_push {
        return Err(usage("you must provide --destination, or use --no-push"));
    }
    let mut out = Translation::build();
    progress(&given.messages, &mut out)?;
    // Build arguments are all that kaniko has for secrets, and it never shows them.
    out.switch("written-names", true);
    out.switch("debug", matches!(given.messages.verbosity.as_str(), "trace" | "debug"));
    for (name, values) in [
        ("tag", &result.destination),
        ("build-arg", &given.build_arg),
        ("label", &given.label),
        ("annotation", &given.annotation),
        ("secret", &given.secret),
    ] {
        values.iter().for_each(|value| out.add(name, value));
    }
    for (name, value) in [("target", &given.target), ("platform", &given.custom_platform)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            out.add(name, value);
        }
    }
    digests(&result.digests, &result.destination, env, &mut out)?;
    outputs(given, no_push).iter().for_each(|output| out.add("output", output));
    if result.reproducible {
        out.add("build-arg", "SOURCE_DATE_EPOCH=0");
    }
    out.switch("single-layer=new", result.single_snapshot);
    if !result.ignore_path.is_empty() {
        out.notices.push(
            "--ignore-path: nothing of the builder's own files is in an image here; what steps write below these paths is".into(),
        );
    }
    cache(given, no_push, &mut out)?;
    let cache_repo = given.cache.cache_repo.as_ref().filter(|name| !name.starts_with("oci:"));
    registries(&given.registries, result.destination.iter().chain(cache_repo), &mut out)?;
    certificates(given.idle.kaniko_dir.as_deref(), env, &mut out)?;
    out.switch("skip-push-permission-check", given.registries.skip_push_permission_check);
    context::add(given, env, &mut out)?;
    cache_dir(&given.cache, &mut out);
    Ok(out)
}

/// Certificates that a pod puts into kaniko's own directory are those of registries, beside the machine's (SPEC D1.45).
fn certificates(kaniko_dir: Option<&Path>, env: &Variables<'_>, out: &mut Translation) -> Result<(), Failure> {
    let dir = kaniko_dir.unwrap_or(Path::new("/kaniko")).join("ssl/certs");
    let named = env("SSL_CERT_DIR").is_some_and(|all| all.split(':').any(|named| Path::new(named) == dir));
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) if !named => entries,
        // They are all there is then, or nobody put any there.
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(usage(format!("cannot read {}: {e}", dir.display()))),
    };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // A mounted secret has directories of its own, with dots in front.
    files.retain(|path| path.is_file() && CERTIFICATES.iter().any(|kind| path.extension().is_some_and(|e| e == *kind)));
    files.sort();
    for file in files {
        out.add("registry", &format!("*,{}", csv_field("ca", &file.display().to_string())));
    }
    Ok(())
}

/// `--cache-dir` (SPEC D1.20): what the warmer put there.
fn cache_dir(given: &CacheFlags, out: &mut Translation) {
    let dir = given.cache_dir.as_str();
    if !given.cache || dir.is_empty() {
        return;
    }
    if Path::new(dir).join(MARKER_NAME).is_file() {
        out.add("pull-from", &format!("\"{}\",max-age={}", dir.replace('"', "\"\""), given.cache_ttl));
    } else if dir != CACHE_DIR {
        // A template has the usual one always.
        out.notices.push(format!(
            "--cache-dir: {dir} has no base images that can be read; `rbuild kaniko warmer --cache-dir {dir}` puts some there"
        ));
    }
}

/// `executor push PATH`: it says nothing of how the image was made.
fn push(given: &Pusher, env: &Variables<'_>) -> Result<Translation, Failure> {
    let mut out = Translation { words: vec!["push".into(), "--archive".into()], notices: Vec::new() };
    progress(&given.messages, &mut out)?;
    digests(&given.digests, &given.destination, env, &mut out)?;
    registries(&given.registries, given.destination.iter(), &mut out)?;
    out.words.extend(["--".into(), given.path.clone()]);
    out.words.extend(given.destination.iter().cloned());
    Ok(out)
}

/// `--digest-file` and its like (SPEC D1.10–D1.12, D1.45).
fn digests(
    given: &Digests,
    destinations: &[String],
    env: &Variables<'_>,
    out: &mut Translation,
) -> Result<(), Failure> {
    for (name, value, of_names) in [
        ("digest-file", &given.digest_file, false),
        ("image-name-with-digest-file", &given.image_name_with_digest_file, true),
        ("image-name-tag-with-digest-file", &given.image_name_tag_with_digest_file, true),
    ] {
        let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else { continue };
        if of_names && destinations.is_empty() {
            return Err(usage(format!("you must provide --destination if setting --{name}")));
        }
        out.add(name, value);
    }
    if let Some(dir) = env("BUILDER_OUTPUT") {
        out.add("images-file", &format!("{dir}/images"));
    }
    Ok(())
}

/// `--verbosity`, `--log-format`, `--log-timestamp` (SPEC D1.44).
fn progress(given: &Messages, out: &mut Translation) -> Result<(), Failure> {
    const LEVELS: [&str; 7] = ["trace", "debug", "info", "warn", "error", "fatal", "panic"];
    let level = given.verbosity.as_str();
    let kind = match (level, given.log_format.as_str()) {
        ("warn" | "warning" | "error" | "fatal" | "panic", _) => "none",
        ("trace" | "debug" | "info", "json") => "rawjson",
        // A table that is drawn again has no place for times.
        ("trace" | "debug" | "info", format) if format == "text" || given.log_timestamp => "plain",
        ("trace" | "debug" | "info", _) => "auto",
        _ => {
            let near = did_you_mean(level, LEVELS);
            return Err(usage(format!("--verbosity: unknown level \"{level}\"{near}; expected {}", LEVELS.join(", "))));
        }
    };
    out.add("progress", kind);
    out.switch("log-timestamp", given.log_timestamp);
    Ok(())
}

/// `--output` values: the image, pushed or not, and its archives. The first is the one whose digest is told.
fn outputs(given: &Executor, no_push: bool) -> Vec<String> {
    let result = &given.result;
    let mut form = String::new();
    if result.image_format == "docker" {
        form += ",oci-mediatypes=false";
    }
    if result.compression == "zstd" {
        form += ",compression=zstd";
    }
    if result.compression_level >= 0 {
        if result.compression != "zstd" {
            form += ",compression=gzip";
        }
        form += &format!(",compression-level={}", result.compression_level);
    }
    let times = if result.reproducible { ",rewrite-timestamp=true" } else { "" };
    let mut all = vec![format!("type=image,push={}{form}{times}", !no_push)];
    let dest = |path: &str| csv_field("dest", path);
    all.extend(result.oci_layout_path.iter().map(|dir| format!("type=oci,tar=false,{}{form}{times}", dest(dir))));
    // Docker's archives know gzip only.
    all.extend(result.tar_path.iter().map(|file| format!("type=docker,{}{times}", dest(file))));
    all
}

/// `--cache` and what belongs to it (SPEC D1.18–D1.23).
fn cache(given: &Executor, no_push: bool, out: &mut Translation) -> Result<(), Failure> {
    let cache = &given.cache;
    if !cache.cache {
        // kaniko's RUN is always fresh then, whatever is on the volume.
        out.switch("no-cache", true);
        return Ok(());
    }
    if !cache.cache_run_layers {
        out.switch("no-cache-run", true);
    }
    let repository = match &cache.cache_repo {
        Some(repository) if !repository.is_empty() => repository.clone(),
        _ if no_push => return Err(usage("if using cache with --no-push, specify cache repo with --cache-repo")),
        _ => {
            let first = given.result.destination.first().map(String::as_str).unwrap_or_default();
            let name: Reference = first.parse().map_err(|e| usage(format!("--destination {first}: {e}")))?;
            format!("{}/cache", name.repository())
        }
    };
    let place = match repository.strip_prefix("oci:") {
        Some(dir) => {
            // A layout that is not there yet is an empty cache, as everywhere in kaniko.
            if Path::new(dir).join("index.json").exists() {
                out.add("cache-from", &format!("type=local,{}", csv_field("src", dir)));
            }
            format!("type=local,{}", csv_field("dest", dir))
        }
        None => {
            out.add("cache-from", &format!("type=registry,ref={repository}"));
            format!("type=registry,ref={repository}")
        }
    };
    if !cache.no_push_cache {
        out.add("cache-to", &format!("{place},mode=max,ignore-error=true"));
    }
    out.add("cache-ttl", &cache.cache_ttl);
    Ok(())
}

/// How registries are reached (SPEC D1.36–D1.43, D1.49); `names` are those that are pushed to.
fn registries<'a>(
    flags: &RegistryFlags,
    names: impl Iterator<Item = &'a String>,
    out: &mut Translation,
) -> Result<(), Failure> {
    flags.credential_helpers.iter().for_each(|name| out.add("credential-helpers", name));
    let mut add = |host: &str, what: &str| out.add("registry", &format!("{host},{what}"));
    let mut own: Vec<String> = Vec::new();
    for name in names {
        let host = name.parse::<Reference>().map(|name| name.domain).unwrap_or_default();
        if !host.is_empty() && !own.contains(&host) {
            own.push(host);
        }
    }
    // Over HTTPS if the server speaks it, with a certificate or not.
    let plain = "insecure=true";
    let any_certificate = "insecure=true,http=false";
    let everybody = ["*".to_owned()];
    for (given, hosts, what) in [
        (flags.skip_tls_verify_pull, &everybody[..], any_certificate),
        (flags.skip_tls_verify, &own[..], any_certificate),
        (true, &flags.skip_tls_verify_registry[..], any_certificate),
    ] {
        if given {
            hosts.iter().for_each(|host| add(host, what));
        }
    }
    for (given, hosts) in
        [(flags.insecure_pull, &everybody[..]), (flags.insecure, &own[..]), (true, &flags.insecure_registry[..])]
    {
        if given {
            hosts.iter().for_each(|host| add(host, plain));
        }
    }
    let pair = |flag: &str, text: &str, form: &str| match text.split_once('=') {
        Some((host, value)) if !host.is_empty() && !value.is_empty() => Ok((host.to_owned(), value.to_owned())),
        _ => Err(usage(format!("--{flag} {text}: expected {form}"))),
    };
    for text in &flags.registry_certificate {
        let (host, file) = pair("registry-certificate", text, "HOST=FILE")?;
        add(&host, &format!("\"ca={file}\""));
    }
    for text in &flags.registry_client_cert {
        const FORM: &str = "HOST=CERT,KEY";
        let (host, files) = pair("registry-client-cert", text, FORM)?;
        let (cert, key) =
            files.split_once(',').ok_or_else(|| usage(format!("--registry-client-cert {text}: expected {FORM}")))?;
        add(&host, &format!("\"cert={cert}\",\"key={key}\""));
    }
    let mut mapped = Vec::new();
    for mirror in &flags.registry_mirror {
        mapped.push(("docker.io".to_owned(), mirror.clone()));
    }
    for text in flags.registry_map.iter().flat_map(|text| text.split(';')).filter(|text| !text.is_empty()) {
        let (host, mirror) = pair("registry-map", text, "REGISTRY=MIRROR[;REGISTRY=MIRROR]")?;
        let host = if host == "index.docker.io" { "docker.io".to_owned() } else { host };
        mapped.push((host, mirror));
    }
    for (host, mirror) in mapped {
        add(&host, &format!("mirror={mirror}"));
        if flags.skip_default_registry_fallback {
            add(&host, "only-mirrors=true");
        }
    }
    let retries = flags.push_retry.max(flags.image_fs_extract_retry).max(flags.image_download_retry);
    if retries > USUAL_RETRIES {
        out.add("retry", &retries.to_string());
    }
    out.switch("push-ignore-immutable-tag-errors", flags.push_ignore_immutable_tag_errors);
    Ok(())
}

#[cfg(test)]
mod tests;
