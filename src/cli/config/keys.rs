//! Every key of the configuration file: what it does, its default, and what goes before it. The reference in
//! `docs/cli/rbuild.toml.md` is made of this list, and the reader knows no others.

use std::fmt::Write as _;

/// One key.
pub(super) struct Key {
    /// With its tables; `*` is a name that the user chooses.
    pub(super) name: &'static str,
    /// It is BuildKit's too, with the same meaning, so that it counts in a `buildkitd.toml` (SPEC C9.10).
    pub(super) buildkit: bool,
    /// As it may be written.
    pub(super) example: &'static str,
    /// What holds without it.
    pub(super) default: &'static str,
    /// Flags and variables that go before it.
    pub(super) over: &'static str,
    /// What it does.
    pub(super) about: &'static str,
}

const fn key(
    name: &'static str,
    example: &'static str,
    default: &'static str,
    over: &'static str,
    about: &'static str,
) -> Key {
    Key { name, buildkit: true, example, default, over, about }
}

/// A key that BuildKit does not have, or that means something else there.
const fn own(
    name: &'static str,
    example: &'static str,
    default: &'static str,
    over: &'static str,
    about: &'static str,
) -> Key {
    Key { buildkit: false, ..key(name, example, default, over, about) }
}

/// All of them, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    own(
        "root",
        "\"/var/lib/rbuild\"",
        "`$XDG_DATA_HOME/rbuild`, `~/.local/share/rbuild`",
        "`--root`",
        "where the store is; relative to the file",
    ),
    own(
        "isolation",
        "\"userns\"",
        "`auto`",
        "`--isolation`",
        "how RUN steps are kept apart: auto, root, userns, userns-one, chroot, ptrace or none",
    ),
    key(
        "insecure-entitlements",
        "[\"network.host\"]",
        "all of them",
        "",
        "what `--allow` may be given for: `network.host`, `security.insecure`, `device`; a build that asks for others is refused",
    ),
    key(
        "provenanceEnvDir",
        "\"/etc/buildkit/provenance.d\"",
        "`/etc/buildkit/provenance.d`",
        "",
        "a directory whose `*.json` files, objects, are added to provenance: what there is to say about this machine; relative to the file",
    ),
    own(
        "build.platform",
        "[\"linux/amd64\"]",
        "this machine's",
        "`--platform`, `DOCKER_DEFAULT_PLATFORM`",
        "platforms to build for",
    ),
    own(
        "build.network",
        "\"none\"",
        "`default`",
        "`--network`",
        "network of RUN steps: default, sandbox, host or none",
    ),
    own(
        "build.progress",
        "\"plain\"",
        "`auto`",
        "`--progress`, `--quiet`, `BUILDKIT_PROGRESS`",
        "how progress is shown: auto, tty (where there is a terminal), plain, quiet, none or rawjson",
    ),
    own("build.pull", "true", "`false`", "`--pull`", "ask registries for newer versions of base images"),
    own(
        "build.pull-from",
        "[\"/var/lib/bases,max-age=24h\"]",
        "none",
        "`--pull-from` (an empty one for none)",
        "OCI layouts that are looked into before a registry is asked for a base image, as the flag has them",
    ),
    own(
        "build.cache-from",
        "[\"type=registry,ref=registry.example/app:cache\"]",
        "none",
        "`--cache-from` (an empty one for none)",
        "caches to read, as the flag has them",
    ),
    own(
        "build.cache-to",
        "[\"type=inline\"]",
        "none",
        "`--cache-to` (an empty one for none)",
        "caches to write, as the flag has them",
    ),
    own("build.add-host", "[\"db.internal=10.0.0.7\"]", "none", "`--add-host`", "further lines of `/etc/hosts`"),
    own("build.shm-size", "\"256m\"", "64m", "`--shm-size`", "size of `/dev/shm`"),
    own("build.ulimit", "[\"nofile=1024:4096\"]", "none", "`--ulimit`", "resource limits of RUN steps"),
    key("dns.nameservers", "[\"10.0.0.2\"]", "the machine's", "", "name servers of RUN steps"),
    key("dns.options", "[\"edns0\"]", "the machine's", "", "options of their resolver"),
    key("dns.searchDomains", "[\"example.internal\"]", "the machine's", "", "domains that they search"),
    key("cdi.disabled", "false", "`false`", "", "know no devices of this machine"),
    key(
        "cdi.specDirs",
        "[\"/etc/cdi\", \"/run/cdi\"]",
        "`/etc/cdi`, `/var/run/cdi`, `/etc/buildkit/cdi`",
        "",
        "directories of CDI specifications; of two for one device the later counts",
    ),
    key(
        "cdi.autoAllowed",
        "[\"vendor.example/class\"]",
        "none",
        "",
        "devices and kinds that RUN --device gets without `--allow device`",
    ),
    own(
        "steps.network",
        "\"sandbox\"",
        "`auto`",
        "`--network`",
        "what the default network is: auto, sandbox (one of their own, or an error) or host (the machine's)",
    ),
    own(
        "steps.emulators",
        "[\"/opt/qemu-aarch64\", \"tonistiigi/binfmt\"]",
        "this machine's, and those of tonistiigi/binfmt if that is in the store",
        "`--emulator`",
        "emulators for RUN of other architectures: `[ARCH=]PATH` of a static qemu or of a directory of them, or the name of an image that has them",
    ),
    own(
        "steps.timeout",
        "\"2h\"",
        "24h",
        "`--step-timeout`",
        "how long a step may take; then all it has started is killed",
    ),
    own(
        "steps.memory",
        "\"4g\"",
        "the machine's or container's",
        "`--memory`, `--resource`",
        "memory of each step. This and the other limits of control groups need a group that is rbuild's own, or the step fails",
    ),
    own(
        "steps.memory-swap",
        "\"6g\"",
        "no limit",
        "`--memory-swap`, `--resource`",
        "memory and swap together; -1 is unlimited",
    ),
    own("steps.pids-limit", "4096", "16384", "`--pids-limit`", "how many processes a step may have at once"),
    own("steps.cpu-shares", "512", "1024", "`--cpu-shares`, `--resource`", "weight of a step among others"),
    own(
        "steps.cpu-period",
        "100000",
        "100000",
        "`--cpu-period`, `--resource`",
        "microseconds that `cpu-quota` counts in",
    ),
    own(
        "steps.cpu-quota",
        "150000",
        "no limit",
        "`--cpu-quota`, `--resource`",
        "microseconds of processor time in each period; -1 is unlimited",
    ),
    own("steps.cpuset-cpus", "\"0-1\"", "all", "`--cpuset-cpus`, `--resource`", "processors that steps run on"),
    own("steps.cpuset-mems", "\"0\"", "all", "`--cpuset-mems`, `--resource`", "memory nodes that they use"),
    own(
        "unpack.max-size",
        "\"16g\"",
        "64g",
        "",
        "bytes that one layer, or one archive of ADD, may unpack to; beyond it is taken for a bomb and refused",
    ),
    own("unpack.max-entries", "1000000", "16000000", "", "files, directories and links that it may have"),
    own(
        "log.step-max-size",
        "1048576",
        "2097152",
        "`BUILDKIT_STEP_LOG_MAX_SIZE`",
        "bytes of a step's output that are shown; -1 for all. The log on disk has all of it",
    ),
    own(
        "log.step-max-speed",
        "-1",
        "204800",
        "`BUILDKIT_STEP_LOG_MAX_SPEED`",
        "bytes of a step's output that are shown for each second; -1 for all",
    ),
    key("history.maxEntries", "20", "50", "", "records of so many builds stay however old they are; at least 1"),
    key("history.maxAge", "\"168h\"", "48h", "", "the others go when they are so old: a duration, or seconds"),
    key("registry.*.mirrors", "[\"mirror.example:5000/hub\"]", "none", "", "asked before it, in this order"),
    key("registry.*.http", "false", "TLS; HTTP for loopback without TLS", "", "plain HTTP only, or TLS only"),
    key("registry.*.insecure", "false", "`false`", "", "accept any certificate"),
    key("registry.*.ca", "[\"ca.pem\"]", "none", "", "further roots; relative to the file"),
    key(
        "registry.*.tlsconfigdir",
        "[\"/etc/certs.d/registry.example\"]",
        "none",
        "",
        "directories with `*.crt`, `*.cert` and `*.key`",
    ),
    key("registry.*.keypair.key", "\"client.key\"", "", "", "key of the client certificate"),
    key("registry.*.keypair.cert", "\"client.cert\"", "", "", "the client certificate; one pair for each registry"),
    key("system.maxRegistryConcurrency", "2", "4", "", "blobs at a time for each registry"),
    key(
        "worker.oci.snapshotter",
        "\"native\"",
        "`auto`",
        "`--snapshotter`",
        "how file systems are put together: auto, overlay (or overlayfs), native",
    ),
    key(
        "worker.oci.networkMode",
        "\"auto\"",
        "`auto`",
        "`steps.network`",
        "BuildKit's name of `steps.network`: auto or host",
    ),
    key(
        "worker.oci.defaultCgroupParent",
        "\"/builds\"",
        "the group that rbuild is started in",
        "`--cgroup-parent`",
        "builds run in control groups below this one",
    ),
    key("worker.oci.max-parallelism", "8", "4 for each processor, at least 16", "", "RUN steps at a time"),
    key("worker.oci.gc", "true", "`true`", "", "collect after a build what the caps do not allow"),
    key(
        "worker.oci.maxUsedSpace",
        "\"50GB\"",
        "80 % of the space available at the first build, at most 100 GB",
        "",
        "cap of the store; what is not in use goes, least recently used first",
    ),
    key("worker.oci.reservedSpace", "\"10%\"", "a tenth of the cap, at most 10 GB", "", "kept whatever happens"),
    key("worker.oci.minFreeSpace", "\"20GB\"", "none", "", "collect until the disk has so much free space"),
    key("worker.oci.gckeepstorage", "\"5GB\"", "", "", "old name of `reservedSpace`"),
    key("worker.oci.gcpolicy.all", "true", "`false`", "", "internal records too"),
    key(
        "worker.oci.gcpolicy.filters",
        "[\"type==exec.cachemount\"]",
        "none",
        "",
        "only what matches one of these, each as for `rbuild prune --filter`; several with commas between them must all match",
    ),
    key(
        "worker.oci.gcpolicy.keepDuration",
        "\"48h\"",
        "none",
        "",
        "only what was not used for so long: a duration, or seconds",
    ),
    key("worker.oci.gcpolicy.maxUsedSpace", "\"512MB\"", "none", "", "delete until the store is no larger"),
    key("worker.oci.gcpolicy.reservedSpace", "\"1GB\"", "none", "", "never make the store smaller"),
    key("worker.oci.gcpolicy.minFreeSpace", "\"5%\"", "none", "", "delete until the disk has so much free space"),
    key("worker.oci.gcpolicy.keepBytes", "\"512MB\"", "", "", "old name of `reservedSpace`"),
];

