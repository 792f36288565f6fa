//! The matrix of policies, and a slow reader that must agree with the index.

use std::net::IpAddr;

use http::header::HeaderMap;
use serde_json::json;

use super::*;
use crate::authz::facts::RequestFacts;
use crate::authz::{Token, path};
use crate::config::{self, PathNormalization};
use crate::spiffe_id::SpiffeId;

mod decisions;
mod reference;

const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// A caller and what it asks for.
#[derive(Debug, Clone)]
struct Ask {
    identity: Option<SpiffeId>,
    source: IpAddr,
    remote: Option<IpAddr>,
    port: u16,
    is_http: bool,
    host: String,
    method: String,
    path: String,
    headers: HeaderMap,
    token: Option<Token>,
}

/// `GET` of a path by `web`.
fn get(path: &str) -> Ask {
    Ask {
        identity: Some(WEB.parse().unwrap()),
        source: "10.0.0.1".parse().unwrap(),
        remote: None,
        port: 8080,
        is_http: true,
        host: "orders.example".into(),
        method: "GET".into(),
        path: path.into(),
        headers: HeaderMap::new(),
        token: None,
    }
}

/// A connection by `web` that is not HTTP.
fn tcp() -> Ask {
    Ask { is_http: false, ..get("/") }
}

impl Ask {
    fn by(self, identity: &str) -> Self {
        Ask { identity: Some(identity.parse().unwrap()), ..self }
    }

    fn by_nobody(self) -> Self {
        Ask { identity: None, ..self }
    }

    fn from(self, source: &str) -> Self {
        Ask { source: source.parse().unwrap(), ..self }
    }

    fn remote(self, remote: &str) -> Self {
        Ask { remote: Some(remote.parse().unwrap()), ..self }
    }

    fn port(self, port: u16) -> Self {
        Ask { port, ..self }
    }

    fn host(self, host: &str) -> Self {
        Ask { host: host.into(), ..self }
    }

