//! `app = { registry = {} }`: the built-in registry. It has as much of etcd's HTTP and JSON as a
//! sidecar asks for, so that discovery and registration can be simulated. On the kernel a real etcd
//! stands in its place.
//!
//! Ranges, puts, deletions, leases and watches of one prefix each, with one revision for every
//! change, a history that watches resume from, and compaction. Its [`RegistryData`] outlives the
//! process, as etcd's data does: after a restart keys and leases are there, and each lease has its
//! whole time again (etcd's lessor does the same, because it cannot know how long it was gone).
//! Answers have the same shape as those of etcd 3.4, numbers as text included.
//!
//! What it leaves out: transactions, several members, and everything else that a sidecar does not
//! ask for.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::world::Net;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serde_spanned::Spanned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::kind::{App, ForeignCommand, ForeignProgram, Place, Server, Start};
use super::metrics::{AppCounters, bump};
use super::store::{CLUSTER_ID, Change, Lease, NONSENSE, Refusal, RegistryData, Store, Stored};
use crate::syntax::diagnose::Mistake;

/// How often leases are looked at, as etcd's lessor does.
const LEASE_CHECK: Duration = Duration::from_millis(500);
/// The program that is a registry on the kernel.
pub const ETCD: &str = "etcd";
/// Its Debian package.
pub const ETCD_PACKAGE: &str = "etcd-server";
/// Where it would listen for other members.
const ETCD_PEER_PORT: u16 = 2380;

/// `registry = {}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryTable {}

/// A registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registry {}

impl App for Registry {
    type Table = RegistryTable;
    type Server = RegistryServer;

    const EXAMPLE: &'static str = "{ registry = {} }";

    fn resolve(_: &Spanned<RegistryTable>, _: &mut Vec<Mistake>) -> Option<Self> {
        Some(Registry {})
    }

    fn server<N: Net>(&self, start: Start<'_, N>) -> io::Result<RegistryServer> {
        Ok(RegistryServer::new(start.data, start.counters))
    }

    fn foreign(&self) -> Option<&dyn ForeignProgram> {
        Some(self)
    }
}

impl ForeignProgram for Registry {
    fn name(&self) -> &str {
        ETCD
    }

    fn package(&self) -> Option<&'static str> {
        Some(ETCD_PACKAGE)
    }

    fn keeps_data(&self) -> bool {
        true
    }

    fn command(&self, place: &Place<'_>) -> ForeignCommand {
        let &Place { instance, address, port, data } = place;
        let listen = format!("http://0.0.0.0:{port}");
        let reach = format!("http://{address}:{port}");
        // For other members, of which there are none: out of the way, on loopback.
        let peers = format!("http://127.0.0.1:{ETCD_PEER_PORT}");
        let cluster = format!("{instance}={peers}");
        let arguments = [
            ("--name", instance),
            ("--listen-client-urls", &listen),
            ("--advertise-client-urls", &reach),
            ("--listen-peer-urls", &peers),
            ("--initial-advertise-peer-urls", &peers),
            ("--initial-cluster", &cluster),
            ("--log-level", "warn"),
        ];
        let mut argv: Vec<OsString> = vec![ETCD.into(), "--data-dir".into(), data.into()];
        argv.extend(arguments.iter().flat_map(|(option, value)| [option.into(), value.into()]));
        ForeignCommand { argv, env: Vec::new() }
    }
}

/// The registry, shared by its connections.
pub struct RegistryServer {
    store: Rc<RefCell<Store>>,
    /// Its last revision, for watches.
    revision: watch::Sender<i64>,
    counters: Rc<AppCounters>,
}

type Endless = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>>>>;
type Body = Either<Full<Bytes>, StreamBody<Endless>>;

impl Server for RegistryServer {
    const TASK: &'static str = "app-registry";

    async fn connection<I: AsyncRead + AsyncWrite + Unpin + 'static>(self: Rc<Self>, io: I) {
        let service = service_fn(|request| async {
            bump(&self.counters.requests);
            Ok::<_, Infallible>(self.answer(request).await)
        });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    /// Ends leases when their time is over.
    async fn background(&self) {
        loop {
            sleep(LEASE_CHECK).await;
            let now = Instant::now();
            let mut store = self.store.borrow_mut();
            let over: Vec<i64> =
                store.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
            for lease in over {
                let _ = store.end_lease(lease);
            }
            self.tell(&store);
        }
    }
}

