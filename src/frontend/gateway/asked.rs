//! What a front end asks of the built-in one: options in BuildKit's words, read back (SPEC C3.11, C3.19). The opposite of
//! [`super::options::pairs`].

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::options::{CONTEXTS, INPUTS, SUBREQUESTS};
use super::result::CONFIG;
use crate::base::values::{boolean, csv_record};
use crate::frontend::{FrontendOptions, NoCache};
use crate::grpc::{Status, code};
use crate::llb::op::NetMode;
use crate::llb::{ResolveMode, spelling};
use crate::oci::{ImageConfig, Platform};

/// References to repositories may have queries; they do, always.
const GIT_QUERIES: &str = "moby.buildkit.frontend.gitquerystring";
/// Limits of steps, which are the command line's to give here.
const LIMITS: [&str; 7] = ["memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems"];

/// A call of the built-in front end.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What becomes of each instruction; the platform is not set.
    pub options: FrontendOptions,
    /// For what; empty for this machine's own kind.
    pub platforms: Vec<Platform>,
    /// Where in its tree the Dockerfile is, if not in the usual place.
    pub filename: Option<String>,
    /// A repository or a URL that is the build context.
    pub context: Option<String>,
    /// Only what is below this directory of it.
    pub subdir: Option<String>,
    /// The local source that is the build context.
    pub context_name: String,
    /// The local source, or the input, that the Dockerfile is in.
    pub dockerfile_name: String,
    /// It is the local source, whatever the inputs are.
    pub local_dockerfile: bool,
    /// What is said of inputs.
    pub configs: BTreeMap<String, ImageConfig>,
    /// Something is to be found out, and nothing made.
    pub question: Option<String>,
    /// Another front end has read the first line of the file: it is a Dockerfile, whatever that says.
    pub decided: bool,
}

impl Asked {
    /// Reads the options of a call. Those that mean something to others only are left alone, as BuildKit has it: a front end passes on
    /// all that it was told.
    ///
    /// # Errors
    /// For values that make no sense, and for what the built-in front end cannot do.
    pub fn read(told: &BTreeMap<String, String>) -> Result<Self, Status> {
        let get = |name: &str| told.get(name).filter(|value| !value.is_empty()).cloned();
        if let Some(name) = LIMITS.into_iter().find(|name| get(name).is_some()) {
            let text =
                format!("the built-in front end has no option {name}: limits of steps are the command line's to give");
            return Err(Status::new(code::UNIMPLEMENTED, text));
        }
        let known = [INPUTS, SUBREQUESTS, CONTEXTS, GIT_QUERIES];
        let caps = get("frontend.caps").unwrap_or_default();
        let caps = caps.split(',').map(|one| one.split('+').next().unwrap_or_default().trim());
        if let Some(cap) = caps.filter(|cap| !cap.is_empty()).find(|cap| !known.contains(cap)) {
            return Err(Status::new(code::UNIMPLEMENTED, format!("unsupported frontend capability {cap}")));
        }
        let malformed = |name: &str, why: &dyn std::fmt::Display| {
            Status::new(code::INVALID_ARGUMENT, format!("the option {name} of the built-in front end: {why}"))
        };
        let mut configs = BTreeMap::new();
        let mut options = FrontendOptions {
            target: get("target"),
            hostname: get("hostname"),
            cgroup_parent: get("cgroup-parent"),
            ..FrontendOptions::default()
        };
        for (name, value) in told {
            if let Some(name) = name.strip_prefix("build-arg:") {
                options.build_args.insert(name.to_owned(), value.clone());
            } else if let Some(name) = name.strip_prefix("label:") {
                options.labels.insert(name.to_owned(), value.clone());
            } else if let Some(name) = name.strip_prefix("context:") {
                options.named_contexts.insert(name.to_owned(), value.clone());
            } else if let Some(input) = name.strip_prefix("input-metadata:") {
                let config = input_config(value).map_err(|e| malformed(name, &e))?;
                configs.extend(config.map(|config| (input.to_owned(), config)));
            }
        }
        options.no_cache = match told.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(names) => NoCache::Stages(names.split(',').map(|name| name.trim().to_owned()).collect()),
        };
        options.network = match get("force-network-mode").as_deref() {
            None | Some("sandbox") => NetMode::Unset,
            Some("host") => NetMode::Host,
            Some("none") => NetMode::None,
            Some(other) => return Err(malformed("force-network-mode", &format!("there is no mode \"{other}\""))),
        };
        let list = |name: &str| {
            let fields = get(name).map(|text| csv_record(&text)).transpose().map_err(|e| malformed(name, &e))?;
            Ok::<_, Status>(fields.unwrap_or_default())
        };
        for host in list("add-hosts")? {
            options.add_hosts.extend(spelling::hosts(host.trim()).map_err(|e| malformed("add-hosts", &e))?);
        }
        for limit in list("ulimit")? {
            options.ulimits.push(spelling::ulimit(limit.trim()).map_err(|e| malformed("ulimit", &e))?);
        }
        options.shm_size =
            get("shm-size").map(|text| text.parse()).transpose().map_err(|e| malformed("shm-size", &e))?;
        let mode = get("image-resolve-mode").unwrap_or_default();
        options.image_resolve_mode = ResolveMode::named(&mode)
            .ok_or_else(|| malformed("image-resolve-mode", &format!("there is no mode \"{mode}\"")))?;
        let mut platforms = Vec::new();
        for platform in list("platform")? {
            platforms.push(platform.trim().parse().map_err(|e| malformed("platform", &e))?);
        }
        let multi = get("multi-platform").or_else(|| get("build-arg:BUILDKIT_MULTI_PLATFORM"));
        let multi = multi.map(|text| {
            let no_boolean = || malformed("multi-platform", &format!("\"{text}\" is neither true nor false"));
            boolean(&text).ok_or_else(no_boolean)
        });
        options.multi_platform = multi.transpose()?.unwrap_or_default() || platforms.len() > 1;
        let context_name = get("contextkey").unwrap_or_else(|| "context".to_owned());
        Ok(Self {
            options,
            platforms,
            filename: get("filename"),
            context: get(&context_name),
            subdir: get("contextsubdir"),
            context_name,
            local_dockerfile: told.contains_key("dockerfilekey"),
            dockerfile_name: get("dockerfilekey").unwrap_or_else(|| "dockerfile".to_owned()),
            configs,
            question: get("requestid"),
            decided: told.contains_key("cmdline"),
        })
    }
}

