//! Tests of the configuration file.

use super::*;

fn parse_as(name: &str, text: &str) -> Result<Config, String> {
    Config::parse(&Path::new("/c").join(name), text).map_err(|e| e.message)
}

fn parse(text: &str) -> Result<Config, String> {
    parse_as("rbuild.toml", text)
}

// SPEC C9.11, E2.02–E2.04
#[test]
fn registries_are_written_as_for_buildkit() {
    let text = r#"
[registry."docker.io"]
  mirrors = ["mirror.gcr.io", "m.example:5000/hub"]
[registry."m.example:5000"]
  http = true
  insecure = false
  ca = ["ca.pem"]
  tlsconfigdir = ["/etc/certs.d/m"]
  [[registry."m.example:5000".keypair]]
    key = "/k.pem"
    cert = "c.pem"
"#;
    let config = parse(text).expect("fine");
    let hub = &config.registries["docker.io"];
    assert_eq!(hub.mirrors.as_deref(), Some(&["mirror.gcr.io".to_owned(), "m.example:5000/hub".to_owned()][..]));
    let mirror = &config.registries["m.example:5000"];
    assert_eq!((mirror.http, mirror.insecure), (Some(true), Some(false)));
    assert_eq!(mirror.ca, [Path::new("/c/ca.pem")], "relative to the file");
    assert_eq!(mirror.keypair, Some(("/k.pem".into(), "/c/c.pem".into())));
}

// SPEC C9.10, C5.03
#[test]
fn names_and_networks_of_steps() {
    let text = "[dns]\nnameservers = [\"10.0.0.1\", \"::1\"]\nsearchDomains = [\"lan\"]\n[steps]\nnetwork = \"host\"\n";
    let steps = parse(text).expect("fine").steps;
    assert_eq!(steps.dns.nameservers, ["10.0.0.1".parse::<IpAddr>().expect("one"), "::1".parse().expect("one")]);
    assert_eq!((steps.dns.search, steps.network), (vec!["lan".to_owned()], DefaultNetwork::Host));
    let mode = |name: &str, text: &str| parse_as(name, text).map(|config| config.steps.network);
    assert_eq!(mode("buildkitd.toml", "[worker.oci]\nnetworkMode = \"host\"\n"), Ok(DefaultNetwork::Host));
    assert_eq!(mode("buildkitd.toml", "[worker.oci]\nnetworkMode = \"cni\"\n"), Ok(DefaultNetwork::default()));
    assert!(mode("rbuild.toml", "[worker.oci]\nnetworkMode = \"cni\"\n").is_err());
}