    fn method(self, method: &str) -> Self {
        Ask { method: method.into(), ..self }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn token(self, claims: serde_json::Value) -> Self {
        let serde_json::Value::Object(claims) = claims else { panic!("claims are an object") };
        Ask { token: Some(Token::of(claims)), ..self }
    }

    fn with<T>(&self, how: PathNormalization, then: impl FnOnce(&Facts<'_>) -> T) -> T {
        let path = path::normalize(&self.path, how).expect("a path");
        let request = RequestFacts {
            remote: self.remote.unwrap_or(self.source),
            host: &self.host,
            method: &self.method,
            path: &path,
            headers: &self.headers,
            token: self.token.as_ref(),
        };
        then(&Facts {
            source: self.source,
            destination: ("10.0.0.9".parse::<IpAddr>().unwrap(), self.port).into(),
            identity: self.identity.as_ref(),
            request: self.is_http.then_some(request),
        })
    }
}

fn authorization(text: &str) -> Arc<Authorization> {
    let text = format!("service = 'orders'\n[authorization]\n{text}");
    let snapshot = config::parse("sidecar.toml", &text);
    snapshot.unwrap_or_else(|error| panic!("{text}\n{:?}", miette::Report::new(error))).authorization
}

/// A policy called `name`.
fn policy(name: &str, action: &str, rules: &str) -> String {
    format!("[[authorization.policy]]\nname = '{name}'\naction = '{action}'\nrule = [{rules}]\n")
}

/// What these policies say: `+` or `-` for what may pass and what may not, and the rule that says
/// so.
fn said(text: &str, ask: &Ask) -> String {
    let config = authorization(text);
    let decision = ask.with(config.path_normalization, |facts| Policies::new(&config).decide(facts));
    ruling(&decision.enforced)
}

fn ruling(ruling: &Ruling) -> String {
    let rule =
        ruling.rule.as_ref().map_or_else(String::new, |rule| format!(" {}.{}", rule.policy, rule.rule));
    format!("{}{rule}", if ruling.allowed { '+' } else { '-' })
}

/// What one rule that allows says: whether it matches.
fn matched(rule: &str, ask: &Ask) -> bool {
    let of = |action| said(&policy("p", action, rule), ask);
    let (allowed, denied) = (of("allow"), of("deny"));
    if ask.is_http {
        assert_ne!(allowed.starts_with('+'), denied.starts_with('+'), "{rule} {ask:?}");
    }
    allowed.starts_with('+')
}

/// A rule, what it matches, and what it does not.
type Case<'c> = (&'c str, &'c [Ask], &'c [Ask]);

fn check(cases: &[Case<'_>]) {
    for (rule, fits, does_not) in cases {
        for ask in *fits {
            assert!(matched(rule, ask), "{rule} should match {ask:?}");
        }
        for ask in *does_not {
            assert!(!matched(rule, ask), "{rule} should not match {ask:?}");
        }
    }
}

/// `GET /` with a token of alice.
fn alice() -> Ask {
    get("/").token(json!({"iss": "https://idp", "sub": "alice", "aud": ["orders", "all"], "azp": "shop-ui",
        "groups": ["staff", "admin"], "realm": {"roles": ["reader"]}, "scope": "read write", "level": 3,
        "note": "read write"}))
}

#[test]
fn principals_match_as_istio_says() {
    check(&[
        ("{ from = [{ principals = ['td/ns/shop/sa/web'] }] }", &[get("/"), tcp()], &[get("/").by_nobody()]),
        (
            "{ from = [{ principals = ['spiffe://td/ns/shop/sa/web'] }] }",
            &[get("/")],
            &[get("/").by("spiffe://td/x")],
        ),
        (
            "{ from = [{ principals = ['td/ns/shop/*'] }] }",
            &[get("/")],
            &[get("/").by("spiffe://td/ns/shop2/sa/web")],
        ),
        (
            "{ from = [{ principals = ['*/sa/web'] }] }",
            &[get("/"), get("/").by("spiffe://b/sa/web")],
            &[get("/").by("spiffe://b/sa/web2")],
        ),
        (
            "{ from = [{ principals = ['*'] }] }",
            &[get("/"), get("/").by("spiffe://b")],
            &[get("/").by_nobody(), tcp().by_nobody()],
        ),
        (
            "{ from = [{ not_principals = ['td/ns/shop/sa/web'] }] }",
            &[get("/").by_nobody(), get("/").by("spiffe://b")],
            &[get("/")],
        ),
        ("{ from = [{ not_principals = ['*'] }] }", &[get("/").by_nobody()], &[get("/")]),
        (
            "{ from = [{ principals = ['td/*'], not_principals = ['*/sa/web'] }] }",
            &[get("/").by("spiffe://td/ns/shop/sa/api")],
            &[get("/"), get("/").by_nobody()],
        ),
    ]);
}

#[test]
fn namespaces_and_networks_match_as_istio_says() {
    check(&[
        (
            "{ from = [{ namespaces = ['shop'] }] }",
            &[get("/"), get("/").by("spiffe://other/ns/shop/sa/x")],
            &[
                get("/").by("spiffe://td/ns/shops/sa/x"),
                get("/").by("spiffe://td/shop"),
                get("/").by_nobody(),
            ],
        ),
        (
            "{ from = [{ namespaces = ['sh*', '*ing'] }] }",
            &[get("/"), get("/").by("spiffe://td/ns/billing/sa/x")],
            &[get("/").by("spiffe://td/ns/pay/sa/x")],
        ),
        (
            "{ from = [{ not_namespaces = ['shop'] }] }",
            &[get("/").by_nobody(), get("/").by("spiffe://td/ns/pay/sa/x")],
            &[get("/")],
        ),
        (
            "{ from = [{ service_accounts = ['shop/web'] }] }",
            &[get("/"), get("/").by("spiffe://b/ns/shop/sa/web")],
            &[get("/").by("spiffe://td/ns/xshop/sa/web"), get("/").by("spiffe://td/ns/shop/sa/webx")],
        ),
        (
            "{ from = [{ not_service_accounts = ['shop/web'] }] }",
            &[get("/").by("spiffe://td/ns/shop/sa/api"), get("/").by_nobody()],
            &[get("/")],
        ),
        (
            "{ from = [{ ip_blocks = ['10.0.0.0/8', '192.0.2.7'] }] }",
            &[get("/"), tcp(), get("/").from("192.0.2.7")],
            &[get("/").from("192.0.2.8"), get("/").from("fd00::1")],
        ),
        ("{ from = [{ ip_blocks = ['fd00::/8'] }] }", &[get("/").from("fd00::1")], &[get("/")]),
        ("{ from = [{ ip_blocks = ['0.0.0.0/0'] }] }", &[get("/")], &[get("/").from("fd00::1")]),
        (
            "{ from = [{ ip_blocks = ['::ffff:10.0.0.0/104', '::ffff:192.0.2.7'] }] }",
            &[get("/"), tcp(), get("/").from("192.0.2.7")],
            &[get("/").from("192.0.2.8"), get("/").from("fd00::1")],
        ),
        (
            "{ from = [{ not_ip_blocks = ['::ffff:10.9.9.9/104'] }] }",
            &[get("/").from("192.0.2.8")],
            &[get("/"), tcp()],
        ),
        (
            "{ from = [{ not_ip_blocks = ['10.0.0.0/8'] }] }",
            &[get("/").from("192.0.2.8")],
            &[get("/"), tcp()],
        ),
        (
            "{ from = [{ remote_ip_blocks = ['203.0.113.0/24'] }] }",
            &[get("/").remote("203.0.113.9"), tcp().from("203.0.113.1")],
            &[get("/")],
        ),
        (
            "{ from = [{ not_remote_ip_blocks = ['203.0.113.0/24'] }] }",
            &[get("/")],
            &[get("/").remote("203.0.113.9")],
        ),
    ]);
}

#[test]
fn tokens_match_as_istio_says() {
    let alice = alice();
    check(&[
        (
            "{ from = [{ request_principals = ['https://idp/alice'] }] }",
            std::slice::from_ref(&alice),
            &[get("/"), get("/").token(json!({"iss": "https://idp", "sub": "bob"}))],
        ),
        (
            "{ from = [{ request_principals = ['https://idp/*'] }] }",
            std::slice::from_ref(&alice),
            &[get("/")],
        ),
        (
            "{ from = [{ request_principals = ['*'] }] }",
            std::slice::from_ref(&alice),
            &[get("/"), get("/").token(json!({"iss": "https://idp"}))],
        ),
        ("{ from = [{ not_request_principals = ['*'] }] }", &[get("/")], std::slice::from_ref(&alice)),
    ]);
}

#[test]
fn operations_match_as_istio_says() {
    check(&[
        (
            "{ to = [{ hosts = ['orders.example'] }] }",
            &[get("/"), get("/").host("orders.example:8080")],
            &[get("/").host("xorders.example"), get("/").host("")],
        ),
        (
            "{ to = [{ hosts = ['ORDERS.Example:8080'] }] }",
            &[get("/").host("orders.example:8080")],
            &[get("/"), get("/").host("orders.example:80")],
        ),
        (
            "{ to = [{ hosts = ['*.example'] }] }",
            &[get("/"), get("/").host("orders.example:80")],
            &[get("/").host("example"), get("/").host("orders.example.org")],
        ),
        (
            "{ to = [{ hosts = ['orders.*'] }] }",
            &[get("/"), get("/").host("orders.x:1")],
            &[get("/").host("order")],
        ),
        (
            "{ to = [{ hosts = ['[fd00::1]'] }] }",
            &[get("/").host("[fd00::1]"), get("/").host("[fd00::1]:80")],
            &[get("/").host("[fd00::2]")],
        ),
        (
            "{ to = [{ not_hosts = ['orders.example'] }] }",
            &[get("/").host("x")],
            &[get("/"), get("/").host("orders.example:1")],
        ),
        (
            "{ to = [{ ports = [8080, 9090] }] }",
            &[get("/"), tcp(), get("/").port(9090)],
            &[get("/").port(8081)],
        ),
        ("{ to = [{ not_ports = [8080] }] }", &[get("/").port(8081), tcp().port(1)], &[get("/"), tcp()]),
        (
            "{ to = [{ methods = ['GET', 'HEAD'] }] }",
            &[get("/"), get("/").method("HEAD")],
            &[get("/").method("POST"), get("/").method("get")],
        ),
        ("{ to = [{ methods = ['*'] }] }", &[get("/"), get("/").method("PURGE")], &[]),
        ("{ to = [{ not_methods = ['GET'] }] }", &[get("/").method("POST")], &[get("/")]),
        (
            "{ to = [{ paths = ['/a'] }] }",
            &[get("/a"), get("/x/../a"), get("/%61")],
            &[get("/a/"), get("/ab"), get("/A")],
        ),
        (
            "{ to = [{ paths = ['/a/*'] }] }",
            &[get("/a/"), get("/a/b/c")],
            &[get("/a"), get("/b/a/"), get("/a/../b")],
        ),
        ("{ to = [{ paths = ['*/info'] }] }", &[get("/a/info"), get("/info")], &[get("/info/x")]),
        ("{ to = [{ paths = ['*'] }] }", &[get("/"), get("/a")], &[]),
        (
            "{ to = [{ paths = ['/a/{*}/b', '/files/{**}'] }] }",
            &[get("/a/1/b"), get("/files/x/y")],
            &[get("/a/b"), get("/a/1/2/b"), get("/files")],
        ),
        (
            "{ to = [{ not_paths = ['/admin', '/admin/*'] }] }",
            &[get("/"), get("/administrator")],
            &[get("/admin"), get("/admin/x"), get("/x/../admin")],
        ),
        (
            "{ to = [{ paths = ['/shop.Orders/*'], methods = ['POST'] }] }",
            &[get("/shop.Orders/Get").method("POST")],
            &[get("/shop.Orders/Get"), get("/shop.Other/Get").method("POST")],
        ),
    ]);
}

#[test]
fn conditions_match_as_istio_says() {
    check(&[
        (
            "{ when = [{ key = 'request.headers[X-Team]', values = ['blue', 'gr*'] }] }",
            &[get("/").header("x-team", "blue"), get("/").header("x-team", "green")],
            &[get("/"), get("/").header("x-team", "red")],
        ),
        (
            "{ when = [{ key = 'request.headers[x-team]', values = ['*'] }] }",
            &[get("/").header("x-team", "any")],
            &[get("/"), get("/").header("x-team", "")],
        ),
        (
            "{ when = [{ key = 'request.headers[x-team]', values = ['blue'] }] }",
            &[get("/").header("x-team", "red").header("x-team", "blue")],
            &[get("/").header("x-team", "bluer")],
        ),
        (
            "{ when = [{ key = 'request.headers[x-team]', not_values = ['red'] }] }",
            &[get("/"), get("/").header("x-team", "blue")],
            &[get("/").header("x-team", "red"), get("/").header("x-team", "blue").header("x-team", "red")],
        ),
    ]);
}

#[test]
fn conditions_on_tokens_match_as_istio_says() {
    let alice = alice();
    check(&[
        (
            "{ when = [{ key = 'request.auth.claims[groups]', values = ['admin'] }] }",
            std::slice::from_ref(&alice),
            &[
                get("/"),
                get("/").token(json!({"groups": ["staff"]})),
                get("/").token(json!({"groups": "admins"})),
            ],
        ),
        (
            "{ when = [{ key = 'request.auth.claims[realm][roles]', values = ['reader'] }] }",
            std::slice::from_ref(&alice),
            &[get("/").token(json!({"realm": "reader"})), get("/").token(json!({"realm.roles": ["reader"]}))],
        ),
        (
            "{ when = [{ key = 'request.auth.claims[scope]', values = ['write'] }] }",
            std::slice::from_ref(&alice),
            &[get("/").token(json!({"scope": "writer"}))],
        ),
        (
            "{ when = [{ key = 'request.auth.claims[note]', values = ['write'] }] }",
            &[],
            std::slice::from_ref(&alice),
        ),
        (
            "{ when = [{ key = 'request.auth.claims[level]', values = ['3'] }] }",
            &[],
            std::slice::from_ref(&alice),
        ),
        (
            "{ when = [{ key = 'request.auth.claims[groups]', not_values = ['banned'] }] }",
            &[alice.clone(), get("/")],
            &[get("/").token(json!({"groups": ["banned"]}))],
        ),
        (
            "{ when = [{ key = 'request.auth.audiences', values = ['orders'] }] }",
            &[alice.clone(), get("/").token(json!({"aud": "orders"}))],
            &[get("/"), get("/").token(json!({"aud": "orders2"}))],
        ),
        (
            "{ when = [{ key = 'request.auth.presenter', values = ['shop-ui'] }] }",
            std::slice::from_ref(&alice),
            &[get("/").token(json!({"azp": "other"}))],
        ),
        (
            "{ when = [{ key = 'request.auth.principal', values = ['https://idp/alice'] }] }",
            std::slice::from_ref(&alice),
            &[get("/")],
        ),
    ]);
}

#[test]
fn conditions_on_connections_match_as_istio_says() {
    check(&[
        (
            "{ when = [{ key = 'source.ip', values = ['10.0.0.0/24'] }] }",
            &[get("/"), tcp()],
            &[get("/").from("10.0.1.1")],
        ),
        (
            "{ when = [{ key = 'source.namespace', values = ['shop'] }] }",
            &[get("/")],
            &[get("/").by_nobody()],
        ),
        (
            "{ when = [{ key = 'source.principal', values = ['td/ns/shop/sa/web'] }] }",
            &[get("/")],
            &[get("/").by_nobody()],
        ),
        (
            "{ when = [{ key = 'remote.ip', values = ['203.0.113.9'] }] }",
            &[get("/").remote("203.0.113.9")],
            &[get("/")],
        ),
        (
            "{ when = [{ key = 'destination.port', values = ['8080'] }] }",
            &[get("/"), tcp()],
            &[get("/").port(80)],
        ),
        ("{ when = [{ key = 'destination.ip', not_values = ['10.0.0.9'] }] }", &[], &[get("/"), tcp()]),
    ]);
}
