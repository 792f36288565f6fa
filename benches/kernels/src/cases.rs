//! Parts that are one call: recognising a protocol, routing, picking, reading a head, rewriting
//! one, and what is remembered of a request.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use proxy::balance::{Attempted, PickContext, Table};
use proxy::config::{self, OutlierDetection, Snapshot};
use proxy::detect::sniff;
use proxy::endpoint::{Endpoint, Outcome, Outliers};
use proxy::http::headers::{ensure_request_id, remove_hop_by_hop};
use proxy::http::strict::Reader;
use proxy::http::{RequestBody, bridge};
use proxy::retry::{AttemptOutcome, Budget, condition};
use proxy::route::Routes;
use proxy::telemetry::Metrics;
use proxy::world::RngTree;
use tokio::time::Instant;

use crate::Kernel;

/// In the order of a request.
pub const ALL: &[Kernel] = &[
    Kernel { name: "detect", prepare: detect },
    Kernel { name: "head", prepare: head },
    Kernel { name: "cluster", prepare: cluster },
    Kernel { name: "route-prefix", prepare: route_prefix },
    Kernel { name: "route-regex", prepare: route_regex },
    Kernel { name: "headers", prepare: headers },
    Kernel { name: "bridge", prepare: to_and_fro },
    Kernel { name: "pick-p2c", prepare: |_| pick("p2c", "") },
    Kernel { name: "pick-ring-hash", prepare: |_| pick("ring_hash", ", hash = 'header:x-user'") },
    Kernel { name: "outlier", prepare: outlier },
    Kernel { name: "retry", prepare: retry },
    Kernel { name: "metrics", prepare: metrics },
];

/// A head as browsers send it.
pub const HEAD: &[u8] = b"GET /checkout/cart?id=42 HTTP/1.1\r\nhost: orders\r\nuser-agent: curl/8.5.0\r\n\
    accept: */*\r\naccept-encoding: gzip, br\r\ncookie: session=0123456789abcdef0123456789abcdef\r\n\
    content-type: application/json\r\n\r\n";

/// The first bytes of each protocol that is recognised by them.
fn detect(_: usize) -> Box<dyn FnMut()> {
    Box::new(|| {
        for bytes in [HEAD, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f"] {
            black_box(sniff(black_box(bytes)));
        }
    })
}

/// The strict reader over one head.
fn head(_: usize) -> Box<dyn FnMut()> {
    let mut reader = Reader::new(snapshot("").http1);
    Box::new(move || {
        let read = reader.read(black_box(HEAD)).expect("a good head");
        assert_eq!(read, HEAD.len());
    })
}

/// The cluster of an address, among a thousand.
fn cluster(_: usize) -> Box<dyn FnMut()> {
    let one = |i: u32| {
        let (high, low) = (i / 250, i % 250);
        format!(
            "[[cluster]]\nname = 'c{i}'\naddresses = ['10.96.{high}.{low}:80']\n\
             endpoints = ['10.0.{high}.{low}:8080']\n"
        )
    };
    let table = table(&(0..1000).map(one).collect::<String>());
    let (known, unknown) = (([10, 96, 0, 1], 80).into(), ([10, 97, 0, 1], 80).into());
    Box::new(move || {
        assert!(table.cluster_at(black_box(known)).is_some());
        assert!(table.cluster_at(black_box(unknown)).is_none());
    })
}

fn route_prefix(_: usize) -> Box<dyn FnMut()> {
    routes(|i| format!("prefix = '/shop/item{i}', methods = ['GET']"))
}

fn route_regex(_: usize) -> Box<dyn FnMut()> {
    routes(|i| format!("regex = '/shop/item{i}/[a-z]+'"))
}

/// The last of a hundred routes.
fn routes(route: impl Fn(u32) -> String) -> Box<dyn FnMut()> {
    let listed: String =
        (0..100).map(|i| format!("[[cluster.route]]\nmatch = {{ {} }}\n", route(i))).collect();
    let text =
        "[[cluster]]\nname = 'a'\naddresses = ['10.96.0.1:80']\nendpoints = ['10.0.0.1:80']\n".to_owned();
    let snapshot = snapshot(&(text + &listed));
    let metrics = Metrics::default();
    let routes = Routes::new(&snapshot.clusters[0], |_| Some(0), |route| metrics.route("a", route));
    let routes = routes.expect("there are routes");
    let request = Request::builder().uri("/shop/item99/price").header("host", "orders").body(());
    let request = request.expect("a valid request");
    Box::new(move || assert!(routes.find(black_box(&request)).is_some()))
}

