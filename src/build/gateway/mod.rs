//! Front ends that are images, run beside the build (SPEC C3): which one, in what, and what comes of it. What they ask for is
//! answered by [`host`]; [`built_in`] is the front end for Dockerfiles, asked by another, [`containers`] what a front end runs itself,
//! [`nested`] graphs in files of others.

mod attested;
mod built_in;
mod containers;
mod ends;
mod host;
mod nested;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::policy::Gate;
use super::{BuildError, BuildRequest, Builder, DockerfileAt, Host, Inputs, MainContext};
use crate::attest::Material;
use crate::base::FaultKind;
use crate::frontend::gateway::options::{CONTEXTS, INPUTS, SUBREQUESTS, pairs};
use crate::frontend::gateway::result::made;
use crate::frontend::gateway::{Answer, Attested, GatewayHost as _};
use crate::frontend::remote::{ArchiveRef, RemoteContext, without_credentials};
use crate::frontend::{FrontendError, FrontendResult, ImageFrontEnd};
use crate::llb::Definition;
use crate::oci::{History, Platform};
use crate::solver::Solver;

pub(super) use attested::attestations;
use host::FrontHost;

/// What front ends made of a request, for each platform.
pub(super) struct Fronts {
    /// The results.
    pub(super) results: Vec<FrontendResult>,
    /// Whose they are, if not the built-in front end's.
    pub(super) external: Option<External>,
}

/// A front end that was an image.
pub(super) struct External {
    /// What provenance calls its kind; nothing where a graph was given.
    pub(super) name: &'static str,
    /// Its image.
    pub(super) material: Option<Material>,
    /// What it was told, as far as that is told.
    pub(super) told: BTreeMap<String, String>,
    /// What it attests of each result.
    pub(super) attestations: Vec<Vec<Attested>>,
}

/// What a front end is run for.
pub(super) struct Job<'a> {
    pub(super) builder: &'a Builder,
    pub(super) request: &'a BuildRequest,
    pub(super) gate: &'a Gate<'a>,
    pub(super) solver: &'a Arc<Solver>,
    pub(super) host: &'a Host<'a>,
    pub(super) multi: bool,
}

