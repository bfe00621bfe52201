//! `--digest-file` and its like: what was built, in the form in which kaniko writes it (SPEC D1.10–D1.12, D1.45).

use std::path::Path;

use super::args::DigestFiles;
use super::errors::Failure;
use crate::base::{Digest, FaultKind, file};
use crate::oci::Reference;
use crate::registry::Client;

/// Whether any is asked for.
pub(super) fn asked(args: &DigestFiles) -> bool {
    args.digest_file.is_some()
        || args.image_name_with_digest_file.is_some()
        || args.image_name_tag_with_digest_file.is_some()
        || args.images_file.is_some()
}

/// Writes them all: what an image of these names is.
///
/// # Errors
/// Names the file or the URL.
pub(super) async fn write(
    args: &DigestFiles,
    digest: &Digest,
    names: &[Reference],
    client: &Client,
) -> Result<(), Failure> {
    let digest = digest.as_str();
    let lines = |line: &dyn Fn(&Reference) -> String| names.iter().map(|name| line(name) + "\n").collect::<String>();
    for (target, text) in [
        (&args.digest_file, digest.to_owned()),
        (&args.image_name_with_digest_file, lines(&|name| format!("{}@{digest}", repository(name)))),
        (&args.image_name_tag_with_digest_file, lines(&|name| format!("{}@{digest}", tagged(name)))),
    ] {
        let Some(target) = target else { continue };
        match target.starts_with("https://") {
            true => put(target, text, client).await?,
            false => replace(Path::new(target), text.as_bytes())?,
        }
    }
    if let Some(path) = &args.images_file {
        let line = |name: &Reference| serde_json::json!({"name": tagged(name), "digest": digest}).to_string();
        let mut all = std::fs::read_to_string(path).unwrap_or_default();
        all += &lines(&line);
        replace(path, all.as_bytes())?;
    }
    Ok(())
}

/// As the library that kaniko is made with spells it.
fn repository(name: &Reference) -> String {
    let host = if name.domain == "docker.io" { "index.docker.io" } else { &name.domain };
    format!("{host}/{}", name.path)
}

fn tagged(name: &Reference) -> String {
    format!("{}:{}", repository(name), name.tag.as_deref().unwrap_or("latest"))
}

/// Kubernetes has its termination log as a device's neighbour, mounted over a file: such a one cannot be replaced and is written into.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let made = parent.map_or(Ok(()), std::fs::create_dir_all);
    let written = made.and_then(|()| match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => std::fs::write(path, bytes),
        Ok(_) => file::write_atomic(path, bytes).or_else(|_| std::fs::write(path, bytes)),
        Err(_) => file::write_atomic(path, bytes),
    });
    written.map_err(|e| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
    })
}

/// URLs are signed by who gives them, and so must not be shown whole.
async fn put(target: &str, text: String, client: &Client) -> Result<(), Failure> {
    let shown = target.split(['?', '#']).next().unwrap_or_default();
    let failed = |why: String| Failure::new(FaultKind::Remote, format!("cannot send the digest to {shown}: {why}"));
    let url = url::Url::parse(target).map_err(|e| failed(e.to_string()))?;
    let http = client.http(&url).await.map_err(|e| failed(e.to_string()))?;
    let request = http.put(url).header("content-type", "text/plain").body(text);
    let answer = request.send().await.map_err(|e| failed(e.without_url().to_string()))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(failed(format!("status {status}"))),
    }
}
