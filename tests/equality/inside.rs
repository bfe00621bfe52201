//! Builds without steps, many of them in one process: this program runs itself below `rbuild unshare`, where it may
//! mount and own files, and calls the builder as the worker does. Several such processes share two stores, one with
//! overlay snapshots and one with native ones.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild::base::{Cancel, Events};
use rbuild::build::Builder;
use rbuild::cli::args::{Cli, Command};
use rbuild::cli::config::Config;
use rbuild::cli::settings::{self, BuildSettings};
use rbuild::registry::{Client, ClientOptions};
use rbuild::source::{ImageSource, Sources};
use rbuild::store::{SnapshotterChoice, Store, StoreOptions};

use super::{Dice, Shape, dockerfile, edit, fill, level, rewrite};
use crate::support::image::Image;

/// What a process has to do: `FIRST COUNT NUMBER DIRECTORY`.
pub const WORK: &str = "RBUILD_EQUALITY_WORK";
/// Edits of each project.
const EDITS: u64 = 3;
/// Comparisons a project gives.
pub const ROUNDS: u64 = EDITS + 1;
/// Projects that take turns: between two edits of one, others are built, so that its unchanged files become old enough
/// to be believed without a look inside.
const TURNS: u64 = 60;
/// Of so many projects one is built by all processes at the same time.
const SHARED: u64 = 4;

fn instruction(dice: &mut Dice, stages: usize) -> String {
    let file = dice.pick(super::FILES);
    let n = dice.roll(3);
    match dice.roll(22) {
        0 => format!("COPY {file} /x{n}"),
        1 => format!("COPY d /dir{n}"),
        2 => format!("COPY . /all{n}/"),
        3 => format!("COPY --chown={n}:7 --chmod=640 {file} /owned/"),
        4 => "COPY *a d/* /glob/".into(),
        5 if stages > 0 => format!("COPY --from={} / /from{n}/", dice.roll(stages as u64)),
        6 if stages > 0 => format!("COPY --from=s{} --chmod=u=rwX,go=rX /dir* /x* /tool{n}/", dice.roll(stages as u64)),
        7 => format!("COPY --from=base /etc/release /release{n}"),
        8 => format!("COPY --exclude=**/e --exclude=deep d /some{n}/"),
        9 => format!("COPY --parents ./d/*/f {file} /parents{n}/"),
        10 => format!("COPY <<EOF /here{n}\n$V {n}\nEOF"),
        11 => format!("ADD {file} d /added{n}/"),
        12 => format!("ENV E{n}={}", dice.roll(3)),
        13 => format!("WORKDIR /w{n}/x"),
        14 => format!("COPY --link {file} /linked{n}/"),
        15 => format!("COPY --link --chown=3 d /linked{n}/"),
        16 => format!("COPY d/link* {file} ./here/"),
        17 => format!("LABEL l{n}=$V"),
        18 => format!("USER {n}"),
        19 => "ADD --link bundle.tar /bundle/".into(),
        20 => format!("COPY --chown=$V d/ /dir{n}"),
        _ => format!("COPY {file} /dir{n}/c"),
    }
}

/// One project, and how far it is.
struct Project {
    seed: u64,
    dice: Dice,
    context: PathBuf,
    text: String,
    log: String,
    arg: u64,
    base: u64,
    /// All files have the same times always, and the image is the same to the last byte.
    exact: bool,
}

impl Project {
    fn new(seed: u64, context: PathBuf) -> Self {
        let mut dice = Dice(seed);
        fill(&context);
        std::fs::write(context.join("bundle.tar"), archive()).unwrap();
        let text = dockerfile(&mut dice, &["scratch", "base", "base"], instruction);
        std::fs::write(context.join("Dockerfile"), &text).unwrap();
        let exact = dice.roll(2) == 0;
        Self { seed, dice, context, text, log: String::new(), arg: 0, base: 0, exact }
    }

