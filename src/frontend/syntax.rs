//! Which front end a file asks for, and whether ours may stand in for it (SPEC A1.03, C3.01).

use indexmap::IndexMap;

use super::error::{FrontendError, Place};
use crate::dockerfile::parser::detect_syntax;
use crate::oci::Reference;

/// The build argument that goes before the directive (SPEC A4.17).
const ARGUMENT: &str = "BUILDKIT_SYNTAX";
/// What BuildKit calls the Dockerfile front end that is built in.
const BUILT_IN: &str = "dockerfile.v0";
/// Where Docker publishes its Dockerfile front end.
const OFFICIAL: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Refuses files for a front end other than Docker's own, for which ours stands in: without a look at the image, in any
/// release, from any mirror, by tag or digest.
pub(super) fn check(source: &[u8], build_args: &IndexMap<String, String>) -> Result<(), FrontendError> {
    if let Some(value) = build_args.get(ARGUMENT) {
        let image = value.split_whitespace().next().unwrap_or_default();
        if is_ours(image) {
            return Ok(());
        }
        return Err(FrontendError::usage(format!("the front end image {image} of {ARGUMENT} is not supported yet"))
            .hint("only the built-in Dockerfile front end can be used: leave the argument out"));
    }
    let Some(syntax) = detect_syntax(source) else { return Ok(()) };
    if is_ours(&syntax.reference) {
        return Ok(());
    }
    let message = format!("the front end image {} of the syntax directive is not supported yet", syntax.reference);
    let place = Place { lines: (syntax.line, syntax.line), span: None };
    Err(FrontendError::input(message)
        .hint(format!(
            "only Dockerfile syntax can be built: remove the directive, or pass --build-arg {ARGUMENT}={BUILT_IN} if \
             the file is a Dockerfile"
        ))
        .at(&place))
}

/// Whether an image reference names Docker's own Dockerfile front end. A mirror's host, and what it puts in front of the
/// path, do not matter.
fn is_ours(text: &str) -> bool {
    text == BUILT_IN
        || text.parse::<Reference>().is_ok_and(|reference| {
            let path = reference.path;
            OFFICIAL
                .iter()
                .any(|known| path == *known || path.strip_suffix(known).is_some_and(|head| head.ends_with('/')))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(value: &str) -> IndexMap<String, String> {
        IndexMap::from([(ARGUMENT.to_owned(), value.to_owned())])
    }

    // SPEC A1.03, C3.01
    #[test]
    fn docker_s_front_end_is_ours_wherever_it_is_mirrored() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile-upstream:master",
            "index.docker.io/docker/dockerfile:1",
            "mirror.example/hub/docker/dockerfile:1",
            "localhost:5000/docker/dockerfile",
            &format!("docker/dockerfile@{digest}"),
            &format!("registry.example.com/docker/dockerfile:1@{digest}"),
            "dockerfile.v0",
        ] {
            assert!(is_ours(image), "{image}");
            let file = format!("# syntax={image}\nFROM scratch\n");
            assert_eq!(check(file.as_bytes(), &IndexMap::new()), Ok(()), "{image}");
        }
        for image in
            ["example/dockerfile:1", "mirror.example/xdocker/dockerfile:1", "docker/dockerfile-x", "tonistiigi/x"]
        {
            assert!(!is_ours(image), "{image}");
        }
    }

    #[test]
    fn a1_03_others_are_refused_with_their_place_in_any_language() {
        for (file, line) in [
            ("# syntax = example/x:1 a=b\nFROM scratch\n", 1),
            ("#!/usr/bin/env x\n# syntax=example/x:1\n", 2),
            ("// syntax=example/x:1\nlet a;\n", 1),
            ("{\"syntax\": \"example/x:1\"}", 1),
        ] {
            let error = check(file.as_bytes(), &IndexMap::new()).expect_err(file);
            assert_eq!(error.message, "the front end image example/x:1 of the syntax directive is not supported yet");
            assert_eq!(error.place.expect("a place").lines, (line, line));
        }
    }

    // SPEC A1.03, A4.17
    #[test]
    fn the_build_argument_goes_before_the_directive() {
        let file = b"# syntax=example/x:1\nFROM scratch\n";
        assert_eq!(check(file, &args("docker/dockerfile:1 more words")), Ok(()));
        assert_eq!(check(file, &args("dockerfile.v0")), Ok(()));
        let error = check(b"FROM scratch\n", &args("example/y")).expect_err("refused");
        assert!(error.message.contains("BUILDKIT_SYNTAX") && error.message.contains("example/y"), "{error}");
    }
}
