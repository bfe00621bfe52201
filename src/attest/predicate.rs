//! Provenance in the words of SLSA: v1 (SPEC C8.06) and v0.2 (SPEC C8.07).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::capture::{Capture, Material, StepUsage, lent};
use super::options::{Mode, ProvenanceOptions, Version};
use super::statement::Exported;
use crate::llb::Steps;
use crate::oci::{Descriptor, Platform};
use crate::store::LayerId;

/// What the types of provenance begin with.
pub const SLSA: &str = "https://slsa.dev/provenance/";
/// The type of the newer form.
pub const SLSA_V1: &str = "https://slsa.dev/provenance/v1";
/// The type of the older form.
pub const SLSA_V02: &str = "https://slsa.dev/provenance/v0.2";
/// What the members of the predicate mean: those of BuildKit.
const BUILD_TYPE_V1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// What a build was asked for, as the front end's options have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The front end.
    pub frontend: String,
    /// Its version.
    pub frontend_version: String,
    /// Its options by name; without credentials.
    pub args: BTreeMap<String, String>,
    /// The context, if it came from elsewhere.
    pub context: Option<Material>,
    /// The Dockerfile's path in it.
    pub path: String,
    /// The repository that a local context is in: `source`, `revision`, `localdir:…`.
    pub vcs: BTreeMap<String, String>,
}

/// When it ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Names the build.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// When its steps were done.
    pub finished: Timestamp,
}

/// How one image was built.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// How to tell it.
    pub options: ProvenanceOptions,
    /// What was asked for.
    pub request: Request,
    /// What it was made from.
    pub capture: Capture,
    /// When.
    pub run: Run,
    /// The machine.
    pub builder: Platform,
    /// What its owner says about it (SPEC C8.11); what is known here goes before it.
    pub environment: Map<String, Value>,
    /// The steps.
    pub steps: Steps,
    /// Layers of the results of steps, by `stepN:INDEX`.
    pub chains: BTreeMap<String, Vec<LayerId>>,
    /// What the steps that ran used, by `stepN`.
    pub usage: BTreeMap<String, StepUsage>,
}

