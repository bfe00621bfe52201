//! Devices as specifications describe them, and who may have them.

use super::*;

/// Directories with these files.
fn dirs(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dirs = Vec::new();
    for (name, text) in files {
        let path = dir.path().join(name);
        let parent = path.parent().expect("a parent").to_owned();
        fs::create_dir_all(&parent).expect("makes");
        fs::write(&path, text).expect("writes");
        if !dirs.contains(&parent) {
            dirs.push(parent);
        }
    }
    (dir, dirs)
}

const SOME: &str = "\
cdiVersion: \"0.6.0\"
kind: vendor1.com/device
containerEdits:
  env: [ALL=1]
devices:
- name: foo
  containerEdits: {env: [FOO=injected], additionalGids: [0, 44]}
- name: bar
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [BAR=injected, FOO=bar], additionalGids: [44]}
- name: free
  annotations: {org.mobyproject.buildkit.device.autoallow: true, org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [FREE=1]}
";

fn wanted(name: &str) -> Vec<CdiDevice> {
    vec![CdiDevice { name: name.into(), optional: false }]
}

fn all() -> Grants {
    Grants { all: true, ..Grants::default() }
}

fn names(devices: &Devices, name: &str) -> Result<Vec<String>, DeviceError> {
    devices.edits(&wanted(name)).map(|edits| edits.env.into_iter().map(|(name, _)| name).collect())
}

// SPEC A5.10: the forms of a name.
#[test]
fn a5_10_devices_are_found_by_name_kind_and_class() {
    let (_dir, dirs) = dirs(&[("a/v.yaml", SOME), ("a/readme.txt", SOME)]);
    let devices = Devices::new(dirs, Vec::new(), all());
    for (name, env) in [
        ("vendor1.com/device=foo", &["ALL", "FOO"][..]),
        // Names are in order.
        ("vendor1.com/device", &["ALL", "BAR", "FOO"]),
        ("vendor1.com/device=*", &["ALL", "BAR", "FREE", "FOO"]),
        ("class1", &["ALL", "BAR", "FOO", "FREE"]),
    ] {
        let mut found = names(&devices, name).expect(name);
        let mut env: Vec<String> = env.iter().map(|name| (*name).to_owned()).collect();
        found.sort();
        env.sort();
        assert_eq!(found, env, "{name}");
    }
    let edits = devices.edits(&wanted("vendor1.com/device=*")).expect("finds");
    assert!(edits.env.contains(&("FOO".into(), "injected".into())), "the last one counts: {edits:?}");
    assert_eq!(edits.groups, [44], "each once, and never root's");
    for absent in ["vendor1.com/device=baz", "vendor1.com/dev", "device", "foo", "vendor1.com", ""] {
        let error = names(&devices, absent).expect_err(absent);
        assert_eq!(error.to_string(), format!("required device \"{absent}\" is not registered"));
        let optional = CdiDevice { name: absent.into(), optional: true };
        assert_eq!(devices.edits(&[optional]), Ok(Edits::default()), "{absent}");
    }
}

// SPEC C5.14, C5.15: what the user did not allow is not given.
#[test]
fn c5_14_devices_need_leave() {
    let (_dir, dirs) = dirs(&[("a/v.yaml", SOME)]);
    let grants = |names: &[&str]| Grants { devices: names.iter().map(|name| (*name).to_owned()).collect(), all: false };
    let devices = Devices::new(dirs.clone(), Vec::new(), grants(&["vendor1.com/device=bar", "no.such/device=x"]));
    assert_eq!(
        devices.check(&wanted("vendor1.com/device=foo")).map_err(|e| e.to_string()),
        Err("device vendor1.com/device=foo is requested by the build but not allowed".into())
    );
    assert!(devices.check(&wanted("vendor1.com/device=bar")).is_ok());
    assert!(devices.check(&wanted("vendor1.com/device=free")).is_ok(), "by its annotation");
    assert!(devices.edits(&wanted("vendor1.com/device=foo")).is_err(), "not only the check says so");
    let kinds = Devices::new(dirs.clone(), vec!["vendor1.com/device".into()], Grants::default());
    assert!(kinds.check(&wanted("vendor1.com/device=*")).is_ok(), "by the configuration");
    let two = Devices::new(dirs, Vec::new(), Grants::default());
    let error = two.check(&wanted("vendor1.com/device=*")).expect_err("fails").to_string();
    assert_eq!(
        error,
        "devices vendor1.com/device=bar, vendor1.com/device=foo are requested by the build but not allowed"
    );
}

