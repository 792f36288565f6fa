//! `app = { tcp = { .. } }`: the line server. It speaks first, as mail servers and databases do, so
//! that a sidecar cannot wait for the client's first bytes to learn the protocol. It says `GREETING
//! INSTANCE` and then echoes every byte; a line is counted when its end arrives. When the client
//! has ended its half, what is left is echoed and the server ends its own half.

use std::io;
use std::rc::Rc;

use proxy::world::Net;
use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::kind::{App, Server, Start};
use super::metrics::AppCounters;
use crate::syntax::diagnose::Mistake;

/// Bytes that a connection holds at most: a client that does not read stops being read.
const BUFFER: usize = 8 * 1024;
/// Default of [`TcpTable::greeting`].
const GREETING: &str = "hello";

/// `tcp = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpTable {
    /// What it says before the client does. Default `"hello"`.
    pub greeting: Option<Spanned<String>>,
}

/// The built-in line server that greets first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineServer {
    /// What it says before the client does, without the line end.
    pub greeting: String,
}

impl App for LineServer {
    type Table = TcpTable;
    type Server = Lines;

    const EXAMPLE: &'static str = "{ tcp = {} }";
    const SPEAKS: &'static [&'static str] = &["tcp"];
    const SPEAKS_FIRST: bool = true;

    fn resolve(table: &Spanned<TcpTable>, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        let greeting = table.get_ref().greeting.as_ref();
        let is_no_line = |text: &str| text.is_empty() || text.contains(['\n', '\r']);
        if let Some(text) = greeting.filter(|text| is_no_line(text.get_ref())) {
            let mistake = Mistake::new(text.span(), "a greeting is one line of text", "not one line");
            mistakes.push(mistake.help("leave the line end out; the app adds it"));
        }
        Some(LineServer { greeting: greeting.map_or(GREETING, |text| text.get_ref()).to_owned() })
    }

    fn server<N: Net>(&self, start: Start<'_, N>) -> io::Result<Lines> {
        let greeting = format!("{} {}\n", self.greeting, start.instance);
        Ok(Lines { greeting, counters: start.counters })
    }
}

/// The app, shared by its connections.
pub struct Lines {
    greeting: String,
    counters: Rc<AppCounters>,
}

impl Server for Lines {
    const TASK: &'static str = "app-tcp";

    async fn connection<I: AsyncRead + AsyncWrite + Unpin + 'static>(self: Rc<Self>, io: I) {
        if let Err(e) = self.echo(io).await {
            tracing::debug!("connection ended: {e}");
        }
    }
}

impl Lines {
    async fn echo<I: AsyncRead + AsyncWrite + Unpin>(&self, mut io: I) -> io::Result<()> {
        io.write_all(self.greeting.as_bytes()).await?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let got = io.read(&mut buffer).await?;
            if got == 0 {
                return io.shutdown().await;
            }
            let lines = buffer[..got].iter().filter(|b| **b == b'\n').count() as u64;
            self.counters.requests.set(self.counters.requests.get() + lines);
            io.write_all(&buffer[..got]).await?;
        }
    }
}
