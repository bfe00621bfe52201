//! Command lines that people bring along, made ours before they are parsed (SPEC B1.01, B2.34, B8.14).
//!
//! | typed | becomes |
//! | --- | --- |
//! | `rbuild .` | `rbuild build .` |
//! | `rbuild buildx build .`, `rbuild image build .`, `rbuild builder build .` | `rbuild build .` |
//! | `rbuild buildx ls` and others about builders | `rbuild builder ls` |
//! | `rbuild buildx imagetools …` | `rbuild imagetools …` |
//! | `rbuild buildx history …` | `rbuild builds …` |
//! | `rbuild buildctl build --local …`, a program called `buildctl` | `rbuild build …` ([`super::buildctl`]) |
//! | `rbuild kaniko …`, a program called `executor` or `warmer` | `rbuild build …`, `rbuild warm …` ([`super::kaniko`], before the others) |
//! | `rbuild buildah bud …`, `rbuild podman build …`, a program called `buildah` | `rbuild build …` ([`super::buildah`], before the others) |
//! | a program called `docker-buildx` | `rbuild buildx …`: Docker's plugin protocol ([`super::builders`]) |
//! | `rbuild docker build .`, a program called `docker` | `rbuild build .`, and what else docker does with images |

use std::ffi::OsString;
use std::path::Path;

use super::errors::Failure;
use crate::base::FaultKind;

/// Words that begin a command; anything else is the beginning of a build. A test compares them with the parser's.
const COMMANDS: &[&str] = &[
    "bake",
    "build",
    "b",
    "f",
    "builder",
    "completion",
    "docker-cli-plugin-metadata",
    "docs",
    "doctor",
    "images",
    "imagetools",
    "ls",
    "manifest",
    "policy",
    "pull",
    "push",
    "login",
    "logout",
    "tag",
    "rm",
    "rmi",
    "save",
    "load",
    "unpack",
    "diff",
    "verify",
    "inspect",
    "history",
    "du",
    "prune",
    "system",
    "unshare",
    "explain",
    "replay",
    "run",
    "llb",
    "builds",
    "debug",
    "info",
    "version",
    "warm",
];

/// What `buildx` and `builder` have in common with us under the same name. `image prune` is none of them: docker deletes no
/// cache with it.
const SHARED: &[&str] = &["bake", "build", "b", "du", "f", "imagetools", "policy", "prune", "replay"];

/// What `buildx` says about builders.
const BUILDERS: &[&str] = &["create", "use", "ls", "inspect", "rm", "stop", "version", "install", "uninstall"];

/// Flags of the docker command that come before the plugin's name; they speak of an engine, and there is none.
const DOCKER_FLAGS: &[&str] =
    &["--context", "-c", "--host", "-H", "--log-level", "-l", "--tlscacert", "--tlscert", "--tlskey"];

/// Docker's commands that mean something here; `docker rm` is about containers, and ours about images.
const DOCKER: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "history",
    "image",
    "images",
    "info",
    "inspect",
    "load",
    "login",
    "logout",
    "manifest",
    "pull",
    "push",
    "rmi",
    "run",
    "save",
    "system",
    "tag",
    "version",
    "--help",
    "-h",
    "--version",
    "-v",
    "help",
];

