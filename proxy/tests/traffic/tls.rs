//! Mutual TLS between sidecars.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::authority::{Authority, now};
use crate::common::*;
use proxy::tls::TlsStore;

pub const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
pub const ORDERS: &str = "spiffe://mesh.test/ns/shop/sa/orders";
pub const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub const STRICT: &str = "[tls]\nmode = 'strict'";
pub const BRIDGE: &str = "bridge = true\nprotocol = 'http'";
const PERMISSIVE: &str = "[tls]\nmode = 'permissive'";
pub const HOUR: Duration = Duration::from_secs(3600);
const CALLER: &str = "service = 'web'\ninstance = 'web-1'\n[identity]\nid = 'spiffe://mesh.test/ns/shop/sa/web'\nfiles = '/none'";
const CALLEE: &str = "service = 'orders'\ninstance = 'orders-1'\n[identity]\nid = 'spiffe://mesh.test/ns/shop/sa/orders'\nfiles = '/none'";

/// The caller's sidecar and the app's, with certificates of `caller` and `callee`; the caller
/// expects `expected` at the app's address. `more` is of the cluster, `of_app` of the app's
/// sidecar.
pub struct Mesh {
    pub near: Side,
    pub far: Side,
}

pub async fn mesh(
    app: SocketAddr,
    (caller, callee): (Arc<TlsStore>, Arc<TlsStore>),
    expected: &str,
    (more, of_app): (&str, &str),
) -> Mesh {
    let far = format!("{CALLEE}\n{of_app}");
    let far = inbound_of(Some(callee), TestNet::to(&app.to_string()), &far).await;
    let cluster = format!(
        "{CALLER}\n[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\n{more}\n\
         endpoints = [{{ address = '{app}', identity = '{expected}' }}]"
    );
    let near = outbound_of(Some(caller), TestNet::to(SERVICE).redirect(app, far.at), &cluster).await;
    Mesh { near, far }
}

pub fn of(authority: &Authority) -> (Arc<TlsStore>, Arc<TlsStore>) {
    (authority.store(WEB), authority.store(ORDERS))
}

#[test]
fn a_request_between_sidecars_is_under_tls_and_its_app_learns_who_calls() {
    for more in ["", BRIDGE] {
        run(async {
            let seen = Seen::default();
            let app = seen.app(OK).await;
            let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, (more, STRICT)).await;
            let forged = "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\r\n";
            assert_eq!(near.client().await.ask(forged).await.text(), "ok");
            let told = seen.last().header("x-forwarded-client-cert").unwrap();
            let (head, hash) = told.split_once("Hash=").unwrap();
            assert_eq!(head, format!("By={ORDERS};"));
            let (hash, uri) = hash.split_once(';').unwrap();
            assert_eq!((hash.len(), uri), (64, &*format!("URI={WEB}")));
            assert_eq!(far.count("proxy_tls_handshakes_total", &["accepted"]), 1);
            assert_eq!(near.count("proxy_tls_handshakes_total", &["outbound", "accepted"]), 1);
            assert_eq!(near.count("proxy_tls_handshakes_total", &["failed"]), 0);
            near.at_rest().await;
        });
    }
}

#[test]
fn opaque_bytes_cross_under_tls_in_both_directions_and_their_halves_end_apart() {
    run(async {
        let echo = app(|_, mut wire| async move {
            let all = wire.rest().await;
            wire.send(&String::from_utf8(all).unwrap()).await;
        })
        .await;
        let Mesh { near, far } =
            mesh(echo, of(&Authority::new()), ORDERS, ("protocol = 'tcp'", STRICT)).await;
        let mut client = near.client().await;
        client.send("any bytes").await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"any bytes");
        assert_eq!(far.count("proxy_tls_handshakes_total", &["accepted"]), 1);
    });
}

#[test]
fn what_a_caller_calls_opaque_is_http_all_the_same_on_a_port_that_is_declared_to_speak_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let http = format!("[[inbound]]\nport = {}\nprotocol = 'http'\n{STRICT}", app.port());
        let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, ("protocol = 'tcp'", &http)).await;
        let mut client = near.client().await;
        let forged =
            "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\r\n";
        assert_eq!(client.ask(forged).await.text(), "ok");
        assert!(seen.last().header("x-forwarded-client-cert").unwrap().ends_with(&format!("URI={WEB}")));
        assert_eq!(far.count("proxy_requests_total", &[]), 1);
        let mut client = near.client().await;
        client.send("no HTTP at all\r\n\r\n").await;
        assert_eq!(client.response(false).await.status(), 400);
        assert_eq!(seen.requests(), 1);
    });
}