#[test]
fn c5_14_later_directories_count_and_equals_conflict() {
    let of = |value: &str| SOME.replace("FOO=injected", &format!("FOO={value}"));
    let (_dir, dirs) = dirs(&[("a/v.yaml", &of("first")), ("b/v.yaml", &of("second")), ("b/broken.json", "{")]);
    let devices = Devices::new(dirs, Vec::new(), all());
    let edits = devices.edits(&wanted("vendor1.com/device=foo")).expect("finds");
    assert!(edits.env.contains(&("FOO".into(), "second".into())), "{edits:?}");
    let hint = names(&devices, "no.such/x=y").expect_err("fails").hint().unwrap_or_default();
    assert!(hint.contains("broken.json: "), "{hint}");

    let (_dir, dirs) = self::dirs(&[("a/v.yaml", SOME), ("a/w.yml", SOME), ("a/x.yml", SOME)]);
    let error = names(&Devices::new(dirs, Vec::new(), all()), "vendor1.com/device=foo").expect_err("fails");
    assert!(error.to_string().contains("describes it too"), "{error}");
}

#[test]
fn c5_14_nodes_and_mounts_are_the_machines() {
    let edits = |edits: &str| {
        let text = format!(
            "{{\"cdiVersion\":\"0.6.0\",\"kind\":\"v.com/d\",\"devices\":[{{\"name\":\"x\",\"containerEdits\":{edits}}}]}}"
        );
        let (_dir, dirs) = dirs(&[("a/v.json", &text)]);
        Devices::new(dirs, Vec::new(), all()).edits(&wanted("v.com/d=x")).map_err(|e| e.to_string())
    };
    let host = |source: &str, target: &str, options: &[&str]| StepMount::Host {
        source: source.into(),
        target: target.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let found = edits(
        r#"{"deviceNodes":[{"path":"/dev/zero"},{"path":"/dev/mine","hostPath":"/dev/null","type":"u","major":1,"minor":3,"permissions":"rw"}],
            "mounts":[{"hostPath":"/usr","containerPath":"/opt/usr","options":["ro","nosuid","nodev","rbind","rprivate"]}],"hooks":[]}"#,
    );
    assert_eq!(
        found.map(|found| found.mounts),
        Ok(vec![
            host("/dev/zero", "/dev/zero", &["bind"]),
            host("/dev/null", "/dev/mine", &["bind"]),
            host("/usr", "/opt/usr", &["rbind", "rro", "nosuid", "nodev"]),
        ])
    );
    for (text, why) in [
        (r#"{"hooks":[{"hookName":"createContainer","path":"/bin/x"}]}"#, "hooks, which would run"),
        (r#"{"intelRdt":{"closID":"x"}}"#, "asks for intelRdt"),
        (r#"{"env":["FOO"]}"#, "env \"FOO\" is not NAME=VALUE"),
        (r#"{"deviceNodes":[{"path":"/dev/no-such-device"}]}"#, "/dev/no-such-device: No such file"),
        (r#"{"deviceNodes":[{"path":"/dev/x","hostPath":"/usr"}]}"#, "/usr is no device node"),
        (r#"{"deviceNodes":[{"path":"/dev/null","type":"b"}]}"#, "is c 1:3 and described as b"),
        (r#"{"deviceNodes":[{"path":"/dev/null","major":1,"minor":5}]}"#, "described as  1:5"),
        (r#"{"mounts":[{"hostPath":"/usr","containerPath":"/../x"}]}"#, "no place in a step"),
        (r#"{"mounts":[{"hostPath":"/usr","containerPath":"/"}]}"#, "no place in a step"),
        (r#"{"mounts":[{"hostPath":"usr","containerPath":"/x"}]}"#, "not an absolute path"),
        (r#"{"mounts":[{"hostPath":"/no/such","containerPath":"/x"}]}"#, "/no/such: No such file"),
        (r#"{"mounts":[{"hostPath":"/usr","containerPath":"/x","type":"nfs"}]}"#, "type nfs"),
        (r#"{"mounts":[{"hostPath":"/usr","containerPath":"/x","options":["size=1"]}]}"#, "option size=1"),
    ] {
        let error = edits(text).expect_err(text);
        assert!(error.contains(why) && error.contains("v.json"), "{text}: {error}");
    }
}