/// Whether a key, or a table that holds keys, is in the list.
pub(super) fn is_known(name: &str) -> bool {
    KEYS.iter().any(|key| within(key.name, name))
}

/// The same for keys that BuildKit has.
pub(super) fn is_of_buildkit(name: &str) -> bool {
    KEYS.iter().any(|key| key.buildkit && within(key.name, name))
}

fn within(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Names that may stand in a table.
pub(super) fn below(table: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |key| {
        let rest = if table.is_empty() { key.name } else { key.name.strip_prefix(table)?.strip_prefix('.')? };
        rest.split('.').next()
    })
}

/// Tables that are lists of tables.
const LISTS: [&str; 2] = ["registry.*.keypair", "worker.oci.gcpolicy"];

/// A file with every key as its example has it.
pub(super) fn example(wanted: impl Fn(&Key) -> bool) -> String {
    let (mut out, mut open) = (String::new(), "");
    for key in KEYS.iter().filter(|key| wanted(key)) {
        let (table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if table != open {
            open = table;
            let header = table.replace(".*", ".\"registry.example\"");
            let (left, right) = if LISTS.contains(&table) { ("[[", "]]") } else { ("[", "]") };
            let _ = writeln!(out, "\n{left}{header}{right}");
        }
        let _ = writeln!(out, "{name} = {}", key.example);
    }
    out
}

/// The reference (SPEC C9.09–C9.11).
pub(in crate::cli) fn page() -> String {
    let mut out = String::from(
        "<!-- made by `rbuild docs markdown docs/cli`; do not edit -->\n\n# rbuild.toml\n\n\
         Read from `--config FILE`, else from `$XDG_CONFIG_HOME/rbuild/rbuild.toml` (`~/.config/rbuild/rbuild.toml`). Nothing needs it. A flag goes before a\n\
         variable, a variable before the file. An unknown key or a wrong value is an error that names the line, before any work.\n\n\
         A file called `buildkitd.toml` (or `buildkitd.default.toml`, as buildx keeps it) is read as BuildKit's: keys marked ● count, each other one is said and has no meaning. Give it with `--config`;\n\
         `rbuild buildx create --buildkitd-config FILE` (as `docker/setup-buildx-action` does with `buildkitd-config-inline`) keeps it as\n\
         `~/.config/rbuild/buildkitd.toml`, which is read where there is no `rbuild.toml`, until `rbuild buildx rm`.\n\n\
         | key | | default | goes before it | |\n| --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let mark = if key.buildkit { "●" } else { "" };
        let name = key.name.replace(".*", ".\"HOST\"");
        let _ = writeln!(out, "| `{name}` | {mark} | {} | {} | {} |", key.default, key.over, key.about);
    }
    out.push_str(
        "\nSizes are bytes, a number with a unit (powers of 1024), or a share of the disk (`\"10%\"`). With `[[worker.oci.gcpolicy]]` these rules alone hold, one after\n\
         the other; `maxUsedSpace`, `reservedSpace` and `minFreeSpace` of `[worker.oci]` are then not looked at, as with BuildKit. A rule without any limit\n\
         deletes all that it matches.\n\n## Every key once\n\n```toml\n",
    );
    out.push_str(example(|_| true).trim_start());
    out.push_str("```\n");
    out
}
