//! What a request costs in pure policy: recognising its protocol, finding its cluster, picking an
//! endpoint, remembering the result, and what is done to its head on the way, the bridge between
//! HTTP/1 and HTTP/2 included. What it costs on the wire is in `end_to_end.rs`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Request;
use http::header::{CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use proxy::balance::{Attempted, PickContext, Table};
use proxy::config::{self, OutlierDetection};
use proxy::detect::{Prefixed, sniff};
use proxy::discovery::{EndpointStore, EndpointUpdate};
use proxy::endpoint::{Endpoint, Outcome, Outliers};
use proxy::http::headers::{ensure_request_id, remove_hop_by_hop};
use proxy::http::{RequestBody, bridge};
use proxy::retry::backoff::{self, RetryAfter};
use proxy::retry::{AttemptOutcome, Budget, condition};
use proxy::route::Routes;
use proxy::telemetry::Metrics;
use proxy::world::RngTree;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

fn detection(c: &mut Criterion) {
    let mut group = c.benchmark_group("sniff");
    for (name, bytes) in [
        ("http1", &b"GET /checkout/cart?id=42 HTTP/1.1\r\nhost: orders\r\n\r\n"[..]),
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("opaque", b"\0\0\0\x08\x04\xd2\x16\x2f"),
    ] {
        group.bench_function(name, |b| b.iter(|| sniff(black_box(bytes))));
    }
}

fn balancing(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _guard = runtime.enter();
    let begun = Instant::now();
    let now = begun + Duration::from_millis(1);
    let mut rng = RngTree::new(1).rng();
    let mut group = c.benchmark_group("pick");
    let hash = ", hash = 'header:x-user'";
    for (name, policy, n, more) in [
        ("p2c of 3", "p2c", 3, ""),
        ("p2c of 1000", "p2c", 1000, ""),
        ("p2c of 1000 of many weights", "p2c", 1000, "weights"),
        ("p2c of 1000 in zones and priorities", "p2c", 1000, "zones"),
        ("least request of 1000", "least_request", 1000, ""),
        ("least request of 1000 of many weights", "least_request", 1000, "weights"),
        ("round robin of 1000", "round_robin", 1000, ""),
        ("random of 1000", "random", 1000, ""),
        ("ring hash of 1000", "ring_hash", 1000, hash),
        ("maglev of 1000", "maglev", 1000, hash),
    ] {
        let endpoint = |i: u32| {
            let address = format!("address = '10.0.{}.{}:80'", i / 250, i % 250);
            match more {
                "weights" => format!("{{ {address}, weight = {} }}", 1 + i % 10),
                "zones" => format!("{{ {address}, zone = '{}', priority = {} }}", i % 3, i % 2),
                _ => format!("{{ {address} }}"),
            }
        };
        let endpoints: Vec<_> = (0..n).map(endpoint).collect();
        let text = format!(
            "service = 'web'\nzone = '1'\n[[cluster]]\nname = 'c'\naddresses = ['10.96.0.1:80']\n\
             endpoints = [{}]\nbalance = {{ policy = '{policy}'{} }}\n",
            endpoints.join(", "),
            if more == hash { hash } else { "" },
        );
        let snapshot = config::parse("sidecar.toml", &text).expect("a valid configuration");
        let table = Table::new(Arc::new(snapshot), None, &Metrics::default(), begun);
        let cluster = &table.clusters[0];
        // A key of its own for every request, as far as there are keys.
        let mut key = 0_u64;
        group.bench_function(name, |b| {
            b.iter(|| {
                key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let context = PickContext { hash: Some(key), subset: 0 };
                cluster.pick(now, &mut rng, black_box(context), Attempted::default())
            })
        });
    }
    group.finish();
    c.bench_function("observe", |b| {
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), now);
        b.iter(|| endpoint.observe(black_box(begun), now));
    });
}

