//! What a request costs in pure policy: recognising its protocol, picking an endpoint, remembering the result.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use proxy::balance::{Tried, pick};
use proxy::config::{Breaker, defaults};
use proxy::detect::sniff;
use proxy::endpoint::Endpoint;
use proxy::world::RngTree;
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
    for n in [3_u16, 1000] {
        let endpoints: Vec<_> =
            (0..n).map(|p| Arc::new(Endpoint::new(([10, 0, 0, 1], p).into(), now))).collect();
        group.bench_function(format!("{n} endpoints"), |b| {
            b.iter(|| pick(black_box(&endpoints), now, &mut rng, Tried::default()))
        });
    }
    group.finish();
    let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), now);
    let breaker = Breaker {
        consecutive_failures: defaults::CONSECUTIVE_FAILURES,
        base: defaults::EJECTION_BASE,
        max: defaults::EJECTION_MAX,
        cap: defaults::EJECTION_CAP,
    };
    c.bench_function("success", |b| b.iter(|| endpoint.on_success(black_box(begun), now)));
    c.bench_function("failure", |b| b.iter(|| endpoint.on_failure(begun, now, black_box(&breaker), true)));
}

criterion_group!(benches, detection, balancing);
criterion_main!(benches);
