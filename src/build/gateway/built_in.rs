//! The built-in front end, asked by another one (SPEC C3.11): what it reads is what the other one's options and inputs say, and what
//! it makes is told as any front end tells it.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::host::FrontHost;
use crate::build::inputs::{MAX_DOCKERFILE, of_repository, of_server};
use crate::dockerfile::gitref::GitRef;
use crate::frontend::gateway::asked::Asked;
use crate::frontend::gateway::result::{answered, told};
use crate::frontend::gateway::{Answer, GatewayHost as _};
use crate::frontend::remote::{CONTEXT_FILE, RemoteContext, is_url};
use crate::frontend::{self, Call, FrontEnd, FrontendError, FrontendInput, FrontendOptions, GivenTree};
use crate::grpc::{Status, code};
use crate::llb::op::{Kind, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, Definition};
use crate::tree::look;

/// What is looked for where no name was given.
const USUAL: [&str; 2] = ["Dockerfile", "dockerfile"];

/// Name and text of a file.
type Named = (String, Vec<u8>);

impl FrontHost<'_> {
    /// Runs the built-in front end with these options, over inputs that were admitted.
    pub(super) async fn built_in(
        &self,
        options: &BTreeMap<String, String>,
        inputs: BTreeMap<String, Definition>,
    ) -> Result<Answer, Status> {
        let mut asked = Asked::read(options)?;
        self.own_layouts(&mut asked.options)?;
        asked.options.build_platforms = self.platforms().to_vec();
        let context = self.remote_context(&asked).await?;
        let tree = self.dockerfile_tree(&asked, context.as_ref(), &inputs);
        let (filename, text) = self.dockerfile(&asked, context.as_ref(), &tree).await?;
        if !asked.decided {
            let chosen = frontend::front_end(&text, &asked.options.build_args, self.job.request.front_ends);
            if let FrontEnd::Image(image) = chosen.map_err(|e| failed(&filename, &e))? {
                let mut options = options.clone();
                options.insert("source".into(), image.reference.to_string());
                options.insert("cmdline".into(), image.cmdline);
                return self.front_end("gateway.v0", options, inputs).await;
            }
        }
        let local = context.is_none() && !inputs.contains_key("context");
        let ignore = if local { self.ignore_file(&asked, &filename, &tree).await? } else { None };
        let configs = std::mem::take(&mut asked.configs);
        let given = |(name, definition): (String, Definition)| {
            let config = configs.get(&name).cloned();
            (name, GivenTree { definition, config })
        };
        let inputs: BTreeMap<String, GivenTree> = inputs.into_iter().map(given).collect();
        let input = |platform| FrontendInput {
            filename: &filename,
            source: &text,
            context: context.clone(),
            ignore: ignore.clone(),
            context_ignores: self.job.request.context_ignores.clone(),
            inputs: inputs.clone(),
            options: FrontendOptions { platform, ..asked.options.clone() },
        };
        if let Some(question) = &asked.question {
            let call = Call::named(question);
            let call =
                call.ok_or_else(|| Status::new(code::UNIMPLEMENTED, format!("unsupported request {question}")))?;
            let answer = frontend::call(call, &input(asked.platforms.first().cloned()), self.job.host).await;
            return Ok(answered(&answer.map_err(|e| failed(&filename, &e))?));
        }
        let several = asked.options.multi_platform;
        let targets = match asked.platforms.as_slice() {
            [] => vec![None],
            platforms => platforms.iter().cloned().map(Some).collect(),
        };
        let made = try_join_all(targets.into_iter().map(|platform| {
            let input = input(platform);
            crate::build::front_end(self.job.host, input)
        }));
        let made = made.await;
        self.job.builder.warn(&filename, &made);
        let mut results = Vec::new();
        for result in made.map_err(|e| failed(&filename, &e))? {
            let outward = self.outward(&result.definition);
            let solved = self.allow(result.definition.clone(), outward).await?;
            results.push((result, solved));
        }
        told(&results, several).map_err(|e| Status::new(code::UNKNOWN, format!("cannot tell what was made: {e}")))
    }

    /// Named contexts that are OCI layouts have the names that front ends know them by.
    fn own_layouts(&self, options: &mut FrontendOptions) -> Result<(), Status> {
        for value in options.named_contexts.values_mut().filter(|value| value.starts_with("oci-layout://")) {
            let source = SourceOp { identifier: value.clone(), ..SourceOp::default() };
            if let Some(source) = self.allowed(&source)? {
                *value = source.identifier;
            }
        }
        Ok(())
    }

    /// The build context, if it is a repository or comes from a web server.
    async fn remote_context(&self, asked: &Asked) -> Result<Option<RemoteContext>, Status> {
        let Some(place) = &asked.context else { return Ok(None) };
        let refused = |why: String| Status::new(code::INVALID_ARGUMENT, format!("the build context {place}: {why}"));
        let context = match GitRef::parse(place) {
            Some(Ok(found)) if !found.like_a_path => of_repository(&found, &asked.options),
            Some(Err(why)) => return Err(refused(why)),
            _ if is_url(place) => {
                let found = of_server(place, self.job.gate, self.job.solver).await;
                found.map_err(|e| self.build_error(e))?
            }
            _ => return Err(refused("neither a repository nor a URL".into())),
        };
        Ok(Some(context.below(asked.subdir.as_deref())))
    }

    /// Where the Dockerfile is.
    fn dockerfile_tree(
        &self,
        asked: &Asked,
        context: Option<&RemoteContext>,
        inputs: &BTreeMap<String, Definition>,
    ) -> Definition {
        let name = &asked.dockerfile_name;
        match (context, inputs.get(name)) {
            _ if asked.local_dockerfile => {}
            (Some(context), _) => return context.definition(),
            (None, Some(input)) => return input.clone(),
            (None, None) => {}
        }
        let names: Vec<&str> = asked.filename.as_deref().map_or(USUAL.to_vec(), |name| vec![name]);
        let ignored = names.iter().map(|name| format!("{name}.dockerignore"));
        local(name, names.iter().map(ToString::to_string).chain(ignored).collect())
    }

    /// The Dockerfile. A download that is no archive is it itself.
    async fn dockerfile(
        &self,
        asked: &Asked,
        context: Option<&RemoteContext>,
        tree: &Definition,
    ) -> Result<Named, Status> {
        let is_file = !asked.local_dockerfile && context.is_some_and(RemoteContext::is_file);
        let names = match &asked.filename {
            _ if is_file => vec![CONTEXT_FILE],
            Some(name) => vec![name.as_str()],
            None => USUAL.to_vec(),
        };
        for name in &names {
            if let Some(text) = self.file(tree, name).await? {
                return Ok(((*name).to_owned(), text));
            }
        }
        let text = format!("failed to read dockerfile: open {}: no such file or directory", names[0]);
        Err(Status::new(code::NOT_FOUND, text))
    }

    /// What a local build context is to be without (SPEC A9.01).
    async fn ignore_file(&self, asked: &Asked, filename: &str, tree: &Definition) -> Result<Option<Named>, Status> {
        let own = format!("{filename}.dockerignore");
        if let Some(text) = self.file(tree, &own).await? {
            return Ok(Some((own, text)));
        }
        let usual = ".dockerignore".to_owned();
        let context = local(&asked.context_name, vec![usual.clone()]);
        // A build may have no context at all, and notices when something is copied from it.
        let has_context = self.job.request.contexts.contains_key(&asked.context_name);
        let text = if has_context { self.file(&context, &usual).await? } else { None };
        Ok(text.map(|text| (usual, text)))
    }

    /// A file of a tree, if it is there.
    async fn file(&self, tree: &Definition, path: &str) -> Result<Option<Vec<u8>>, Status> {
        let graph = self.allow(tree.clone(), Definition::default()).await?.graph;
        let read = self.look(&graph, path, |source, path| look::read(source, path, 0, MAX_DOCKERFILE + 1)).await;
        match read {
            Ok(text) if text.len() as u64 > MAX_DOCKERFILE => {
                Err(Status::new(code::RESOURCE_EXHAUSTED, format!("{path} is larger than 16 MiB")))
            }
            Ok(text) => Ok(Some(text)),
            Err(status) if status.code == code::NOT_FOUND => Ok(None),
            Err(status) => Err(status),
        }
    }
}

/// Files of a directory that the command line gave a name.
fn local(name: &str, paths: Vec<String>) -> Definition {
    let mut source = SourceOp { identifier: format!("local://{name}"), ..SourceOp::default() };
    source.attrs.insert("local.followpaths".into(), serde_json::Value::from(paths).to_string());
    let mut builder = Builder::default();
    let op = Op { kind: Some(Kind::Source(source)), ..Op::default() };
    let root = builder.add(&op, OpMetadata::named(format!("[internal] load {name}")), &[]);
    builder.finish(Some(&root))
}

/// Why there is no graph, for whoever asked.
fn failed(filename: &str, error: &FrontendError) -> Status {
    let place = error.place.as_ref().map(|place| format!("{filename}:{}: ", place.lines.0)).unwrap_or_default();
    Status::new(code::INVALID_ARGUMENT, format!("{place}{}", error.message))
}
