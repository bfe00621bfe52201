//! buildah's and podman's commands on images that exist: what their words are here (SPEC D3.34, D3.35).

use std::ffi::OsString;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::flags::RegistryFlags;
use super::transports::{Place, names, place};
use crate::cli::args;
use crate::cli::errors::Failure;
use crate::cli::grammar::csv_field;
use crate::cli::settings::usage;
use crate::cli::translation::{self, Translation};

/// Commands that are translated word by word.
#[derive(Debug, Parser)]
#[command(name = "buildah", disable_help_subcommand = true, args_override_self = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring an image from a registry into the store
    Pull {
        #[arg(value_name = "IMAGE")]
        image: String,
        /// When it is looked for in the registry; it always is
        #[arg(long, alias = "pull", value_name = "WHEN", num_args = 0..=1, require_equals = true, value_parser = ["always", "missing", "newer", "ifmissing", "ifnewer", "true"])]
        policy: Option<String>,
        #[arg(long, value_name = "PLATFORM", conflicts_with_all = ["arch", "os", "variant"])]
        platform: Option<String>,
        #[arg(long)]
        arch: Option<String>,
        #[arg(long)]
        os: Option<String>,
        #[arg(long)]
        variant: Option<String>,
        #[arg(long, hide = true)]
        remove_signatures: bool,
        #[command(flatten)]
        registry: Registry,
    },
    /// Send an image to a registry, or write it to an archive
    Push {
        #[arg(value_name = "IMAGE")]
        image: String,
        #[arg(value_name = "DESTINATION")]
        destination: Option<String>,
        #[command(flatten)]
        form: Form,
        /// Delete the image from the store afterwards
        #[arg(long)]
        rm: bool,
        #[command(flatten)]
        registry: Registry,
    },
    /// Write images to an archive
    Save {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(short, long, value_name = "PATH")]
        output: Option<String>,
        #[arg(long, default_value = "docker-archive", value_parser = ["docker-archive", "oci-archive", "oci-dir"])]
        format: String,
        #[arg(short, long, hide = true)]
        multi_image_archive: bool,
        #[arg(short, long, hide = true)]
        quiet: bool,
    },
    /// List images
    Images {
        #[arg(value_name = "IMAGE")]
        pattern: Option<String>,
        #[arg(short, long)]
        all: bool,
        /// Digests are always shown
        #[arg(long, hide = true)]
        digests: bool,
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        #[arg(long, value_name = "TEMPLATE", conflicts_with = "json")]
        format: Option<String>,
        /// A line of JSON for each image
        #[arg(long)]
        json: bool,
        #[arg(long)]
        no_trunc: bool,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Take names away from images
    Rmi {
        #[arg(required_unless_present = "all", value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(short, long)]
        all: bool,
        #[arg(short, long)]
        force: bool,
    },
    /// Show an image or a list of images
    Inspect {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        #[arg(short, long, default_value = "image", value_parser = ["image", "manifest"])]
        r#type: String,
    },
    /// Log in to a registry
    Login {
        #[arg(value_name = "REGISTRY")]
        registry: Option<String>,
        #[arg(short, long)]
        username: Option<String>,
        #[arg(short, long)]
        password: Option<String>,
        #[arg(long)]
        password_stdin: bool,
        #[arg(long)]
        get_login: bool,
        #[arg(long, value_name = "FILE")]
        authfile: Option<String>,
        #[arg(short, long, hide = true)]
        verbose: bool,
        #[command(flatten)]
        tls: RegistryFlags,
    },
    /// Put lists of images together
    Manifest {
        #[command(subcommand)]
        command: List,
    },
}