/// What a proxy takes from a head and adds to it.
fn headers(times: usize) -> Box<dyn FnMut()> {
    let mut rng = RngTree::new(1).rng();
    let mut each = vec![usual_headers(); times];
    Box::new(move || {
        let mut headers = each.pop().expect("enough were made");
        remove_hop_by_hop(&mut headers);
        ensure_request_id(&mut headers, &mut rng);
        black_box(headers);
    })
}

/// A request of HTTP/1 for an HTTP/2 connection between sidecars, and back.
fn to_and_fro(times: usize) -> Box<dyn FnMut()> {
    let dst = ([10, 96, 0, 1], 80).into();
    let request = || {
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = "/checkout/cart?id=42".parse().expect("a path");
        *request.headers_mut() = usual_headers();
        request
    };
    let mut each: Vec<_> = (0..times).map(|_| request()).collect();
    Box::new(move || {
        let mut request = each.pop().expect("enough were made");
        bridge::to_http2(&mut request, dst, true);
        let restored = bridge::restore_marked(&mut request);
        assert!(restored.is_ok_and(|was_marked| was_marked));
        black_box(request);
    })
}

/// One of a thousand endpoints, another one for each request.
fn pick(policy: &str, more: &str) -> Box<dyn FnMut()> {
    let endpoints: Vec<_> = (0..1000).map(|i| format!("'10.0.{}.{}:80'", i / 250, i % 250)).collect();
    let endpoints = endpoints.join(", ");
    let table = table(&format!(
        "[[cluster]]\nname = 'c'\naddresses = ['10.96.0.1:80']\nendpoints = [{endpoints}]\n\
         balance = {{ policy = '{policy}'{more} }}\n"
    ));
    let mut rng = RngTree::new(1).rng();
    // Later than the table, and the same at every pick.
    let now = Instant::now() + Duration::from_secs(1);
    let mut key = 0_u64;
    Box::new(move || {
        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let context = PickContext { hash: Some(key), subset: 0 };
        black_box(table.clusters[0].pick(now, &mut rng, black_box(context), Attempted::default()));
    })
}

/// What outlier detection remembers of a success.
fn outlier(_: usize) -> Box<dyn FnMut()> {
    let now = Instant::now();
    let mut rng = RngTree::new(1).rng();
    let endpoints = (0..100_u16).map(|port| Arc::new(Endpoint::new(([10, 0, 0, 1], port).into(), now)));
    let counters = Metrics::default().cluster("outbound", "orders").ejections;
    let outliers = Outliers::new("orders", endpoints.collect(), OutlierDetection::default(), counters, None);
    Box::new(move || {
        black_box(outliers.on_outcome(1, black_box(Outcome::Success), now, now, &mut rng));
    })
}

/// What retries cost a request that needs none, and one that does.
fn retry(_: usize) -> Box<dyn FnMut()> {
    let snapshot =
        snapshot("[[cluster]]\nname = 'a'\naddresses = ['10.96.0.1:80']\nendpoints = ['10.0.0.1:80']\n");
    let now = Instant::now();
    let budget = Budget::new(&snapshot.clusters[0].retry_budget, now);
    Box::new(move || {
        let cluster = &snapshot.clusters[0];
        for status in [200, 503] {
            let ended = AttemptOutcome::Answered { status, grpc: None };
            black_box(condition::reason(&cluster.retry, black_box(ended)));
        }
        budget.deposit(black_box(&cluster.retry_budget));
    })
}

/// One request, counted and timed.
fn metrics(_: usize) -> Box<dyn FnMut()> {
    let cluster = Metrics::default().cluster("outbound", "orders");
    Box::new(move || cluster.request_log(0).answered(black_box(StatusCode::OK)))
}

/// Of a sidecar with these clusters.
pub fn snapshot(clusters: &str) -> Snapshot {
    config::parse("sidecar.toml", &format!("service = 'web'\n{clusters}")).expect("a valid configuration")
}

fn table(clusters: &str) -> Table {
    Table::new(Arc::new(snapshot(clusters)), None, &Metrics::default(), Instant::now())
}

fn usual_headers() -> HeaderMap {
    let all = [
        ("host", "orders"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
        ("content-type", "application/json"),
    ];
    let named = all.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    HeaderMap::from_iter(named)
}
