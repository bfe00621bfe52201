//! A server in front of another one that spoils some of its answers.

use std::io::{BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// Another status, and nothing else.
    Status(u16),
    /// Nothing is ever said.
    Hold,
    /// The connection ends after half of the body.
    Cut,
    /// Half of the body, whose length agrees.
    Truncate,
    /// The last bit of the body is another one.
    Corrupt,
}

/// Which requests are spoilt: method (`*` for any), a part of the path, and how.
type Rule = (&'static str, String, Spoil);

/// The server; the thread ends with the process.
pub struct Proxy {
    /// `127.0.0.1:PORT`.
    pub host: String,
    rules: Arc<Mutex<Vec<Rule>>>,
}

impl Proxy {
    /// In front of the server at `origin`.
    pub fn start(origin: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let rules: Arc<Mutex<Vec<Rule>>> = Arc::default();
        let (shared, origin) = (Arc::clone(&rules), origin.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, origin) = (Arc::clone(&shared), origin.clone());
                // Who hangs up ends the connection; that is no failure of the test.
                std::thread::spawn(move || serve(stream, &origin, &shared));
            }
        });
        Self { host, rules }
    }

    /// From now on these requests are spoilt, and no others.
    pub fn spoil(&self, method: &'static str, path: &str, spoil: Spoil) {
        *self.rules.lock().unwrap() = vec![(method, path.to_owned(), spoil)];
    }

    /// Everything works again.
    pub fn mend(&self) {
        self.rules.lock().unwrap().clear();
    }
}

/// One request for each connection: each answer says that it is the last one.
fn serve(client: TcpStream, origin: &str, rules: &Mutex<Vec<Rule>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (head, length) = head(&mut reader)?;
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let rule = rules.lock().unwrap().iter().find(|(m, p, _)| (*m == "*" || *m == method) && path.contains(p)).cloned();
    let mut client = client;
    match rule {
        Some((_, _, Spoil::Hold)) => {
            client.set_read_timeout(Some(Duration::from_secs(60)))?;
            while client.read(&mut [0; 4096])? > 0 {}
            return Ok(());
        }
        Some((_, _, Spoil::Status(code))) => {
            // What was sent has to be read, or the answer is lost with the connection.
            std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            return write!(client, "HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        _ => {}
    }
    let mut server = TcpStream::connect(origin)?;
    server.write_all(head.as_bytes())?;
    std::io::copy(&mut reader.by_ref().take(length), &mut server)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let Some((_, _, spoil)) = rule else { return client.write_all(&answer) };
    let start = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let half = start + (answer.len() - start) / 2;
    match spoil {
        Spoil::Cut => answer.truncate(half),
        Spoil::Truncate => {
            answer.truncate(half);
            let text = String::from_utf8_lossy(&answer[..start]).into_owned();
            let lines = text.split("\r\n").map(|line| match line.to_ascii_lowercase().starts_with("content-length:") {
                true => format!("Content-Length: {}", half - start),
                false => line.to_owned(),
            });
            let head: Vec<String> = lines.collect();
            answer.splice(..start, head.join("\r\n").into_bytes());
        }
        _ => {
            if answer.len() > start {
                *answer.last_mut().unwrap() ^= 1;
            }
        }
    }
    client.write_all(&answer)
}

/// The head of a request, told to be the only one, and the length of the body. Chunked bodies are not sent by who is tested.
fn head(reader: &mut impl std::io::BufRead) -> std::io::Result<(String, u64)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.by_ref().read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if line == "\r\n" {
            head.push_str("Connection: close\r\n\r\n");
            return Ok((head, length));
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !lower.starts_with("connection:") && !lower.starts_with("expect:") {
            head.push_str(&line);
        }
    }
}