/// The command line in our own spelling. `args` begin with the program's name.
///
/// # Errors
/// For a spelling that is recognised but asks for what does not exist here.
pub(super) fn ours(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut args = args;
    let program = args.first().and_then(|p| Path::new(p).file_stem()?.to_str().map(ToOwned::to_owned));
    match program.as_deref() {
        Some("docker-buildx") => plugin(&mut args)?,
        Some("buildctl") => args.insert(1, "buildctl".into()),
        Some("docker") => docker(&mut args, 1)?,
        _ => {}
    }
    let at = command_at(&args);
    // `rbuild docker` may be a directory of that name.
    if word(&args, at).as_deref() == Some("docker") && args.len() > at + 1 && !is_context(&args[at..]) {
        args.remove(at);
        docker(&mut args, at)?;
    }
    let builder = take_builder(&mut args, at);
    let debug = take_debug(&mut args, at);
    take_help(&mut args, at);
    match (word(&args, at).as_deref(), word(&args, at + 1).as_deref()) {
        (Some("buildctl"), _) => {
            let rest = args.split_off(at + 1);
            args.pop();
            args.extend(super::buildctl::ours(&rest)?);
        }
        (Some("buildx"), Some("--help" | "-h" | "help") | None) => {
            args.truncate(at);
            args.push("--help".into());
        }
        (Some("buildx"), Some("--version")) => {
            args.splice(at..at + 2, ["builder".into(), "version".into()]).for_each(drop)
        }
        (Some("image"), Some("build" | "b")) => drop(args.remove(at)),
        (Some("image"), Some("prune")) => return Err(no_image_prune()),
        (Some("buildx" | "builder"), Some(second)) if SHARED.contains(&second) => {
            args.remove(at);
        }
        (Some("system"), Some("df")) => args.splice(at..at + 2, ["du".into()]).for_each(drop),
        (Some("system"), Some("prune")) => drop(args.remove(at)),
        (Some("builds"), Some("open")) => return Err(no_desktop()),
        (Some("buildx"), Some("history")) if word(&args, at + 2).as_deref() == Some("open") => return Err(no_desktop()),
        (Some("buildx"), Some("history")) => args.splice(at..at + 2, ["builds".into()]).for_each(drop),
        (Some("buildx"), Some(second)) if BUILDERS.contains(&second) => {
            args[at] = "builder".into();
            if second == "create" {
                own_config(&mut args[at + 2..]);
            }
        }
        (Some("buildx"), Some(second)) => return Err(absent(second).unwrap_or_else(|| unknown(second))),
        (Some("image"), Some("ls" | "list")) => args.splice(at..at + 2, ["images".into()]).for_each(drop),
        (Some("image"), Some("pull" | "push" | "tag" | "rm" | "save" | "load" | "inspect" | "history")) => {
            args.remove(at);
        }
        (Some("container"), Some("run")) => args.splice(at..at + 2, ["run".into()]).for_each(drop),
        (Some("help"), _) => args[at] = "--help".into(),
        (None | Some("--help" | "-h" | "--version" | "-V"), _) => {}
        (Some(first), _) if COMMANDS.contains(&first) => {}
        // So may each of these be a directory.
        (Some(first), _) if !Path::new(first).exists() && absent(first).is_some() => {
            return Err(absent(first).unwrap_or_else(|| unknown(first)));
        }
        // `rbuild image` may be a directory called image.
        (Some(_), _) => args.insert(at, "build".into()),
    }
    // Other commands have nothing more to say.
    if debug && matches!(word(&args, at).as_deref(), Some("build" | "b")) {
        args.insert(at + 1, "--debug".into());
    }
    // The builder matters to who names it in an answer; the others have one only.
    if let Some(builder) = builder {
        match (word(&args, at).as_deref(), word(&args, at + 1).as_deref()) {
            (Some("build" | "b"), _) => args.insert(at + 1, format!("--builder={builder}").into()),
            (Some("builder"), Some("inspect")) => args.insert(at + 2, format!("--builder={builder}").into()),
            _ => {}
        }
    }
    Ok(args)
}

/// Takes `--builder NAME` away from between `buildx` and its command, and from behind a command that is no build: every
/// command has it there.
fn take_builder(args: &mut Vec<OsString>, at: usize) -> Option<String> {
    if word(args, at).as_deref() != Some("buildx") {
        return None;
    }
    let (mut name, mut command, mut i) = (None, None, at + 1);
    while let Some(arg) = word(args, i) {
        if arg == "--" || matches!(command.as_deref(), Some("build" | "b")) {
            break;
        } else if let Some(joined) = arg.strip_prefix("--builder=") {
            name = Some(joined.to_owned());
            args.remove(i);
        } else if arg == "--builder" && args.len() > i + 1 {
            name = word(args, i + 1);
            args.drain(i..i + 2);
        } else {
            command = command.or_else(|| (!arg.starts_with('-')).then_some(arg));
            i += 1;
        }
    }
    name
}

/// `help COMMAND` is `COMMAND --help`, after `buildx` too.
fn take_help(args: &mut Vec<OsString>, at: usize) {
    let at = if word(args, at).as_deref() == Some("buildx") { at + 1 } else { at };
    if word(args, at).as_deref() == Some("help") && args.len() > at + 1 {
        args.remove(at);
        args.push("--help".into());
    }
}

