//! Unary calls of gRPC over the same connections, proxies and trust: what collectors of telemetry speak.
//!
//! gRPC over HTTP/2 (`PROTOCOL-HTTP2.md` of grpc/grpc): the body is one message behind a byte that says whether it is compressed
//! and its length; how it went is in the trailers, or in the headers of an answer that has no body.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Limited};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use reqwest::{Body, Method, Request, StatusCode, Url};

use super::Client;
use super::web::WebError;

/// Larger answers to a call are none that this program asks for.
const MAX_ANSWER: usize = 1 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no answer.
    #[error("{}", .0.fault)]
    Web(WebError),
    /// The answer is not gRPC's.
    #[error("it answers {0}")]
    Http(StatusCode),
    /// The other side says no.
    #[error("it answers {}{}", name(*.code), if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    Status {
        /// gRPC's number of the reason.
        code: u32,
        /// Its words.
        message: String,
    },
    /// The answer broke off, or has no status.
    #[error("it answers without a status")]
    Unfinished,
}

impl Client {
    /// Calls the method at `url` (`SCHEME://HOST/package.Service/Method`) once, with these headers, and waits for its answer,
    /// whose message is not looked at. The message is compressed if `gzip` says so.
    ///
    /// # Errors
    /// When there is no answer, or one that is not `OK`.
    pub async fn call(&self, url: &Url, headers: &HeaderMap, message: &[u8], gzip: bool) -> Result<(), CallError> {
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        if gzip {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        *request.body_mut() = Some(framed(message, gzip).into());
        let answer = self.0.transport.send_http2(request).await.map_err(|e| CallError::Web(e.into()))?;
        let (status, head) = (answer.status(), answer.headers().clone());
        if let Some(result) = outcome(&head) {
            return result;
        }
        let body = Limited::new(Body::from(answer), MAX_ANSWER).collect().await.map_err(|_| CallError::Unfinished)?;
        match body.trailers().and_then(outcome) {
            Some(result) => result,
            None if status.is_success() => Err(CallError::Unfinished),
            None => Err(CallError::Http(status)),
        }
    }
}

fn framed(message: &[u8], gzip: bool) -> Bytes {
    let compressed;
    let message = if gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let written = encoder.write_all(message).and_then(|()| encoder.finish());
        compressed = written.expect("because memory takes whatever is written to it");
        &compressed
    } else {
        message
    };
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(u8::from(gzip));
    body.put_u32(u32::try_from(message.len()).expect("because nobody sends 4 GiB in a message"));
    body.put_slice(message);
    body.freeze()
}

/// What headers or trailers say of how it went, if they do.
fn outcome(headers: &HeaderMap) -> Option<Result<(), CallError>> {
    let text = |name: &'static str| headers.get(HeaderName::from_static(name))?.to_str().ok();
    match text("grpc-status")?.parse() {
        Ok(0) => Some(Ok(())),
        Ok(code) => {
            let message = text("grpc-message").map(decoded).unwrap_or_default();
            Some(Err(CallError::Status { code, message }))
        }
        Err(_) => Some(Err(CallError::Unfinished)),
    }
}

/// A message is percent-encoded. The only decoder at hand takes `+` for a space, which it is not here.
fn decoded(text: &str) -> String {
    let text = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(text.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}

/// gRPC's name of a status.
fn name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let known = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    known.map_or_else(|| format!("status {code}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    // SPEC C9.12
    #[test]
    fn c9_12_messages_are_framed() {
        assert_eq!(&framed(b"abc", false)[..], b"\0\0\0\0\x03abc");
        assert_eq!(&framed(b"", false)[..], b"\0\0\0\0\0");
        let zipped = framed(&[b'a'; 1000], true);
        let length = u32::from_be_bytes(zipped[1..5].try_into().expect("four bytes"));
        assert_eq!((zipped[0], zipped.len()), (1, 5 + length as usize));
        let mut text = String::new();
        flate2::read::GzDecoder::new(&zipped[5..]).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "a".repeat(1000));
    }

    // SPEC C9.12
    #[test]
    fn c9_12_a_status_is_read_from_headers_and_trailers() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            pairs.iter().map(pair).collect()
        };
        assert!(outcome(&headers(&[])).is_none());
        assert!(outcome(&headers(&[("grpc-status", "0")])).is_some_and(|r| r.is_ok()));
        for (pairs, said) in [
            (
                &[("grpc-status", "16"), ("grpc-message", "no%20key + & 1%25")][..],
                "it answers UNAUTHENTICATED: no key + & 1%",
            ),
            (&[("grpc-status", "12")], "it answers UNIMPLEMENTED"),
            (&[("grpc-status", "99")], "it answers status 99"),
            (&[("grpc-status", "x")], "it answers without a status"),
        ] {
            let error = outcome(&headers(pairs)).and_then(Result::err).map(|e| e.to_string());
            assert_eq!(error.as_deref(), Some(said));
        }
    }
}
