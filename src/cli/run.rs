//! `rbuild run`: a program in an image of the store, to try what was built.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use rootless::Rung;
use rootless::step::StepMount;

use super::args::Run;
use super::errors::Failure;
use super::image_commands::{failure, open, platform, reference, usage};
use super::runtime::{interrupted, runtime};
use super::worker::Inside;
use super::{grammar, settings, volumes};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::exec::run::DefaultNetwork;
use crate::images::{ImageError, Images, Program, Published};
use crate::llb::op::{HostIp, Meta, NetMode};
use crate::oci::{ImageConfig, Platform};
use crate::store::LayerId;
use crate::ui::{Connection, Progress};

/// Everything that can be said before anything is looked at.
struct Wanted {
    platform: Platform,
    network: NetMode,
    hosts: Vec<HostIp>,
    mounts: Vec<StepMount>,
    env: Vec<String>,
    ports: Vec<Published>,
}

pub(super) fn run(inside: &Inside, args: &Run) -> Result<u8, Failure> {
    let wanted = wanted(inside, args)?;
    let mut steps = inside.config.steps.clone();
    if args.network == "sandbox" {
        steps.network = DefaultNetwork::Sandbox;
    }
    let runner = inside.runner(steps)?.map_err(|why| {
        Failure::new(FaultKind::Isolation, "this machine does not allow programs of images to run").hint(why)
    })?;
    if let Some(moved) = &inside.moved {
        let _ = writeln!(std::io::stderr(), "notice: {moved}");
    }
    if let Some(weakness) = inside.context.rung.weakness() {
        let _ = writeln!(std::io::stderr(), "notice: isolation {}: {weakness}", inside.context.rung);
    }
    let runtime = runtime(Budget::detect())?;
    let (layers, config) = layers(inside, &runtime, args, &wanted.platform)?;
    let program = Program {
        meta: meta(args, &wanted, &config)?,
        network: wanted.network,
        mounts: wanted.mounts,
        volumes: config.config.volumes.keys().map(|path| Path::new("/").join(path)).collect(),
    };
    let (images, lease) = open(inside, Events::new(notices))?;
    let platform = config.platform();
    let result = runtime.block_on(async {
        let mut doors = Vec::new();
        for port in wanted.ports.iter().filter(|port| !port.is_own()) {
            let door = port.open().await;
            doors.push(door.map_err(|e| usage(format!("--publish: cannot open {}: {e}", port.outside)))?);
        }
        let connected = Connection::open(args.interactive, args.tty);
        let (connection, attachment) =
            connected.map_err(|e| Failure::new(FaultKind::Isolation, format!("cannot attach to the program: {e}")))?;
        let result = images.run(&runner, &layers, &platform, program, attachment).await;
        // What it said comes before what is said about it.
        connection.finish();
        result.map_err(|e| failure(&e))
    });
    drop(lease);
    runtime.shutdown_background();
    Ok(u8::try_from(result?.code).unwrap_or(1))
}

/// There is no progress here, but what the user should know is said.
fn notices(event: crate::base::Event) {
    if let crate::base::Event::Notice { text, .. } = event {
        let _ = writeln!(std::io::stderr(), "notice: {text}");
    }
}

/// The image's layers; an image that is not here is pulled.
fn layers(
    inside: &Inside,
    runtime: &tokio::runtime::Runtime,
    args: &Run,
    platform: &Platform,
) -> Result<(Vec<LayerId>, ImageConfig), Failure> {
    let (images, _lease) = open(inside, Events::none())?;
    let near = match runtime.block_on(images.layers(&args.image, platform)) {
        Ok(found) => return Ok(found),
        Err(ImageError::NotFound { near, .. }) => near,
        Err(other) => return Err(failure(&other)),
    };
    let name = reference(&args.image)?;
    let (mode, _) = settings::progress(None, false, &inside.config)?;
    let (progress, events) = Progress::start(mode, std::io::stderr(), settings::style()?);
    let found = open(inside, events).and_then(|(images, _lease)| {
        runtime.block_on(async {
            let work = pull(&images, &name, &args.image, platform);
            tokio::select! {
                result = work => result.map_err(|e| failure(&e)),
                () = interrupted() => Err(Failure::new(FaultKind::Interrupted, "canceled")),
            }
        })
    });
    progress.finish(None);
    found.map_err(|e| match near {
        Some(near) => e.hint(format!("the store has no {name}; did you mean {near}?")),
        None => e,
    })
}

async fn pull(
    images: &Images,
    name: &crate::oci::Reference,
    text: &str,
    platform: &Platform,
) -> Result<(Vec<LayerId>, ImageConfig), ImageError> {
    images.pull(name, Some(platform)).await?;
    images.layers(text, platform).await
}