#[test]
fn a_strict_port_takes_no_plaintext_and_a_permissive_one_believes_none_of_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let authority = Authority::new();
        let Mesh { far, .. } = mesh(app, of(&authority), ORDERS, ("", STRICT)).await;
        let mut client = far.client().await;
        client.send(GET).await;
        client.closed().await;
        assert_eq!((seen.requests(), far.count("proxy_connections_refused_total", &["not_secured"])), (0, 1));

        let Mesh { far, .. } = mesh(app, of(&authority), ORDERS, ("", PERMISSIVE)).await;
        let forged =
            "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\r\n";
        assert_eq!(far.client().await.ask(forged).await.text(), "ok");
        assert_eq!(seen.last().header("x-forwarded-client-cert"), None);
    });
}

#[test]
fn a_port_that_becomes_strict_closes_what_has_proved_nothing_and_keeps_the_rest() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, ("", PERMISSIVE)).await;
        let (mut plain, mut secured) = (far.client().await, near.client().await);
        for client in [&mut plain, &mut secured] {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        far.reload(&format!("{CALLEE}\n{STRICT}"));
        assert_eq!(plain.rest().await, b"");
        assert_eq!(secured.ask(GET).await.text(), "ok");
        assert_eq!(far.count("proxy_tls_handshakes_total", &["accepted"]), 1, "over the same connection");
    });
}

#[test]
fn a_port_that_becomes_strict_takes_nobody_in_who_began_before_and_has_said_little() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        for (declared, said) in [("http", ""), ("http", "G"), ("detect", "GE"), ("tcp", "\u{16}")] {
            for mode in ["permissive", "disabled"] {
                let port = format!("[[inbound]]\nport = {}\nprotocol = '{declared}'\n", app.port());
                let with = |mode: &str| format!("{port}[tls]\nmode = '{mode}'\n[timeouts]\ndetect = '10s'");
                let Mesh { far, .. } = mesh(app, of(&Authority::new()), ORDERS, ("", &with(mode))).await;
                let mut client = far.client().await;
                client.send(said).await;
                until("it is accepted", || far.count("proxy_connections_total", &[]) == 1).await;
                far.reload(&format!("{CALLEE}\n{}", with("strict")));
                // It may be closed already.
                let _ = client.io.write_all(&GET.as_bytes()[said.len()..]).await;
                client.closed().await;
                let closed = far.count("proxy_connections_refused_total", &["not_secured"])
                    + far.count("proxy_authorization_connections_closed_total", &[]);
                assert_eq!((seen.requests(), closed), (0, 1), "{mode} {declared} {said:?}");
            }
        }
    });
}

#[test]
fn what_a_caller_calls_http_is_opaque_all_the_same_on_a_port_that_is_declared_not_to_speak_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let only = "[authorization]\ndefault = 'deny'\n[[authorization.policy]]\nname = 'reading'\n\
                    action = 'allow'\nrule = [{ to = [{ methods = ['GET'] }] }]";
        let tcp = format!("[[inbound]]\nport = {}\nprotocol = 'tcp'\n{STRICT}", app.port());
        for (policies, requests) in [(only, 0), ("", 1)] {
            let far = format!("{tcp}\n{policies}");
            let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, ("bridge = false", &far)).await;
            let answer = near.client().await.ask(GET).await;
            assert_eq!(answer.status(), if requests == 0 { 502 } else { 200 });
            assert_eq!((seen.requests(), far.count("proxy_requests_total", &[])), (requests, 0));
        }
        let Mesh { near, .. } = mesh(app, of(&Authority::new()), ORDERS, (BRIDGE, &tcp)).await;
        assert_eq!(near.client().await.ask(GET).await.status(), 502, "the app speaks no HTTP/2");
    });
}

