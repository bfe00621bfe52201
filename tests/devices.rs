//! `RUN --device` (SPEC A5.10, C5.14): devices that CDI specifications of the machine describe.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

/// A bench with these specifications, and the flags that make them the machine's.
fn bench(specs: &[(&str, &str)], more: &str) -> (Bench, [String; 2]) {
    let bench = Bench::new();
    let dir = bench.path("cdi");
    std::fs::create_dir(&dir).unwrap();
    for (name, text) in specs {
        std::fs::write(dir.join(name), text.replace("$CTX", &bench.ctx().display().to_string())).unwrap();
    }
    let config = bench.path("devices.toml");
    std::fs::write(&config, format!("[cdi]\nspecDirs = [\"{}\"]\n{more}", dir.display())).unwrap();
    let flags = ["--config".to_owned(), config.display().to_string()];
    (bench, flags)
}

fn with<'a>(flags: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    flags.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

const ENVIRONMENT: &str = "\
cdiVersion: \"0.6.0\"
kind: vendor1.com/device
devices:
- name: foo
  containerEdits: {env: [FOO=injected]}
- name: bar
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [BAR=injected]}
";

#[test]
fn c5_14_devices_must_be_allowed() {
    need_run!();
    let (bench, flags) = bench(&[("vendor1.yaml", ENVIRONMENT)], "");
    bench.dockerfile("FROM busybox\nRUN --device=vendor1.com/device=foo env | grep -E 'FOO|BAR' > /out\n");
    let refused = "device vendor1.com/device=foo is requested by the build but not allowed";
    bench.build(&with(&flags, &[])).fails(4, &[refused, "--allow device=vendor1.com/device=foo", "Dockerfile:2"]);
    bench.build(&with(&flags, &["--allow", "device=vendor1.com/device=bar"])).fails(4, &[refused]);
    for allow in ["device", "device=vendor1.com/device=foo", "device=vendor1.com/device=*"] {
        assert_eq!(bench.build_image(&with(&flags, &["--allow", allow])).text("out"), "FOO=injected\n", "{allow}");
    }
    bench.dockerfile("FROM busybox\nRUN --device=gpu,required env | grep FOO > /out\n");
    let alias = "device=vendor1.com/device=foo,alias=gpu";
    assert_eq!(bench.build_image(&with(&flags, &["--allow", alias])).text("out"), "FOO=injected\n");
    // The device is part of the key, not what it is called.
    let other = "device=vendor1.com/device=bar,alias=gpu";
    bench.build(&with(&flags, &["--allow", other])).fails(9, &["exit code: 1"]);
    bench.build(&with(&flags, &["--allow", "device"])).fails(4, &["required device \"gpu\" is not registered"]);
    bench.dockerfile("FROM busybox\nRUN --device=class1 env | grep BAR > /out\n");
    assert_eq!(bench.build_image(&with(&flags, &["--allow", "device"])).text("out"), "BAR=injected\n");
    bench
        .build(&with(&flags, &["--allow", "device=vendor1.com/device=foo,alais=x"]))
        .fails(2, &["did you mean alias?"]);

    let (bench, flags) = self::bench(&[("vendor1.yaml", ENVIRONMENT)], "autoAllowed = [\"vendor1.com/device\"]\n");
    bench.dockerfile("FROM busybox\nRUN --device=vendor1.com/device=foo test $FOO = injected\n");
    bench.build(&with(&flags, &[])).ok();
    let (bench, flags) = self::bench(&[("vendor1.yaml", ENVIRONMENT)], "disabled = true\n");
    bench.dockerfile("FROM busybox\nRUN --device=vendor1.com/device=foo,required true\n");
    bench.build(&with(&flags, &["--allow", "device"])).fails(4, &["is not registered", "switched off"]);
}

// SPEC A5.10, C5.14: whoever goes into a step has what the step had, not what the machine has.
#[test]
fn c5_14_a_failed_step_is_entered_with_its_own_devices_alone() {
    need_run!();
    let (bench, flags) = bench(&[("vendor1.yaml", ENVIRONMENT)], "");
    bench.dockerfile("FROM busybox\nRUN --device=vendor1.com/device=foo false\nRUN --device=class1 true\n");
    bench.build(&with(&flags, &["--allow", "device"])).fails(9, &["exit code: 1"]);
    let look = ["debug", "--", "sh", "-c", "env | grep injected"];
    let run = bench.rbuild(&[&look[..1], &[&flags[0], &flags[1]], &look[1..]].concat());
    assert_eq!(run.ok().stdout, "FOO=injected\n");
}

const NODES: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/d",
  "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
  "devices": [
    {"name": "node", "containerEdits": {
      "deviceNodes": [{"path": "/dev/vendor/mine", "hostPath": "/dev/zero"}],
      "mounts": [{"hostPath": "$CTX/lib", "containerPath": "/opt/vendor/lib", "options": ["ro", "nosuid", "nodev", "rbind"]}]}},
    {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
    {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/no-such-device"}]}}]}"#;

#[test]
fn c5_14_nodes_and_mounts_are_in_the_step_and_nowhere_else() {
    need_run!();
    let (bench, flags) = bench(&[("vendor.json", NODES)], "");
    bench.file("lib/lib.so", "library\n");
    bench.dockerfile(
        "FROM busybox\nRUN --device=vendor.com/d=node head -c 4 /dev/vendor/mine | od -An -tx1 > /out && \
         cat /opt/vendor/lib/lib.so >> /out && ! touch /opt/vendor/lib/x\n",
    );
    if bench.build(&with(&flags, &[])).stderr.contains("mounts nothing") {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let image = bench.build_image(&with(&flags, &[]));
    assert_eq!(image.text("out"), " 00 00 00 00\nlibrary\n");
    let last = image.layers.last().unwrap();
    assert_eq!(
        last.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["out"],
        "nothing of the device is in the layer"
    );

    bench.dockerfile("FROM busybox\nRUN --device=vendor.com/d=hooked true\n");
    let hooks = "device vendor.com/d=hooked cannot be given to a step: it asks for hooks";
    bench.build(&with(&flags, &[])).fails(4, &[hooks, "vendor.json", "Dockerfile:2"]);
    bench.dockerfile("FROM busybox\nRUN --device=vendor.com/d=gone true\n");
    bench.build(&with(&flags, &[])).fails(4, &["/dev/no-such-device: No such file"]);
}

// SPEC A5.10: where nothing can be mounted a device is its environment, or refused.
#[test]
fn a5_10_devices_without_mounts() {
    if let Err(why) = support::bases() {
        eprintln!("skipped: {why}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: the chroot rung needs root");
        return;
    }
    let (bench, flags) = bench(&[("vendor.json", NODES), ("vendor1.yaml", ENVIRONMENT)], "");
    bench.file("lib/lib.so", "library\n");
    bench.dockerfile("FROM busybox\nRUN --device=vendor.com/d=node true\n");
    let refused = ["vendor.com/d=node cannot be given to a step: isolation chroot mounts nothing", "rbuild doctor"];
    bench.build(&with(&flags, &["--isolation", "chroot"])).fails(10, &refused);
    bench.dockerfile("FROM busybox\nRUN --device=vendor1.com/device=foo test $FOO = injected\n");
    bench.build(&with(&flags, &["--isolation", "chroot", "--allow", "device"])).ok();
}
