//! One exchange with a server that speaks first: connect, read the greeting, send a line, read it
//! back, close.

use std::io;
use std::net::SocketAddr;

use proxy::world::Net;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::id::Id;
use super::protocol::{Callee, Caller, LoadProtocol, LoadUrl};
use super::record::Outcome;
use super::table::LoadTable;
use crate::syntax::diagnose::Mistake;

/// Bytes of a line, at most; a longer one is not what was asked for.
const MAX_LINE: u64 = 4 * 1024;

/// One connection for each request: read the greeting line, send a line, read it back, close.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TcpCall {}

impl LoadProtocol for TcpCall {
    type Caller<N: Net> = TcpCaller<N>;

    fn resolve(_: &LoadTable, url: &LoadUrl<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let LoadUrl { whole, authority, path } = url;
        if !path.is_empty() && *path != "/" {
            let mistake = Mistake::new(whole.span(), "a TCP connection has no path", format!("`{path}`"));
            mistakes.push(mistake.help(format!("write \"tcp://{authority}\"")));
        }
        TcpCall {}
    }

    fn caller<N: Net>(&self, net: N, callee: Callee<'_>) -> io::Result<TcpCaller<N>> {
        Ok(TcpCaller { net, address: callee.address })
    }
}

/// Makes exchanges with one address, each over a connection of its own.
pub struct TcpCaller<N> {
    net: N,
    address: SocketAddr,
}

impl<N: Net> Caller for TcpCaller<N> {
    async fn call(&self, id: Id<'_>) -> Outcome {
        let io = match self.net.connect(self.address, None).await {
            Ok(io) => io,
            Err(error) => return Outcome::of_connect(error),
        };
        let mut io = BufReader::with_capacity(512, io);
        exchange(&mut io, &format!("{id}\n")).await.unwrap_or(Outcome::Reset)
    }
}

async fn exchange<I>(io: &mut BufReader<I>, line: &str) -> io::Result<Outcome>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut got = Vec::with_capacity(64);
    if !read_line(io, &mut got).await? {
        return Ok(Outcome::Mismatch);
    }
    io.write_all(line.as_bytes()).await?;
    got.clear();
    if !read_line(io, &mut got).await? || got != line.as_bytes() {
        return Ok(Outcome::Mismatch);
    }
    // The answer is complete; how the connection ends no longer changes the outcome.
    let _ = io.shutdown().await;
    Ok(Outcome::Ok)
}

/// Reads to the end of a line. False if the line is too long.
///
/// # Errors
/// If the connection breaks or ends first.
async fn read_line<I: AsyncBufRead + Unpin>(io: &mut I, into: &mut Vec<u8>) -> io::Result<bool> {
    io.take(MAX_LINE).read_until(b'\n', into).await?;
    if into.last() == Some(&b'\n') {
        Ok(true)
    } else if into.len() as u64 == MAX_LINE {
        Ok(false)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