#[derive(Debug, Subcommand)]
enum List {
    /// Make a list
    Create {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(long)]
        all: bool,
        #[arg(short = 'a', long)]
        amend: bool,
        #[arg(long, value_name = "KEY=VALUE")]
        annotation: Vec<String>,
        #[command(flatten)]
        registry: Registry,
    },
    /// Add images to a list
    Add {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        entry: args::EntryArgs,
        #[command(flatten)]
        registry: Registry,
    },
    /// Say more of an image of a list
    Annotate {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
        #[arg(long)]
        index: bool,
        #[command(flatten)]
        entry: args::EntryArgs,
    },
    /// Show a list
    Inspect {
        #[arg(value_name = "LIST")]
        list: String,
    },
    /// Send a list and its images to a registry, or write them to an archive
    Push {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(value_name = "DESTINATION")]
        destination: Option<String>,
        #[command(flatten)]
        form: Form,
        #[arg(long, alias = "purge", short_alias = 'p')]
        rm: bool,
        #[command(flatten)]
        registry: Registry,
    },
    /// Take images out of a list
    Remove {
        #[arg(value_name = "LIST")]
        list: String,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Delete lists
    Rm {
        #[arg(required = true, value_name = "LIST")]
        lists: Vec<String>,
    },
    /// Whether there is such a list
    Exists {
        #[arg(value_name = "LIST")]
        list: String,
    },
}

/// How registries are reached, and what is told of it.
#[derive(Debug, Args)]
struct Registry {
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    #[arg(long, value_name = "USER[:PASSWORD]")]
    creds: Option<String>,
    #[arg(long, value_name = "NUMBER")]
    retry: Option<String>,
    #[arg(long, value_name = "DURATION")]
    retry_delay: Option<String>,
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    tls: RegistryFlags,
}

/// What is sent.
#[derive(Debug, Args)]
struct Form {
    /// All that belongs to it goes
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = args::go_boolean())]
    all: Option<bool>,
    /// oci, v2s2 or docker: what it is in the registry
    #[arg(short, long, value_name = "KIND", value_parser = ["oci", "v2s2", "docker"])]
    format: Option<String>,
    /// Write its digest to a file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<String>,
    /// Layers go as they are
    #[arg(short = 'D', long, hide = true)]
    disable_compression: bool,
    #[arg(long, hide = true)]
    remove_signatures: bool,
}

impl Registry {
    fn add(&self, out: &mut Translation) -> Result<(), Failure> {
        if self.tls.signature_policy.is_some() {
            return Err(usage(
                "--signature-policy: images are held to a policy where they are built from, not on their way",
            )
            .hint("`rbuild build --signature-policy FILE` holds base images to it"));
        }
        for (flag, value) in [
            ("authfile", &self.authfile),
            ("creds", &self.creds),
            ("retry", &self.retry),
            ("retry-delay", &self.retry_delay),
        ] {
            value.iter().for_each(|value| out.add(flag, value));
        }
        out.switch("quiet", self.quiet);
        if !self.tls.tls_verify {
            out.add("registry", "*,insecure=true");
        }
        if let Some(dir) = &self.tls.cert_dir {
            out.add("registry", &format!("*,{}", csv_field("certs", dir)));
        }
        Ok(())
    }
}

impl Form {
    fn add(&self, out: &mut Translation) -> Result<(), Failure> {
        if self.all == Some(false) {
            return Err(usage("--all=false: all that belongs to an image goes with it"));
        }
        if let Some(format) = &self.format {
            out.add("format", if format == "oci" { "oci" } else { "v2s2" });
        }
        if let Some(path) = &self.digestfile {
            out.add("digest-file", path);
        }
        Ok(())
    }
}

/// What is translated here.
pub(super) const NAMES: [&str; 8] = ["pull", "push", "save", "images", "rmi", "inspect", "login", "manifest"];

/// The command line `words`, of which the first is the command's name.
pub(super) fn translate(words: &[OsString], out: &mut Vec<OsString>) -> Result<(), u8> {
    let line: Line = translation::parsed(args::switches(Line::command()), "buildah", words)?;
    translation::append(translated(line.command), out)
}

