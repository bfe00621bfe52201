//! Lists of the software in a result (SPEC C8.13, C8.15): made by a scanner's image, or by the generator that is built in.

use std::sync::Arc;

use jiff::Timestamp;

use super::{BuildError, BuildRequest, Builder, Outcome, internal};
use crate::attest::options::DEFAULT_SCANNER;
use crate::attest::sbom::{self, BUILT_IN, Document};
use crate::attest::statement::SPDX;
use crate::attest::{Attestation, Material, Predicate, SbomOptions};
use crate::base::FaultKind;
use crate::frontend::sbom::{STATEMENTS, Scan};
use crate::frontend::{FrontendError, FrontendResult};
use crate::llb::Graph;
use crate::llb::op::SourceOp;
use crate::oci::{ImageConfig, Platform, Reference};
use crate::solver::Solver;

/// What documents about the result itself are called, without their endings.
const CORE: &str = "sbom";
/// Larger statements are refused (SPEC C8.04).
const MAX_STATEMENT: u64 = 40 << 20;

/// What was listed.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) attestations: Vec<Attestation>,
    /// The scanner is one of the things that the result's description was made from.
    pub(super) scanner: Option<Material>,
}

impl Builder {
    /// Lists the software of one platform's result, if that is asked for and goes anywhere.
    pub(super) async fn list_software(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        graph: &Arc<Graph>,
        front: &FrontendResult,
    ) -> Result<Listed, BuildError> {
        let Some(options) = &request.attest.asked.sbom else { return Ok(Listed::default()) };
        if !request.outputs.iter().any(|output| output.takes(false, false)) {
            return Ok(Listed::default());
        }
        let multi = request.multi_platform || request.platforms.len() > 1;
        let title = if multi { format!("{} ", front.platform) } else { String::new() };
        if options.generator == BUILT_IN {
            if let Some(name) = options.parameters.keys().next() {
                return Err(refused(
                    FaultKind::Usage,
                    format!("--sbom: the built-in generator has no parameter \"{name}\""),
                )
                .into());
            }
            return self.list_built_in(request, solver, graph, front, &title).await;
        }
        self.scan(request, options, solver, front, title).await
    }

    async fn list_built_in(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        graph: &Arc<Graph>,
        front: &FrontendResult,
        title: &str,
    ) -> Result<Listed, BuildError> {
        let id = internal(&self.events, &format!("[{title}sbom] listing software"));
        let names = request.outputs.iter().flat_map(|output| &output.names);
        let name = names.map(Reference::familiar).next().unwrap_or_else(|| "image".into());
        let epoch = front.epoch.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let created = epoch.unwrap_or_else(Timestamp::now).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut trees = vec![("sbom".to_owned(), name.clone(), Arc::clone(graph))];
        for (stage, definition) in &front.scanned {
            let graph = self.gate(request, solver)?.graph(definition).await?;
            trees.push((format!("sbom-{stage}"), format!("{name} ({stage})"), Arc::new(graph)));
        }
        let mut attestations = Vec::new();
        for (file, name, graph) in trees {
            let listing = solver.look(&graph, sbom::list).await?.unwrap_or_default();
            self.events.progress(&id, format!("{file}: {} packages", listing.packages.len()), 0, None, true);
            let value = Document { name: &name, created: &created, listing: &listing }.json();
            attestations.push(known(format!("{file}.spdx.json"), SPDX.into(), value));
        }
        self.events.completed(&id, Outcome::Done);
        Ok(Listed { attestations, scanner: None })
    }

    async fn scan(
        &self,
        request: &BuildRequest,
        options: &SbomOptions,
        solver: &Arc<Solver>,
        front: &FrontendResult,
        title: String,
    ) -> Result<Listed, BuildError> {
        let generator = &options.generator;
        let reference: Reference = generator
            .parse()
            .map_err(|e| refused(FaultKind::Usage, format!("--sbom: invalid generator \"{generator}\": {e}")))?;
        let asked = SourceOp { identifier: format!("docker-image://{reference}"), ..SourceOp::default() };
        // A scanner is a program from outside as any other image is.
        let (gate, platform) = (self.gate(request, solver)?, Platform::host());
        let source = gate.source(&asked, &platform, true).await.map_err(|e| {
            refused(e.kind, format!("the scanner {reference}: {}", e.message)).hint(e.hint.unwrap_or_default())
        })?;
        let image = self.images.resolve_op(&source, &platform).await.map_err(|e| {
            let docker = if *generator == DEFAULT_SCANNER { ", docker's default," } else { "" };
            let message = format!("the scanner {reference}{docker} that --sbom needs cannot be had: {e}");
            refused(e.kind(), message).hint(
                "use --sbom=generator=builtin, which needs no image, or name another one with --sbom=generator=IMAGE",
            )
        })?;
        let config: ImageConfig = serde_json::from_slice(&image.config).map_err(|e| {
            refused(FaultKind::Input, format!("the config of the scanner {reference} is malformed: {e}"))
        })?;
        let scan = Scan {
            identifier: &asked.identifier,
            name: &reference.to_string(),
            config: &config,
            platform: &platform,
            parameters: &options.parameters,
            target: &front.definition,
            extras: &front.scanned,
            title,
        };
        let definition = scan.definition().ok_or_else(|| {
            refused(FaultKind::Input, format!("the image {reference} is no scanner: it says no program to run"))
        })?;
        let graph = Arc::new(gate.graph(&definition).await?);
        let files = solver.read_dir(&graph, STATEMENTS, MAX_STATEMENT).await?;
        let mut attestations = Vec::new();
        for (name, bytes) in files {
            let bad = |why: String| refused(FaultKind::Input, format!("the scanner {reference} wrote {name}: {why}"));
            let statement: Scanned = serde_json::from_slice(&bytes).map_err(|e| bad(format!("no statement: {e}")))?;
            if statement.predicate_type != SPDX {
                return Err(
                    bad(format!("its predicate is of type \"{}\", not {SPDX}", statement.predicate_type)).into()
                );
            }
            attestations.push(known(name, statement.predicate_type, statement.predicate));
        }
        if attestations.is_empty() {
            let message = format!("the scanner {reference} wrote no statement into {STATEMENTS}");
            return Err(refused(FaultKind::Input, message).into());
        }
        Ok(Listed { attestations, scanner: Some(Material::image(&source.identifier, &image.digest, &platform)) })
    }
}

/// A statement whose subject is not known yet.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scanned {
    predicate_type: String,
    predicate: serde_json::Value,
}

fn known(filename: String, kind: String, value: serde_json::Value) -> Attestation {
    // The others are about a stage or the context, whose files are in no layer of the image.
    let of_image = kind == SPDX && filename.split('.').next() == Some(CORE);
    let predicate = Predicate::Known { kind, value: Arc::new(value), of_image };
    Attestation { predicate, filename, inline_only: false, unasked: false }
}

fn refused(kind: FaultKind, message: String) -> FrontendError {
    FrontendError::outside(kind, message, None)
}
