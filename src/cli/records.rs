//! What the command line puts into a build's record (SPEC B8.07).

use jiff::Timestamp;

use super::args::Build;
use super::errors::Failure;
use super::invocation::{Done, Stopped};
use super::settings::{BuildSettings, variable};
use super::vcs;
use crate::base::FaultKind;
use crate::base::values::boolean;
use crate::build::record::{End, Head, MadeImage, Status};
use crate::build::{BuildError, MainContext};
use crate::dockerfile::gitref::GitRef;
use crate::frontend::remote::without_credentials;

/// What was asked for.
pub(super) fn head(args: &Build, settings: &BuildSettings) -> Head {
    let request = &settings.request;
    let given = args.context.as_deref().unwrap_or_default();
    let directory = request.contexts.get("context").map(|context| context.dir.display().to_string());
    // SPEC B5.06: who does not want it known has it not.
    let told = variable("BUILDX_GIT_INFO").is_none_or(|text| boolean(&text) != Some(false));
    let context = request.contexts.get("context").filter(|_| told);
    let repository = context.and_then(|context| vcs::repository(&context.dir));
    let named = args.build_context.iter().filter_map(|text| text.split_once('='));
    let mut head = Head {
        id: request.id.clone(),
        name: String::new(),
        started: Timestamp::now(),
        context: without_credentials(given),
        dockerfile: args.file.as_deref().map_or_else(|| "Dockerfile".to_owned(), without_credentials),
        repository: match &request.context {
            MainContext::Git(reference) => Some(without_credentials(&reference.remote)),
            _ => repository.as_ref().and_then(|found| found.source.clone()),
        },
        revision: repository.and_then(|found| found.revision),
        directory,
        target: args.target.clone(),
        platforms: request.platforms.iter().map(ToString::to_string).collect(),
        build_args: request.options.build_args.clone().into_iter().collect(),
        labels: request.options.labels.clone().into_iter().collect(),
        named_contexts: named.map(|(name, place)| (name.to_owned(), without_credentials(place))).collect(),
        tags: args.tag.clone(),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        network: args.network.clone(),
        extra_hosts: args.add_host.clone(),
        pull: args.pull == Some(true),
        hostname: request.options.hostname.clone(),
        shm_size: args.shm_size.clone(),
        ulimits: args.ulimit.clone(),
        cgroup_parent: args.cgroup_parent.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let remote = match &request.context {
        MainContext::Git(reference) if given.contains('?') => Some(with_fragment(reference)),
        MainContext::Git(_) | MainContext::Url(_) => Some(head.context.clone()),
        MainContext::Local | MainContext::Archive(_) => None,
    };
    head.name = name(&head, remote);
    head
}

/// What a query says of a repository, as a fragment says it (SPEC A7.02, A7.03): the form in which BuildKit hands it on.
fn with_fragment(reference: &GitRef) -> String {
    let mut text = without_credentials(&reference.remote);
    if !reference.reference.is_empty() || !reference.subdir.is_empty() {
        text.push_str(&format!("#{}", reference.reference));
    }
    if !reference.subdir.is_empty() {
        text.push_str(&format!(":{}", reference.subdir));
    }
    text
}

/// What people call it, as buildx does: what `BUILDKIT_BUILD_NAME` says (SPEC A4.17); or the remote context, all of it; or the
/// end of the context's path and the Dockerfile if it is an unusual one. Then the target.
fn name(head: &Head, remote: Option<String>) -> String {
    if let Some(name) = head.build_args.get("BUILDKIT_BUILD_NAME").filter(|name| !name.is_empty()) {
        return name.clone();
    }
    let mut name = remote.unwrap_or_else(|| {
        let place = head.directory.as_deref().unwrap_or(&head.context).trim_end_matches('/');
        let last = place.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or("/");
        match head.dockerfile.rsplit('/').next().unwrap_or_default() {
            "" | "-" | "Dockerfile" => last.to_owned(),
            file => format!("{last}/{file}"),
        }
    });
    if let Some(target) = &head.target {
        name.push_str(&format!(" ({target})"));
    }
    name
}

/// How it ended. `file` is the name and the text of the Dockerfile.
pub(super) fn end(result: &Result<Done, Stopped>, file: (&str, &[u8])) -> End {
    let excerpt = match result {
        Ok(_) => None,
        Err(Stopped::Early(failure)) => failure.excerpt.clone(),
        Err(Stopped::Build(error)) => Failure::of_build(error, file.0, file.1, &[]).excerpt,
    };
    let (status, error, images) = match result {
        Ok(Done::Built(report)) => {
            let images = report.exports.iter().map(|export| MadeImage {
                digest: export.descriptor.digest.clone(),
                media_type: export.descriptor.media_type.clone(),
                size: export.descriptor.size,
                names: export.names.clone(),
            });
            (Status::Completed, None, images.collect())
        }
        Ok(Done::Answered(..)) => (Status::Completed, None, Vec::new()),
        Err(Stopped::Early(failure)) if failure.kind == FaultKind::Interrupted => (Status::Canceled, None, Vec::new()),
        Err(Stopped::Early(failure)) => (Status::Error, Some(failure.message.clone()), Vec::new()),
        Err(Stopped::Build(error)) => {
            let step = match error {
                BuildError::Solve(e) => e.vertex_name().map(|name| format!("{name}: ")),
                _ => None,
            };
            (Status::Error, Some(format!("{}{error}", step.unwrap_or_default())), Vec::new())
        }
    };
    End { at: Timestamp::now(), status, error, excerpt, images }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B8.06
    #[test]
    fn b8_06_builds_have_names() {
        let head = |directory: Option<&str>, context: &str, dockerfile: &str, target: Option<&str>| Head {
            directory: directory.map(str::to_owned),
            context: context.into(),
            dockerfile: dockerfile.into(),
            target: target.map(str::to_owned),
            ..Head::default()
        };
        let local = |head: Head| name(&head, None);
        assert_eq!(local(head(Some("/home/me/app"), ".", "Dockerfile", None)), "app");
        assert_eq!(
            local(head(Some("/home/me/app/"), ".", "docker/web.Dockerfile", Some("prod"))),
            "app/web.Dockerfile (prod)"
        );
        assert_eq!(local(head(Some("/"), "/", "-", None)), "/");
        assert_eq!(local(head(None, "-", "Dockerfile", None)), "-");
        let url = "https://example.com/x/app.git#main";
        let remote = head(None, url, "web.Dockerfile", Some("prod"));
        assert_eq!(name(&remote, Some(url.into())), format!("{url} (prod)"));
        let named = Head { build_args: [("BUILDKIT_BUILD_NAME".into(), "nightly".into())].into(), ..remote };
        assert_eq!(name(&named, Some(url.into())), "nightly");
        for (query, fragment) in [
            ("https://me:pass@example.com/app.git?ref=main&subdir=a/b", "https://example.com/app.git#main:a/b"),
            ("https://example.com/app.git?subdir=a", "https://example.com/app.git#:a"),
            ("https://example.com/app.git?keep-git-dir=1", "https://example.com/app.git"),
        ] {
            let reference = GitRef::parse(query).expect("a repository").expect("valid");
            assert_eq!(with_fragment(&reference), fragment);
        }
    }
}
