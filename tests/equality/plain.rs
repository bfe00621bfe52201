//! Builds with steps, by the real program: with the cache and without on overlay snapshots, and on native ones.

use std::fmt::Write as _;

use super::{Dice, Shape, dockerfile, edit, fill, rewrite};
use crate::support::image::Image;
use crate::support::{self, Bench};

/// Modes, owners and sizes of what is mounted, without times and what the file system says of directories.
const LOOK: &str = "find /mnt -type f -o -type l | sort | xargs stat -c '%A %u:%g %s %N'";

fn instruction(dice: &mut Dice, stages: usize) -> String {
    let file = dice.pick(super::FILES);
    let n = dice.roll(4);
    match dice.roll(22) {
        0 => format!("COPY {file} /x{n}"),
        1 => format!("COPY d /dir{n}"),
        2 => format!("COPY . /all{n}/"),
        3 => format!("COPY --chown={n}:7 --chmod=640 {file} /owned/"),
        4 => "COPY *a d/* /glob/".into(),
        5 if stages > 0 => format!("COPY --from={} /etc /etc{n}", dice.roll(stages as u64)),
        6 if stages > 0 => format!("COPY --from=s{} /bin/busybox /tool{n}", dice.roll(stages as u64)),
        7 => format!("RUN echo $V {n} > /run{n}"),
        8 => format!("RUN rm -rf /x{n} /dir{n}/c; mkdir -p /m{n} && ln -sf ../x{n} /m{n}/l"),
        9 => format!("RUN for f in /dir* /x*; do [ -e $f ] && chmod 7{n}5 $f; done; true"),
        10 => format!("RUN [ -d /dir{n} ] && mv /dir{n} /moved{n} || mkdir -p /moved{n}/e; true"),
        11 => format!("RUN --mount=type=bind,source=d,target=/mnt cat /mnt/* > /cat{n} 2>/dev/null; true"),
        12 => format!("ENV E{n}={}", dice.roll(3)),
        13 => format!("WORKDIR /w{n}"),
        14 => format!("COPY --link {file} /linked{n}/"),
        15 => format!("RUN --mount=type=bind,target=/mnt {LOOK} > /look{n}"),
        16 if stages > 0 => {
            let from = dice.roll(stages as u64);
            format!(
                "RUN --mount=type=bind,from=s{from},source=/etc,target=/mnt,rw echo x > /mnt/x; rm /mnt/x; {LOOK} > /etc{n}"
            )
        }
        // What is in a cache mount is nobody's input: a step must give the same with whatever is in there.
        17 => format!(
            "RUN --mount=type=cache,target=/c{n} echo {n} $V > /c{n}/$$ && cat /c{n}/$$ > /kept{n} && rm /c{n}/$$"
        ),
        18 => format!("RUN --mount=type=tmpfs,target=/t cp -p /d* /x* /t 2>/dev/null; ls /t > /list{n}"),
        // The value is not in the key; here it is always the same.
        19 => format!(
            "RUN --mount=type=secret,id=s,mode=0440,uid={n} stat -c '%a %u' /run/secrets/s > /secret{n}; cat /run/secrets/s >> /secret{n}"
        ),
        20 => format!("RUN --network=none [ -e /sys/class/net/eth0 ] && echo net > /net{n}; true"),
        _ => format!("RUN ln /bin/busybox /hard{n} 2>/dev/null; chown {n}:{n} /etc/group; true"),
    }
}

fn build(bench: &Bench, store: &str, args: &[&str], arg: u64) -> Result<Image, String> {
    let tar = bench.path("p.tar");
    let _ = std::fs::remove_file(&tar);
    let (out, value) = (format!("type=oci,dest={},compression=uncompressed", tar.display()), format!("V={arg}"));
    let secret = format!("id=s,src={}", bench.path("secret").display());
    let mut all = vec!["-o", out.as_str(), "--build-arg", value.as_str(), "--secret", secret.as_str()];
    all.extend(args);
    let mut command = bench.build_command(&all);
    command.arg("--root").arg(bench.path(store));
    let run = support::finish(command.output().unwrap());
    if run.code == 0 { Ok(Image::open_tar(&tar)) } else { Err(format!("exit code {}", run.code)) }
}

/// One project and two edits; gives how many times it was compared.
pub fn project(seed: u64) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let bench = Bench::new();
    fill(&bench.ctx());
    std::fs::write(bench.path("secret"), "geheim\n").unwrap();
    let mut text = dockerfile(&mut dice, &["busybox"], instruction);
    bench.dockerfile(&text);
    let (mut arg, mut runs, mut log) = (0, 0, String::new());
    for round in 0..3 {
        if round > 0 {
            let what = if dice.roll(5) == 0 {
                let what = rewrite(&mut dice, &mut text, instruction);
                bench.dockerfile(&text);
                what
            } else {
                edit(&mut dice, &bench.ctx(), &mut arg)
            };
            let _ = writeln!(log, "edit: {what}");
        }
        let cached = build(&bench, "store-overlay", &["--snapshotter", "overlay"], arg);
        let plain = build(&bench, "store-overlay", &["--snapshotter", "overlay", "--no-cache"], arg);
        // The first store keeps its cache from the cached build's point of view: another one checks the other snapshotter.
        let native = build(&bench, "store-native", &["--snapshotter", "native"], arg);
        runs += 1;
        let context = || format!("seed {seed}, round {round}\n{log}{text}");
        match (cached, plain, native) {
            (Ok(cached), Ok(plain), Ok(native)) => {
                let [mut a, mut b, mut c] = [cached, plain, native].map(|image| Shape::of(&image));
                if round == 0 && a.layers != c.layers {
                    let difference = a.difference(&c);
                    return Err(format!(
                        "overlay and native have other entries in their layers: {difference}\n{}",
                        context()
                    ));
                }
                // What is in which layer may differ later: modification times are not part of keys, and an entry equal to
                // its parent's is left out.
                for shape in [&mut a, &mut b, &mut c] {
                    shape.layers.clear();
                }
                if a != b {
                    return Err(format!("cached and uncached differ: {}\n{}", a.difference(&b), context()));
                }
                // A directory of a layer below cannot be renamed on overlay: `mv` copies it there, and that of busybox leaves
                // attributes behind.
                for shape in [&mut a, &mut c] {
                    shape.forget_attributes("moved");
                }
                if a != c {
                    return Err(format!("overlay and native differ: {}\n{}", a.difference(&c), context()));
                }
            }
            (Err(a), Err(b), Err(c)) if a == b && b == c => {}
            (a, b, c) => {
                let words = [a, b, c].map(|r| r.map_or_else(|e| e, |_| "built".into()));
                return Err(format!("cached, uncached, native: {words:?}\n{}", context()));
            }
        }
    }
    Ok(runs)
}