fn wanted(inside: &Inside, args: &Run) -> Result<Wanted, Failure> {
    if args.detach {
        return Err(usage("--detach: there is no daemon that would keep the program running").hint(
            "run it in the background of your shell, or give the image to an engine: rbuild save IMAGE | podman load",
        ));
    }
    if args.name.is_some() {
        return Err(usage("--name: what runs here ends with this command and has no name")
            .hint("--hostname sets what the program sees"));
    }
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(usage("--tty: standard input is not a terminal").hint("give -i alone to pass input on"));
    }
    let network = match args.network.as_str() {
        "host" | "default" => NetMode::Host,
        "none" => NetMode::None,
        "sandbox" => NetMode::Unset,
        other => {
            return Err(usage(format!(
                "--network: network mode \"{other}\" not supported; expected host, sandbox or none"
            )));
        }
    };
    let mut hosts = Vec::new();
    for text in &args.add_host {
        hosts.extend(grammar::hosts(text).map_err(|e| usage(format!("--add-host: {e}")))?);
    }
    let mut mounts = Vec::new();
    for text in &args.volume {
        let rung = inside.context.rung;
        if !rung.can_mount() {
            return Err(Failure::new(
                FaultKind::Isolation,
                format!("--volume {text}: isolation {rung} mounts nothing"),
            )
            .hint("`rbuild doctor` says what would lift that; files can be brought along with COPY"));
        }
        mounts.push(volumes::volume(text)?);
    }
    for text in &args.tmpfs {
        let target =
            volumes::absolute(text).ok_or_else(|| usage(format!("--tmpfs: \"{text}\" is not an absolute path")))?;
        mounts.push(StepMount::Tmpfs { target, size: 0, mode: 0o1777 });
    }
    Ok(Wanted {
        platform: platform(args.platform.as_ref())?,
        network,
        hosts,
        mounts,
        env: environment(args)?,
        ports: ports(args, inside.context.rung)?,
    })
}

/// `--env-file`, then `--env`: later ones win.
fn environment(args: &Run) -> Result<Vec<String>, Failure> {
    let mut env = Vec::new();
    for file in &args.env_file {
        let fail = |e: &dyn std::fmt::Display| usage(format!("--env-file {}: {e}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|e| fail(&e))?;
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            set(&mut env, line).map_err(|e| fail(&e))?;
        }
    }
    for text in &args.env {
        set(&mut env, text).map_err(|e| usage(format!("--env: {e}")))?;
    }
    if args.tty {
        env.insert(0, format!("TERM={}", settings::variable("TERM").unwrap_or_else(|| "xterm".into())));
    }
    Ok(env)
}

/// `NAME=VALUE`, or `NAME` for what the environment has, if it has it.
fn set(env: &mut Vec<String>, text: &str) -> Result<(), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("invalid variable \"{text}\": expected NAME[=VALUE]"));
    }
    env.extend(value.map(|value| format!("{name}={value}")));
    Ok(())
}

fn ports(args: &Run, rung: Rung) -> Result<Vec<Published>, Failure> {
    let mut ports: Vec<Published> = Vec::new();
    for text in &args.publish {
        let port: Published = text.parse().map_err(|e| usage(format!("--publish: {e}")))?;
        if !["host", "default"].contains(&args.network.as_str()) {
            let message =
                format!("--publish {text}: with --network {} the program's ports cannot be reached", args.network);
            return Err(usage(message).hint("--network host gives it the machine's network"));
        }
        if port.is_own() && !port.outside.ip().is_unspecified() {
            let message =
                format!("--publish {text}: the program has the machine's network and chooses its address itself");
            return Err(usage(message).hint("let it listen on that address, or on another port"));
        }
        let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first = first.ok().and_then(|text| text.trim().parse::<u16>().ok()).unwrap_or(1024);
        for (port, whose) in [(port.inside, "the program"), (port.outside.port(), "rbuild")] {
            if rung != Rung::Root && port < first {
                let message = format!(
                    "--publish {text}: port {port} is one of the machine's, and {whose} may not open ports below {first}"
                );
                return Err(Failure::new(FaultKind::Isolation, message).hint(format!(
                    "let the program listen above that, or allow it: sysctl net.ipv4.ip_unprivileged_port_start={port}"
                )));
            }
        }
        ports.push(port);
    }
    Ok(ports)
}

/// What the image says, and what the command line says instead.
fn meta(args: &Run, wanted: &Wanted, config: &ImageConfig) -> Result<Meta, Failure> {
    let image = &config.config;
    let own = image.entrypoint.clone().unwrap_or_default();
    let mut program = match &args.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => own,
    };
    if !args.command.is_empty() {
        program.extend(args.command.iter().cloned());
    } else if args.entrypoint.is_none() {
        program.extend(image.cmd.clone().unwrap_or_default());
    }
    if program.is_empty() {
        return Err(usage(format!("the image {} does not say what to run", args.image))
            .hint(format!("name a program: rbuild run {} COMMAND", args.image)));
    }
    let mut env = vec![format!("HOSTNAME={}", args.hostname)];
    for variable in image.env.iter().chain(&wanted.env) {
        let name = variable.split('=').next();
        env.retain(|known: &String| known.split('=').next() != name);
        env.push(variable.clone());
    }
    Ok(Meta {
        args: program,
        env,
        cwd: args.workdir.clone().unwrap_or_else(|| image.working_dir.clone()),
        user: args.user.clone().unwrap_or_else(|| image.user.clone()),
        extra_hosts: wanted.hosts.clone(),
        hostname: args.hostname.clone(),
        ..Meta::default()
    })
}
