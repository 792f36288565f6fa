//! Who may call the app: policies, tokens, and external authorizers, through an inbound sidecar.

use std::net::SocketAddr;

use jsonwebtoken::Algorithm;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::common::h2c::{self, ask, call};
use crate::common::{Seen, Side, TestNet, Wire, app, inbound, run, until};
use crate::issuer::{Signer, jwks};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A policy of `[authorization]`.
fn policy(name: &str, action: &str, rules: &str) -> String {
    format!("[[authorization.policy]]\nname = '{name}'\naction = '{action}'\nrule = [{rules}]\n")
}

fn config(more: &str) -> String {
    format!("service = 'orders'\ninstance = 'orders-1'\n{more}")
}

/// The app's sidecar.
async fn side(app: SocketAddr, more: &str) -> Side {
    inbound(TestNet::to(&app.to_string()), &config(more)).await
}

#[test]
fn a_request_that_no_policy_allows_gets_403_and_the_app_sees_nothing() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let rules = "{ to = [{ methods = ['GET'], paths = ['/orders/*'] }] }";
        let far = side(app, &policy("readers", "allow", rules)).await;
        let mut client = far.client().await;
        assert_eq!(client.get("/orders/1").await.status(), 200);
        for (method, path) in [("POST", "/orders/1"), ("GET", "/admin"), ("GET", "/orders/../admin")] {
            let denied = client.ask_as(method, path).await;
            assert_eq!((denied.status(), denied.text()), (403, "RBAC: access denied\n"), "{method} {path}");
            assert!(denied.header("proxy-status").unwrap().contains("UAEX"), "{denied:?}");
        }
        assert_eq!(client.get("/orders/2").await.status(), 200, "the connection lives on");
        assert_eq!(seen.requests(), 2);
        let decisions = |result| far.count("proxy_authorization_decisions_total", &[result]);
        assert_eq!((decisions("\"allowed\""), decisions("\"denied\"")), (2, 3));
        assert_eq!(far.count("proxy_errors_total", &["\"denied\""]), 3);
        far.at_rest_without(client).await;
    });
}

#[test]
fn the_app_gets_the_path_that_the_policy_saw_and_a_bad_escape_is_refused() {
    run(async {
        let seen = Seen::default();
        let far =
            side(seen.app(OK).await, &policy("admin", "deny", "{ to = [{ paths = ['/admin'] }] }")).await;
        let mut client = far.client().await;
        for (path, arrives) in [("/a/./b/../c?x=/../y", "/a/c?x=/../y"), ("/%61", "/a"), ("/a//b", "/a//b")] {
            assert_eq!(client.get(path).await.status(), 200, "{path}");
            assert!(
                seen.last().head.starts_with(&format!("GET {arrives} HTTP/1.1\r\n")),
                "{:?}",
                seen.last()
            );
        }
        for path in ["/%61dmin", "/x/%2e%2e/admin", "/x/..\\admin"] {
            assert_eq!(client.get(path).await.status(), 403, "{path}");
        }
        assert_eq!(client.get("/%zz").await.status(), 400);
    });
}