fn translated(command: Command) -> Result<Translation, Failure> {
    let mut out = Translation::default();
    match command {
        Command::Pull { image, platform, arch, os, variant, registry, .. } => {
            out.words.push("pull".into());
            let own = crate::oci::Platform::host();
            let named = arch.is_some() || os.is_some() || variant.is_some();
            let composed = named.then(|| {
                let (os, arch) = (os.unwrap_or(own.os), arch.unwrap_or(own.architecture));
                variant.map_or_else(|| format!("{os}/{arch}"), |variant| format!("{os}/{arch}/{variant}"))
            });
            platform.or(composed).iter().for_each(|platform| out.add("platform", platform));
            registry.add(&mut out)?;
            out.words.push(in_registry(&image)?);
        }
        Command::Push { image, destination, form, rm, registry } => {
            send(&["push"], &image, destination.as_deref(), &form, rm, &registry, &mut out)?;
        }
        Command::Save { images, output, format, .. } => {
            out.words.push("save".into());
            out.add("format", format.trim_end_matches("-archive"));
            output.iter().for_each(|path| out.add("output", path));
            out.words.extend(images);
        }
        Command::Images { pattern, filter, format, json, no_trunc, quiet, .. } => {
            out.words.push("images".into());
            filter.iter().for_each(|filter| out.add("filter", filter));
            format.or(json.then(|| "json".to_owned())).iter().for_each(|format| out.add("format", format));
            out.switch("no-trunc", no_trunc);
            out.switch("quiet", quiet);
            out.words.extend(pattern);
        }
        Command::Rmi { images, all, force } => {
            out.words.push("rm".into());
            out.switch("force", force);
            out.switch("all", all);
            out.words.extend(images);
        }
        Command::Inspect { images, r#type, .. } if r#type == "manifest" => {
            let [list] = images.as_slice() else { return Err(usage("buildah inspect --type manifest: name one list")) };
            out.words.extend(["manifest".into(), "inspect".into(), in_store(list)?]);
        }
        Command::Inspect { images, format, .. } => {
            out.words.push("inspect".into());
            format.iter().for_each(|format| out.add("format", format));
            out.words.extend(images);
        }
        Command::Login { registry, username, password, password_stdin, get_login, authfile, tls, .. } => {
            if tls.cert_dir.is_some() || tls.signature_policy.is_some() {
                return Err(usage("buildah login: --cert-dir and --signature-policy say nothing about a login here")
                    .hint("certificates of a registry belong into certs.d, or into rbuild.toml as `registry.*.ca`"));
            }
            out.words.push("login".into());
            for (flag, value) in [("username", username), ("password", password), ("authfile", authfile)] {
                value.iter().for_each(|value| out.add(flag, value));
            }
            out.switch("password-stdin", password_stdin);
            out.switch("get-login", get_login);
            out.switch("insecure", !tls.tls_verify);
            out.words.extend(registry);
        }
        Command::Manifest { command } => list(command, &mut out)?,
    }
    Ok(out)
}