impl RegistryServer {
    /// A registry that starts on what `data` holds.
    fn new(data: RegistryData, counters: Rc<AppCounters>) -> Self {
        let mut store = data.0.borrow_mut();
        // A new etcd has revision 1.
        store.revision = store.revision.max(1);
        let now = Instant::now();
        for lease in store.leases.values_mut() {
            lease.ends = now + Duration::from_secs(lease.ttl);
        }
        let revision = watch::Sender::new(store.revision);
        drop(store);
        RegistryServer { store: data.0, revision, counters }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let Ok(body) = request.into_body().collect().await else { return refuse(NONSENSE) };
        let Ok(asked) = serde_json::from_slice::<Value>(&body.to_bytes()) else { return refuse(NONSENSE) };
        if path == "/v3/watch" {
            return self.watch(&asked["create_request"]).unwrap_or_else(refuse);
        }
        match self.call(&path, &asked) {
            Ok(answer) => Response::new(Either::Left(Full::from(format!("{answer}\n")))),
            Err(refusal) => refuse(refusal),
        }
    }

    fn call(&self, path: &str, asked: &Value) -> Result<Value, Refusal> {
        let mut store = self.store.borrow_mut();
        let answer = match path {
            "/v3/kv/range" => {
                let (from, to) = span(asked)?;
                let found = store.keys.iter().filter(|(key, _)| within(key, &from, &to));
                let kv = |(key, stored): (&Vec<u8>, &Stored)| json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(&stored.value), "lease": stored.lease.to_string() });
                let kvs: Vec<Value> = found.map(kv).collect();
                let count = kvs.len().to_string();
                match asked["count_only"].as_bool() {
                    Some(true) => json!({ "header": store.header(), "count": count }),
                    _ => json!({ "header": store.header(), "kvs": kvs, "count": count }),
                }
            }
            "/v3/kv/put" => {
                store.put(bytes(&asked["key"])?, bytes(&asked["value"])?, number(&asked["lease"])?)?;
                json!({ "header": store.header() })
            }
            "/v3/kv/deleterange" => {
                let (from, to) = span(asked)?;
                let count = store.delete(|key, _| within(key, &from, &to));
                json!({ "header": store.header(), "deleted": count.to_string() })
            }
            "/v3/lease/grant" => {
                let ttl = u64::try_from(number(&asked["TTL"])?).map_err(|_| NONSENSE)?.max(2);
                store.last_lease += 1;
                let id = store.last_lease;
                store.leases.insert(id, Lease { ttl, ends: Instant::now() + Duration::from_secs(ttl) });
                json!({ "header": store.header(), "ID": id.to_string(), "TTL": ttl.to_string() })
            }
            "/v3/lease/keepalive" => {
                let id = number(&asked["ID"])?;
                let header = store.header();
                let renewed = store.leases.get_mut(&id).map(|lease| {
                    lease.ends = Instant::now() + Duration::from_secs(lease.ttl);
                    lease.ttl.to_string()
                });
                match renewed {
                    Some(ttl) => {
                        json!({ "result": { "header": header, "ID": id.to_string(), "TTL": ttl } })
                    }
                    // What is zero is left out.
                    None => json!({ "result": { "header": header, "ID": id.to_string() } }),
                }
            }
            "/v3/lease/revoke" => {
                store.end_lease(number(&asked["ID"])?)?;
                json!({ "header": store.header() })
            }
            "/v3/kv/compaction" => {
                let at = number(&asked["revision"])?.min(store.revision);
                store.compacted = store.compacted.max(at);
                store.history.retain(|change| change.revision > at);
                json!({ "header": store.header() })
            }
            _ => return Err((StatusCode::NOT_FOUND, 12, "Not Found")),
        };
        self.tell(&store);
        Ok(answer)
    }

    fn watch(&self, asked: &Value) -> Result<Response<Body>, Refusal> {
        let (from, to) = span(asked)?;
        let store = self.store.borrow();
        let next = match number(&asked["start_revision"])? {
            0 => store.revision + 1,
            start => start,
        };
        let created = json!({ "result": { "header": store.header(), "created": true } });
        // Watching from what was forgotten, or from the revision that the compaction kept, is a
        // difference of one.
        let compacted = (next <= store.compacted).then(|| {
            let compact_revision = store.compacted.to_string();
            json!({ "result": { "header": { "cluster_id": CLUSTER_ID }, "canceled": true, "compact_revision": compact_revision } })
        });
        drop(store);
        let feed = Feed {
            first: Some(created),
            last: compacted,
            next,
            span: (from, to),
            store: self.store.clone(),
            revision: self.revision.subscribe(),
        };
        let lines: Endless = Box::pin(unfold(feed, Feed::step));
        Ok(Response::new(Either::Right(StreamBody::new(lines))))
    }

    /// Wakes the watches up.
    fn tell(&self, store: &Store) {
        self.revision
            .send_if_modified(|revision| std::mem::replace(revision, store.revision) != store.revision);
    }
}

