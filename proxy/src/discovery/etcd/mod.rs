//! A client for etcd version 3, by the HTTP and JSON that every server of it offers beside gRPC:
//! ranges, puts, leases and watches are POST requests, keys and values are base64, and a watch is
//! an endless response with one JSON object in a line. Speaking that over [`Net`] keeps the tree
//! small and lets the same client run in the simulator.
//!
//! Reads and writes go through consensus (no serializable reads), so a server that was cut off from
//! its peers fails instead of answering with the past. A server that cannot be reached, or has no
//! leader, is passed over for the next.
//!
//! What it leaves out: TLS, users and passwords, transactions, names of servers (addresses only),
//! and keeping connections: a sidecar asks a few times a minute.
//!
//! Source: etcd's api_grpc_gateway and its rpc.proto, version 3.4.

#[cfg(test)]
pub(super) mod fake;
mod http;
pub mod lease;
pub mod position;
pub mod watch;
pub mod wire;

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::config::defaults::ETCD_TIMEOUT;
use crate::world::Net;
use wire::{Failure, Granted, Header, KeepAlive, LeaseId, Put, Range, Renewed, Reply, Span, Streamed};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// No server could be asked.
    #[error("{0}")]
    Unreachable(String),
    /// The lease has ended.
    #[error("the lease is not known any more")]
    NoLease,
    /// etcd said no.
    #[error("etcd says: {0}")]
    Refused(String),
}

/// Speaks to one etcd.
pub struct EtcdClient<N> {
    net: N,
    servers: Vec<SocketAddr>,
    current: Cell<usize>,
    /// How long one call to one server may take.
    timer: Duration,
}

impl<N: Net> EtcdClient<N> {
    /// A client of these servers, of which there must be one at least.
    pub fn new(net: N, servers: Vec<SocketAddr>) -> Self {
        assert!(!servers.is_empty(), "the configuration makes sure of a server");
        EtcdClient { net, servers, current: Cell::new(0), timer: ETCD_TIMEOUT }
    }

    /// The same with less patience, if this is less.
    pub fn patient(self, timer: Duration) -> Self {
        EtcdClient { timer: self.timer.min(timer), ..self }
    }

    /// The keys that begin with `prefix`, and the revision at which they were read.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn list(&self, prefix: &str) -> Result<Range, EtcdError> {
        self.call("/v3/kv/range", &Span::of_prefix(prefix)).await
    }

    /// Asks the server that was asked last, and no other, for a sign of life.
    ///
    /// # Errors
    /// If it gives none.
    pub async fn probe(&self, prefix: &str) -> Result<(), EtcdError> {
        let span = Span { count_only: true, ..Span::of_prefix(prefix) };
        self.ask::<Range>(self.server(), "/v3/kv/range", &encode(&span)).await.map(|_| ())
    }

    /// Puts a value, bound to a lease.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`] if it has ended.
    pub async fn put(&self, key: &str, value: &str, lease: LeaseId) -> Result<Header, EtcdError> {
        let put = Put { key: wire::base64(key), value: wire::base64(value), lease };
        Ok(self.call::<Reply>("/v3/kv/put", &put).await?.header)
    }

    /// A new lease of `ttl` seconds; etcd may give a longer one.
    ///
    /// # Errors
    /// If there is none to be had.
    pub async fn grant(&self, ttl: u64) -> Result<Granted, EtcdError> {
        self.call("/v3/lease/grant", &wire::Grant { ttl: ttl.to_string() }).await
    }

    /// Renews a lease, and says for how many seconds.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`] if it has ended.
    pub async fn renew(&self, lease: LeaseId) -> Result<u64, EtcdError> {
        let body = encode(&KeepAlive { id: lease });
        let renew = async |server| {
            let renewed: Streamed<Renewed> = self.ask(server, "/v3/lease/keepalive", &body).await?;
            renewed.result.ok_or_else(|| refused(renewed.error.unwrap_or_default()))
        };
        match self.in_turn(renew).await? {
            Renewed { ttl: 0 } => Err(EtcdError::NoLease),
            Renewed { ttl } => Ok(ttl),
        }
    }

    /// Ends a lease, and with it the keys that are bound to it.
    ///
    /// # Errors
    /// [`EtcdError::NoLease`] if it has ended already.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), EtcdError> {
        self.call::<Reply>("/v3/lease/revoke", &KeepAlive { id: lease }).await.map(|_| ())
    }

    /// Watches the keys that begin with `prefix`, from a revision on. A watch stays with its
    /// server: [`EtcdClient::next_server`] before the next one leaves it.
    ///
    /// # Errors
    /// If it cannot begin.
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<http::LineStream, EtcdError> {
        let request = wire::WatchRequest::of_prefix(prefix, from);
        let server = self.server();
        let begun = timeout(self.timer, http::post(&self.net, server, "/v3/watch", encode(&request))).await;
        let (status, lines) = begun.map_err(|_| self.silent(server))?.map_err(EtcdError::Unreachable)?;
        match status {
            200 => Ok(lines),
            _ => Err(EtcdError::Unreachable(format!("{server} answers a watch with {status}"))),
        }
    }

    /// Turns to the next server.
    pub fn next_server(&self) {
        self.current.set((self.current.get() + 1) % self.servers.len());
    }

    fn server(&self) -> SocketAddr {
        self.servers[self.current.get()]
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, EtcdError> {
        let body = encode(body);
        self.in_turn(async |server| self.ask(server, path, &body).await).await
    }

    /// Asks the servers in turn, beginning with the one that answered last, until one answers.
    async fn in_turn<T>(
        &self,
        ask: impl AsyncFn(SocketAddr) -> Result<T, EtcdError>,
    ) -> Result<T, EtcdError> {
        let mut result = Err(EtcdError::Unreachable(String::new()));
        for _ in 0..self.servers.len() {
            result = ask(self.server()).await;
            if !matches!(result, Err(EtcdError::Unreachable(_))) {
                break;
            }
            self.next_server();
        }
        result
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        server: SocketAddr,
        path: &str,
        body: &str,
    ) -> Result<T, EtcdError> {
        let asking = async {
            let (status, lines) = http::post(&self.net, server, path, body.to_owned()).await?;
            Ok::<_, String>((status, lines.whole().await?))
        };
        let answer = timeout(self.timer, asking).await.map_err(|_| self.silent(server))?;
        let (status, answer) = answer.map_err(EtcdError::Unreachable)?;
        if status != 200 {
            let failure = serde_json::from_slice::<Failure>(&answer);
            return Err(refused(failure.unwrap_or_else(|_| Failure::of_status(status))));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| EtcdError::Refused(format!("an answer that cannot be read ({error})")))
    }

    fn silent(&self, server: SocketAddr) -> EtcdError {
        EtcdError::Unreachable(format!("{server} did not answer within {:?}", self.timer))
    }
}