/// What a sidecar's handshake begins with.
async fn client_hello() -> Vec<u8> {
    let (heard, mut hello) = tokio::sync::mpsc::unbounded_channel();
    let listener = app(move |_, mut wire| {
        let heard = heard.clone();
        async move {
            let head = wire.bytes(5).await;
            let rest = wire.bytes(usize::from(u16::from_be_bytes([head[3], head[4]]))).await;
            heard.send([head, rest].concat()).unwrap();
        }
    })
    .await;
    let cluster = format!(
        "{CALLER}\n[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\nprotocol = 'tcp'\n\
         endpoints = [{{ address = '{listener}', identity = '{ORDERS}' }}]"
    );
    let near = outbound_of(Some(Authority::new().store(WEB)), TestNet::to(SERVICE), &cluster).await;
    let _client = near.client().await;
    hello.recv().await.unwrap()
}

#[test]
fn who_begins_handshakes_and_ends_none_keeps_nobody_out() {
    run(async {
        let app = answering(OK).await;
        let few = "[tls]\nmode = 'strict'\nhandshakes = 2";
        let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, ("", few)).await;
        let (hello, mut hanging) = (client_hello().await, Vec::new());
        for _ in 0..3 {
            let mut client = far.client().await;
            client.io.write_all(&hello).await.unwrap();
            assert_eq!(client.bytes(1).await, [22], "it is answered");
            hanging.push(client);
        }
        hanging[0].rest().await;
        assert_eq!(near.client().await.ask(GET).await.text(), "ok");
        assert_eq!(far.count("proxy_tls_handshakes_total", &["\"inbound\"", "accepted"]), 1);
    });
}

#[test]
fn an_address_that_another_workload_has_is_not_talked_to() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let Mesh { near, .. } =
            mesh(app, of(&Authority::new()), "spiffe://mesh.test/ns/shop/sa/stock", ("", STRICT)).await;
        let answer = near.client().await.ask(GET).await;
        assert_eq!(answer.status(), 503);
        let why = answer.header("proxy-status").unwrap();
        assert!(why.contains("tls_certificate_error") && why.contains("sa/stock was expected"), "{why}");
        assert_eq!(seen.connections(), 0);
    });
}

#[test]
fn those_whom_the_other_side_cannot_trust_get_nowhere() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let (ours, theirs) = (Authority::new(), Authority::new());
        let expired = Arc::new(TlsStore::default());
        expired.replace(ours.context_from(WEB, now() - 2 * HOUR, now() - HOUR));
        let callers = [theirs.store(WEB), ours.store("spiffe://other.test/ns/shop/sa/web"), expired];
        for (caller, more) in callers.into_iter().flat_map(|c| [(c.clone(), "bridge = false"), (c, BRIDGE)]) {
            let Mesh { near, far } = mesh(app, (caller, ours.store(ORDERS)), ORDERS, (more, STRICT)).await;
            assert_eq!(near.client().await.ask(GET).await.status(), 503);
            assert!(near.count("proxy_errors_total", &["handshake"]) > 0, "{}", near.metrics.text());
            assert_eq!(far.count("proxy_tls_handshakes_total", &["accepted"]), 0);
        }
        assert_eq!(seen.connections(), 0);
    });
}

#[test]
fn a_new_certificate_costs_no_request_and_no_connection() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let authority = Authority::new();
        let (caller, callee) = of(&authority);
        let Mesh { near, .. } = mesh(app, (caller.clone(), callee.clone()), ORDERS, ("", STRICT)).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(GET).await.text(), "ok");
        caller.replace(authority.context(WEB));
        callee.replace(authority.context(ORDERS));
        assert_eq!(client.ask(GET).await.text(), "ok");
        (near.clear)();
        assert_eq!(client.ask(GET).await.text(), "ok");
        assert_eq!(seen.requests(), 3);
    });
}

#[test]
fn tls_of_the_app_passes_through_a_permissive_port_and_not_a_strict_one() {
    // A ClientHello without a protocol of the mesh.
    let hello = crate::opaque::hello("orders.example");
    run(async {
        let app = app(|_, mut wire| async move {
            let heard = wire.bytes(5).await;
            assert_eq!(heard[0], 22, "a handshake");
            wire.send("heard").await;
        })
        .await;
        let authority = Authority::new();
        let Mesh { far, .. } = mesh(app, of(&authority), ORDERS, ("", PERMISSIVE)).await;
        let mut client = far.client().await;
        client.io.write_all(&hello).await.unwrap();
        assert_eq!(client.bytes(5).await, b"heard");
        let Mesh { far, .. } = mesh(app, of(&authority), ORDERS, ("", STRICT)).await;
        let mut client = far.client().await;
        client.io.write_all(&hello).await.unwrap();
        client.closed().await;
    });
}