// SPEC G.06
#[test]
fn mistakes_name_file_line_key_and_rule() {
    for (text, message) in [
        ("registy = 1", ":1: unknown key registy (did you mean registry?)"),
        ("[registry.\"a.b\"]\n\nmirors = []", ":3: unknown key registry.\"a.b\".mirors (did you mean mirrors?)"),
        (
            "[worker.oci]\nmax-paralelism = 1",
            ":2: unknown key worker.oci.max-paralelism (did you mean max-parallelism?)",
        ),
        ("[grpc]\naddress = []", ":1: unknown key grpc"),
        ("[registry.a]\nhttp = \"yes\"", ":2: registry.\"a\".http: expected true or false"),
        (
            "[registry.a]\nmirrors = [\"https://x\"]",
            ":2: registry.\"a\".mirrors: \"https://x\" is not HOST[:PORT][/PATH]",
        ),
        ("\nisolation = \"none-at-all\"", ":2: isolation: unknown rung \"none-at-all\""),
        (
            "insecure-entitlements = [\"network.hots\"]",
            ":1: insecure-entitlements: unknown entitlement network.hots (did you mean network.host?)",
        ),
        ("build = 1", ":1: build: expected a table"),
        ("[build]\nplatform = [\"linux/\"]", ":2: build.platform: "),
        ("[build]\nplatform = \"linux/amd64\"", ":2: build.platform: expected a list of texts"),
        ("[build]\nnetwork = \"bridge\"", ":2: build.network: network mode \"bridge\" not supported"),
        ("[build]\nprogress = \"loud\"", ":2: build.progress: invalid progress mode \"loud\""),
        ("[build]\ncache-from = [\"type=regsitry\"]", ":2: build.cache-from: "),
        (
            "[build]\npull-from = [\"/c,max-aeg=1h\"]",
            ":2: build.pull-from: --pull-from /c,max-aeg=1h: unknown attribute max-aeg",
        ),
        ("[build]\ncache-to = [\"type=local\"]", ":2: build.cache-to: "),
        ("[build]\nadd-host = [\"x\"]", ":2: build.add-host: invalid host x"),
        ("[build]\nshm-size = \"1x\"", ":2: build.shm-size: invalid size"),
        ("[build]\nulimit = [\"nofiles=1\"]", ":2: build.ulimit: "),
        ("[steps]\nmemory = \"lots\"", ":2: steps.memory: "),
        ("[steps]\npids-limit = -5", ":2: steps.pids-limit: "),
        ("[steps]\ntimeout = \"soon\"", ":2: steps.timeout: "),
        ("[dns]\nnameservers = [\"one\"]", ":2: dns.nameservers: \"one\" is not an IP address"),
        ("[steps]\nnetwork = \"none\"", ":2: steps.network: \"none\" is not auto, sandbox or host"),
        ("[steps]\nnetwrk = \"host\"", ":2: unknown key steps.netwrk (did you mean network?)"),
        ("[log]\nstep-max-size = -2", ":2: log.step-max-size: expected bytes, or -1 for all"),
        ("[log]\nstep-max-size = \"1M\"", ":2: log.step-max-size: expected a whole number"),
        ("[system]\nmaxRegistryConcurrency = 0", ":2: system.maxRegistryConcurrency: expected at least 1"),
        ("[worker.oci]\nsnapshotter = \"stargz\"", ":2: worker.oci.snapshotter: there is no snapshotter \"stargz\""),
        ("[worker.oci]\nmaxUsedSpace = \"150%\"", ":2: worker.oci.maxUsedSpace: "),
        ("[worker.oci]\ngcpolicy = 1", ":2: worker.oci.gcpolicy: expected a list of tables"),
        ("[[worker.oci.gcpolicy]]\nfilters = [\"typ==x\"]", ":2: worker.oci.gcpolicy.filters: "),
        (
            "[[worker.oci.gcpolicy]]\nkeepDuration = \"2 days\"",
            ":2: worker.oci.gcpolicy.keepDuration: invalid duration",
        ),
        ("x = \n", ":1: "),
    ] {
        let error = parse(text).expect_err("refused");
        let rest = error.strip_prefix("/c/rbuild.toml");
        assert!(rest.is_some_and(|rest| rest.starts_with(message)), "{text:?} gives {error:?}, not {message:?}");
    }
    assert!(parse("").is_ok());
}

// SPEC C9.10: every key of the reference can be written as it stands there, and no other is read.
#[test]
fn every_key_of_the_reference_is_read() {
    let config = parse(&keys::example(|_| true)).expect("fine");
    assert_eq!(config.notices, Vec::<String>::new());
    assert_eq!(config.root.as_deref(), Some(Path::new("/var/lib/rbuild")));
    assert_eq!(config.build.ulimit, ["nofile=1024:4096"]);
    assert_eq!((config.unpack.bytes, config.unpack.entries), (16 << 30, 1_000_000));
    assert_eq!(config.steps.timeout, Some(Duration::from_secs(7200)));
    assert_eq!((config.steps.resources.memory, config.steps.resources.processes), (Some(4 << 30), Some(4096)));
    assert_eq!((config.steps.resources.cpu_quota, config.steps.resources.memory_swap), (Some(150_000), Some(6 << 30)));
    assert_eq!(config.registry_parallel, Some(2));
    assert_eq!(config.parallelism, Some(8));
    let GcPolicy::Rules(rules) = config.gc else { panic!("the rules of the file count") };
    assert_eq!(rules[0].keep_duration, Some(Duration::from_secs(48 * 3600)));
    assert_eq!(rules[0].caps.reserved, Some(Space::Bytes(1 << 30)), "the new name goes before the old one");
}

// SPEC N2.07: old pages say megabytes.
#[test]
fn n2_07_bare_integers_are_bytes() {
    let config = parse_as("buildkitd.toml", "[worker.oci]\ngckeepstorage = 9000\n").expect("fine");
    let GcPolicy::Usual(caps) = config.gc else { panic!("there are no rules") };
    assert_eq!(caps.reserved, Some(Space::Bytes(9000)));
}