fn list(command: List, out: &mut Translation) -> Result<(), Failure> {
    out.words.push("manifest".into());
    let sources = |images: &[String]| images.iter().map(|image| source(image)).collect::<Result<Vec<_>, _>>();
    match command {
        List::Create { list, images, all, amend, annotation, registry } => {
            out.words.push("create".into());
            out.switch("all", all);
            out.switch("amend", amend);
            annotation.iter().for_each(|annotation| out.add("annotation", annotation));
            registry.add(out)?;
            let mut names = names(&in_store(&list)?)?.into_iter();
            out.words.extend(names.next());
            names.for_each(|name| out.add("tag", &name));
            out.words.extend(sources(&images)?);
        }
        List::Add { list, images, all, entry, registry } => {
            out.words.push("add".into());
            out.switch("all", all);
            self::entry(&entry, out);
            registry.add(out)?;
            out.words.push(in_store(&list)?);
            out.words.extend(sources(&images)?);
        }
        List::Annotate { list, image, index, entry } => {
            out.words.push("annotate".into());
            out.switch("index", index);
            self::entry(&entry, out);
            out.words.push(in_store(&list)?);
            out.words.extend(image.as_deref().map(source).transpose()?);
        }
        List::Inspect { list } => out.words.extend(["inspect".into(), in_store(&list)?]),
        List::Push { list, destination, form, rm, registry } => {
            out.words.pop();
            send(&["manifest", "push"], &list, destination.as_deref(), &form, rm, &registry, out)?;
        }
        List::Remove { list, images } => {
            out.words.extend(["remove".into(), in_store(&list)?]);
            out.words.extend(sources(&images)?);
        }
        List::Rm { lists } => {
            out.words.push("rm".into());
            out.words.extend(lists);
        }
        List::Exists { list } => out.words.extend(["exists".into(), in_store(&list)?]),
    }
    Ok(())
}

fn entry(entry: &args::EntryArgs, out: &mut Translation) {
    for (flag, value) in
        [("arch", &entry.arch), ("os", &entry.os), ("variant", &entry.variant), ("os-version", &entry.os_version)]
    {
        value.iter().for_each(|value| out.add(flag, value));
    }
    entry.os_features.iter().for_each(|feature| out.add("os-features", feature));
    entry.annotation.iter().for_each(|annotation| out.add("annotation", annotation));
}

/// Sends an image or a list somewhere: with `command` to a registry.
fn send(
    command: &[&str],
    image: &str,
    destination: Option<&str>,
    form: &Form,
    rm: bool,
    registry: &Registry,
    out: &mut Translation,
) -> Result<(), Failure> {
    let image = in_store(image)?;
    let (path, kind) = match destination.map(place).transpose()? {
        target @ (None | Some(Place::Name(_) | Place::Registry(_))) => {
            out.words.extend(command.iter().map(|word| (*word).to_owned()));
            form.add(out)?;
            out.switch("rm", rm);
            registry.add(out)?;
            out.words.push(image);
            if let Some(Place::Name(name) | Place::Registry(name)) = target {
                out.words.push(name.to_owned());
            }
            return Ok(());
        }
        Some(Place::Oci { path, tar, .. }) => (path, if tar { "oci" } else { "oci-dir" }),
        Some(Place::Docker { path, .. }) => (path, "docker"),
        Some(Place::Daemon(name)) => {
            return Err(usage(format!("docker-daemon:{name}: an image of the store is not handed over"))
                .hint("build it with `-t docker-daemon:NAME`, or use `rbuild save IMAGE | docker load`"));
        }
    };
    if rm || form.digestfile.is_some() {
        return Err(usage("--rm and --digestfile belong to a registry here, not to an archive"));
    }
    out.words.push("save".into());
    out.add("format", kind);
    out.add("output", path);
    out.words.push(image);
    Ok(())
}

/// An image that is to be had from a registry.
fn in_registry(text: &str) -> Result<String, Failure> {
    match place(text)? {
        Place::Name(name) | Place::Registry(name) => Ok(name.to_owned()),
        _ => Err(usage(format!("buildah pull {text}: images are pulled from registries"))
            .hint("`rbuild load -i PATH` reads archives and layouts")),
    }
}

/// An image of the store.
fn in_store(text: &str) -> Result<String, Failure> {
    match place(text)? {
        Place::Name(name) | Place::Registry(name) => Ok(name.to_owned()),
        _ => Err(usage(format!("{text} is no name of the store"))),
    }
}

