//! Medians over the rounds, as tables for people.
//!
//! Each column is the median of its own, so the numbers of a row need not come from one round.
//! Ratios are of medians.

use std::fmt::Write as _;

use crate::options::{Path, Protocol, Sidecar};
use crate::run::{Held, Results};

/// Medians of one path at one concurrency.
#[derive(Debug, Clone, Default)]
struct Row {
    rate: f64,
    gbit: f64,
    p50: f64,
    p99: f64,
    /// Of each process, microseconds per request, or milliseconds per gigabyte.
    a: Option<f64>,
    b: Option<f64>,
    app: f64,
    load: f64,
}

impl Row {
    /// CPU of a sidecar, on average over those there are.
    fn sidecar(&self) -> Option<f64> {
        let there: Vec<f64> = [self.a, self.b].into_iter().flatten().collect();
        (!there.is_empty()).then(|| there.iter().sum::<f64>() / there.len() as f64)
    }
}

/// The tables of a run.
pub fn tables(results: &Results) -> String {
    let mut text = String::new();
    let mut groups: Vec<(Protocol, u16)> =
        results.measured.iter().map(|m| (m.protocol, m.concurrency)).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    for (protocol, concurrency) in groups {
        let _ = if protocol == Protocol::TcpBulk {
            bulk(&mut text, results)
        } else {
            requests(&mut text, results, protocol, concurrency)
        };
    }
    for protocol in [Protocol::Http1, Protocol::TcpPingpong] {
        let held: Vec<&Held> = results.held.iter().filter(|held| held.protocol == protocol).collect();
        if let Some(first) = held.first() {
            let _ = memory(&mut text, first, &held);
        }
    }
    text
}

fn requests(text: &mut String, results: &Results, protocol: Protocol, n: u16) -> std::fmt::Result {
    writeln!(
        text,
        "\n{}, {n} in flight (CPU: us per request, user+system, from schedstat)",
        protocol.title()
    )?;
    writeln!(
        text,
        "{:<20} {:>9} {:>8} {:>8} {:>10} {:>9} {:>7} {:>7} {:>9} {:>9} {:>11} {:>7} {:>7}  carried as",
        "path",
        "req/s",
        "p50 us",
        "p99 us",
        "p50/direct",
        "p50/Envoy",
        "CPU A",
        "CPU B",
        "CPU/floor",
        "CPU/Envoy",
        "CPU/HAProxy",
        "app",
        "load"
    )?;
    let direct = row(results, protocol, n, Path::Direct);
    for (path, row) in rows(results, protocol, n) {
        let [floor, envoy, haproxy] = beside_peers(results, protocol, n, path, &row);
        let slower = ratio(Some(row.p50), direct.as_ref().map(|d| d.p50));
        writeln!(
            text,
            "{:<20} {:>9.0} {:>8.0} {:>8.0} {:>10} {:>9} {:>7} {:>7} {floor:>9} {envoy:>9} {haproxy:>11} {:>7.1} {:>7.1}  {}",
            path.title(),
            row.rate,
            row.p50,
            row.p99,
            slower,
            ratio(Some(row.p50), peer(results, protocol, n, path, path.with(Sidecar::Envoy)).map(|p| p.p50)),
            number(row.a),
            number(row.b),
            row.app,
            row.load,
            carried(results, protocol, path),
        )?;
    }
    prices(text, results, protocol, n)
}

/// What mutual TLS costs our sidecars, and on top of it policies and the audit log.
fn prices(text: &mut String, results: &Results, protocol: Protocol, n: u16) -> std::fmt::Result {
    let cpu = |path| row(results, protocol, n, path).and_then(|row| row.sidecar());
    let priced = [
        ("mutual TLS", Path::TwoMtls, Path::Two),
        ("policies", Path::TwoAuthorization, Path::TwoMtls),
        ("the audit log", Path::TwoAudit, Path::TwoMtls),
        ("policies and the audit log", Path::TwoAll, Path::TwoMtls),
    ];
    for (what, with, without) in priced {
        if let (Some(with), Some(without)) = (cpu(with), cpu(without)) {
            writeln!(text, "  {what}: {:+.1} us, {:.2} times", with - without, with / without)?;
        }
    }
    Ok(())
}

fn bulk(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "\nTCP bulk, one connection, app to client (CPU: ms per GB, user+system, from schedstat)"
    )?;
    writeln!(
        text,
        "{:<20} {:>8} {:>13} {:>8} {:>8} {:>9} {:>9} {:>11} {:>7} {:>7} {:>7}",
        "path",
        "Gbit/s",
        "Gbit/s/direct",
        "CPU A",
        "CPU B",
        "CPU/floor",
        "CPU/Envoy",
        "CPU/HAProxy",
        "app",
        "load",
        "total"
    )?;
    let (protocol, n) = (Protocol::TcpBulk, 1);
    let direct = row(results, protocol, n, Path::Direct);
    for (path, row) in rows(results, protocol, n) {
        let [floor, envoy, haproxy] = beside_peers(results, protocol, n, path, &row);
        writeln!(
            text,
            "{:<20} {:>8.2} {:>13} {:>8} {:>8} {floor:>9} {envoy:>9} {haproxy:>11} {:>7.0} {:>7.0} {:>7.0}",
            path.title(),
            row.gbit,
            ratio(Some(row.gbit), direct.as_ref().map(|d| d.gbit)),
            number(row.a),
            number(row.b),
            row.app,
            row.load,
            row.a.unwrap_or(0.0) + row.b.unwrap_or(0.0) + row.app + row.load,
        )?;
    }
    Ok(())
}

