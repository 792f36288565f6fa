//! Who is connected when the bundle changes, and what HTTP/1 shares between sidecars.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy::tls::{self, Alpn, Preface, TlsContext, TlsStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, duplex, split};
use tokio::sync::{Barrier, Notify};
use tokio::time::sleep;

use crate::common::authority::{Authority, Issued, now};
use crate::common::*;
use crate::tls::{GET, HOUR, Mesh, OK, ORDERS, STRICT, WEB, mesh, of};

/// Two sidecars, and how the trust of each may change while they are connected.
struct Story {
    authority: Authority,
    stranger: Authority,
    caller: Arc<TlsStore>,
    callee: Arc<TlsStore>,
}

/// What happens to the trust of one of the two.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// The other's certificate is revoked.
    Revoked,
    /// The other's root is gone.
    RootGone,
    /// Nothing: the bundle is the same.
    Same,
}

impl Story {
    fn new() -> Self {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let (caller, callee) = of(&authority);
        Story { authority, stranger, caller, callee }
    }

    /// What is in force for `id` after `change`: its own certificate is good as before.
    fn after(&self, change: Change, id: &str) -> Arc<TlsContext> {
        let taken = now() - HOUR + Duration::from_secs(1);
        let issue = |by: &Authority| by.issue(&[id], now() - HOUR, now() + HOUR);
        match change {
            Change::Same => self.authority.context(id),
            Change::RootGone => {
                self.stranger.context_of(&issue(&self.stranger), id, (&self.stranger.root, None), taken)
            }
            Change::Revoked => {
                let list = self.authority.revoke(&[self.numbered().0]);
                let trust = (&*self.authority.root, Some(&*list));
                self.authority.context_of(&issue(&self.authority), id, trust, taken)
            }
        }
    }

    fn numbered(&self) -> (rcgen::SerialNumber, Issued) {
        self.authority.issue_numbered(WEB)
    }

    /// Gives `id` a certificate whose number the list of [`Change::Revoked`] has.
    fn number(&self, store: &TlsStore, id: &str) {
        let issued = self.authority.issue_numbered(id).1;
        let trust = (&*self.authority.root, None);
        store.replace(self.authority.context_of(&issued, id, trust, now()));
    }

    async fn mesh(&self, app: SocketAddr, more: &str) -> Mesh {
        mesh(app, (self.caller.clone(), self.callee.clone()), ORDERS, (more, STRICT)).await
    }
}

/// Both ends of a connection, and who of them is told of the change: its store and its name.
fn ends(story: &Story) -> [(&Arc<TlsStore>, &'static str, &Arc<TlsStore>, &'static str); 2] {
    [(&story.callee, ORDERS, &story.caller, WEB), (&story.caller, WEB, &story.callee, ORDERS)]
}

#[test]
fn opaque_connections_end_at_once_if_either_end_learns_that_the_other_was_revoked() {
    for end in 0..2 {
        run(async {
            let story = Story::new();
            let (judge, id, other, other_id) = ends(&story)[end];
            story.number(other, other_id);
            let app = app(|_, mut wire| async move {
                loop {
                    wire.bytes(4).await;
                    wire.send("pong").await;
                }
            })
            .await;
            let Mesh { near, .. } = story.mesh(app, "protocol = 'tcp'").await;
            let mut client = near.client().await;
            for change in [Change::Same, Change::Same] {
                client.send("ping").await;
                assert_eq!(client.bytes(4).await, b"pong");
                judge.replace(story.after(change, id));
            }
            judge.replace(story.after(Change::Revoked, id));
            client.closed().await;
        });
    }
}