/// What a change of one endpoint among 10 000 costs the control thread, from what the source says
/// to the table in force. At most ten a second come into force, or fewer if they would take more
/// than a fiftieth of a processor.
fn discovering(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("discovery");
    for (name, clusters, each) in
        [("one of 10000 endpoints", 1_u32, 10_000_u32), ("one of 1000 clusters of 10", 1000, 10)]
    {
        let endpoint =
            |i: u32| config::Endpoint::at(([10, (i >> 16) as u8, (i >> 8) as u8, i as u8], 80).into());
        let cluster = |i| {
            let (name, number) = (format!("c{i}"), 10_u32 << 24 | 96 << 16 | i);
            let address = std::net::Ipv4Addr::from(number);
            format!(
                "[[cluster]]\nname = '{name}'\naddresses = ['{address}:80']\n[cluster.discovery]\nfile = '/{name}.toml'\n"
            )
        };
        let text = "service = 'web'\n".to_owned() + &(0..clusters).map(cluster).collect::<String>();
        let given = Arc::new(config::parse("sidecar.toml", &text).expect("a valid configuration"));
        let (metrics, store) = (Metrics::default(), EndpointStore::default());
        store.want(&given, &metrics);
        for i in 0..clusters {
            let endpoints = (0..each).map(|n| endpoint(i * each + n)).collect();
            store.tell(&format!("c{i}"), EndpointUpdate::Endpoints(endpoints), Instant::now());
        }
        let mut table = Table::new(store.fill(&given), None, &metrics, Instant::now());
        let mut turn = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                turn += 1;
                let (first, more) = (turn % clusters * each, u32::from(turn % 2 == 0));
                let endpoints = (first..first + each - more).map(endpoint).collect();
                store.tell(
                    &format!("c{}", turn % clusters),
                    EndpointUpdate::Endpoints(endpoints),
                    Instant::now(),
                );
                table = Table::new(store.fill(&given), Some(&table), &metrics, Instant::now());
            });
        });
    }
    group.finish();
}

/// What remembering an outcome costs a request, under the endpoint's lock: the usual one, one that
/// fails, and one that finds out whether the cluster of 1000 can spare the endpoint.
fn breaking(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _guard = runtime.enter();
    let now = Instant::now();
    let mut rng = RngTree::new(1).rng();
    let ejection = OutlierDetection::default();
    let outliers = |ejection| {
        let endpoints = (0..1000_u16).map(|p| Arc::new(Endpoint::new(([10, 0, 0, 1], p).into(), now)));
        let metrics = Metrics::default().cluster("outbound", "orders").ejections;
        Outliers::new("orders", endpoints.collect(), ejection, metrics, None)
    };
    let mut group = c.benchmark_group("ejection");
    let never = outliers(OutlierDetection { consecutive_failures: u32::MAX, success_rate: 0.01, ..ejection });
    for (name, outcome) in [("success", Outcome::Success), ("failure", Outcome::Failure(None))] {
        group.bench_function(name, |b| {
            b.iter(|| never.on_outcome(1, black_box(outcome), now, now, &mut rng));
        });
    }
    // Endpoint 0 is the one that the cap allows, so the other is considered again and again.
    let capped = outliers(OutlierDetection { cap: 0.0, ..ejection });
    for _ in 0..ejection.consecutive_failures {
        capped.on_outcome(0, Outcome::Failure(None), now, now, &mut rng);
    }
    group.bench_function("failure, no room among 1000", |b| {
        b.iter(|| capped.on_outcome(1, black_box(Outcome::Failure(None)), now, now, &mut rng));
    });
}

