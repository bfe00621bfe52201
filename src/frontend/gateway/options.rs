//! What a front end is told: the options of a build in BuildKit's words (SPEC C3.04, C3.19).

use std::collections::BTreeMap;

use serde_json::json;

use crate::frontend::{FrontendOptions, NoCache};
use crate::llb::op::NetMode;
use crate::oci::{ImageConfig, Platform};

/// The label of an image that says what its front end understands beyond the usual (SPEC C3.07).
const CAPS_LABEL: &str = "moby.buildkit.frontend.caps";
/// The label of one that needs no network (SPEC C3.03).
const NETWORK_LABEL: &str = "moby.buildkit.frontend.network.none";
/// It answers questions.
pub const SUBREQUESTS: &str = "moby.buildkit.frontend.subrequests";
/// It takes named contexts.
pub const CONTEXTS: &str = "moby.buildkit.frontend.contexts";
/// It takes graphs.
pub const INPUTS: &str = "moby.buildkit.frontend.inputs";

/// The options of a build as pairs, without what only whoever starts the front end knows: where its contexts are.
#[must_use]
pub fn pairs(options: &FrontendOptions, platforms: &[Platform], multi: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |name: String, value: String| drop(out.insert(name, value));
    if let Some(epoch) = options.epoch {
        put("build-arg:SOURCE_DATE_EPOCH".into(), epoch.to_string());
    }
    for (name, value) in &options.build_args {
        put(format!("build-arg:{name}"), value.clone());
    }
    for (name, value) in &options.labels {
        put(format!("label:{name}"), value.clone());
    }
    match &options.no_cache {
        NoCache::None => {}
        NoCache::All => put("no-cache".into(), String::new()),
        NoCache::Stages(names) => put("no-cache".into(), names.join(",")),
    }
    match options.network {
        NetMode::Unset => {}
        NetMode::Host => put("force-network-mode".into(), "host".into()),
        NetMode::None => put("force-network-mode".into(), "none".into()),
    }
    let joined = |list: Vec<String>| Some(list.join(",")).filter(|text| !text.is_empty());
    let hosts = options.add_hosts.iter().map(|host| format!("{}={}", host.host, host.ip)).collect();
    let limits = options.ulimits.iter().map(|l| format!("{}={}:{}", l.name, l.soft, l.hard)).collect();
    let others = [
        ("target", options.target.clone().filter(|target| !target.is_empty())),
        ("platform", joined(platforms.iter().map(ToString::to_string).collect())),
        ("add-hosts", joined(hosts)),
        ("ulimit", joined(limits)),
        ("shm-size", options.shm_size.map(|size| size.to_string())),
        ("hostname", options.hostname.clone()),
        ("cgroup-parent", options.cgroup_parent.clone()),
        ("image-resolve-mode", options.image_resolve_mode.attribute().map(ToOwned::to_owned)),
        ("multi-platform", multi.then(|| "true".to_owned())),
    ];
    for (name, value) in others {
        if let Some(value) = value {
            put(name.into(), value);
        }
    }
    out
}

/// What a front end's process finds in its environment beside what its image says.
#[must_use]
pub fn environment(options: &BTreeMap<String, String>, session: &str, platforms: &[Platform]) -> Vec<String> {
    let options = options.iter().enumerate();
    let mut out: Vec<String> =
        options.map(|(i, (name, value))| format!("BUILDKIT_FRONTEND_OPT_{i}={name}={value}")).collect();
    let platforms: Vec<_> = platforms
        .iter()
        .map(|p| {
            let mut platform = json!({"architecture": p.architecture, "os": p.os});
            if !p.variant.is_empty() {
                platform["variant"] = p.variant.clone().into();
            }
            platform
        })
        .collect();
    let workers = json!([{"id": "rbuild", "labels": {}, "platforms": platforms}]);
    out.push(format!("BUILDKIT_SESSION_ID={session}"));
    out.push(format!("BUILDKIT_WORKERS={workers}"));
    out
}

/// The first of the abilities asked for that an image does not say it has (SPEC C3.07).
#[must_use]
pub fn missing_ability<'a>(config: &ImageConfig, asked: &'a str) -> Option<&'a str> {
    let known = config.config.labels.get(CAPS_LABEL).map(String::as_str).unwrap_or_default();
    let names = asked.split(',').map(|one| one.trim().split('+').next().unwrap_or_default());
    names.filter(|name| !name.is_empty()).find(|name| !known.split(',').any(|has| has.trim() == *name))
}

/// Whether an image says that its front end needs no network.
#[must_use]
pub fn wants_no_network(config: &ImageConfig) -> bool {
    config.config.labels.get(NETWORK_LABEL).and_then(|text| crate::base::values::boolean(text)) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C3.19
    #[test]
    fn c3_19_options_are_told_in_buildkit_s_words() {
        let options = FrontendOptions {
            target: Some("app".into()),
            build_args: [("A".to_owned(), "b=c".to_owned())].into_iter().collect(),
            labels: [("l".to_owned(), "v".to_owned())].into_iter().collect(),
            no_cache: NoCache::Stages(vec!["x".into(), "y".into()]),
            network: NetMode::None,
            ..FrontendOptions::default()
        };
        let platforms = [Platform::new("linux", "amd64", ""), Platform::new("linux", "arm", "v7")];
        let told = pairs(&options, &platforms, true);
        let told: Vec<String> = told.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            told,
            [
                "build-arg:A=b=c",
                "force-network-mode=none",
                "label:l=v",
                "multi-platform=true",
                "no-cache=x,y",
                "platform=linux/amd64,linux/arm/v7",
                "target=app"
            ]
        );
        assert!(pairs(&FrontendOptions::default(), &[], false).is_empty());
    }

    // SPEC C3.04
    #[test]
    fn c3_04_the_environment_has_options_session_and_workers() {
        let options = [("a", "1"), ("b", "x y")].map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        let env = environment(&options, "s", &[Platform::new("linux", "arm", "v7")]);
        assert_eq!(
            env,
            [
                "BUILDKIT_FRONTEND_OPT_0=a=1",
                "BUILDKIT_FRONTEND_OPT_1=b=x y",
                "BUILDKIT_SESSION_ID=s",
                r#"BUILDKIT_WORKERS=[{"id":"rbuild","labels":{},"platforms":[{"architecture":"arm","os":"linux","variant":"v7"}]}]"#,
            ]
        );
    }

    // SPEC C3.03, C3.07
    #[test]
    fn c3_07_labels_say_what_a_front_end_can() {
        let mut config = ImageConfig::default();
        assert_eq!(missing_ability(&config, CONTEXTS), Some(CONTEXTS));
        assert_eq!(missing_ability(&config, ""), None);
        assert!(!wants_no_network(&config));
        config.config.labels.insert(CAPS_LABEL.into(), format!("{INPUTS}, {CONTEXTS}"));
        config.config.labels.insert(NETWORK_LABEL.into(), "true".into());
        assert_eq!(missing_ability(&config, &format!("{CONTEXTS}+forward")), None);
        assert_eq!(missing_ability(&config, &format!("{CONTEXTS},{SUBREQUESTS}")), Some(SUBREQUESTS));
        assert!(wants_no_network(&config));
    }
}