/// A connection to `side` under TLS whose client has not said its last word of the handshake, if
/// that is `held` until the notification.
async fn half_secured(story: &Story, side: &Side, alpn: Alpn, held: Option<Rc<Notify>>) -> impl Io + use<> {
    let (near, far) = duplex(1 << 16);
    let (mut from_client, mut to_client) = split(far);
    let (mut from_server, mut to_server) = side.client().await.io.into_split();
    spawn(async move {
        let mut hello = vec![0; 1 << 14];
        let length = from_client.read(&mut hello).await.unwrap();
        to_server.write_all(&hello[..length]).await.unwrap();
        if let Some(held) = held {
            held.notified().await;
        }
        let _ = copy(&mut from_client, &mut to_server).await;
    });
    spawn(async move {
        let _ = copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    });
    tls::connect(&story.caller, near, side.at, &ORDERS.parse().unwrap(), alpn).await.unwrap()
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<I: AsyncRead + AsyncWrite + Unpin> Io for I {}

#[test]
fn nobody_gets_in_whose_certificate_was_revoked_before_it_was_known_what_they_want() {
    for (alpn, words) in [(Alpn::Http1, GET.as_bytes().to_vec()), (Alpn::Opaque, preface())] {
        for holds in [true, false] {
            run(async {
                let story = Story::new();
                story.number(&story.caller, WEB);
                let seen = Seen::default();
                let app = seen.app(OK).await;
                let Mesh { far, .. } = story.mesh(app, "").await;
                let held = holds.then(|| Rc::new(Notify::new()));
                let mut client = half_secured(&story, &far, alpn, held.clone()).await;
                sleep(Duration::from_millis(20)).await;
                story.callee.replace(story.after(Change::Revoked, ORDERS));
                held.inspect(|held| held.notify_one());
                let _ = client.write_all(&words).await;
                let read = client.read(&mut [0; 1]).await;
                assert!(!matches!(read, Ok(1..)), "{alpn:?} {holds}");
                far.at_rest().await;
                assert_eq!((seen.connections(), seen.requests()), (0, 0), "{alpn:?} {holds}");
            });
        }
    }
}

/// What begins an opaque connection, and its first bytes.
fn preface() -> Vec<u8> {
    [&Preface::default().encode()[..], GET.as_bytes()].concat()
}

#[test]
fn a_request_under_way_is_answered_although_the_root_is_gone_and_the_next_is_refused() {
    for more in ["", "bridge = false"] {
        for end in 0..2 {
            for change in [Change::Revoked, Change::RootGone] {
                run(async {
                    let story = Story::new();
                    let (judge, id, other, other_id) = ends(&story)[end];
                    story.number(other, other_id);
                    let (asked, answer) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
                    let (heard, may_answer) = (asked.clone(), answer.clone());
                    let app = app(move |_, mut wire| {
                        let (heard, may_answer) = (heard.clone(), may_answer.clone());
                        async move {
                            while wire.request().await.is_some() {
                                heard.notify_one();
                                may_answer.notified().await;
                                wire.send(OK).await;
                            }
                        }
                    })
                    .await;
                    let Mesh { near, .. } = story.mesh(app, more).await;
                    let mut client = near.client().await;
                    client.send(GET).await;
                    asked.notified().await;
                    judge.replace(story.after(change, id));
                    // A client whose certificate was revoked gets nothing more from the server.
                    // A client lets the server finish.
                    let cut = matches!(change, Change::Revoked) && end == 0;
                    if !cut {
                        sleep(Duration::from_millis(20)).await;
                        answer.notify_one();
                    }
                    let status = client.response(false).await.status();
                    assert_eq!(status == 200, !cut, "{more} {end} {change:?}: {status}");
                    let next = near.client().await.ask(GET).await;
                    assert_eq!(next.status(), 503, "{more} {end} {change:?}: {next:?}");
                });
            }
        }
    }
}

#[test]
fn http1_requests_between_sidecars_share_a_connection_unless_the_configuration_says_otherwise() {
    for (more, connections) in [("", 1), ("bridge = true", 1), ("bridge = false", 2)] {
        run(async {
            // Both are under way at one time.
            let both = Rc::new(Barrier::new(2));
            let app = app(move |_, mut wire| {
                let both = both.clone();
                async move {
                    let request = wire.request().await.unwrap();
                    assert!(request.head.starts_with("GET / HTTP/1.1\r\n"), "{}", request.head);
                    both.wait().await;
                    wire.send(OK).await;
                }
            })
            .await;
            let Mesh { near, far } = Story::new().mesh(app, more).await;
            let ask = async || near.client().await.ask(GET).await.status();
            assert_eq!(tokio::join!(ask(), ask()), (200, 200));
            assert_eq!(far.count("proxy_tls_handshakes_total", &["accepted"]), connections, "{more}");
        });
    }
}