// SPEC C9.09, C9.10: a file made for BuildKit is of use as it is.
#[test]
fn a_buildkitd_toml_is_read_leniently() {
    let text = r#"
debug = true
root = "/var/lib/buildkit"
insecure-entitlements = [ "network.host" ]
[grpc]
  address = [ "tcp://0.0.0.0:1234" ]
[worker.oci]
  enabled = true
  snapshotter = "stargz"
  max-parallelism = 4
  gckeepstorage = 9000
  [worker.oci.labels]
    "foo" = "bar"
  [[worker.oci.gcpolicy]]
    keepBytes = 512000000
    keepDuration = 172800
    filters = [ "type==source.local", "type==exec.cachemount,until=1h"]
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = ["mirror.example"]
[build]
  network = "host"
"#;
    let config = parse_as("buildkitd.toml", text).expect("fine");
    assert_eq!(config.root, None, "that is a daemon's directory");
    assert_eq!(config.build.network, None, "not a key of BuildKit's");
    assert_eq!(config.entitlements.as_deref(), Some(&["network.host".to_owned()][..]));
    assert_eq!(config.parallelism, Some(4));
    let GcPolicy::Rules(rules) = config.gc else { panic!("the rules of the file count") };
    assert_eq!(rules[0].any.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(rules[0].caps.reserved, Some(Space::Bytes(512_000_000)));
    let said: Vec<&str> =
        config.notices.iter().map(|n| n.strip_prefix("/c/buildkitd.toml:").expect("the file")).collect();
    assert_eq!(
        said,
        [
            "9: worker.oci.snapshotter has no meaning here: there is no snapshotter \"stargz\"; expected auto, overlay or native",
            "8: worker.oci.enabled has no meaning here",
            "12: worker.oci.labels has no meaning here",
            "18: worker.containerd has no meaning here",
            "2: debug has no meaning here",
            "3: root has no meaning here",
            "5: grpc has no meaning here",
            "22: build has no meaning here",
        ]
    );
    assert!(parse_as("buildkitd.default.toml", text).is_ok_and(|config| config.notices.len() == said.len()));
    // What BuildKit would refuse too stays an error.
    assert!(parse_as("buildkitd.toml", "[worker.oci]\ngc = \"often\"").is_err());
}

// SPEC B4.06: who asks for verified caches does not get others.
#[test]
fn b4_06_signed_caches_are_refused_by_name() {
    for name in ["rbuild.toml", "buildkitd.toml"] {
        let error = parse_as(name, "[cache.gha.verify]\nrequired = true\n").map(drop).expect_err("refused");
        assert!(format!("{error:?}").contains("neither signed nor verified"), "{error:?}");
    }
}

// SPEC C5.16: who asks for a network that is watched does not get one that is not.
#[test]
fn c5_16_a_watched_network_is_refused_by_name() {
    let error = parse_as("buildkitd.toml", "proxyNetwork = true\n").map(drop).expect_err("refused");
    assert!(format!("{error:?}").contains("neither read nor recorded"), "{error:?}");
    assert!(parse_as("buildkitd.toml", "proxyNetwork = false\n").is_ok());
}

#[test]
fn flags_and_variables_go_before_the_file() {
    let parsed = |flags: &[&str]| {
        let line = ["rbuild", "build"].iter().chain(flags).chain(&["."]);
        match super::super::args::Cli::parse_words(line).expect("parses").command {
            super::super::args::Command::Build(build) => *build,
            _ => panic!("not a build"),
        }
    };
    let defaults = parse(&keys::example(|key| key.name.starts_with("build."))).expect("fine").build;
    let mut nothing = parsed(&[]);
    defaults.fill(&mut nothing);
    assert_eq!(nothing.network.as_deref(), Some("none"));
    assert_eq!(nothing.cache_to, ["type=inline"]);
    assert_eq!(nothing.pull, Some(true));
    let mut said =
        parsed(&["--network=host", "--cache-to=", "--pull=false", "--shm-size=1m", "--platform=linux/arm64"]);
    defaults.fill(&mut said);
    assert_eq!((said.network.as_deref(), said.shm_size.as_deref()), (Some("host"), Some("1m")));
    assert_eq!((said.cache_to.as_slice(), said.pull), (&[String::new()][..], Some(false)));
    assert_eq!(said.platform, ["linux/arm64"]);
}
