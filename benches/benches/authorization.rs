//! What it costs to decide who may call the app: compiling ten thousand policies, finding the ones
//! that match a request, and believing a token.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::Uri;
use http::header::HeaderMap;
use proxy::authz::jwt::{Remembered, Shown};
use proxy::authz::{Facts, Issuers, Policies, RequestFacts, path};
use proxy::config::{self, PathNormalization, Snapshot};
use proxy::spiffe_id::SpiffeId;

#[path = "../../proxy/src/authz/fake.rs"]
#[allow(dead_code, reason = "the unit tests use the rest")]
mod issuer;

use issuer::{Signer, jwks};

/// Policies in the file.
const POLICIES: usize = 10_000;

/// A configuration with many policies of the kinds that people write: most allow one caller some
/// paths, the others are about networks, hosts, headers and claims.
fn text() -> String {
    let mut text = String::from("service = 'orders'\n");
    for n in 0..POLICIES {
        let rule = match n % 10 {
            0 => format!(
                "{{ from = [{{ ip_blocks = ['10.{}.{}.0/24'] }}], to = [{{ ports = [8080] }}] }}",
                n / 256 % 256,
                n % 256
            ),
            1 => format!("{{ to = [{{ hosts = ['h{n}.example', '*.h{n}.example'] }}] }}"),
            2 => format!("{{ when = [{{ key = 'request.headers[x-tenant]', values = ['t{n}'] }}] }}"),
            3 => format!(
                "{{ when = [{{ key = 'request.auth.claims[groups]', values = ['g{n}', 'h{n}*'] }}] }}"
            ),
            4 => format!(
                "{{ to = [{{ paths = ['/api/v{n}/*', '*/export{n}'], methods = ['GET', 'HEAD'] }}] }}"
            ),
            _ => format!(
                "{{ from = [{{ principals = ['cluster.local/ns/n{}/sa/s{n}'] }}], to = [{{ methods = ['GET'], paths = ['/items/{n}', '/items/{n}/*'] }}] }}",
                n % 97
            ),
        };
        let action = if n % 7 == 0 { "deny" } else { "allow" };
        text += &format!("[[authorization.policy]]\nname = 'p{n}'\naction = '{action}'\nrule = [{rule}]\n");
    }
    text
}

fn parsed(text: &str) -> Snapshot {
    config::parse("sidecar.toml", text)
        .unwrap_or_else(|error| panic!("{:?}", error.lines().collect::<Vec<_>>()))
}

/// A request by the caller of the policy `n`, for its path or another.
struct Request {
    identity: SpiffeId,
    path: String,
    headers: HeaderMap,
}

impl Request {
    fn new(n: usize, path: &str) -> Self {
        let identity = format!("spiffe://cluster.local/ns/n{}/sa/s{n}", n % 97);
        let headers = [("x-tenant", "acme"), ("user-agent", "curl/8.5"), ("accept", "*/*")];
        let headers =
            headers.map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        Request {
            identity: identity.parse().expect("an identity"),
            path: path.into(),
            headers: headers.into_iter().collect(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let source: IpAddr = [192, 0, 2, 7].into();
        let request = RequestFacts {
            remote: source,
            host: "orders.shop.example",
            method: "GET",
            path: &self.path,
            headers: &self.headers,
            token: None,
        };
        let destination = ([10, 0, 0, 9], 8080).into();
        Facts { source, destination, identity: Some(&self.identity), request: Some(request) }
    }
}

fn policies(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("policies");
    group.sample_size(10);
    group.bench_function("read 10000 from the file", |b| b.iter(|| parsed(black_box(&text))));
    let snapshot = parsed(&text);
    group.bench_function("compile 10000", |b| b.iter(|| Policies::new(black_box(&snapshot.authorization))));
    group.finish();

    let compiled = Policies::new(&snapshot.authorization);
    let mut group = c.benchmark_group("decide among 10000 policies");
    for (name, request, allowed) in [
        ("allowed", Request::new(9995, "/items/9995/7"), true),
        ("denied by a policy", Request::new(9989, "/items/9989"), false),
        ("denied because none allows it", Request::new(9995, "/items/9996"), false),
    ] {
        let facts = request.facts();
        assert_eq!(compiled.decide(&facts).enforced.allowed, allowed, "{name}");
        group.bench_function(name, |b| b.iter(|| compiled.decide(black_box(&facts))));
    }
    let connection = Request::new(9990, "");
    let facts = Facts { request: None, ..connection.facts() };
    group.bench_function("an opaque connection", |b| b.iter(|| compiled.decide(black_box(&facts))));
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise a path");
    for (name, path) in
        [("that is normal", "/checkout/cart/items/42"), ("that is not", "/checkout/./cart/../%69tems//42")]
    {
        group.bench_function(name, |b| {
            b.iter(|| path::normalize(black_box(path), PathNormalization::MergeSlashes))
        });
    }
}

fn tokens(c: &mut Criterion) {
    let mut group = c.benchmark_group("token");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for (name, signer) in [("ES256", Signer::A), ("RS256", Signer::Rsa), ("EdDSA", Signer::Ed)] {
        let text = format!(
            "service = 'orders'\n[[jwt]]\nname = 'idp'\nissuer = 'https://idp'\njwks.inline = '{}'\n",
            jwks(&[signer])
        );
        let issuers = Issuers::new(&parsed(&text).jwt, None);
        let token =
            signer.token(&serde_json::json!({"iss": "https://idp", "sub": "alice", "exp": 1_800_000_300}));
        let value = format!("Bearer {token}").parse().expect("a value");
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        let (uri, mut known) = (Uri::from_static("/"), Remembered::default());
        let request = Shown { headers: &headers, uri: &uri };
        group.bench_function(format!("verify {name}"), |b| {
            b.iter(|| issuers.token(request, &mut Remembered::default(), now).expect("it is valid"));
        });
        if signer == Signer::A {
            group.bench_function("remembered", |b| {
                b.iter(|| issuers.token(request, &mut known, now).expect("it is valid"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, policies, paths, tokens);
criterion_main!(benches);