    fn edit(&mut self) {
        let what = match self.dice.roll(14) {
            0 => {
                self.base = 1 - self.base;
                "the base".to_owned()
            }
            1 | 2 => {
                let what = rewrite(&mut self.dice, &mut self.text, instruction);
                std::fs::write(self.context.join("Dockerfile"), &self.text).unwrap();
                what
            }
            _ => edit(&mut self.dice, &self.context, &mut self.arg),
        };
        let _ = writeln!(self.log, "edit: {what}");
    }
}

/// An archive to be unpacked: a directory, a file with an owner, a link.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, content) in [
        (tar::EntryType::Directory, "in/", ""),
        (tar::EntryType::Regular, "in/file", "packed"),
        (tar::EntryType::Symlink, "in/link", ""),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o751);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("file").unwrap();
        }
        header.set_cksum();
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What builds.
struct Machine {
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// Overlay, native; the same for projects whose files have the same times always. Times are not part of keys, and an
    /// entry that is equal to its parent's is left out: with results of other times the bytes can be others.
    stores: [Store; 4],
    dir: PathBuf,
    number: u64,
}

impl Machine {
    fn new(shared: &Path, number: u64) -> Self {
        let dir = shared.join(format!("process{number}"));
        std::fs::create_dir_all(&dir).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = Client::new(ClientOptions::default()).unwrap();
        let stores = ["overlay", "native", "overlay-exact", "native-exact"].map(|name| {
            let snapshotter =
                if name.starts_with("overlay") { SnapshotterChoice::Overlay } else { SnapshotterChoice::Native };
            let mounts = dir.join(format!("mounts-{name}"));
            std::fs::create_dir_all(&mounts).unwrap();
            let options = StoreOptions { snapshotter, mount_dir: Some(mounts), events: Events::none() };
            Store::open(&shared.join(name), &options).unwrap()
        });
        let machine = Self { runtime, client, stores, dir, number };
        for base in 0..2 {
            machine.make_base(base);
        }
        machine
    }

    /// Two images that may be called `base`: the same but for one file.
    fn make_base(&self, which: u64) {
        let context = self.dir.join("base-context");
        std::fs::create_dir_all(context.join("etc")).unwrap();
        std::fs::write(context.join("etc/release"), format!("release {which}")).unwrap();
        std::fs::write(context.join("etc/passwd"), "app:x:7:8::/:\n").unwrap();
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY etc /etc\nENV BASE=1\n").unwrap();
        level(&context);
        let out = format!("type=oci,dest={},tar=false", self.base(which).display());
        self.build(0, &["--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-o", &out], &context).unwrap();
    }

    fn base(&self, which: u64) -> PathBuf {
        self.dir.join(format!("base{which}"))
    }

    /// What `rbuild build ARGS CONTEXT` does once the worker has begun.
    fn build(&self, store: usize, args: &[&str], context: &Path) -> Result<(), String> {
        let words = ["rbuild", "build"].iter().chain(args).map(ToString::to_string);
        let cli = Cli::parse_words(words.chain([context.display().to_string()])).unwrap();
        let Command::Build(args) = cli.command else { panic!("not a build") };
        let settings = BuildSettings::new(&args, &Config::default()).map_err(|e| e.message)?;
        let store = &self.stores[store];
        let _lease = store.lease().unwrap();
        let builder = Builder {
            store: store.clone(),
            client: self.client.clone(),
            hasty: self.client.clone(),
            caching: self.client.clone(),
            images: ImageSource::new(store.clone(), self.client.clone(), Events::none()),
            sources: Sources::new(store, &self.client, &Events::none(), settings::git(&self.dir)),
            steps: Err("no steps here".into()),
            state_dir: self.dir.clone(),
            events: Events::none(),
            cancel: Cancel::default(),
            parallelism: 4,
            trace: None,
            threads: 2,
        };
        self.runtime.block_on(builder.build(&settings.request)).map(drop).map_err(|e| e.to_string())
    }

