//! Requests of HTTP/2 on their way through an app's sidecar to an app of HTTP/1, as the calling
//! sidecar's bridge sends them and as nobody should: what the app reads, against
//! [`reference::read`].

mod frames;
mod generate;
mod reference;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use frames::{Answer, Sent};
use proxy::balance::Table;
use proxy::drain;
use proxy::inbound::{self, Inbound};
use proxy::telemetry::Metrics;
use proxy::world::{AfterFin, KernelNet, Listener, Net, RngTree, SystemWall, Transport, World};
use reference::{Fields, Request, Verdict};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{Instant, sleep};

use crate::generate::Chance;
use crate::pieces::{Pieces, cuts};
use crate::reference::{Body, End, Message, messages};

/// How long the client waits for its answers: longer than a body waits for `100 Continue`.
const SILENCE: Duration = Duration::from_secs(4);
/// How long everything together may take.
const ENOUGH: Duration = Duration::from_secs(400);

/// Checks one connection of requests.
pub fn check(seed: u64) {
    let mut chance = Chance::new(seed);
    let sent = generate::requests(&mut chance);
    let bytes = frames::bytes(&sent);
    let torn = cuts(chance.next() as u8, bytes.len());
    check_sent(&sent, &bytes, &[]);
    check_sent(&sent, &bytes, &torn);
}

fn check_sent(sent: &[Sent], bytes: &[u8], cuts: &[usize]) {
    let verdicts = reference::read(sent);
    let (apps, written) = run(bytes, cuts);
    let (answers, over) = frames::answers(&written);
    let what = || {
        let apps: Vec<_> = apps.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        format!(
            "sent {sent:#?}\ncut at {cuts:?}\nverdicts {verdicts:#?}\napps {apps:#?}\nanswers {answers:#?} {over:?}"
        )
    };
    let mut arrived = BTreeMap::new();
    for bytes in &apps {
        let (requests, end) = messages(bytes);
        assert!(matches!(end, End::Between | End::Short), "no request, {end:?}: {}", what());
        for message in requests {
            let stream = stream_of(&message).unwrap_or_else(|| panic!("whose is {message:?}? {}", what()));
            let is_whole = matches!(message.asked.body, Body::Whole(_));
            if is_whole && arrived.insert(stream, seen(message.clone())).is_some() {
                panic!("{stream} arrived twice: {}", what());
            }
            let verdict =
                verdicts.get(&stream).unwrap_or_else(|| panic!("who asked for {stream}? {}", what()));
            let may_begin = !matches!(verdict, Verdict::Refused { before_its_body: true, .. });
            assert!(may_begin, "a part of {stream} arrived: {}", what());
        }
    }
    for (stream, verdict) in &verdicts {
        let answer = answers.get(stream).copied().unwrap_or_default();
        judge(verdict, arrived.remove(stream), answer, over.is_some())
            .unwrap_or_else(|wrong| panic!("{stream} {wrong}: {}", what()));
    }
    assert!(arrived.is_empty(), "{arrived:?} were smuggled: {}", what());
}

/// Whether what arrived and what was answered are as they must be.
fn judge(
    verdict: &Verdict,
    arrived: Option<Request>,
    answer: Answer,
    is_over: bool,
) -> Result<(), &'static str> {
    let is_answered = answer.status == Some(200) && answer.is_ended;
    let is_refused = answer.is_reset || answer.status.is_some_and(|status| (400..600).contains(&status));
    match (verdict, arrived) {
        (Verdict::Arrives(asked), Some(arrived)) if arrived != *asked => Err("arrived as another"),
        (Verdict::MayArrive(asked), Some(arrived)) if !arrived.says_the_same_as(asked) => {
            Err("arrived as another")
        }
        (Verdict::Arrives(_), None) => Err("did not arrive"),
        (Verdict::Arrives(_), Some(_)) if !is_answered => Err("got no answer"),
        (Verdict::Refused { .. } | Verdict::Unfinished, Some(_)) => Err("should not have arrived"),
        (Verdict::Refused { .. } | Verdict::Unfinished, None) if answer.status == Some(200) => {
            Err("was answered by nobody knows whom")
        }
        (Verdict::Refused { is_told: true, .. }, None) if !is_refused && !is_over => {
            Err("was not told that it was refused")
        }
        _ => Ok(()),
    }
}

fn stream_of(message: &Message) -> Option<u32> {
    let (_, stream) = message.fields.iter().find(|(name, _)| name == "x-stream")?;
    std::str::from_utf8(stream).ok()?.parse().ok()
}