#[test]
fn a_grpc_client_is_told_in_its_own_words() {
    run(async {
        let (app, _) = h2c::echo(10).await;
        let rules = "{ to = [{ paths = ['/shop.Orders/Get'] }] }";
        let text = format!("{}{}", policy("get", "allow", rules), jwt("", &[Signer::A]));
        let far = side(app, &text).await;
        let client = h2c::connect(far.at).await;
        let allowed = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!(allowed.head.status(), 200);
        assert!(!allowed.head.headers().contains_key("grpc-status"));
        let denied = ask(&client, call("/shop.Orders/Set").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((denied.head.status().as_u16(), denied.header("grpc-status")), (200, "7"));
        let call = call("/shop.Orders/Get").header("authorization", "Bearer x.y.z");
        let bad = ask(&client, call.body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((bad.head.status().as_u16(), bad.header("grpc-status")), (200, "16"));
    });
}

#[test]
fn an_opaque_connection_is_decided_about_before_the_app_is_dialled() {
    run(async {
        let (app, connections) = counted().await;
        let tcp = format!("inbound = [{{ port = {}, protocol = 'tcp' }}]\n", app.port());
        let denied = "{ from = [{ ip_blocks = ['127.0.0.0/8'] }] }";
        // Declared, and found out: the app would be dialled to hear whether it speaks first.
        for declared in [&tcp, ""] {
            let far = side(app, &format!("{declared}{}", policy("local", "deny", denied))).await;
            let mut client = far.client().await;
            client.send("\x01\x02\x03 not HTTP").await;
            let end = client.io.read(&mut [0; 1]).await;
            assert!(end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
            assert_eq!(far.count("proxy_connections_refused_total", &["\"denied\""]), 1);
            let mut silent = far.client().await;
            assert!(declared.is_empty() || silent.io.read(&mut [0; 1]).await.is_err());
            assert!(!declared.is_empty() || silent_for_a_while(&mut silent).await);
            assert_eq!(connections.get(), 0);
        }
        // A rule about HTTP allows nothing here.
        let far =
            side(app, &format!("{tcp}{}", policy("get", "allow", "{ to = [{ methods = ['GET'] }] }"))).await;
        assert!(far.client().await.io.read(&mut [0; 1]).await.is_err());
        assert_eq!(connections.get(), 0);
        let far = side(app, &format!("{tcp}{}", policy("port", "allow", "{}"))).await;
        let mut client = far.client().await;
        client.send("hello").await;
        assert_eq!(client.bytes(5).await, b"hello");
    });
}

#[test]
fn what_is_not_recognised_as_http_passes_no_token_and_no_authorizer_by() {
    run(async {
        let (app, connections) = counted().await;
        let tcp = format!("inbound = [{{ port = {}, protocol = 'tcp' }}]\n", app.port());
        let tokens = jwt("", &[Signer::A]);
        let custom = |more: &str| {
            format!(
                "[[authorization.provider]]\nname = 'opa'\naddress = '127.0.0.1:9'\n{more}\n\
                 [[authorization.policy]]\nname = 'opa'\naction = 'custom'\nprovider = 'opa'\n\
                 rule = [{{ to = [{{ paths = ['/admin'] }}] }}]\n"
            )
        };
        let sneaking = "\r\nGET  /admin HTTP/1.1\r\nhost: a\r\nx-subject: root\r\n\r\n";
        for (more, passes) in [
            (tokens.clone(), false),
            (format!("{tcp}{tokens}"), true),
            (custom(""), false),
            (format!("{tcp}{}", custom("")), false),
            (format!("{tcp}{}", custom("fail_open = true")), true),
        ] {
            let (far, before) = (side(app, &more).await, connections.get());
            let mut client = far.client().await;
            client.send(sneaking).await;
            let answer = client.io.read(&mut [0; 1]).await;
            assert_eq!(answer.is_ok_and(|n| n == 1), passes, "{more}");
            assert_eq!(connections.get() - before, usize::from(passes), "{more}");
            assert_eq!(
                far.count("proxy_connections_refused_total", &["denied"]),
                u64::from(!passes),
                "{more}"
            );
        }
    });
}

async fn silent_for_a_while(client: &mut Wire) -> bool {
    let limit = std::time::Duration::from_millis(300);
    tokio::time::timeout(limit, client.io.read(&mut [0; 1])).await.is_err()
}

/// An app that repeats what it hears, and how many connections it had.
async fn counted() -> (SocketAddr, std::rc::Rc<std::cell::Cell<usize>>) {
    let connections = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = connections.clone();
    let app = app(move |n, mut wire| {
        seen.set(n + 1);
        async move {
            loop {
                let mut some = [0; 64];
                match wire.io.read(&mut some).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => wire.send(std::str::from_utf8(&some[..n]).unwrap()).await,
                }
            }
        }
    })
    .await;
    (app, connections)
}

#[test]
fn new_policies_close_open_connections_that_they_do_not_allow_and_no_others() {
    run(async {
        let (echo, _) = counted().await;
        let tcp = format!("inbound = [{{ port = {}, protocol = 'tcp' }}]\n", echo.port());
        let far = side(echo, &tcp).await;
        let mut open = far.client().await;
        open.send("a").await;
        assert_eq!(open.bytes(1).await, b"a");
        far.reload(&config(&format!("{tcp}{}", policy("all", "allow", "{}"))));
        open.send("b").await;
        assert_eq!(open.bytes(1).await, b"b", "it is allowed");
        far.reload(&config(&format!("{tcp}{}", policy("none", "deny", "{}"))));
        let end = open.io.read(&mut [0; 1]).await;
        assert!(end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        assert_eq!(far.count("proxy_authorization_connections_closed_total", &[]), 1);

        let seen = Seen::default();
        let far = side(seen.app(OK).await, "").await;
        let mut client = far.client().await;
        assert_eq!(client.get("/").await.status(), 200);
        let admin = policy("admin", "deny", "{ to = [{ paths = ['/admin'] }] }");
        far.reload(&config(&admin));
        assert_eq!(client.get("/admin").await.status(), 403, "each request is checked anew");
        assert_eq!(client.get("/").await.status(), 200, "some of its requests may pass");
        far.reload(&config(&policy("none", "deny", "{ from = [{ ip_blocks = ['127.0.0.1'] }] }")));
        assert_eq!(client.rest().await, b"", "none of its requests could");
        assert_eq!(far.count("proxy_authorization_connections_closed_total", &[]), 1);
        far.at_rest().await;
    });
}

#[test]
fn a_port_that_is_declared_to_speak_http_carries_nothing_that_began_as_something_else() {
    run(async {
        let (echo, _) = counted().await;
        let declare = |protocol: &str| {
            let port = echo.port();
            config(&format!(
                "inbound = [{{ port = {port}, protocol = '{protocol}' }}]\ntimeouts.detect = '10s'"
            ))
        };
        for before in ["detect", "tcp"] {
            let far = inbound(TestNet::to(&echo.to_string()), &declare(before)).await;
            let mut open = far.client().await;
            open.send("\x01\x02").await;
            assert_eq!(open.bytes(2).await, b"\x01\x02");
            far.reload(&declare("tcp"));
            open.send("b").await;
            assert_eq!(open.bytes(1).await, b"b", "it may be opaque");
            far.reload(&declare("http"));
            assert!(is_reset(&mut open).await, "{before}");
        }
        let far = inbound(TestNet::to(&echo.to_string()), &declare("detect")).await;
        let mut begun = far.client().await;
        begun.send("G").await;
        until("it is accepted", || far.count("proxy_connections_total", &[]) == 1).await;
        far.reload(&declare("http"));
        begun.send("ET\t/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(is_reset(&mut begun).await);
    });
}

async fn is_reset(client: &mut Wire) -> bool {
    client.io.read(&mut [0; 1]).await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
}

/// An issuer, with more keys of its table.
fn jwt(more: &str, keys: &[Signer]) -> String {
    format!("[[jwt]]\nname = 'idp'\nissuer = 'https://idp'\njwks.inline = '{}'\n{more}", jwks(keys))
}

fn token(more: &[(&str, Value)]) -> String {
    let mut claims = json!({"iss": "https://idp", "sub": "alice", "exp": 9_000_000_000_u64});
    for (key, value) in more {
        claims[*key] = value.clone();
    }
    Signer::A.token(&claims)
}

struct SaysTwiceWhoItIs;

impl Serialize for SaysTwiceWhoItIs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in [("iss", "https://idp"), ("sub", "alice"), ("sub", "root")] {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[test]
fn a_token_is_verified_and_its_claims_decide_and_reach_the_app() {
    run(async {
        let seen = Seen::default();
        let rules = "{ from = [{ request_principals = ['https://idp/*'] }], \
                     when = [{ key = 'request.auth.claims[groups]', values = ['staff'] }] }";
        let more = "claims_to_headers = { 'x-sub' = 'sub' }\n";
        let text = format!("{}{}", policy("staff", "allow", rules), jwt(more, &[Signer::A]));
        let far = side(seen.app(OK).await, &text).await;
        let mut client = far.client().await;
        let get = |token: &str| {
            // What is named in `Connection` ends here, but not what the sidecar adds by it; and
            // some apps take `_` for `-`.
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx-sub: root\r\nx_sub: root\r\nx-hop: 1\r\n\
                 connection: x-sub, x-hop, keep-alive\r\nauthorization: Bearer {token}\r\n\r\n"
            )
        };
        let staff = token(&[("groups", json!(["staff"]))]);
        for _ in 0..3 {
            assert_eq!(client.ask(&get(&staff)).await.status(), 200);
            assert_eq!(seen.last().header("x-sub").as_deref(), Some("alice"));
            assert_eq!(
                ["authorization", "x_sub", "x-hop"].map(|name| seen.last().header(name)),
                [const { None }; 3]
            );
        }
        let post = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sub, x_sub, x-sum\r\n\
             authorization: Bearer {staff}\r\n\r\n2\r\nhi\r\n0\r\nx-sub: root\r\nx_sub: root\r\nx-sum: 7\r\n\r\n"
        );
        assert_eq!(client.ask(&post).await.status(), 200);
        assert_eq!(seen.last().trailers, "x-sum: 7\n", "no claim stands in a trailer");
        assert_eq!(client.ask(&get(&token(&[]))).await.status(), 403, "a valid token of somebody else");
        assert_eq!(client.get("/").await.status(), 403, "no token");
        let expired = client.ask(&get(&token(&[("exp", json!(1))]))).await;
        assert_eq!((expired.status(), expired.text()), (401, "the token is not valid: it has expired\n"));
        assert_eq!(expired.header("www-authenticate").as_deref(), Some("Bearer error=\"invalid_token\""));
        let tokens = |result: &str| far.count("proxy_jwt_tokens_total", &[result]);
        assert_eq!((tokens("\"verified\""), tokens("\"remembered\""), tokens("\"expired\"")), (2, 3, 1));
        let twice = Signer::A.token_with(Algorithm::ES256, None, &SaysTwiceWhoItIs);
        let twice = client.ask(&get(&twice)).await;
        assert_eq!((twice.status(), twice.text()), (401, "the token is not valid: it cannot be read\n"));
        let tab = client.ask(&get(&staff).replace("Bearer ", "Bearer\t")).await;
        assert_eq!((tab.status(), tab.text()), (401, "the token is not valid: it cannot be read\n"));
        assert_eq!(seen.requests(), 4);
        let beside = get(&format!("{staff}\r\nauthorization: Basic YTpi"));
        assert_eq!(client.ask(&beside).await.status(), 200);
        assert_eq!(seen.last().header("authorization").as_deref(), Some("Basic YTpi"), "it is no token");
    });
}

/// An authorizer that answers by the path that it is asked about, and what it was asked.
async fn authorizer(seen: &Seen) -> SocketAddr {
    let seen = seen.clone();
    app(move |_, mut wire| {
        let seen = seen.clone();
        async move {
            while let Some(question) = wire.request().await {
                let path = question.head.split(' ').nth(1).unwrap().to_owned();
                seen.note(question);
                let answer = match path.as_str() {
                    "/check/allowed?q=1" => "HTTP/1.1 200 OK\r\nx-user: alice\r\nx-other: no\r\ncontent-length: 0\r\n\r\n",
                    "/check/denied" => {
                        "HTTP/1.1 302 Found\r\nlocation: /login\r\nx-why: no\r\nset-cookie: a=b\r\ncontent-length: 4\r\n\r\nshoo"
                    }
                    "/check/broken" => "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
                    _ => return,
                };
                wire.send(answer).await;
            }
        }
    })
    .await
}

#[test]
fn an_external_authorizer_decides_and_its_headers_arrive_where_they_should() {
    run(async {
        let (asked, seen) = (Seen::default(), Seen::default());
        let (authorizer, app) = (authorizer(&asked).await, seen.app(OK).await);
        let text = |more: &str| {
            format!(
                "[[authorization.provider]]\nname = 'opa'\naddress = '{authorizer}'\npath_prefix = '/check'\n\
                 include_request_headers = ['x-ask']\ninclude_additional_headers = {{ 'x-mesh' = 'm' }}\n\
                 headers_to_upstream_on_allow = ['x-user']\nheaders_to_downstream_on_deny = ['x-why']\n{more}\n{}{}",
                policy("opa", "custom", "{ to = [{ not_paths = ['/open'] }] }")
                    .replace("rule", "provider = 'opa'\nrule"),
                policy(
                    "admin",
                    "deny",
                    "{ to = [{ paths = ['/allowed'] }], when = [{ key = 'request.headers[x-user]', values = ['root'] }] }"
                ),
            )
        };
        let far = side(app, &text("")).await;
        let mut client = far.client().await;
        let get = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nx-user: root\r\nx-ask: 1\r\nx-secret: 2\r\n\
                 connection: x-user\r\n\r\n"
            )
        };
        let unnamed = |path: &str| get(path).replace("connection: x-user\r\n", "");
        for _ in 0..2 {
            assert_eq!(client.ask(&get("/allowed?q=1")).await.status(), 200);
        }
        assert_eq!(
            seen.last().header("x-user").as_deref(),
            Some("alice"),
            "the client's word does not count"
        );
        assert_eq!(seen.last().header("x-other"), None);
        let question = asked.last();
        assert_eq!(
            ["x-ask", "x-mesh", "x-secret", "host"].map(|name| question.header(name)),
            [Some("1".into()), Some("m".into()), None, Some("a".into())]
        );
        let denied = client.ask(&get("/denied")).await;
        assert_eq!((denied.status(), denied.text()), (302, "shoo"));
        let headers = ["location", "x-why", "set-cookie"].map(|name| denied.header(name));
        assert_eq!(headers, [Some("/login".into()), Some("no".into()), None]);
        let open = client.ask(&unnamed("/open")).await;
        assert_eq!((open.status(), asked.requests()), (200, 3), "nobody was asked");
        assert_eq!(seen.last().header("x-user"), None, "so nobody said who it is");
        for path in ["/broken", "/closed"] {
            assert_eq!(client.ask(&get(path)).await.status(), 403, "{path}");
        }
        far.reload(&config(&text("fail_open = true")));
        assert_eq!(client.ask(&unnamed("/broken")).await.status(), 200);
        assert_eq!(seen.last().header("x-user"), None, "the client's word does not count without an answer");
        far.reload(&config(
            &text("status_on_error = 503\ntimeout = '50ms'").replace(&authorizer.to_string(), "192.0.2.1:9"),
        ));
        assert_eq!(client.ask(&get("/broken")).await.status(), 503, "nobody answers there");
        let count = |result: &str| far.count("proxy_ext_authz_requests_total", &[result]);
        assert_eq!(["\"allowed\"", "\"denied\"", "\"failed\"", "\"failed_open\""].map(count), [2, 1, 3, 1]);
        drop(client);
        until("all is over", || far.count("proxy_connections_open", &[]) == 0).await;
    });
}

#[test]
fn a_blank_around_a_header_makes_no_other_value_of_it_for_policies_than_for_the_app() {
    run(async {
        let seen = Seen::default();
        let rule = "{ when = [{ key = 'request.headers[x-tenant]', values = ['t1'] }] }";
        let far = side(seen.app(OK).await, &policy("t1", "deny", rule)).await;
        let client = h2c::connect(far.at).await;
        // The app gets it as HTTP/1.
        let bridged = || h2c::request("GET", "/").header("sidelab-orig-proto", "HTTP/1.1");
        let get = |tenant: &str| bridged().header("x-tenant", tenant).body(()).unwrap();
        for (tenant, status) in [("t1", 403), (" t1", 400), ("t1 ", 400), ("\tt1\t", 400), (" ", 400)] {
            let answer = ask(&client, get(tenant), "", None).await.unwrap();
            assert_eq!(answer.head.status(), status, "{tenant:?}");
            let line = format!("GET / HTTP/1.1\r\nhost: a\r\nx-tenant: {tenant}\r\n\r\n");
            let status = if tenant == " " { 200 } else { 403 };
            assert_eq!(far.client().await.ask(&line).await.status(), status, "HTTP/1 strips {tenant:?}");
        }
        assert_eq!(ask(&client, get("t 2"), "", None).await.unwrap().head.status(), 200);
        assert_eq!(seen.requests(), 2);
    });
}