/// An image that is added to a list.
fn source(text: &str) -> Result<String, Failure> {
    Ok(match place(text)? {
        Place::Name(name) => name.to_owned(),
        Place::Registry(name) => format!("docker-image://{name}"),
        Place::Oci { path, .. } | Place::Docker { path, .. } => format!("oci-layout://{path}"),
        Place::Daemon(_) => return Err(usage(format!("{text}: docker is not asked for images of lists"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<String, String> {
        let words = std::iter::once("buildah").chain(line.split(' '));
        let line = args::switches(Line::command()).try_get_matches_from(words).map_err(|e| e.to_string())?;
        let line = <Line as clap::FromArgMatches>::from_arg_matches(&line).map_err(|e| e.to_string())?;
        translated(line.command).map(|out| out.words.join(" ")).map_err(|e| e.message)
    }

    // SPEC D3.34, D3.35, D3.26
    #[test]
    fn d3_34_commands_on_images() {
        for (theirs, ours) in [
            ("pull --arch arm64 docker://r.example/a", "pull --platform=linux/arm64 r.example/a"),
            ("pull --policy=missing --tls-verify=false -q a", "pull --quiet --registry=*,insecure=true a"),
            ("push a", "push a"),
            (
                "push --creds u:p --tls-verify=false --digestfile d --rm -D a docker://r.example/a:1",
                "push --digest-file=d --rm --creds=u:p --registry=*,insecure=true a r.example/a:1",
            ),
            ("push --format docker a r.example/a", "push --format=v2s2 a r.example/a"),
            ("push a oci-archive:f:x", "save --format=oci --output=f a"),
            ("push a oci:d", "save --format=oci-dir --output=d a"),
            ("push a docker-archive:f", "save --format=docker --output=f a"),
            ("save --format oci-archive -o f a b", "save --format=oci --output=f a b"),
            ("images -a --json", "images --format=json"),
            ("images -q --filter label=x app", "images --filter=label=x --quiet app"),
            ("rmi -a -f", "rm --force --all"),
            ("inspect --type image a", "inspect a"),
            ("inspect --type manifest a", "manifest inspect a"),
            (
                "login --tls-verify=false -u me --password-stdin r.example",
                "login --username=me --password-stdin --insecure r.example",
            ),
        ] {
            assert_eq!(words(theirs).as_deref(), Ok(ours), "{theirs}");
        }
        for (line, why) in [
            ("push --sign-by me a", "--sign-by"),
            ("push a dir:d", "not written in this form"),
            ("push a docker-daemon:x", "is not handed over"),
            ("push --rm a oci:d", "--rm and --digestfile"),
            ("pull oci:d", "images are pulled from registries"),
            ("inspect --type container a", "container"),
            ("pull --signature-policy p a", "--signature-policy"),
            ("push --all=false a", "--all=false"),
            ("login --cert-dir d r.example", "--cert-dir"),
        ] {
            let error = words(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    // SPEC D3.34, B8.16
    #[test]
    fn d3_34_commands_on_lists() {
        for (theirs, ours) in [
            ("manifest create l", "manifest create l --tag=localhost/l"),
            ("manifest create q.io/l docker://r.example/a", "manifest create q.io/l docker-image://r.example/a"),
            (
                "manifest add --all --arch arm --variant v7 l oci-archive:f",
                "manifest add --all --arch=arm --variant=v7 l oci-layout://f",
            ),
            ("manifest annotate --annotation k=v l sha256:1", "manifest annotate --annotation=k=v l sha256:1"),
            ("manifest inspect l", "manifest inspect l"),
            ("manifest push --all --purge l docker://r.example/l", "manifest push --rm l r.example/l"),
            ("manifest push -f v2s2 l", "manifest push --format=v2s2 l"),
            ("manifest push l oci-archive:f", "save --format=oci --output=f l"),
            ("manifest remove l sha256:1", "manifest remove l sha256:1"),
            ("manifest rm l m", "manifest rm l m"),
            ("manifest exists l", "manifest exists l"),
        ] {
            assert_eq!(words(theirs).as_deref(), Ok(ours), "{theirs}");
        }
    }
}
