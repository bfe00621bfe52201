//! Which front end a file asks for, and whether ours stands in for it (SPEC A1.03, C3.01, C3.02, C3.22).

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::error::{FrontendError, Place};
use crate::dockerfile::parser::detect_syntax;
use crate::oci::Reference;

/// The build argument that goes before the directive (SPEC A4.17).
const ARGUMENT: &str = "BUILDKIT_SYNTAX";
/// What BuildKit calls the Dockerfile front end that is built in.
pub const BUILT_IN: &str = "dockerfile.v0";
/// Where Docker publishes its Dockerfile front end.
const OFFICIAL: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Which front ends may be used (`--frontend`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrontEnds {
    /// The one that is built in for Dockerfiles, images for everything else.
    #[default]
    Auto,
    /// Images wherever one is named, Docker's own included.
    Images,
    /// Only the one that is built in.
    BuiltIn,
}

/// Who turns a file into a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontEnd {
    /// The one that is built in.
    BuiltIn,
    /// An image.
    Image(ImageFrontEnd),
}

/// A front end that is an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFrontEnd {
    /// Its name.
    pub reference: Reference,
    /// All that was said where it was asked for, its name included; the front end is told.
    pub cmdline: String,
    /// Where it was asked for, if not on the command line.
    pub place: Option<Place>,
}

/// Finds out who turns `source` into a graph. Docker's own front end, in any release, from any mirror, by tag or digest, is the
/// one that is built in, without a look at the image.
///
/// # Errors
/// When what is asked for is no image, or may not be used.
pub fn front_end(
    source: &[u8],
    build_args: &IndexMap<String, String>,
    allowed: FrontEnds,
) -> Result<FrontEnd, FrontendError> {
    let (image, cmdline, place) = match build_args.get(ARGUMENT) {
        Some(value) => (value.split_whitespace().next().unwrap_or_default().to_owned(), value.clone(), None),
        None => match detect_syntax(source) {
            None => return Ok(FrontEnd::BuiltIn),
            Some(syntax) => {
                let place = Place { lines: (syntax.line, syntax.line), span: None };
                (syntax.reference, syntax.cmdline, Some(place))
            }
        },
    };
    let by = if place.is_some() { "the syntax directive" } else { ARGUMENT };
    let at = |error: FrontendError| match &place {
        Some(place) => error.at(place),
        None => FrontendError { kind: crate::base::FaultKind::Usage, ..error },
    };
    if image == BUILT_IN || allowed != FrontEnds::Images && is_docker_s(&image) {
        return Ok(FrontEnd::BuiltIn);
    }
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(_) if image.is_empty() => {
            let error = FrontendError::input(format!("no source specified for gateway: {ARGUMENT} is empty"));
            return Err(at(error.hint("name the image of a front end, or leave the argument out")));
        }
        Err(e) => return Err(at(FrontendError::input(format!("\"{image}\" of {by} is no image of a front end: {e}")))),
    };
    if allowed == FrontEnds::BuiltIn {
        let error = FrontendError::input(format!("'{image}' of {by} is not an allowed gateway source"));
        return Err(at(error.hint(format!(
            "--frontend builtin allows the built-in Dockerfile front end only: leave it out, or pass --build-arg \
             {ARGUMENT}={BUILT_IN} if the file is a Dockerfile"
        ))));
    }
    Ok(FrontEnd::Image(ImageFrontEnd { reference, cmdline, place }))
}

impl ImageFrontEnd {
    /// The image source that it is: its own name, or the named context that takes its place (SPEC C3.02).
    ///
    /// # Errors
    /// When that is no image.
    pub fn identifier(&self, named_contexts: &BTreeMap<String, String>) -> Result<String, FrontendError> {
        let name = self.reference.familiar();
        let name = name.strip_suffix(":latest").unwrap_or(&name);
        match named_contexts.get(name) {
            None => Ok(format!("docker-image://{}", self.reference)),
            Some(image) if image.starts_with("docker-image://") || image.starts_with("oci-layout://") => {
                Ok(image.clone())
            }
            Some(other) => {
                Err(FrontendError::usage(format!("--build-context {name}={other}: a front end must be an image")))
            }
        }
    }
}