impl Job<'_> {
    /// Runs an image and takes what it made for what every front end makes.
    pub(super) async fn fronts(&self, image: &ImageFrontEnd, inputs: &Inputs) -> Result<Fronts, BuildError> {
        let (answer, material, options) = self.answer(image, inputs, BTreeMap::new()).await?;
        let name = image.reference.familiar();
        let results = made(answer, &name, &self.request.platforms)?;
        let (results, attestations) = results.into_iter().map(|one| (one.result, one.attestations)).unzip();
        let told = options.into_iter().filter(|(key, _)| key == "source" || key == "cmdline").collect();
        Ok(Fronts {
            results,
            external: Some(External { name: "gateway.v0", material: Some(material), told, attestations }),
        })
    }

    /// Takes a definition for what a front end makes (SPEC S2.22, C1.01). It may have what a front end may have.
    pub(super) async fn given(&self, definition: &[u8]) -> Result<Fronts, BuildError> {
        let fail = |text: String| FrontendError::outside(FaultKind::Input, text, None);
        let definition = Definition::decode(definition)
            .map_err(|e| fail(format!("what is on standard input is no definition: {e}")))?;
        let host = FrontHost::new(self, self.layouts().await?);
        let admitted = host.admit(definition).await;
        let solved = admitted.map_err(|status| match host.failure_in(&status.message) {
            Some(failure) => BuildError::Solve(failure),
            None => fail(status.message).into(),
        })?;
        let answer = Answer { refs: BTreeMap::from([(String::new(), solved)]), ..Answer::default() };
        let results = made(answer, "of the definition", &self.request.platforms)?;
        let results = results.into_iter().map(|one| one.result).collect();
        let external = External { name: "", material: None, told: BTreeMap::new(), attestations: Vec::new() };
        Ok(Fronts { results, external: Some(external) })
    }

    /// What an image answers to a question (SPEC C3.07, C3.20).
    pub(super) async fn asked(
        &self,
        image: &ImageFrontEnd,
        inputs: &Inputs,
        question: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, BuildError> {
        let more = [("requestid", question.to_owned()), ("frontend.caps", format!("{SUBREQUESTS}+forward"))];
        let more = more.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(self.answer(image, inputs, more).await?.0.metadata)
    }

    async fn answer(
        &self,
        image: &ImageFrontEnd,
        inputs: &Inputs,
        more: BTreeMap<String, String>,
    ) -> Result<(Answer, Material, BTreeMap<String, String>), BuildError> {
        let identifier = image.identifier(&self.request.options.named_contexts)?;
        let host = FrontHost::new(self, self.layouts().await?);
        let mut options = self.options(image, inputs, &host)?;
        // Abilities that several things need are all wanted.
        for (name, value) in more {
            let known = options.get(&name).filter(|_| name == "frontend.caps");
            let value = known.map(|known| format!("{known},{value}")).unwrap_or(value);
            options.insert(name, value);
        }
        let program = process::Program { identifier: &identifier, name: &image.reference.familiar() };
        self.solver.set_forgiving(true);
        let run = match self.trees(&host).await {
            Ok(trees) => host.run(&program, &options, trees).await,
            Err(error) => Err(error),
        };
        self.solver.set_forgiving(false);
        let (answer, material) = run.map_err(|error| match (error, &image.place) {
            (BuildError::Frontend(error), Some(place)) => BuildError::Frontend(error.at(place)),
            (error, _) => error,
        })?;
        Ok((answer, material, options))
    }

    /// What the front end is told.
    fn options(
        &self,
        image: &ImageFrontEnd,
        inputs: &Inputs,
        host: &FrontHost<'_>,
    ) -> Result<BTreeMap<String, String>, FrontendError> {
        let request = self.request;
        let mut out = pairs(&request.options, &request.platforms, self.multi);
        let mut put = |name: &str, value: String| drop(out.insert(name.to_owned(), value));
        put("source", image.reference.to_string());
        put("cmdline", image.cmdline.clone());
        let elsewhere = |what: &str| {
            let text = format!("the front end {} cannot be given {what}", image.reference.familiar());
            FrontendError::outside(FaultKind::Usage, text, None)
        };
        match &request.context {
            MainContext::Local => {}
            MainContext::Git(reference) => put("context", reference.text()),
            MainContext::Url(url) => {
                put("context", url.clone());
                if let Some(dir) = &request.context_subdir {
                    put("contextsubdir", dir.clone());
                }
            }
            MainContext::Archive(_) => {
                return Err(elsewhere("a build context from standard input").hint("unpack it and give its directory"));
            }
        }
        match &request.dockerfile_at {
            DockerfileAt::Given if matches!(request.context, MainContext::Local) => {
                put("filename", inputs.filename.clone());
            }
            // It looks into the context itself.
            DockerfileAt::InContext(path) => {
                if let Some(path) = path {
                    put("filename", path.clone());
                }
            }
            DockerfileAt::Given | DockerfileAt::Url(_) => {
                return Err(elsewhere("a file that is neither in the build context nor on this machine beside it")
                    .hint("put it into the build context"));
            }
        }
        for (name, value) in &request.options.named_contexts {
            let value = match host.layout_of(value) {
                Some(layout) => layout,
                None if request.contexts.contains_key(name) => format!("local:{name}"),
                // There are no words for it that others know; it is one of its inputs.
                None if ArchiveRef::parse(value).is_some() => format!("input:{name}"),
                None => value.clone(),
            };
            put(&format!("context:{name}"), value);
        }
        if !request.options.named_contexts.is_empty() {
            put("frontend.caps", format!("{CONTEXTS}+forward"));
        }
        for (name, value) in &request.attest.vcs {
            put(&format!("vcs:{name}"), without_credentials(value));
        }
        for (name, value) in &request.frontend_options {
            put(name, value.clone());
        }
        Ok(out)
    }

    /// Named contexts that a front end gets as inputs.
    async fn trees(&self, host: &FrontHost<'_>) -> Result<BTreeMap<String, Definition>, BuildError> {
        let mut trees = BTreeMap::new();
        for (name, value) in &self.request.options.named_contexts {
            let Some(archive) = ArchiveRef::parse(value) else { continue };
            let shown = without_credentials(&archive.url);
            let context = RemoteContext { title: format!("[context {name}] {shown}"), ..archive.context() };
            let solved = host.admit(context.definition()).await;
            let solved = solved.map_err(|status| match host.failure_in(&status.message) {
                Some(failure) => BuildError::Solve(failure),
                None => FrontendError::outside(FaultKind::Input, status.message, None).into(),
            })?;
            trees.insert(name.clone(), (*solved.definition).clone());
        }
        Ok(trees)
    }

    /// OCI layouts that the request names, under names that say nothing about this machine, each with the digest it has now.
    async fn layouts(&self) -> Result<Vec<host::Layout>, BuildError> {
        let named = &self.request.options.named_contexts;
        let values: std::collections::BTreeSet<&String> =
            named.values().filter(|value| value.starts_with("oci-layout://")).collect();
        let mut out = Vec::new();
        for (at, value) in values.into_iter().enumerate() {
            let given = named.iter().filter(|(_, other)| *other == value).map(|(name, _)| name.clone()).collect();
            let platform = Platform::host();
            let found = self.builder.images.resolve(value, &platform, crate::llb::ResolveMode::Default).await;
            let digest = match found {
                Ok(found) => Some(found.digest),
                // It may be for other platforms only; then its tag has to do.
                Err(_) => None,
            };
            out.push(host::Layout { name: format!("layout-{at}"), given, value: value.clone(), digest });
        }
        Ok(out)
    }
}

/// The abilities that graphs as inputs take.
fn with_inputs(options: &mut BTreeMap<String, String>, inputs: &BTreeMap<String, Definition>) {
    if inputs.is_empty() {
        return;
    }
    let caps = options.entry("frontend.caps".into()).or_default();
    if !caps.is_empty() {
        caps.push(',');
    }
    caps.push_str(INPUTS);
}

/// One entry of history for each layer, as image configs must have it (SPEC C6.06).
pub(super) fn complete_history(history: &mut Vec<History>, layers: usize) {
    let told = history.iter().filter(|entry| !entry.empty_layer).count();
    if told > layers {
        // Those at the end are about layers that are not there.
        let mut extra = told - layers;
        for entry in history.iter_mut().rev().filter(|entry| !entry.empty_layer) {
            if extra == 0 {
                break;
            }
            entry.empty_layer = true;
            extra -= 1;
        }
    }
    for _ in told..layers {
        history.push(History { comment: "buildkit.exporter.image.v0".into(), ..History::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C6.06
    #[test]
    fn history_has_an_entry_for_each_layer() {
        let entry = |empty_layer| History { empty_layer, ..History::default() };
        for (told, layers, expected) in [
            (vec![], 2, vec![false, false]),
            (vec![false, true], 1, vec![false, true]),
            (vec![false, true, false], 1, vec![false, true, true]),
            (vec![true, false], 2, vec![true, false, false]),
        ] {
            let mut history: Vec<History> = told.into_iter().map(entry).collect();
            complete_history(&mut history, layers);
            assert_eq!(history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(), expected);
        }
    }
}