/// Commands of buildx and buildah that are not here: what they are about, why not, and what there is (SPEC B8.12, B8.13,
/// B8.16).
const ABSENT: &[(&[&str], &str, &str)] = &[
    (
        &["dap"],
        "no debug adapter is built in",
        "`rbuild build --on-error=shell` stops where a step failed, `rbuild debug` goes back there",
    ),
    (
        &["dial-stdio"],
        "there is no daemon whose interface could be passed on",
        "`rbuild build`, `rbuild bake` and `rbuild buildctl build` take the command lines of its clients",
    ),
    (
        &["mount", "umount", "unmount"],
        "a file system that is mounted in a private namespace is seen by nobody else",
        "`rbuild unpack IMAGE -o DIR` writes its files, `rbuild run -it IMAGE sh` looks around in it",
    ),
    (
        &["from", "commit", "config", "add", "copy", "containers", "rename"],
        "there are no working containers that commands change one by one",
        "write the steps into a Dockerfile; unchanged ones come from the cache",
    ),
];

fn absent(command: &str) -> Option<Failure> {
    let (_, why, instead) = ABSENT.iter().find(|(names, ..)| names.contains(&command))?;
    Some(Failure::new(FaultKind::Usage, format!("{command}: there is no such command: {why}")).hint(*instead))
}

fn no_desktop() -> Failure {
    Failure::new(FaultKind::Usage, "builds open: there is no Docker Desktop here")
        .hint("`rbuild builds inspect` and `rbuild builds logs` show what is known of a build")
}

fn no_image_prune() -> Failure {
    Failure::new(FaultKind::Usage, "image prune: there are no images without a name here")
        .hint("`rbuild rm` takes names away, `rbuild prune` deletes what nothing needs, the build cache included")
}

/// Takes `-D` away from before a command, and from between `buildx` and its command: it is one of all commands there
/// (SPEC B2.08). Whether it was there.
fn take_debug(args: &mut Vec<OsString>, at: usize) -> bool {
    let is_debug = |args: &[OsString], at| matches!(word(args, at).as_deref(), Some("-D" | "--debug"));
    let mut found = false;
    // Followed by a flag it is one of a build that is not called so.
    while is_debug(args, at) && word(args, at + 1).is_some_and(|next| COMMANDS.contains(&&*next) || next == "buildx") {
        args.remove(at);
        found = true;
    }
    while word(args, at).as_deref() == Some("buildx") && is_debug(args, at + 1) {
        args.remove(at + 1);
        found = true;
    }
    found
}

/// `--config` of `buildx create` is the daemon's configuration (as `--buildkitd-config` is), not ours.
fn own_config(args: &mut [OsString]) {
    for arg in args {
        if let Some(rest) = arg.to_str().and_then(|text| text.strip_prefix("--config"))
            && (rest.is_empty() || rest.starts_with('='))
        {
            *arg = format!("--buildkitd-config{rest}").into();
        }
    }
}

fn word(args: &[OsString], at: usize) -> Option<String> {
    args.get(at)?.to_str().map(ToOwned::to_owned)
}

/// Where the command stands: global flags may come before it.
pub(super) fn command_at(args: &[OsString]) -> usize {
    const GLOBAL: [&str; 5] = ["--root", "--snapshotter", "--isolation", "--emulator", "--config"];
    let mut at = 1;
    while let Some(arg) = word(args, at) {
        if GLOBAL.contains(&arg.as_str()) {
            at += 2;
        } else if arg.split_once('=').is_some_and(|(name, _)| GLOBAL.contains(&name)) {
            at += 1;
        } else {
            break;
        }
    }
    at.min(args.len())
}

/// `docker-buildx [DOCKER FLAGS] buildx …`, as Docker starts its plugins.
fn plugin(args: &mut Vec<OsString>) -> Result<(), Failure> {
    let debug = take_docker_flags(args, 1)?;
    // Started by hand, the name of the plugin is the program's and need not be said again.
    if !matches!(word(args, 1).as_deref(), Some("buildx" | "docker-cli-plugin-metadata")) {
        args.insert(1, "buildx".into());
    }
    if debug && word(args, 1).as_deref() == Some("buildx") {
        args.insert(2, "--debug".into());
    }
    Ok(())
}

/// Whether `docker …` is the context of a build with flags behind it, and not a command of docker's.
fn is_context(args: &[OsString]) -> bool {
    let second = word(args, 1).unwrap_or_default();
    Path::new("docker").exists() && !DOCKER.contains(&second.as_str())
}

/// `[DOCKER FLAGS] COMMAND …` from `at` on, as docker itself is started.
fn docker(args: &mut Vec<OsString>, at: usize) -> Result<(), Failure> {
    let debug = take_docker_flags(args, at)?;
    let command = word(args, at).unwrap_or_else(|| "--help".into());
    match command.as_str() {
        "-v" => args[at] = "--version".into(),
        known if DOCKER.contains(&known) => {}
        _ => {
            let near = super::grammar::did_you_mean(&command, DOCKER);
            let failure =
                Failure::new(FaultKind::Usage, format!("docker {command}: there is no such command here{near}"));
            return Err(failure.hint(match command.as_str() {
                "compose" => "`rbuild bake -f compose.yaml` builds what a compose file describes",
                _ => "images are built, moved and tried out: `rbuild --help` lists the commands",
            }));
        }
    }
    if debug && matches!(command.as_str(), "build" | "buildx") {
        args.insert(at + 1, "--debug".into());
    }
    Ok(())
}