fn memory(text: &mut String, first: &Held, held: &[&Held]) -> std::fmt::Result {
    let (connections, what) =
        (first.connections, if first.protocol.is_opaque() { "byte" } else { "request" });
    writeln!(text, "\nMemory with {connections} idle client connections, one {what} asked on each")?;
    writeln!(
        text,
        "{:<20} {:>7} {:>12} {:>12} {:>17} {:>19} {:>9}",
        "path", "sidecar", "RSS before", "RSS with", "private before", "private KiB each", "vs Envoy"
    )?;
    for one in held {
        let peer = one.path.with(Sidecar::Envoy);
        let peer = held.iter().find(|h| Some(h.path) == peer && h.sidecar == one.sidecar);
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        writeln!(
            text,
            "{:<20} {:>7} {:>12} {:>12} {:>17} {:>19.2} {:>9}",
            one.path.title(),
            one.sidecar,
            mib(one.before.rss),
            mib(one.after.rss),
            mib(one.before.private),
            each(one),
            ratio(Some(each(one)), peer.map(|peer| each(peer))),
        )?;
    }
    Ok(())
}

/// Private memory of one idle connection, KiB.
fn each(held: &Held) -> f64 {
    (held.after.private as f64 - held.before.private as f64) / f64::from(held.connections)
}

/// The medians of a peer in the same places, if it carried the same: bytes cost less than requests.
fn peer(results: &Results, protocol: Protocol, n: u16, path: Path, peer: Option<Path>) -> Option<Row> {
    let peer = peer?;
    let same = carried(results, protocol, path) == carried(results, protocol, peer);
    same.then(|| row(results, protocol, n, peer)).flatten()
}

/// The ratios of a sidecar's CPU to that of the smallest relay, of Envoy and of HAProxy in the same
/// places.
fn beside_peers(results: &Results, protocol: Protocol, n: u16, path: Path, own: &Row) -> [String; 3] {
    let beside = |peer| beside(results, protocol, n, path, peer, own);
    [
        beside_floor(results, protocol, n, path, own),
        beside(path.with(Sidecar::Envoy)),
        beside(path.with(Sidecar::Haproxy)),
    ]
}

/// The ratio of a sidecar's CPU to a peer's in the same places.
fn beside(
    results: &Results,
    protocol: Protocol,
    n: u16,
    path: Path,
    other: Option<Path>,
    own: &Row,
) -> String {
    ratio(own.sidecar(), peer(results, protocol, n, path, other).and_then(|peer| peer.sidecar()))
}

/// The ratio of a sidecar's CPU to the smallest relay's in the same places.
fn beside_floor(results: &Results, protocol: Protocol, n: u16, path: Path, own: &Row) -> String {
    let floor = path.with(Sidecar::Floor).and_then(|floor| row(results, protocol, n, floor));
    ratio(own.sidecar(), floor.and_then(|floor| floor.sidecar()))
}

fn carried(results: &Results, protocol: Protocol, path: Path) -> &'static str {
    let found = results.carried.iter().find(|(p, at, _)| (*p, *at) == (protocol, path));
    match found {
        Some((_, _, carried)) => carried,
        None if path.sidecar() == Some(Sidecar::Floor) || path.is_peer() && protocol.is_opaque() => "bytes",
        None if path.is_peer() => "requests",
        None => "",
    }
}

/// Those of all paths that were measured.
fn rows(results: &Results, protocol: Protocol, n: u16) -> impl Iterator<Item = (Path, Row)> {
    Path::ALL.into_iter().filter_map(move |path| Some((path, row(results, protocol, n, path)?)))
}

fn row(results: &Results, protocol: Protocol, concurrency: u16, path: Path) -> Option<Row> {
    let of = |m: &&crate::run::Measured| (m.protocol, m.concurrency, m.path) == (protocol, concurrency, path);
    let outcomes: Vec<_> = results.measured.iter().filter(of).map(|m| &m.outcome).collect();
    let first = outcomes.first()?;
    let over = |value: &dyn Fn(&crate::load::LoadOutcome) -> f64| {
        median(outcomes.iter().map(|o| value(o)).collect())
    };
    let cpu = |label: &str| {
        first.cpu_ns.contains_key(label).then(|| {
            over(&|o| {
                let ns = o.cpu_ns.get(label).copied().unwrap_or(0) as f64;
                if protocol == Protocol::TcpBulk {
                    ns / 1e6 / (o.bytes as f64 / 1e9)
                } else {
                    ns / 1e3 / o.requests as f64
                }
            })
        })
    };
    Some(Row {
        rate: over(&|o| o.requests as f64 / o.seconds),
        gbit: over(&|o| o.bytes as f64 * 8.0 / 1e9 / o.seconds),
        p50: over(&|o| o.p50_us),
        p99: over(&|o| o.p99_us),
        a: cpu("a"),
        b: cpu("b"),
        app: cpu("app").unwrap_or(0.0),
        load: cpu("load").unwrap_or(0.0),
    })
}

/// The middle value; the mean of the two in the middle if there is no single one. `values` is not
/// empty.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.1}"))
}

fn ratio(a: Option<f64>, b: Option<f64>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