    /// Builds a project to a layout.
    fn image(&self, project: &Project, name: &str, store: usize, args: &[&str]) -> Result<PathBuf, String> {
        let dest = self.dir.join(name);
        let _ = std::fs::remove_dir_all(&dest);
        let compression = ["uncompressed", "gzip", "zstd"][usize::try_from(project.seed % 3).unwrap()];
        let rewrite = if project.exact { ",rewrite-timestamp=true" } else { "" };
        let out = format!("type=oci,dest={},tar=false,compression={compression}{rewrite}", dest.display());
        let base = format!("base=oci-layout://{}", self.base(project.base).display());
        let value = format!("V={}", project.arg);
        let mut all = vec!["-o", &out, "--build-context", &base, "--build-arg", &value];
        if project.exact {
            all.extend(["--build-arg", "SOURCE_DATE_EPOCH=1000"]);
        }
        all.extend(args);
        self.build(store, &all, &project.context).map(|()| dest)
    }

    /// Builds with the cache and, in the other store, without; says what differs, else whether it is an image at all.
    fn compare(&self, project: &mut Project, round: u64) -> Result<bool, String> {
        if round > 0 {
            project.edit();
        }
        if project.exact {
            level(&project.context);
        }
        let warm = usize::try_from(project.seed.wrapping_add(self.number) % 2).unwrap();
        let stores = 2 * usize::from(project.exact);
        let cached = self.image(project, "cached", stores + warm, &[]);
        let plain = self.image(project, "plain", stores + 1 - warm, &["--no-cache"]);
        let built = cached.is_ok();
        let difference = match (cached, plain) {
            (Ok(a), Ok(b)) if project.exact => {
                let [one, two] = [&a, &b].map(|dir| std::fs::read(dir.join("index.json")).unwrap());
                (one != two).then(|| {
                    let [a, b] = [a, b].map(|dir| Image::open_dir(&dir));
                    let words = Shape::of(&a).difference(&Shape::of(&b));
                    format!("digests {} and {}: {words}\n{}\n{}", a.digest, b.digest, a.config, b.config)
                })
            }
            (Ok(a), Ok(b)) => {
                let [mut a, mut b] = [a, b].map(|dir| Shape::of(&Image::open_dir(&dir)));
                // What is in which layer may differ: see `plain`.
                a.layers.clear();
                b.layers.clear();
                (a != b).then(|| a.difference(&b))
            }
            // Of several mistakes either may be found first.
            (Err(_), Err(_)) => None,
            (a, b) => Some(format!("{a:?} and {b:?}")),
        };
        let snapshots = ["overlay", "native"][warm];
        difference.map_or(Ok(built), |difference| {
            Err(format!(
                "seed {}, round {round}, cached on {snapshots}: cached and uncached differ: {difference}\n{}{}",
                project.seed, project.log, project.text
            ))
        })
    }
}

/// What one of the processes does.
pub fn work(order: &str) {
    let mut words = order.splitn(4, ' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (first, count, own) = (number(), number(), number());
    let shared = PathBuf::from(words.next().unwrap());
    let machine = Machine::new(&shared, own);
    let (mut begun, mut built) = (0, 0);
    while begun < count {
        let turn = begun..count.min(begun + TURNS);
        let seed = |i: u64| if i.is_multiple_of(SHARED) { first + 2 * i } else { first + 2 * i + own };
        let mut projects: Vec<Project> =
            turn.clone().map(|i| Project::new(seed(i), machine.dir.join(format!("c{i}")))).collect();
        for round in 0..ROUNDS {
            for project in &mut projects {
                match machine.compare(project, round) {
                    Ok(image) => built += u64::from(image),
                    Err(why) => panic!("{why}"),
                }
            }
        }
        for project in &projects {
            std::fs::remove_dir_all(&project.context).unwrap();
        }
        begun = turn.end;
    }
    // Most of them must be images: equal mistakes prove little.
    assert!(2 * built > count * ROUNDS, "only {built} of {} could be built", count * ROUNDS);
    eprintln!("{built} of {} are images", count * ROUNDS);
}