/// A request that arrived, without what the sidecar says on its own account.
fn seen(message: Message) -> Request {
    let by_name = |fields: crate::reference::Fields| {
        let mut map = Fields::new();
        for (name, value) in fields {
            map.entry(name).or_default().push(value);
        }
        map
    };
    let (mut fields, trailers) = (by_name(message.fields), by_name(message.trailers));
    let is_chunked = fields.contains_key("transfer-encoding");
    // A UUID, where the client has given no other.
    if fields.get("x-request-id").is_some_and(|ids| ids.len() == 1 && ids[0].len() == 36) {
        fields.remove("x-request-id");
    }
    if fields.get("content-length").is_some_and(|lengths| lengths[..] == [b"0"]) {
        fields.remove("content-length");
    }
    let body = match message.asked.body {
        Body::Whole(body) => body,
        Body::Short | Body::Broken | Body::Untrailed(_) => unreachable!("it is whole"),
    };
    let (method, target) = (message.asked.method, message.asked.target);
    Request { method, target, fields, body, trailers, is_chunked }
}

/// What each connection of the app read, and what the client got.
fn run(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let options = LocalOptions::default();
    let runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build_local(options).unwrap();
    let net = Memory::default();
    let (client, written) = Pieces::of_a_client(bytes, cuts);
    let client = Wire::Client(client.leaving_after(SILENCE));
    runtime.block_on(async {
        let snapshot =
            proxy::config::parse("sidecar.toml", "service = 'orders'\ninstance = 'orders-1'").unwrap();
        let metrics = Arc::new(Metrics::default());
        let table = Arc::new(Table::new(Arc::new(snapshot), None, &metrics, Instant::now()));
        let world = World::new(net.clone(), SystemWall, RngTree::new(1));
        let side = Inbound::new(&world, None, Arc::new(ArcSwap::new(table)), metrics);
        let (_signal, watch) = drain::channel();
        let peer = SocketAddr::from(([10, 0, 0, 1], 40_000));
        tokio::select! {
            () = inbound::carry(side, client, peer, watch) => {}
            () = sleep(ENOUGH) => panic!("it goes on when its client has left"),
        }
        // What was begun ends.
        sleep(SILENCE).await;
    });
    let apps = net.apps.borrow().iter().map(|read| read.lock().unwrap().clone()).collect();
    let written = written.lock().unwrap().clone();
    (apps, written)
}

/// What a connection has read.
type Read = Arc<Mutex<Vec<u8>>>;

/// A network in which every connection leads to the app.
#[derive(Clone, Default)]
struct Memory {
    apps: Rc<RefCell<Vec<Read>>>,
}

impl Net for Memory {
    type Io = Wire;
    type Listener = Deaf;

    async fn connect(&self, _: SocketAddr, _: Option<IpAddr>) -> io::Result<Wire> {
        let app = App::default();
        self.apps.borrow_mut().push(app.read.clone());
        Ok(Wire::App(app))
    }

    async fn bind(&self, _: SocketAddr) -> io::Result<Deaf> {
        Ok(Deaf)
    }

    async fn orig_dst(&self, _: &mut Wire) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, 2], 80)))
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        KernelNet::default().spawn(name, task);
    }
}

/// A listener to which nobody comes.
struct Deaf;

impl Listener for Deaf {
    type Io = Wire;

    async fn accept(&mut self) -> io::Result<(Wire, SocketAddr)> {
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Either end of the sidecar.
enum Wire {
    Client(Pieces),
    App(App),
}

/// A connection of an app that answers each request as soon as it is whole.
#[derive(Default)]
struct App {
    read: Read,
    answered: usize,
    says: VecDeque<u8>,
    reader: Option<Waker>,
}

impl App {
    fn hear(&mut self, bytes: &[u8]) {
        let mut read = self.read.lock().unwrap();
        read.extend_from_slice(bytes);
        let (requests, _) = messages(&read);
        let whole = requests.iter().filter(|message| matches!(message.asked.body, Body::Whole(_))).count();
        for _ in self.answered..whole {
            self.says.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
        self.answered = whole;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Transport for Wire {
    fn abort(&mut self) {}

    fn behind_fin(&self) -> AfterFin {
        AfterFin::Unknown
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Client(client) => Pin::new(client).poll_read(cx, buf),
            Wire::App(app) if app.says.is_empty() => {
                app.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Wire::App(app) => {
                let n = app.says.len().min(buf.remaining());
                buf.put_slice(&app.says.drain(..n).collect::<Vec<_>>());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Client(client) => Pin::new(client).poll_write(cx, buf),
            Wire::App(app) => {
                app.hear(buf);
                Poll::Ready(Ok(buf.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