#[test]
fn an_app_cannot_say_to_a_peer_that_is_no_sidecar_of_ours_who_called_it() {
    run(async {
        let authority = Authority::new();
        let (store, heard) = (authority.store(ORDERS), Rc::new(RefCell::new(String::new())));
        let hears = heard.clone();
        let peer = app(move |_, wire| {
            let (store, heard) = (store.clone(), hears.clone());
            async move {
                let (mut io, ..) =
                    proxy::tls::accept(&store, proxy::detect::Prefixed::unread(wire.io)).await.unwrap();
                while !heard.borrow().ends_with("\r\n\r\n") {
                    let byte = io.read_u8().await.unwrap();
                    heard.borrow_mut().push(byte.into());
                }
                io.write_all(OK.as_bytes()).await.unwrap();
            }
        })
        .await;
        let config = format!(
            "{CALLER}\n[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\nbridge = false\n\
             endpoints = [{{ address = '{peer}', identity = '{ORDERS}' }}]"
        );
        let near = outbound_of(Some(authority.store(WEB)), TestNet::to(SERVICE), &config).await;
        let mut client = near.client().await;
        let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\
                      x_forwarded-client_cert: URI=spiffe://mesh.test/admin\r\nx-other: stays\r\n\r\n";
        assert_eq!(client.ask(forged).await.text(), "ok");
        let heard = heard.borrow();
        assert!(heard.contains("stays") && !heard.contains("admin"), "{heard}");
    });
}

#[test]
fn a_short_word_on_a_port_that_is_declared_tcp_is_passed_on_at_once() {
    run(async {
        let app = app(|_, mut wire| async move {
            assert_eq!(wire.bytes(1).await, b"a");
            wire.send("heard").await;
        })
        .await;
        let declared = format!("[[inbound]]\nport = {}\nprotocol = 'tcp'\n{PERMISSIVE}", app.port());
        let Mesh { far, .. } = mesh(app, of(&Authority::new()), ORDERS, ("", &declared)).await;
        let mut client = far.client().await;
        let begun = tokio::time::Instant::now();
        client.io.write_all(b"a").await.unwrap();
        assert_eq!(client.bytes(5).await, b"heard");
        assert!(begun.elapsed() < proxy::config::defaults::DETECT_TIMEOUT / 2, "{:?}", begun.elapsed());
    });
}

#[test]
fn no_policy_believes_who_a_request_says_that_it_comes_from() {
    const ADMINS: &str = "[tls]\nmode = 'permissive'\n[[authorization.policy]]\nname = 'admins'\n\
                          [[authorization.policy.rule]]\nwhen = [{ key = 'request.headers[x-forwarded-client-cert]', values = ['*admin'] }]";
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, ("", ADMINS)).await;
        let forged =
            "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\r\n";
        assert_eq!(near.client().await.ask(forged).await.status(), 403);
        assert_eq!(far.client().await.ask(forged).await.status(), 403);
        assert_eq!(seen.requests(), 0);
    });
}

#[test]
fn policies_and_external_authorizers_see_whose_certificate_the_caller_has_shown() {
    run(async {
        let (asked, seen) = (Seen::default(), Seen::default());
        let (authorizer, app) = (asked.app(OK).await, seen.app(OK).await);
        let policies = format!(
            "[tls]\nmode = 'permissive'\n[[authorization.provider]]\nname = 'opa'\naddress = '{authorizer}'\n\
             include_request_headers = ['x-forwarded-client-cert']\n\
             [[authorization.policy]]\nname = 'asks'\naction = 'custom'\nprovider = 'opa'\nrule = [{{}}]\n\
             [[authorization.policy]]\nname = 'web'\n[[authorization.policy.rule]]\n\
             when = [{{ key = 'request.headers[x-forwarded-client-cert]', values = ['*URI={WEB}'] }}]"
        );
        for more in ["", BRIDGE] {
            let Mesh { near, far } = mesh(app, of(&Authority::new()), ORDERS, (more, &policies)).await;
            // Named by `connection`, it would not get past the sidecar.
            let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\
                          connection: x-forwarded-client-cert\r\n\r\n";
            assert_eq!(near.client().await.ask(forged).await.status(), 200, "{more}");
            let told = asked.last().header("x-forwarded-client-cert").unwrap();
            assert!(told.starts_with(&format!("By={ORDERS};Hash=")) && told.ends_with(&format!("URI={WEB}")));
            assert_eq!(seen.last().header("x-forwarded-client-cert"), Some(told));
            assert_eq!(far.client().await.ask(forged).await.status(), 403, "nobody has proved anything");
            assert_eq!(asked.last().header("x-forwarded-client-cert"), None);
        }
    });
}

