//! As much of HTTP/1.1 as a test needs.

use std::io::{Error, Read};

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Decoded parameters of the query.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        pairs(self.target.split_once('?').map_or("", |(_, q)| q))
    }

    /// Decoded parameters of a form in the body.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        pairs(&String::from_utf8_lossy(&self.body))
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// The first value under a name.
pub(crate) fn get<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// With an error body as registries write it.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        Self::new(status).with_body("application/json", body.into_bytes())
    }

    pub(crate) fn with_body(mut self, media_type: &str, body: Vec<u8>) -> Self {
        self.body = body;
        self.with("Content-Type", media_type)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn to_bytes(&self, head_only: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 {
            out += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let mut out = (out + "\r\n").into_bytes();
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// Reads the head of the next request and the length of its body; `None` when the peer is done.
pub(crate) fn read_head<S: Read>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Option<(Request, usize)>, Error> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if !fill(stream, buffer)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut start = lines.next().unwrap_or_default().split(' ');
    let mut request = Request {
        method: start.next().unwrap_or_default().to_owned(),
        target: start.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    // Uploads must say their size: real registries and the proxies before them want that.
    let length = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or_default();
    Ok(Some((request, length)))
}

/// Reads so many bytes of a body.
pub(crate) fn read_body<S: Read>(stream: &mut S, buffer: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Error> {
    while buffer.len() < length {
        if !fill(stream, buffer)? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn fill<S: Read>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<bool, Error> {
    let mut piece = [0; 16 << 10];
    let n = stream.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..n]);
    Ok(n > 0)
}