/// Whether an image reference names Docker's own Dockerfile front end. A mirror's host, and what it puts in front of the
/// path, do not matter.
fn is_docker_s(text: &str) -> bool {
    text.parse::<Reference>().is_ok_and(|reference| {
        let path = reference.path;
        OFFICIAL.iter().any(|known| path == *known || path.strip_suffix(known).is_some_and(|head| head.ends_with('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(value: &str) -> IndexMap<String, String> {
        IndexMap::from([(ARGUMENT.to_owned(), value.to_owned())])
    }

    fn image(found: Result<FrontEnd, FrontendError>) -> ImageFrontEnd {
        match found {
            Ok(FrontEnd::Image(image)) => image,
            other => panic!("{other:?}"),
        }
    }

    // SPEC A1.03, C3.01, C3.22, S2.06, S2.08, S2.09
    #[test]
    fn c3_22_docker_s_front_end_is_ours_wherever_it_is_mirrored() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for name in [
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
            let file = format!("# syntax={name}\nFROM scratch\n");
            let found = |allowed| front_end(file.as_bytes(), &IndexMap::new(), allowed);
            assert_eq!(found(FrontEnds::Auto), Ok(FrontEnd::BuiltIn), "{name}");
            assert_eq!(found(FrontEnds::BuiltIn), Ok(FrontEnd::BuiltIn), "{name}");
            if name != BUILT_IN {
                assert_eq!(image(found(FrontEnds::Images)).cmdline, name);
            }
        }
        for name in
            ["example/dockerfile:1", "mirror.example/xdocker/dockerfile:1", "docker/dockerfile-x", "tonistiigi/x"]
        {
            assert!(!is_docker_s(name), "{name}");
        }
    }

    // SPEC A1.03, S2.02
    #[test]
    fn a1_03_others_are_images_with_their_place_in_any_language() {
        for (file, line, cmdline) in [
            ("# syntax = example/x:1 a=b\nFROM scratch\n", 1, "example/x:1 a=b"),
            ("#!/usr/bin/env x\n# syntax=example/x:1\n", 2, "example/x:1"),
            ("// syntax=example/x:1\nlet a;\n", 1, "example/x:1"),
            ("{\"syntax\": \"example/x:1\"}", 1, "example/x:1"),
        ] {
            let found = image(front_end(file.as_bytes(), &IndexMap::new(), FrontEnds::Auto));
            assert_eq!((found.reference.familiar().as_str(), found.cmdline.as_str()), ("example/x:1", cmdline));
            assert_eq!(found.place.expect("a place").lines, (line, line));
            let error = front_end(file.as_bytes(), &IndexMap::new(), FrontEnds::BuiltIn).expect_err(file);
            assert_eq!(error.message, "'example/x:1' of the syntax directive is not an allowed gateway source");
            assert_eq!(error.place.expect("a place").lines, (line, line));
        }
        let error = front_end(b"# syntax=Not/An/Image\n", &IndexMap::new(), FrontEnds::Auto).expect_err("refused");
        assert!(error.message.starts_with("\"Not/An/Image\" of the syntax directive is no image"), "{error}");
    }

    // SPEC A1.03, A4.17, C3.01
    #[test]
    fn c3_01_the_build_argument_goes_before_the_directive() {
        let file = b"# syntax=example/x:1\nFROM scratch\n";
        for value in ["docker/dockerfile:1 more words", "dockerfile.v0"] {
            assert_eq!(front_end(file, &args(value), FrontEnds::Auto), Ok(FrontEnd::BuiltIn));
        }
        let found = image(front_end(b"FROM scratch\n", &args("example/y a b"), FrontEnds::Auto));
        assert_eq!(
            (found.reference.familiar().as_str(), found.cmdline.as_str()),
            ("example/y:latest", "example/y a b")
        );
        assert_eq!(found.place, None);
        let error = front_end(file, &args(""), FrontEnds::Auto).expect_err("empty");
        assert!(error.message.starts_with("no source specified for gateway"), "{error}");
    }

    // SPEC C3.02
    #[test]
    fn c3_02_a_named_context_takes_the_image_s_place() {
        let found = image(front_end(b"# syntax=example/x\n", &IndexMap::new(), FrontEnds::Auto));
        let named = |value: &str| BTreeMap::from([("example/x".to_owned(), value.to_owned())]);
        assert_eq!(found.identifier(&BTreeMap::new()).as_deref(), Ok("docker-image://docker.io/example/x:latest"));
        assert_eq!(found.identifier(&named("oci-layout:///d:1")).as_deref(), Ok("oci-layout:///d:1"));
        assert!(found.identifier(&named("/d")).expect_err("a directory").message.contains("must be an image"));
    }
}
