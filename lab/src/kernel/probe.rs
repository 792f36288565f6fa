//! Small blocking probes, run on a node's prober: is it listening, is it ready, what does it
//! measure.
//!
//! A client of its own and not the proxy's, because it must not share a bug with what it judges:
//! HTTP/1.0, one request per connection, a limit on size and on time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

/// Larger answers are cut off: no honest metrics page is larger.
const MAX_ANSWER: u64 = 16 << 20;

/// Opens a connection to `to` and closes it.
pub fn connect(to: SocketAddr, timeout: Duration) -> io::Result<()> {
    TcpStream::connect_timeout(&to, timeout).map(drop)
}

/// GETs `path` and returns status and body. `timeout` holds for the whole exchange.
pub fn get(from: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&from, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {from}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 << 10];
    while (answer.len() as u64) < MAX_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no complete answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no complete answer in time"));
            }
            Err(e) => return Err(e),
        }
    }
    parse_answer(&String::from_utf8_lossy(&answer))
}

fn parse_answer(answer: &str) -> io::Result<(u16, String)> {
    let status = answer.strip_prefix("HTTP/1.").and_then(|a| a.get(2..5)).and_then(|s| s.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => {
            let start: String = answer.chars().take(40).collect();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {start:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_status_and_body() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup";
        assert_eq!(parse_answer(answer).unwrap(), (200, "up".to_owned()));
    }

    #[test]
    fn what_is_not_http_is_an_error_that_shows_it() {
        let error = parse_answer("220 mail ready\r\n").unwrap_err().to_string();
        assert!(error.contains("220 mail ready"), "{error}");
        assert!(parse_answer("").is_err());
        assert!(parse_answer("HTTP/1.1 200 OK\r\n").is_err());
    }
}