impl Provenance {
    /// The predicate's type, a URI.
    #[must_use]
    pub fn predicate_type(&self) -> &'static str {
        match self.options.version {
            Version::V1 => SLSA_V1,
            Version::V02 => SLSA_V02,
        }
    }

    /// The predicate.
    #[must_use]
    pub fn predicate(&self, exported: &Exported<'_>) -> Value {
        self.told(self.options.mode == Mode::Max, exported)
    }

    /// The predicate with everything that is known, whatever the options leave out.
    #[must_use]
    pub fn in_full(&self) -> Value {
        self.told(true, &Exported::NONE)
    }

    fn told(&self, max: bool, exported: &Exported<'_>) -> Value {
        let build_config = max.then(|| json!({"llbDefinition": self.steps(), "digestMapping": self.mapping()}));
        let parameters = self.parameters(max);
        let metadata = self.metadata(max, exported);
        let complete = max || !self.request.args.keys().any(|name| is_private(name));
        let materials = self.capture.locals.is_empty();
        let version = exported.compatibility.map(Value::from);
        let hermetic = materials && !self.capture.network;
        match self.options.version {
            Version::V1 => {
                let mut internal = Value::Object(self.environment.clone());
                internal["builderPlatform"] = self.builder.to_string().into();
                put(&mut internal, "dockerfileVersion", &self.request.frontend_version);
                put_some(&mut internal, "compatibilityVersion", version);
                put_some(&mut internal, "buildConfig", build_config);
                let mut run = self.run("invocationID", "startedOn", "finishedOn");
                run["buildkit_metadata"] = metadata;
                put_some(&mut run, "buildkit_hermetic", hermetic.then(|| true.into()));
                run["buildkit_completeness"] = json!({"request": complete, "resolvedDependencies": materials});
                put_some(&mut run, "buildkit_reproducible", self.options.reproducible.then(|| true.into()));
                json!({
                    "buildDefinition": {
                        "buildType": BUILD_TYPE_V1,
                        "externalParameters": {"configSource": self.config_source("path"), "request": parameters},
                        "internalParameters": internal,
                        "resolvedDependencies": self.materials(),
                    },
                    "runDetails": {"builder": {"id": self.options.builder_id}, "metadata": run},
                })
            }
            Version::V02 => {
                let mut environment = Value::Object(self.environment.clone());
                environment["platform"] = self.builder.to_string().into();
                put(&mut environment, "dockerfileVersion", &self.request.frontend_version);
                put_some(&mut environment, "compatibilityVersion", version);
                let mut run = self.run("buildInvocationID", "buildStartedOn", "buildFinishedOn");
                run["completeness"] = json!({"parameters": complete, "environment": true, "materials": materials});
                run["reproducible"] = self.options.reproducible.into();
                put_some(&mut run, "https://mobyproject.org/buildkit@v1#hermetic", hermetic.then(|| true.into()));
                run["https://mobyproject.org/buildkit@v1#metadata"] = metadata;
                let mut predicate = json!({
                    "builder": {"id": self.options.builder_id},
                    "buildType": BUILD_TYPE_V02,
                    "materials": self.materials(),
                    "invocation": {
                        "configSource": self.config_source("entryPoint"),
                        "parameters": parameters,
                        "environment": environment,
                    },
                });
                put_some(&mut predicate, "buildConfig", build_config);
                predicate["metadata"] = run;
                predicate
            }
        }
    }

    fn materials(&self) -> Vec<Value> {
        self.capture.materials().map(|m| json!({"uri": m.uri, "digest": digest(&m.digest)})).collect()
    }

    fn config_source(&self, path: &str) -> Value {
        let mut out = json!({});
        if let Some(context) = &self.request.context {
            put(&mut out, "uri", &context.uri);
            put_some(&mut out, "digest", (!context.digest.is_empty()).then(|| digest(&context.digest)));
        }
        put(&mut out, path, &self.request.path);
        out
    }

    fn parameters(&self, max: bool) -> Value {
        let args: Map<String, Value> = self
            .request
            .args
            .iter()
            .filter(|(name, _)| max || !is_private(name))
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        let mut out = json!({"frontend": self.request.frontend});
        put_some(&mut out, "args", (!args.is_empty()).then_some(Value::Object(args)));
        if max {
            for (name, map) in [("secrets", &self.capture.secrets), ("ssh", &self.capture.ssh)] {
                put_some(&mut out, name, (!map.is_empty()).then(|| json!(lent(map))));
            }
        }
        let locals: Vec<Value> = self.capture.locals.iter().map(|name| json!({"name": name})).collect();
        put_some(&mut out, "locals", (!locals.is_empty()).then(|| locals.into()));
        out
    }

    fn run(&self, id: &str, started: &str, finished: &str) -> Value {
        json!({id: self.run.id, started: self.run.started.to_string(), finished: self.run.finished.to_string()})
    }

    /// What BuildKit has beyond SLSA.
    fn metadata(&self, max: bool, exported: &Exported<'_>) -> Value {
        let mut out = json!({});
        put_some(&mut out, "vcs", (!self.request.vcs.is_empty()).then(|| json!(self.request.vcs)));
        if max {
            put_some(&mut out, "source", self.steps.source.clone());
            let known = self.chains.iter().filter_map(|(step, chain)| {
                let blobs: Option<Vec<Descriptor>> = chain.iter().map(exported.layer).collect();
                Some((step.clone(), json!([blobs.filter(|blobs| !blobs.is_empty())?])))
            });
            let layers: Map<String, Value> = known.collect();
            put_some(&mut out, "layers", (!layers.is_empty()).then_some(Value::Object(layers)));
        }
        out
    }

    /// The steps, with what they used where that is asked for: BuildKit's `resourceUsage`, with one sample at the end of a step.
    fn steps(&self) -> Vec<Value> {
        let mut steps = self.steps.list.clone();
        for step in steps.iter_mut().filter(|_| self.options.capture_usage) {
            let usage = step["id"].as_str().and_then(|id| self.usage.get(id));
            let sample = usage.map(|usage| {
                json!({"samples": [{
                    "timestamp": usage.ended.to_string(),
                    "cpuStat": {
                        "usageNanos": usage.user_ns.saturating_add(usage.system_ns),
                        "userNanos": usage.user_ns,
                        "systemNanos": usage.system_ns,
                    },
                    "memoryStat": {"peak": usage.peak},
                }]})
            });
            put_some(step, "resourceUsage", sample);
        }
        steps
    }

    fn mapping(&self) -> Map<String, Value> {
        self.steps.names.iter().map(|(digest, step)| (digest.to_string(), step.as_str().into())).collect()
    }
}

/// Options that only complete provenance tells: their values may be secret (SPEC C8.08).
fn is_private(name: &str) -> bool {
    name.starts_with("build-arg:") || name.starts_with("label:")
}