/// What a retry costs, and what a request pays that needs none.
fn retrying(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _guard = runtime.enter();
    let text =
        "service = 'web'\n[[cluster]]\nname = 'a'\naddresses = ['10.96.0.1:80']\nendpoints = ['10.0.0.1:80']";
    let snapshot = config::parse("sidecar.toml", text).expect("a valid configuration");
    let (retry, config) = (&snapshot.clusters[0].retry, &snapshot.clusters[0].retry_budget);
    let now = Instant::now();
    let mut group = c.benchmark_group("retry");
    let budget = Budget::new(config, now);
    group.bench_function("deposit, full", |b| b.iter(|| budget.deposit(black_box(config))));
    group.bench_function("withdraw and deposit", |b| {
        b.iter(|| {
            for _ in 0..5 {
                budget.deposit(black_box(config));
            }
            budget.withdraw(config, now)
        })
    });
    while budget.withdraw(config, now) {}
    group.bench_function("withdraw, empty", |b| b.iter(|| budget.withdraw(black_box(config), now)));
    let mut rng = RngTree::new(1).rng();
    group.bench_function("backoff", |b| {
        b.iter(|| backoff::wait(retry, black_box(2), false, RetryAfter::Nothing, &mut rng))
    });
    for (name, status) in [("reason, none", 200), ("reason, gateway-error", 503)] {
        let ended = AttemptOutcome::Answered { status, grpc: None };
        group.bench_function(name, |b| b.iter(|| condition::reason(retry, black_box(ended))));
    }
}

fn routing(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("cluster_at");
    for n in [3_u32, 1000] {
        let mut text = String::from("service = \"web\"\n");
        for i in 0..n {
            let (high, low) = (i / 250, i % 250);
            let _ = write!(
                text,
                "[[cluster]]\nname = \"c{i}\"\naddresses = [\"10.96.{high}.{low}:80\"]\n\
                 endpoints = [\"10.0.{high}.{low}:8080\"]\n"
            );
        }
        let snapshot = config::parse("sidecar.toml", &text).expect("a valid configuration");
        let table = Table::new(Arc::new(snapshot), None, &Metrics::default(), Instant::now());
        let (known, unknown) = (([10, 96, 0, 1], 80).into(), ([10, 97, 0, 1], 80).into());
        assert!(table.cluster_at(known).is_some() && table.cluster_at(unknown).is_none());
        group.bench_function(format!("one of {n}"), |b| {
            b.iter(|| table.cluster_at(black_box(known)).is_some())
        });
        group.bench_function(format!("none of {n}"), |b| {
            b.iter(|| table.cluster_at(black_box(unknown)).is_some())
        });
    }
}

/// The first route that is for a request, among as many as a large gateway has.
fn matching(c: &mut Criterion) {
    let routes = |n: u32, route: &dyn Fn(u32) -> String| {
        let mut text = String::from(
            "service = \"web\"\n[[cluster]]\nname = \"a\"\naddresses = [\"10.96.0.1:80\"]\nendpoints = [\"10.0.0.1:80\"]\n",
        );
        for i in 0..n {
            let _ = write!(text, "[[cluster.route]]\nmatch = {{ {} }}\n", route(i));
        }
        let snapshot = config::parse("sidecar.toml", &text).expect("a valid configuration");
        Routes::new(&snapshot.clusters[0], |_| Some(0), |route| Metrics::default().route("a", route))
            .expect("there are routes")
    };
    let request = |path: &str| {
        let request = Request::builder().uri(path).header("host", "orders").header("x-user", "u999");
        request.body(()).expect("a valid request")
    };
    let exact = |i| format!("path = \"/shop/item{i}/price\"");
    let prefix = |i| format!("prefix = \"/shop/item{i}\", methods = [\"GET\"]");
    let header = |i| format!("headers = {{ x-user = \"u{i}\" }}");
    let regex = |i| format!("regex = \"/shop/item{i}/[a-z]+\"");
    let mut group = c.benchmark_group("route");
    for (name, routes, path, is_found) in [
        ("last of 3 prefixes", routes(3, &prefix), "/shop/item2/price", true),
        ("last of 1000 paths", routes(1000, &exact), "/shop/item999/price", true),
        ("last of 1000 prefixes", routes(1000, &prefix), "/shop/item999/price", true),
        ("none of 1000 prefixes", routes(1000, &prefix), "/shop/item1000/price", false),
        ("last of 1000 headers", routes(1000, &header), "/shop/item999/price", true),
        ("last of 1000 expressions", routes(1000, &regex), "/shop/item999/price", true),
    ] {
        let request = request(path);
        assert_eq!(routes.find(&request).is_some(), is_found, "{name}");
        group.bench_function(name, |b| b.iter(|| routes.find(black_box(&request)).is_some()));
    }
}

