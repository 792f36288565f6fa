//! When a connection or a request is tried again, by a clock that stands still while nothing
//! happens.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::world::fake::{FakeNet, run};
use crate::world::{RngTree, SystemWall};

/// The waits before each attempt but the first at a cluster of so many `endpoints`, none of which
/// listens.
async fn waits(protocol: &str, endpoints: usize) -> Vec<Duration> {
    let endpoints: Vec<_> = (1..=endpoints).map(|n| format!("10.0.0.{n}:80")).collect();
    let config = format!(
        "service = 'web'\n[[cluster]]\nname = 'orders'\naddresses = ['10.96.0.1:80']\n\
         protocol = '{protocol}'\nendpoints = {endpoints:?}\nretry = {{ attempts = 2, base = '1s', max = '1s' }}\n"
    );
    let snapshot = Arc::new(crate::config::parse("sidecar.toml", &config).unwrap());
    let metrics = Arc::new(Metrics::default());
    let table = Arc::new(ArcSwap::from_pointee(Table::new(snapshot, None, &metrics, Instant::now())));
    let destination = Some("10.96.0.1:80".parse().unwrap());
    let net = FakeNet { is_empty: true, destination, ..FakeNet::default() };
    let world = World::new(net.clone(), SystemWall, RngTree::new(1));
    let (_drain, watch) = drain::channel();
    let (mut client, io) = duplex(1024);
    let peer = "10.0.0.9:4000".parse().unwrap();
    let serving = carry(Outbound::new(&world, None, table, metrics), io, peer, watch);
    let asking = async {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let _ = client.read(&mut [0; 1024]).await;
        drop(client);
    };
    tokio::join!(serving, asking);
    net.asked.borrow().windows(2).map(|attempts| attempts[1] - attempts[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_retry_goes_at_once_if_there_is_another_endpoint_and_waits_if_there_is_none() {
    run(async {
        for protocol in ["http", "tcp"] {
            for (endpoints, at_once) in [(1, false), (2, true), (3, true)] {
                let waits = waits(protocol, endpoints).await;
                let [first, second] = waits[..] else { panic!("{protocol} {endpoints}: {waits:?}") };
                assert_eq!(first.is_zero(), at_once, "{protocol} {endpoints}: {first:?}");
                assert!(!second.is_zero(), "{protocol} {endpoints}: {second:?}");
            }
        }
    })
    .await;
}
