//! The threads of the workers. They outlive the listeners, since connections end after these close.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Sidecar;
use super::kernel::local_runtime;
use super::worker::{Watches, work};
use crate::config::defaults;
use crate::world::{Alarm, Net, World};

/// The threads of the workers, for as long as this is there.
#[derive(Default)]
pub(super) struct WorkerThreads {
    /// Each has a receiver, until all that its worker carried has been dropped.
    over: watch::Sender<()>,
}

impl WorkerThreads {
    /// Starts the `n`-th worker. If it cannot go on, `failed` is told.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(super) fn start<N: Net + Send>(
        &self,
        n: usize,
        world: World<N>,
        sidecar: Arc<Sidecar>,
        drains: Watches,
        failed: mpsc::UnboundedSender<io::Error>,
    ) -> io::Result<()> {
        let mut life = self.over.subscribe();
        let run = move || {
            let _alarm = Alarm::new(format!("worker-{n}"), failed.clone());
            let worked = local_runtime().and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        Err(error) = work(world, sidecar, drains) => Err(error),
                        // An error says that it was dropped.
                        _ = life.changed() => Ok(()),
                    }
                })
            });
            if let Err(error) = worked {
                let _ = failed.send(error);
            }
        };
        std::thread::Builder::new().name(format!("worker-{n}")).spawn(run)?;
        Ok(())
    }

    /// Cuts what the workers still carry, and ends them. What is left is reset by those who carry
    /// it, where the kernel would end it as if that were all, and gets its last lines.
    pub(super) async fn cut(self, sidecar: &Sidecar) {
        sidecar.cut();
        self.over.send_replace(());
        let _ = timeout(defaults::CUT_WITHIN, self.over.closed()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::path::Path;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::worker::drains;
    use super::*;
    use crate::world::{KernelDisk, KernelListener, KernelNet, Listener, LogFile, RngTree, SystemWall};

    /// The kernel's network, in which what is accepted was meant for one app.
    #[derive(Clone)]
    struct Redirected(KernelNet, SocketAddr);

    impl Net for Redirected {
        type Io = TcpStream;
        type Listener = KernelListener;

        async fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> io::Result<TcpStream> {
            self.0.connect(to, None).await
        }

        async fn bind(&self, at: SocketAddr) -> io::Result<KernelListener> {
            self.0.bind(at).await
        }

        async fn orig_dst(&self, _: &mut TcpStream) -> Option<SocketAddr> {
            Some(self.1)
        }

        fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
            self.0.spawn(name, task);
        }
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal";
    const SWITCHING: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

    /// An app that begins to answer and never ends.
    async fn endless_app() -> SocketAddr {
        let mut listener = KernelNet::default().bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local_addr().unwrap();
        KernelNet::default().spawn("app", async move {
            let mut open = Vec::new();
            while let Ok((mut io, _)) = listener.accept().await {
                let mut request = [0; 512];
                let n = io.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                let answer = match () {
                    () if request.contains("/hang") => "",
                    () if request.contains("/ws") => SWITCHING,
                    () if request.contains("/drip") => ANSWER,
                    () => "hi",
                };
                io.write_all(answer.as_bytes()).await.unwrap();
                open.push(io);
            }
        });
        at
    }

    fn config(folder: &Path, into: u16, app: SocketAddr) -> crate::config::Snapshot {
        let (folder, port) = (folder.display(), app.port());
        let text = format!(
            "service = 'orders'\nlisten = {{ outbound = {}, inbound = {into} }}\n\
             timeouts.detect = '50ms'\n[audit]\ndirectory = '{folder}'\nwhen_full = 'block'\n\
             [access_log]\npath = '{folder}/access.log'\n[[inbound]]\nport = {port}\nprotocol = 'detect'",
            into + 1
        );
        crate::config::parse("sidecar.toml", &text).unwrap()
    }

    /// A connection on which this was said, and so much heard.
    async fn opened(into: u16, said: &str, heard: usize) -> TcpStream {
        let mut io = loop {
            match KernelNet::default().connect(([127, 0, 0, 1], into).into(), None).await {
                Ok(io) => break io,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        io.write_all(said.as_bytes()).await.unwrap();
        let mut bytes = vec![0; heard];
        io.read_exact(&mut bytes).await.unwrap();
        io
    }

    #[test]
    fn what_is_cut_at_the_end_has_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        local_runtime().unwrap().block_on(async {
            let app = endless_app().await;
            let into = 9_000 + 2 * (std::process::id() % 400) as u16;
            let sidecar = Sidecar::new(config(folder.path(), into, app), 1);
            let net = Redirected(KernelNet::default(), app);
            let world = |n| World::new(net.clone(), SystemWall, RngTree::new(n));
            let disk = || KernelDisk::open(folder.path()).unwrap();
            let audit = sidecar.audit_queue.lock().unwrap().take().unwrap();
            let metrics = sidecar.metrics.clone();
            let writing = crate::audit::writer::run(world(1).with_disk(disk()), audit, metrics.audit());
            KernelNet::default().spawn("audit", writing);
            let access = sidecar.access_queue.lock().unwrap().take().unwrap();
            let file = LogFile { disk: Arc::new(disk()), name: "access.log".into() };
            let writing = crate::access_log::run(world(2).with_log(file), access, metrics.access_log());
            KernelNet::default().spawn("access", writing);

            let (_signals, watches) = drains();
            let threads = WorkerThreads::default();
            let (failed, _failure) = mpsc::unbounded_channel();
            threads.start(0, world(3), sidecar.clone(), watches, failed).unwrap();
            let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
            let upgrade = get("/ws", "connection: upgrade\r\nupgrade: websocket\r\n");
            let _open = [
                opened(into, &get("/drip", ""), ANSWER.len()).await,
                opened(into, &upgrade, SWITCHING.len()).await,
                opened(into, "\0opaque", 2).await,
                opened(into, &get("/hang", ""), 0).await,
            ];
            let metrics = || sidecar.scrape();
            while !metrics().contains("proxy_requests_total{side=\"inbound\",cluster=\"orders\"} 3") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            threads.cut(&sidecar).await;
            sidecar.write_last_lines().await;
        });
        for name in ["audit.log", "access.log"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), 4, "{name}: {text}");
            for line in text.lines() {
                assert!(line.contains("\"reason\":\"drain\""), "{line}");
            }
        }
    }
}