/// Options that say something about the machine, or about provenance itself (SPEC C8.08).
#[must_use]
pub fn is_told(name: &str) -> bool {
    !["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"].contains(&name)
        && !name.starts_with("attest:")
}

/// Takes out of a predicate what differs between two runs of one build.
pub(super) fn forget_run(predicate: &mut Value) {
    let members = [
        ("/runDetails/metadata", ["invocationID", "startedOn", "finishedOn"]),
        ("/metadata", ["buildInvocationID", "buildStartedOn", "buildFinishedOn"]),
    ];
    for (at, names) in members {
        if let Some(Value::Object(metadata)) = predicate.pointer_mut(at) {
            for name in names {
                metadata.remove(name);
            }
        }
    }
}

/// Leaves of a predicate what `--metadata-file` has unless everything is asked for (SPEC B2.16): no steps, no metadata.
pub fn shorten(predicate: &mut Value) {
    for (at, name) in [
        ("", "buildConfig"),
        ("", "metadata"),
        ("/runDetails", "metadata"),
        ("/buildDefinition/internalParameters", "buildConfig"),
    ] {
        if let Some(Value::Object(object)) = predicate.pointer_mut(at) {
            object.shift_remove(name);
        }
    }
}

/// `{"sha1": "…"}` of `sha1:…`.
fn digest(text: &str) -> Value {
    let (algorithm, hex) = text.split_once(':').unwrap_or(("", text));
    json!({algorithm: hex})
}

fn put(object: &mut Value, name: &str, text: &str) {
    if !text.is_empty() {
        object[name] = text.into();
    }
}

