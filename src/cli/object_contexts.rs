//! Build contexts that are archives in object stores, with the names that kaniko has for them (SPEC D2.04–D2.06):
//! `gs://BUCKET/OBJECT`, `s3://BUCKET/OBJECT`, and `azblob://ACCOUNT/CONTAINER/BLOB` for Azure's https URLs. Keys come from where
//! they come from for caches; who this machine is to Google is found out as for its registries.

use url::Url;

use super::caches;
use super::errors::Failure;
use super::settings::{usage, variable};
use crate::base::values::boolean;
use crate::build::Stream;
use crate::cache::spec::Field;

/// Where a context is, if it is in such a place.
///
/// # Errors
/// For URLs that name no object, and what is missing for a place.
pub(super) fn find(context: &str) -> Result<Option<Stream>, Failure> {
    let Some((scheme, rest)) = context.split_once("://") else { return Ok(None) };
    let malformed = |form: &str| usage(format!("unable to prepare context: {context}: expected {form}"));
    let fields = match scheme {
        "s3" => s3(rest),
        "azblob" => azure(rest),
        "gs" => {
            let url = google(rest).ok_or_else(|| malformed("gs://BUCKET/OBJECT"))?;
            return Ok(Some(Stream::signed_in(context, url)));
        }
        _ => return Ok(None),
    };
    let (fields, key) = match (fields, scheme) {
        (Some(found), _) => found,
        (None, "s3") => return Err(malformed("s3://BUCKET/OBJECT")),
        (None, _) => return Err(malformed("azblob://ACCOUNT/CONTAINER/BLOB")),
    };
    let service = caches::service(&fields).map_err(|e| usage(format!("unable to prepare context: {context}: {e}")))?;
    Ok(Some(Stream::object(context, service, key)))
}

type Place = (Vec<Field>, String);

fn field(key: &str, value: impl Into<String>) -> Field {
    (key.into(), Some(value.into()))
}

/// `STORAGE_EMULATOR_HOST` is what Google's own tools take; who is there asks for no sign-in.
fn google(rest: &str) -> Option<Url> {
    let (bucket, object) = rest.split_once('/').filter(|(bucket, object)| !bucket.is_empty() && !object.is_empty())?;
    let server = match variable("STORAGE_EMULATOR_HOST") {
        Some(host) if host.contains("://") => host,
        Some(host) => format!("http://{host}"),
        None => "https://storage.googleapis.com".into(),
    };
    let mut url = Url::parse(&server).ok()?;
    // The name of an object may have any character.
    url.path_segments_mut().ok()?.pop_if_empty().push(bucket).extend(object.split('/'));
    Some(url)
}

fn s3(rest: &str) -> Option<Place> {
    let (bucket, key) = rest.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())?;
    let mut fields = vec![field("type", "s3"), field("bucket", bucket)];
    let endpoint = variable("S3_ENDPOINT");
    if variable("AWS_REGION").is_none() {
        // Servers that are not Amazon's do not care; Amazon's say where a bucket is.
        fields.push(field("region", variable("AWS_DEFAULT_REGION").unwrap_or_else(|| "us-east-1".into())));
    }
    let path_style = variable("S3_FORCE_PATH_STYLE").and_then(|text| boolean(&text)) == Some(true);
    fields.push(field("use_path_style", path_style.to_string()));
    fields.extend(endpoint.map(|endpoint| field("endpoint_url", endpoint)));
    Some((fields, key.to_owned()))
}

fn azure(rest: &str) -> Option<Place> {
    let mut parts = rest.splitn(3, '/');
    let (host, container, key) = (parts.next()?, parts.next()?, parts.next()?);
    if [host, container, key].iter().any(|part| part.is_empty()) {
        return None;
    }
    let mut fields = vec![field("type", "azblob"), field("container", container)];
    // `azblob://ACCOUNT/…` leaves the address to the environment, as for caches.
    if host.contains('.') {
        fields.push(field("account_url", format!("https://{host}")));
    } else if variable("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL").is_none() {
        fields.push(field("account_url", format!("https://{host}.blob.core.windows.net")));
    } else {
        fields.push(field("account_name", host));
    }
    fields.extend(variable("AZURE_STORAGE_ACCESS_KEY").map(|key| field("secret_access_key", key)));
    Some((fields, key.to_owned()))
}
