//! Ports of this machine that lead to a program's: programs share the machine's network, so a connection is passed on to
//! the port the program listens on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream};

/// `[IP:]PORT:PORT` or `PORT`, all of them optionally with `/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where others connect.
    pub outside: SocketAddr,
    /// Where the program listens.
    pub inside: u16,
}

impl FromStr for Published {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("invalid port \"{text}\": {why}");
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if protocol != "tcp" {
            return Err(fail(&format!("{protocol} ports are not passed on, only tcp ones")));
        }
        let port = |part: &str| match part.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(fail("expected [IP:]PORT:CONTAINERPORT")),
        };
        let (front, inside) = ports.rsplit_once(':').unwrap_or((ports, ports));
        let (ip, outside) = front.rsplit_once(':').unwrap_or(("", front));
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        let ip = match ip {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ip => ip.parse().map_err(|_| fail(&format!("\"{ip}\" is not an IP address")))?,
        };
        Ok(Self { outside: SocketAddr::new(ip, port(outside)?), inside: port(inside)? })
    }
}

impl Published {
    /// Whether there is anything to do: a program that listens on the port itself needs nobody's help.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.outside.port() == self.inside
    }

    /// Passes connections on for as long as the task runs.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub async fn open(self) -> std::io::Result<tokio::task::JoinHandle<()>> {
        let listener = TcpListener::bind(self.outside).await?;
        Ok(tokio::spawn(async move {
            loop {
                // Errors are of single connections, or of too many open files, which pass.
                let Ok((mut outer, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    if let Ok(mut inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.inside)).await {
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    }
                });
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_with_docker() {
        let parse = |text: &str| text.parse::<Published>().map(|p| (p.outside.to_string(), p.inside));
        assert_eq!(parse("8080:80"), Ok(("0.0.0.0:8080".into(), 80)));
        assert_eq!(parse("127.0.0.1:8080:80/tcp"), Ok(("127.0.0.1:8080".into(), 80)));
        assert_eq!(parse("[::1]:8080:80"), Ok(("[::1]:8080".into(), 80)));
        assert_eq!(parse("8080"), Ok(("0.0.0.0:8080".into(), 8080)));
        for wrong in ["", "x", "80:", "0:1", "1.2.3:80:80", "53:53/udp", "70000:1"] {
            assert!(parse(wrong).is_err_and(|e| e.contains("invalid port")), "{wrong}");
        }
    }
}
