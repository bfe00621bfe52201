//! The agent protocol (draft-ietf-sshm-ssh-agent), as far as a step may speak it: list the keys, sign with one.

use std::io::{self, Read, Write};

use super::keys::Key;
use super::wire::{put_string, take_string, take_u32};

/// OpenSSH's limit for one message.
const MAX_MESSAGE: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
/// Tells the agent which host a connection is for. It can only narrow what keys with such a constraint may do, and they
/// do nothing without it.
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// Passes on what a step may ask until either side hangs up; everything else is answered with a failure without
/// bothering the agent.
///
/// # Errors
/// Those of the connections, and messages that are longer than any agent accepts.
pub(super) fn filter(mut step: impl Read + Write, mut agent: impl Read + Write) -> io::Result<()> {
    while let Some(request) = read_message(&mut step)? {
        if is_allowed(&request) {
            write_message(&mut agent, &request)?;
            let answer = read_message(&mut agent)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            write_message(&mut step, &answer)?;
        } else {
            write_message(&mut step, &[FAILURE])?;
        }
    }
    Ok(())
}

/// Is the agent, with these keys.
///
/// # Errors
/// Those of the connection, and messages that are longer than any agent accepts.
pub(super) fn serve(mut step: impl Read + Write, keys: &[Key]) -> io::Result<()> {
    while let Some(request) = read_message(&mut step)? {
        let answer = match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => Some(identities(keys)),
            Some((&SIGN_REQUEST, body)) => sign(keys, body),
            _ => None,
        };
        write_message(&mut step, &answer.unwrap_or_else(|| vec![FAILURE]))?;
    }
    Ok(())
}

fn is_allowed(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&(REQUEST_IDENTITIES | SIGN_REQUEST), _)) => true,
        Some((&EXTENSION, mut body)) => take_string(&mut body) == Some(SESSION_BIND),
        _ => false,
    }
}

fn identities(keys: &[Key]) -> Vec<u8> {
    let mut out = vec![IDENTITIES_ANSWER];
    out.extend(u32::try_from(keys.len()).unwrap_or(0).to_be_bytes());
    for key in keys {
        put_string(&mut out, key.public());
        // No comment: it tends to name a person or a file outside.
        put_string(&mut out, b"");
    }
    out
}

fn sign(keys: &[Key], mut body: &[u8]) -> Option<Vec<u8>> {
    let public = take_string(&mut body)?;
    let data = take_string(&mut body)?;
    let flags = take_u32(&mut body)?;
    let signature = keys.iter().find(|key| key.public() == public)?.sign(data, flags)?;
    let mut out = vec![SIGN_RESPONSE];
    put_string(&mut out, &signature);
    Some(out)
}

/// `None` at the end of the stream.
fn read_message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..])?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an agent message of {length} bytes")));
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(message.len() + 4);
    put_string(&mut out, message);
    to.write_all(&out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn extension(name: &[u8]) -> Vec<u8> {
        let mut out = vec![EXTENSION];
        put_string(&mut out, name);
        out
    }

    /// SPEC A5.07: add, remove and lock never reach the agent.
    #[test]
    fn a5_07_only_listing_and_signing_pass() {
        let (step, ours) = UnixStream::pair().expect("a pair");
        let (agent, theirs) = UnixStream::pair().expect("a pair");
        let filter = std::thread::spawn(move || filter(ours, theirs));
        let agent = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while let Some(request) = read_message(&mut &agent).expect("reads") {
                write_message(&mut &agent, &[request[0], 1]).expect("writes");
                seen.push(request[0]);
            }
            seen
        });
        let ask = |message: &[u8]| {
            write_message(&mut &step, message).expect("writes");
            read_message(&mut &step).expect("reads").expect("an answer")
        };
        // 1 and 9 are of version 1 of the protocol.
        for refused in [1, 9, 17, 18, 19, 20, 21, 22, 23, 25, 26, 200] {
            assert_eq!(ask(&[refused, 0]), [FAILURE], "{refused}");
        }
        assert_eq!(ask(&extension(b"query")), [FAILURE]);
        assert_eq!(ask(&[EXTENSION, 0]), [FAILURE]);
        for allowed in [vec![REQUEST_IDENTITIES], vec![SIGN_REQUEST, 0], extension(SESSION_BIND)] {
            assert_eq!(ask(&allowed), [allowed[0], 1]);
        }
        drop(step);
        assert!(filter.join().expect("no panic").is_ok());
        assert_eq!(agent.join().expect("no panic"), [REQUEST_IDENTITIES, SIGN_REQUEST, EXTENSION]);
    }

    #[test]
    fn lengths_that_no_agent_accepts_end_the_conversation() {
        for length in [0, u32::MAX, 300_000] {
            let (mut step, ours) = UnixStream::pair().expect("a pair");
            step.write_all(&length.to_be_bytes()).expect("writes");
            assert!(serve(ours, &[]).is_err(), "{length}");
        }
    }
}