/// Takes the flags away that docker has before its commands; whether more is to be said.
fn take_docker_flags(args: &mut Vec<OsString>, at: usize) -> Result<bool, Failure> {
    let mut debug = false;
    while let Some(flag) = word(args, at) {
        let (name, joined) = flag.split_once('=').map_or((flag.as_str(), false), |(name, _)| (name, true));
        if name == "--config" {
            return Err(Failure::new(FaultKind::Usage, "--config of docker is not read here")
                .hint("set DOCKER_CONFIG to the directory instead"));
        }
        if DOCKER_FLAGS.contains(&name) {
            args.drain(at..(at + if joined { 1 } else { 2 }).min(args.len()));
        } else if ["--debug", "-D", "--tls", "--tlsverify"].contains(&name) {
            debug |= matches!(name, "--debug" | "-D");
            args.remove(at);
        } else {
            break;
        }
    }
    Ok(debug)
}

fn unknown(command: &str) -> Failure {
    let known: Vec<&str> = SHARED.iter().chain(BUILDERS).copied().collect();
    let near = super::grammar::did_you_mean(command, &known);
    Failure::new(FaultKind::Usage, format!("buildx {command}: there is no such command here{near}"))
        .hint("`rbuild --help` lists the commands")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let args = line.split_whitespace().map(OsString::from).collect();
        ours(args).expect("a known spelling").into_iter().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn b1_01_spellings() {
        for (typed, becomes) in [
            ("rbuild .", "rbuild build ."),
            ("rbuild -f x .", "rbuild build -f x ."),
            ("rbuild --root /s -f x .", "rbuild --root /s build -f x ."),
            ("rbuild --root=/s du", "rbuild --root=/s du"),
            ("rbuild buildx build .", "rbuild build ."),
            ("rbuild image build .", "rbuild build ."),
            ("rbuild builder build .", "rbuild build ."),
            ("rbuild builder prune -f", "rbuild prune -f"),
            ("rbuild image ls", "rbuild images"),
            ("rbuild image rm x", "rbuild rm x"),
            ("rbuild image", "rbuild build image"),
            ("rbuild buildx ls", "rbuild builder ls"),
            ("rbuild buildx imagetools inspect x", "rbuild imagetools inspect x"),
            ("rbuild buildx policy test .", "rbuild policy test ."),
            ("rbuild buildx bake --print app", "rbuild bake --print app"),
            ("rbuild buildx f app", "rbuild f app"),
            ("rbuild buildx history logs ^1", "rbuild builds logs ^1"),
            ("rbuild container run x", "rbuild run x"),
            ("rbuild buildx --help", "rbuild --help"),
            ("rbuild buildx --builder x build .", "rbuild build --builder=x ."),
            ("rbuild buildx --builder=x -D inspect", "rbuild builder inspect --builder=x"),
            ("rbuild buildx -D --builder=x du", "rbuild du"),
            ("rbuild buildx prune --builder x -f", "rbuild prune -f"),
            ("rbuild buildx history export --builder=x -o f ^1", "rbuild builds export -o f ^1"),
            ("rbuild buildx build --builder x .", "rbuild build --builder x ."),
            ("rbuild docker build .", "rbuild build ."),
            ("rbuild docker buildx build .", "rbuild build ."),
            ("rbuild --root /s docker images", "rbuild --root /s images"),
            ("rbuild docker --context x -D build .", "rbuild build --debug ."),
            ("/usr/bin/docker -H=tcp://x build -t a .", "/usr/bin/docker build -t a ."),
            ("docker image ls", "docker images"),
            ("docker builder prune -f", "docker prune -f"),
            ("docker run a", "docker run a"),
            ("docker -v", "docker --version"),
            ("docker", "docker"),
            ("rbuild docker", "rbuild build docker"),
            ("rbuild buildx help build", "rbuild build --help"),
            ("rbuild help buildx", "rbuild --help"),
            ("rbuild help du", "rbuild du --help"),
            ("rbuild system df", "rbuild du"),
            ("rbuild system prune -af", "rbuild prune -af"),
            ("rbuild system reset", "rbuild system reset"),
            ("rbuild -D buildx build .", "rbuild build --debug ."),
            ("rbuild buildx --debug build .", "rbuild build --debug ."),
            ("rbuild buildx -D ls", "rbuild builder ls"),
            ("rbuild buildx create --config x --use", "rbuild builder create --buildkitd-config x --use"),
            ("rbuild --config y buildx create --config=x", "rbuild --config y builder create --buildkitd-config=x"),
            ("rbuild -D -t x .", "rbuild build -D -t x ."),
            ("rbuild -D .", "rbuild build -D ."),
            ("rbuild ls", "rbuild ls"),
            ("rbuild help", "rbuild --help"),
            ("rbuild --version", "rbuild --version"),
            ("rbuild", "rbuild"),
        ] {
            assert_eq!(words(typed).join(" "), becomes, "{typed}");
        }
    }

    #[test]
    fn b8_14_as_a_docker_plugin() {
        for (typed, becomes) in [
            ("/usr/libexec/docker/cli-plugins/docker-buildx buildx build .", "build ."),
            ("docker-buildx --context default -D buildx inspect --bootstrap", "builder inspect --bootstrap"),
            ("docker-buildx --log-level=debug buildx version", "builder version"),
            ("docker-buildx docker-cli-plugin-metadata", "docker-cli-plugin-metadata"),
            ("docker-buildx build -t x .", "build -t x ."),
            ("docker-buildx --version", "builder version"),
            ("docker-buildx -D buildx build .", "build --debug ."),
            ("docker-buildx buildx --debug build .", "build --debug ."),
        ] {
            assert_eq!(words(typed)[1..].join(" "), becomes, "{typed}");
        }
        let args = ["docker-buildx", "--config", "/x", "buildx", "ls"].map(OsString::from).to_vec();
        assert!(ours(args).is_err_and(|e| e.message.contains("--config")));
        let args = ["rbuild", "buildx", "isnpect"].map(OsString::from).to_vec();
        assert!(ours(args).is_err_and(|e| e.message.contains("did you mean inspect?")));
        let args = ["rbuild", "image", "prune", "-f"].map(OsString::from).to_vec();
        assert!(ours(args).is_err_and(|e| e.message.contains("image prune")));
    }

    #[test]
    fn b1_01_what_docker_does_with_containers_is_not_here() {
        for typed in ["docker rm x", "rbuild docker ps", "docker compose up", "docker buidl ."] {
            let args = typed.split_whitespace().map(OsString::from).collect();
            let failure = ours(args).expect_err(typed);
            assert!(failure.message.contains("there is no such command here"), "{typed}: {}", failure.message);
        }
    }

    #[test]
    fn b8_12_b8_13_b8_16_commands_that_are_not_here_say_why() {
        for (typed, reason) in [
            ("rbuild buildx dap build .", "no debug adapter"),
            ("rbuild dap build .", "no debug adapter"),
            ("docker-buildx buildx dial-stdio --platform linux/amd64 --progress plain", "no daemon"),
            ("rbuild buildx --builder x dial-stdio", "no daemon"),
            ("rbuild --root /s mount", "private namespace"),
            ("rbuild from busybox", "working containers"),
            ("rbuild config --label a=b c", "working containers"),
            ("rbuild commit c image", "working containers"),
        ] {
            let args = typed.split_whitespace().map(OsString::from).collect();
            let failure = ours(args).expect_err(typed);
            assert!(
                failure.message.contains("there is no such command") && failure.message.contains(reason),
                "{typed}"
            );
            assert_eq!(failure.kind, FaultKind::Usage);
        }
        // A directory of that name is a context. `src` is one of the package.
        assert_eq!(words("rbuild ./config").join(" "), "rbuild build ./config");
    }

    #[test]
    fn spelling_twice_changes_nothing() {
        for line in ["rbuild .", "rbuild buildx ls", "rbuild buildctl du", "docker-buildx build ."] {
            let mut once = words(line);
            once[0] = "rbuild".into();
            assert_eq!(words(&once.join(" ")), once, "{line}");
        }
    }

    #[test]
    fn every_command_of_the_parser_is_known() {
        let command = super::super::args::Cli::definition();
        let mut names: Vec<&str> =
            command.get_subcommands().flat_map(|c| std::iter::once(c.get_name()).chain(c.get_all_aliases())).collect();
        names.sort_unstable();
        let mut known = COMMANDS.to_vec();
        known.sort_unstable();
        assert_eq!(known, names);
    }
}