fn headers(c: &mut Criterion) {
    let usual = usual_headers();
    let mut named = usual.clone();
    named.insert(CONNECTION, HeaderValue::from_static("keep-alive, x-private"));
    named.insert("x-private", HeaderValue::from_static("1"));
    let mut group = c.benchmark_group("headers");
    for (name, headers) in [("hop by hop, none", &usual), ("hop by hop, two named", &named)] {
        let copy = || headers.clone();
        group.bench_function(name, |b| b.iter_batched_ref(copy, remove_hop_by_hop, BatchSize::SmallInput));
    }
    let mut rng = RngTree::new(1).rng();
    group.bench_function("a new request id", |b| {
        b.iter_batched_ref(|| usual.clone(), |h| ensure_request_id(h, &mut rng), BatchSize::SmallInput)
    });
}

/// The head of a request on its way to an HTTP/2 connection between sidecars, and back into HTTP/1
/// behind it.
fn bridging(c: &mut Criterion) {
    let dst = ([10, 96, 0, 1], 80).into();
    let http1 = || {
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = "/checkout/cart?id=42".parse().expect("a path");
        *request.headers_mut() = usual_headers();
        request
    };
    let bridged = || {
        let mut request = http1();
        bridge::to_http2(&mut request, dst, true);
        request
    };
    let pieces = || {
        let mut request = bridged();
        request.headers_mut().append(COOKIE, HeaderValue::from_static("theme=dark"));
        request
    };
    let back = |request: &mut Request<RequestBody>| {
        let restored = bridge::restore_marked(request);
        assert!(restored.expect("what was written for HTTP/2 can be read"));
    };
    let mut group = c.benchmark_group("bridge");
    group.bench_function("to HTTP/2", |b| {
        b.iter_batched_ref(http1, |r| bridge::to_http2(r, dst, true), BatchSize::SmallInput)
    });
    group.bench_function("back to HTTP/1", |b| b.iter_batched_ref(bridged, back, BatchSize::SmallInput));
    group.bench_function("back to HTTP/1, a cookie in pieces", |b| {
        b.iter_batched_ref(pieces, back, BatchSize::SmallInput)
    });
}

fn usual_headers() -> HeaderMap {
    let mut usual = HeaderMap::new();
    for (name, value) in [
        ("host", "orders"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
        ("content-type", "application/json"),
    ] {
        usual.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    usual
}

/// The first read of a detected connection, with the bytes that were looked at, and every later
/// one.
fn prefixed(c: &mut Criterion) {
    const HEAD: &[u8] = b"GET /checkout/cart?id=42 HTTP/1.1\r\nhost: orders\r\n\r\n";
    let mut context = Context::from_waker(Waker::noop());
    let mut buffer = vec![0; 8 << 10];
    let mut read = |stream: &mut Prefixed<&[u8]>| {
        let mut into = ReadBuf::new(&mut buffer);
        let done = Pin::new(stream).poll_read(&mut context, &mut into);
        assert!(done.is_ready() && into.filled().len() == HEAD.len());
    };
    let mut group = c.benchmark_group("prefixed read");
    for (name, prefix, io) in [("the prefix", HEAD, &[][..]), ("behind it", &[][..], HEAD)] {
        let stream = || Prefixed::new(Bytes::copy_from_slice(prefix), io);
        group.bench_function(name, |b| b.iter_batched_ref(stream, &mut read, BatchSize::SmallInput));
    }
}

/// What metrics cost a request: they cannot be switched off, so this stands in for a run without
/// them.
fn counting(c: &mut Criterion) {
    let cluster = Metrics::default().cluster("outbound", "orders");
    c.bench_function("metrics/one request, counted and timed", |b| {
        b.iter(|| cluster.request_log(0).answered(black_box(http::StatusCode::OK)));
    });
}

criterion_group!(
    benches,
    detection,
    routing,
    matching,
    balancing,
    discovering,
    breaking,
    retrying,
    headers,
    bridging,
    prefixed,
    counting
);
criterion_main!(benches);