fn encode(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("text and numbers are all JSON")
}

/// What a failure means for the caller.
fn refused(failure: Failure) -> EtcdError {
    /// gRPC's statuses for "not now": another server may do better.
    const NOT_NOW: [u32; 3] = [4, 14, 8];
    let said = failure.said();
    if said.contains("requested lease not found") {
        EtcdError::NoLease
    } else if NOT_NOW.contains(&failure.grpc_status()) {
        EtcdError::Unreachable(said)
    } else {
        EtcdError::Refused(said)
    }
}

#[cfg(test)]
mod tests {
    use tokio::join;
    use tokio::time::Instant;

    use super::*;
    use crate::world::fake::{FakeNet, run};
    use fake::{FIRST, SECOND, asked};

    fn client(net: &FakeNet) -> EtcdClient<FakeNet> {
        EtcdClient::new(net.clone(), vec![FIRST, SECOND])
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_is_passed_over_and_the_one_that_answered_is_asked_first() {
        run(async {
            let net = FakeNet { refuses: Some(FIRST), ..FakeNet::default() };
            let client = client(&net);
            for _ in 0..2 {
                let etcd = async {
                    let asked = asked(&net).await;
                    assert_eq!((asked.server, &*asked.path), (SECOND, "/v3/kv/range"));
                    asked.answer(200, r#"{"header":{"revision":"5"}}"#).await;
                };
                let (range, ()) = join!(client.list("/a/"), etcd);
                assert_eq!(range.unwrap().header.revision, 5);
                assert_eq!(client.server(), SECOND);
            }
            client.next_server();
            assert_eq!(client.server(), FIRST);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up_after_the_shorter_patience() {
        run(async {
            let (short, long) = (ETCD_TIMEOUT / 3, ETCD_TIMEOUT * 3);
            for (timer, takes) in [(short, short), (long, ETCD_TIMEOUT)] {
                let net = FakeNet::default();
                let (client, begun) = (client(&net).patient(timer), Instant::now());
                let etcd = async {
                    let silent = asked(&net).await;
                    asked(&net).await.answer(200, "{}").await;
                    assert_eq!((silent.server, begun.elapsed()), (FIRST, takes));
                };
                let (range, ()) = join!(client.list("/a/"), etcd);
                assert!(range.is_ok());
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_comes_from_the_server_that_was_asked_last_or_not_at_all() {
        run(async {
            let net = FakeNet::default();
            let client = client(&net);
            let etcd = async {
                let asked = asked(&net).await;
                assert_eq!((asked.server, &*asked.path), (FIRST, "/v3/kv/range"));
                assert_eq!(asked.body["count_only"], true, "no key is read for it");
                asked.answer(200, "{}").await;
            };
            let (life, ()) = join!(client.probe("/a/"), etcd);
            assert_eq!(life, Ok(()));

            let silence = async {
                let _silent = asked(&net).await;
                std::future::pending::<()>().await;
            };
            let dead = tokio::select! {
                life = client.probe("/a/") => life,
                () = silence => unreachable!("it never ends"),
            };
            assert!(matches!(dead, Err(EtcdError::Unreachable(_))) && client.server() == FIRST);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_a_leader_is_passed_over_for_the_next_renewal() {
        run(async {
            let net = FakeNet::default();
            let client = client(&net);
            let etcd = async {
                let no_leader =
                    r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
                asked(&net).await.answer(200, no_leader).await;
                let next = asked(&net).await;
                assert_eq!((next.server, &*next.path), (SECOND, "/v3/lease/keepalive"));
                next.answer(200, r#"{"result":{"ID":"7","TTL":"5"}}"#).await;
            };
            let (renewed, ()) = join!(client.renew(LeaseId(7)), etcd);
            assert_eq!(renewed, Ok(5));
        })
        .await;
    }
}