/// The image config that metadata of an input has: values are bytes, as Go writes them into JSON.
fn input_config(metadata: &str) -> Result<Option<ImageConfig>, String> {
    let values: BTreeMap<String, String> = serde_json::from_str(metadata).map_err(|e| e.to_string())?;
    let Some(config) = values.get(CONFIG) else { return Ok(None) };
    let config = STANDARD.decode(config).map_err(|e| format!("{CONFIG}: {e}"))?;
    serde_json::from_slice(&config).map(Some).map_err(|e| format!("{CONFIG}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::super::options::pairs;
    use super::*;
    use crate::llb::op::{HostIp, Ulimit};

    fn read(pairs: &[(&str, &str)]) -> Result<Asked, Status> {
        Asked::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    // SPEC C3.11, C3.19
    #[test]
    fn c3_19_what_front_ends_are_told_is_read_back() {
        let options = FrontendOptions {
            target: Some("app".into()),
            build_args: [("A".to_owned(), "b=c".to_owned())].into_iter().collect(),
            labels: [("l".to_owned(), "v".to_owned())].into_iter().collect(),
            no_cache: NoCache::Stages(vec!["x".into(), "y".into()]),
            network: NetMode::None,
            add_hosts: vec![HostIp { host: "db".into(), ip: "::1".into() }],
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 5, hard: -1 }],
            shm_size: Some(4096),
            hostname: Some("box".into()),
            image_resolve_mode: ResolveMode::Pull,
            ..FrontendOptions::default()
        };
        let platforms = [Platform::new("linux", "amd64", ""), Platform::new("linux", "arm", "v7")];
        let told = pairs(&options, &platforms, true);
        let asked = Asked::read(&told).expect("ours");
        assert_eq!((pairs(&asked.options, &asked.platforms, true), asked.options.multi_platform), (told, true));
    }

    // SPEC C3.11
    #[test]
    fn c3_11_inputs_and_places_have_names() {
        let asked = read(&[]).expect("nothing");
        assert_eq!((asked.context_name.as_str(), asked.dockerfile_name.as_str()), ("context", "dockerfile"));
        assert!(!asked.decided && !asked.local_dockerfile && asked.question.is_none());
        let metadata = format!(r#"{{"containerimage.config":"{}"}}"#, STANDARD.encode(r#"{"author":"me"}"#));
        let asked = read(&[
            ("contextkey", "src"),
            ("src", "https://h.example/a.git"),
            ("context:base", "input:base"),
            ("input-metadata:base", &metadata),
            ("cmdline", "x"),
            ("vcs:source", "left alone"),
        ]);
        let asked = asked.expect("read");
        assert_eq!((asked.context.as_deref(), asked.decided), (Some("https://h.example/a.git"), true));
        assert_eq!(asked.options.named_contexts["base"], "input:base");
        assert_eq!(asked.configs["base"].author, "me");
    }

    // SPEC C3.07, C3.11
    #[test]
    fn c3_11_what_makes_no_sense_is_named() {
        for (name, value, expected) in [
            ("memory", "1g", "no option memory"),
            ("frontend.caps", "moby.buildkit.frontend.inputs,x+forward", "unsupported frontend capability x"),
            ("force-network-mode", "wide", "no mode \"wide\""),
            ("add-hosts", "db", "expected HOST=IP"),
            ("ulimit", "nofiles=1", "did you mean nofile?"),
            ("shm-size", "much", "shm-size"),
            ("image-resolve-mode", "often", "no mode \"often\""),
            ("platform", "a/b/c/d", "platform"),
            ("multi-platform", "maybe", "neither true nor false"),
            ("input-metadata:x", "{", "input-metadata:x"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.message.contains(expected), "{name}: {error}");
        }
    }
}
