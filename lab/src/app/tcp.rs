//! The line server: it speaks first, as mail servers and databases do, so that a sidecar cannot
//! wait for the client's first bytes to learn the protocol. It says `GREETING INSTANCE` and then
//! echoes every byte; a line is counted when its end arrives. When the client has ended its half,
//! what is left is echoed and the server ends its own half.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::metrics::AppCounters;

/// Bytes that a connection holds at most: a client that does not read stops being read.
const BUFFER: usize = 8 * 1024;

/// The app, shared by its connections.
pub struct Lines {
    greeting: String,
    counters: Rc<AppCounters>,
}

impl Lines {
    /// A server that says `greeting` and the instance's name.
    pub fn new(instance: &str, greeting: &str, counters: Rc<AppCounters>) -> Self {
        Lines { greeting: format!("{greeting} {instance}\n"), counters }
    }

    /// Serves one connection until it ends.
    pub(super) async fn connection<I: AsyncRead + AsyncWrite + Unpin>(self: Rc<Self>, io: I) {
        if let Err(e) = self.echo(io).await {
            tracing::debug!("connection ended: {e}");
        }
    }

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