fn put_some(object: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[name] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::llb::Builder;
    use crate::llb::op::{Kind, Op, OpMetadata, SourceOp};

    fn provenance(options: ProvenanceOptions) -> Provenance {
        let mut builder = Builder::with_source("Dockerfile", b"FROM alpine\n");
        let source = SourceOp { identifier: "docker-image://docker.io/library/alpine:3".into(), ..SourceOp::default() };
        let root =
            builder.add(&Op { kind: Some(Kind::Source(source)), ..Op::default() }, OpMetadata::default(), &[(1, 1)]);
        let args = [("build-arg:TOKEN", "t"), ("label:a", "b"), ("target", "app")];
        let digest = Digest::sha256("alpine");
        let amd64: Platform = "linux/amd64".parse().expect("valid");
        Provenance {
            options,
            request: Request {
                frontend: "dockerfile.v0".into(),
                frontend_version: "1.26".into(),
                args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                context: None,
                path: "Dockerfile".into(),
                vcs: BTreeMap::from([("revision".to_owned(), "0123".to_owned())]),
            },
            capture: Capture {
                images: vec![Material::image("docker-image://docker.io/library/alpine:3", &digest, &amd64)],
                remote: vec![Material { uri: "https://example.org/r.git#main".into(), digest: "sha1:00ff".into() }],
                locals: vec!["context".into(), "dockerfile".into()],
                secrets: BTreeMap::from([("token".to_owned(), false), ("more".to_owned(), true)]),
                ssh: BTreeMap::from([("default".to_owned(), false)]),
                network: true,
            },
            run: Run {
                id: "abc".into(),
                started: "2026-01-02T03:04:05Z".parse().expect("a time"),
                finished: "2026-01-02T03:04:06.5Z".parse().expect("a time"),
            },
            builder: amd64,
            environment: Map::new(),
            steps: Steps::new(&builder.finish(Some(&root))).expect("valid"),
            chains: BTreeMap::from([("step0:0".to_owned(), vec![LayerId::from_text("layer")])]),
            usage: BTreeMap::new(),
        }
    }

    fn text(options: ProvenanceOptions) -> String {
        let layer = |_: &LayerId| Some(Descriptor::of_bytes("application/vnd.oci.image.layer.v1.tar+gzip", b"layer"));
        serde_json::to_string_pretty(&provenance(options).predicate(&Exported { layer: &layer, ..Exported::NONE }))
            .expect("JSON")
    }

    // SPEC C8.06, C8.08, C8.10
    #[test]
    fn c8_06_slsa_v1() {
        insta::assert_snapshot!("slsa_v1_max", text(ProvenanceOptions::default()));
        insta::assert_snapshot!(
            "slsa_v1_min",
            text(ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() })
        );
    }

    // SPEC C8.07, N2.06
    #[test]
    fn c8_07_slsa_v0_2() {
        let options = ProvenanceOptions {
            version: Version::V02,
            builder_id: "https://ci.example/1".into(),
            reproducible: true,
            ..ProvenanceOptions::default()
        };
        insta::assert_snapshot!("slsa_v02_max", text(options.clone()));
        insta::assert_snapshot!("slsa_v02_min", text(ProvenanceOptions { mode: Mode::Min, ..options }));
    }

    // SPEC C8.08, C8.09
    #[test]
    fn c8_08_what_is_left_out_makes_it_incomplete() {
        let mut all = provenance(ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() });
        let completeness =
            |p: &Provenance| p.predicate(&Exported::NONE)["runDetails"]["metadata"]["buildkit_completeness"].clone();
        assert_eq!(completeness(&all), json!({"request": false, "resolvedDependencies": false}));
        all.request.args.retain(|name, _| name == "target");
        all.capture.locals.clear();
        all.capture.network = false;
        assert_eq!(completeness(&all), json!({"request": true, "resolvedDependencies": true}));
        assert_eq!(all.predicate(&Exported::NONE)["runDetails"]["metadata"]["buildkit_hermetic"], true);
        assert!(["platform", "attest:sbom", "cgroup-parent"].iter().all(|name| !is_told(name)));
        assert!(is_told("build-arg:platform"));
    }

    #[test]
    fn c6_04_the_rules_that_an_image_was_written_by_are_told() {
        let exported = Exported { compatibility: Some(20), ..Exported::NONE };
        for (version, at) in
            [(Version::V1, "/buildDefinition/internalParameters"), (Version::V02, "/invocation/environment")]
        {
            let all = provenance(ProvenanceOptions { version, ..ProvenanceOptions::default() });
            let told = all.predicate(&exported);
            assert_eq!(told.pointer(at).expect("there")["compatibilityVersion"], 20);
            assert_eq!(all.predicate(&Exported::NONE).pointer(at).expect("there").get("compatibilityVersion"), None);
        }
    }

    #[test]
    fn c8_05_what_steps_used_is_told_where_that_is_asked_for() {
        let mut all = provenance(ProvenanceOptions::default());
        let ended = all.run.finished;
        all.usage.insert("step0".into(), StepUsage { ended, user_ns: 2_000, system_ns: 1_000, peak: 4096 });
        let step = |p: &Provenance| {
            p.predicate(&Exported::NONE)["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"][0]
                .clone()
        };
        assert_eq!(step(&all).get("resourceUsage"), None);
        all.options.capture_usage = true;
        assert_eq!(
            step(&all)["resourceUsage"]["samples"],
            json!([{
                "timestamp": "2026-01-02T03:04:06.5Z",
                "cpuStat": {"usageNanos": 3000, "userNanos": 2000, "systemNanos": 1000},
                "memoryStat": {"peak": 4096},
            }])
        );
        all.options.mode = Mode::Min;
        assert_eq!(all.predicate(&Exported::NONE)["buildDefinition"]["internalParameters"].get("buildConfig"), None);
    }

    // SPEC C8.11
    #[test]
    fn c8_11_the_owner_of_the_machine_adds_to_what_is_known() {
        for (version, at) in
            [(Version::V1, "/buildDefinition/internalParameters"), (Version::V02, "/invocation/environment")]
        {
            let mut all = provenance(ProvenanceOptions { version, ..ProvenanceOptions::default() });
            for (name, value) in [("runner", json!({"pool": 7})), ("builderPlatform", json!(1)), ("platform", json!(2))]
            {
                all.environment.insert(name.into(), value);
            }
            let told = all.predicate(&Exported::NONE);
            let told = told.pointer(at).expect("there");
            assert_eq!(told["runner"]["pool"], 7);
            let own = if version == Version::V1 { "builderPlatform" } else { "platform" };
            assert_eq!(told[own], "linux/amd64", "nobody says otherwise");
        }
    }

    // SPEC B2.16
    #[test]
    fn short_provenance_tells_inputs_only() {
        let mut predicate = provenance(ProvenanceOptions::default()).predicate(&Exported::NONE);
        shorten(&mut predicate);
        assert_eq!(predicate["runDetails"], json!({"builder": {"id": ""}}));
        assert_eq!(predicate["buildDefinition"]["internalParameters"].get("buildConfig"), None);
        assert_eq!(predicate["buildDefinition"]["resolvedDependencies"][1]["digest"]["sha1"], "00ff");
    }
}