#[test]
fn a_policy_decides_by_the_identity_that_was_proved() {
    const ONLY_WEB: &str = "[tls]\nmode = 'permissive'\n[[authorization.policy]]\nname = 'only-web'\n\
                            [[authorization.policy.rule]]\nfrom = [{ principals = ['mesh.test/ns/shop/sa/web'] }]";
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let authority = Authority::new();
        let batch = "spiffe://mesh.test/ns/shop/sa/batch";
        for (caller, status) in [(WEB, 200), (batch, 403)] {
            let stores = (authority.store(caller), authority.store(ORDERS));
            let Mesh { near, far } = mesh(app, stores, ORDERS, ("", ONLY_WEB)).await;
            assert_eq!(near.client().await.ask(GET).await.status(), status, "{caller}");
            assert_eq!(far.client().await.ask(GET).await.status(), 403, "nobody has proved anything");
        }
        assert_eq!(seen.requests(), 1);
    });
}

#[test]
fn an_opaque_connection_that_a_policy_denies_says_nothing_of_its_endpoint() {
    let deny = |tls: &str, port: u16| {
        format!(
            "{tls}\n[[inbound]]\nport = {port}\nprotocol = 'tcp'\n[[authorization.policy]]\nname = 'none'\n\
             action = 'deny'\nrule = [{{}}]"
        )
    };
    let fragile = "protocol = 'tcp'\noutlier_detection = { consecutive_failures = 1 }";
    run(async {
        let app = answering(OK).await;
        let tls = mesh(app, of(&Authority::new()), ORDERS, (fragile, &deny(STRICT, app.port()))).await;
        let plain = {
            let far = format!("service = 'orders'\n{}", deny("", app.port()));
            let far = inbound(TestNet::to(&app.to_string()), &far).await;
            let near = cluster("tcp", &[app], "outlier_detection = { consecutive_failures = 1 }");
            let near = outbound(TestNet::to(SERVICE).redirect(app, far.at), &near).await;
            Mesh { near, far }
        };
        for Mesh { near, far } in [tls, plain] {
            for _ in 0..50 {
                let mut client = near.client().await;
                client.send("anything").await;
                client.closed().await;
            }
            let refused = far.count("proxy_connections_refused_total", &["denied"]);
            assert!(refused >= 50, "{refused}");
            assert_eq!(near.count("proxy_ejections_total", &[]), 0, "{}", near.metrics.text());
        }
    });
}

#[test]
fn an_accepted_connection_that_is_old_costs_its_client_no_request_also_without_retries() {
    run(async {
        let of_app = format!("[timeouts]\nmax_connection_age = '10ms'\n{STRICT}");
        let app = app(|_, mut wire| async move {
            while wire.head().await.is_some() {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let more = "protocol = 'http'\nretry.attempts = 0";
        let mesh = mesh(app, of(&Authority::new()), ORDERS, (more, &of_app)).await;
        let ask = async |_: u32| {
            let mut client = mesh.near.client().await;
            for _ in 0..300 {
                client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n").await;
                let answer = client.response(false).await;
                assert_eq!(answer.status(), 200, "{:?}", answer.header("proxy-status"));
            }
        };
        tokio::join!(ask(1), ask(2), ask(3), ask(4));
        let closed = mesh.near.count("proxy_connects_total", &[]);
        assert!(closed > 5, "{closed} connections were used");
        assert_eq!(mesh.near.count("proxy_retries_total", &[]), 0);
    });
}