/// A watch under way.
struct Feed {
    first: Option<Value>,
    /// What ends it, if it must end.
    last: Option<Value>,
    /// The first revision that was not told yet.
    next: i64,
    span: (Vec<u8>, Vec<u8>),
    store: Rc<RefCell<Store>>,
    revision: watch::Receiver<i64>,
}

impl Feed {
    /// The next line, and what follows it.
    async fn step(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Feed)> {
        if let Some(line) = self.first.take() {
            return Some((frame(&line), self));
        }
        if let Some(line) = self.last.take() {
            self.next = i64::MAX;
            return Some((frame(&line), self));
        }
        if self.next == i64::MAX {
            return None;
        }
        loop {
            if let Some(line) = self.news() {
                return Some((frame(&line), self));
            }
            self.revision.changed().await.ok()?;
        }
    }

    /// The changes of one revision, the first with any.
    fn news(&mut self) -> Option<Value> {
        let store = self.store.borrow();
        let (from, to) = &self.span;
        let seen = |change: &&Change| change.revision >= self.next && within(&change.key, from, to);
        let revision = store.history.iter().find(seen).map(|change| change.revision);
        let Some(revision) = revision else {
            self.next = self.next.max(store.revision + 1);
            return None;
        };
        let event = |change: &Change| {
            let (key, mod_revision) = (STANDARD.encode(&change.key), revision.to_string());
            match &change.value {
                Some(value) => {
                    let value = STANDARD.encode(value);
                    json!({ "kv": { "key": key, "mod_revision": mod_revision, "value": value } })
                }
                None => json!({ "type": "DELETE", "kv": { "key": key, "mod_revision": mod_revision } }),
            }
        };
        let events: Vec<Value> = store
            .history
            .iter()
            .filter(|change| change.revision == revision && within(&change.key, from, to))
            .map(event)
            .collect();
        let header = json!({ "cluster_id": CLUSTER_ID, "revision": revision.to_string() });
        self.next = revision + 1;
        Some(json!({ "result": { "header": header, "events": events } }))
    }
}

fn frame(line: &Value) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(format!("{line}\n"))))
}

fn refuse((status, code, message): Refusal) -> Response<Body> {
    let text = json!({ "error": message, "message": message, "code": code }).to_string();
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = status;
    response
}

/// Whether a key is in a span; an empty end means one key, a zero byte all that follow.
fn within(key: &[u8], from: &[u8], to: &[u8]) -> bool {
    match to {
        [] => key == from,
        [0] => key >= from,
        _ => key >= from && key < to,
    }
}

fn span(asked: &Value) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    Ok((bytes(&asked["key"])?, bytes(&asked["range_end"])?))
}

/// Bytes in base64; what is left out is empty.
fn bytes(value: &Value) -> Result<Vec<u8>, Refusal> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => STANDARD.decode(text).map_err(|_| NONSENSE),
        _ => Err(NONSENSE),
    }
}

/// A number, as text or not; what is left out is zero.
fn number(value: &Value) -> Result<i64, Refusal> {
    match value {
        Value::Null => Ok(0),
        Value::String(text) => text.parse().map_err(|_| NONSENSE),
        other => other.as_i64().ok_or(NONSENSE),
    }
}
