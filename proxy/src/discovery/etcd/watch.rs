//! Follows the keys below a prefix: all of them once, then every change, across breaks of any kind.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

use super::position::{Next, Position};
use super::wire::{EventKind, KeyValue, Streamed, WatchMessage};
use super::{EtcdClient, EtcdError, refused};
use crate::backoff::Backoff;
use crate::config::Endpoint;
use crate::config::defaults::{DISCOVERY_BACKOFF, ETCD_PROBE, ETCD_TIMEOUT};
use crate::discovery::{EndpointUpdate, Pace, UpdateSender, document};
use crate::world::Net;

/// Tells the endpoints below `prefix`, now and whenever they change, for as long as it is polled.
pub async fn follow<N: Net>(client: EtcdClient<N>, prefix: String, mut rng: StdRng, updates: UpdateSender) {
    let (position, endpoints, pace) = (Position::default(), BTreeMap::new(), Pace::default());
    let mut follower = Follower { client, prefix, updates, position, endpoints, pace };
    let mut backoff = Backoff::new(DISCOVERY_BACKOFF);
    loop {
        let Err(error) = follower.session(&mut backoff).await;
        // The watch goes on after what it has read, told or not.
        if follower.pace.due(Instant::now()).is_some() {
            follower.tell();
        }
        follower.updates.tell(EndpointUpdate::Lost(error.to_string()));
        follower.client.next_server();
        sleep(backoff.next(&mut rng)).await;
    }
}

struct Follower<N> {
    client: EtcdClient<N>,
    prefix: String,
    updates: UpdateSender,
    position: Position,
    /// By key.
    endpoints: BTreeMap<Vec<u8>, Endpoint>,
    /// Telling takes a copy of them all.
    pace: Pace,
}

impl<N: Net> Follower<N> {
    /// Follows until something breaks.
    async fn session(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, EtcdError> {
        loop {
            let from = match self.position.next() {
                Next::Watch(from) => from,
                Next::List => {
                    let range = self.client.list(&self.prefix).await?;
                    self.endpoints.clear();
                    range.kvs.into_iter().for_each(|kv| self.put(kv));
                    self.position.listed(range.header);
                    self.tell();
                    range.header.revision + 1
                }
            };
            self.watch(from, backoff).await?;
        }
    }

    /// Watches until something breaks, or returns if all keys have to be read again.
    async fn watch(&mut self, from: i64, backoff: &mut Backoff) -> Result<(), EtcdError> {
        let mut lines = self.client.watch(&self.prefix, from).await?;
        let mut begun = false;
        loop {
            // A watch that has not begun has a call's time; one that has may be silent for ever, if
            // its server lives.
            let timer = if begun { ETCD_PROBE } else { ETCD_TIMEOUT };
            let due = self.pace.due(Instant::now());
            let line = tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.tell();
                    continue;
                }
                line = lines.next() => line,
                () = sleep(timer) => {
                    match begun {
                        true => self.client.probe(&self.prefix).await?,
                        false => return Err(EtcdError::Unreachable("the watch did not begin in time".into())),
                    }
                    continue;
                }
            };
            let line = line.map_err(EtcdError::Unreachable)?;
            let line = line.ok_or_else(|| EtcdError::Unreachable("the watch has ended".into()))?;
            let message: Streamed<WatchMessage> = serde_json::from_slice(&line)
                .map_err(|error| EtcdError::Refused(format!("a message that cannot be read ({error})")))?;
            let Some(message) = message.result else {
                return Err(refused(message.error.unwrap_or_default()));
            };
            if message.canceled {
                if message.compact_revision > 0 {
                    self.position.compacted();
                    return Ok(());
                }
                return Err(EtcdError::Refused(format!(
                    "the watch was cancelled: {}",
                    message.cancel_reason
                )));
            }
            if message.created {
                if !self.position.begun(message.header) {
                    return Ok(());
                }
                begun = true;
                backoff.reset();
                self.updates.tell(EndpointUpdate::Confirmed);
                continue;
            }
            let (changed, revision) = (!message.events.is_empty(), message.revision());
            for event in message.events {
                match event.kind {
                    EventKind::Put => self.put(event.kv),
                    EventKind::Delete => {
                        self.endpoints.remove(&event.kv.key);
                    }
                }
            }
            self.position.seen(revision);
            if changed {
                self.pace.changed();
            }
        }
    }

    /// Takes a document. One that cannot be used is passed over and reported: it must not keep the
    /// others from changing.
    fn put(&mut self, kv: KeyValue) {
        match document::read(&kv.value) {
            Ok(endpoint) => {
                self.endpoints.insert(kv.key, endpoint);
            }
            Err(why) => {
                let key = String::from_utf8_lossy(&kv.key);
                self.updates.tell(EndpointUpdate::Passed(format!("{key}: {why}")));
                // What stood there before has been replaced.
                self.endpoints.remove(&kv.key);
            }
        }
    }

    fn tell(&mut self) {
        let begun = Instant::now();
        self.updates.tell(EndpointUpdate::Endpoints(self.endpoints.values().cloned().collect()));
        self.pace.applied(begun, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::discovery::etcd::fake::{Asked, FIRST, asked};
    use crate::discovery::etcd::wire::base64;
    use crate::discovery::fake::{Heard, followed};
    use crate::world::fake::FakeNet;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint::at(([10, 0, 1, last], 80).into())
    }

    async fn watching(net: &FakeNet, story: impl AsyncFnOnce(Heard)) {
        let (client, rng) = (EtcdClient::new(net.clone(), vec![FIRST]), StdRng::seed_from_u64(1));
        followed(|updates| follow(client, "/a/".into(), rng, updates), story).await;
    }

    /// Answers the next request, which is for a list: it stands at this revision, and has endpoints
    /// with these last bytes.
    async fn list(net: &FakeNet, revision: u64, last: &[u8]) {
        let asked = asked(net).await;
        assert_eq!(asked.path, "/v3/kv/range");
        let kv = |last: &u8| {
            let (key, value) = (base64(&format!("/a/{last}")), base64(&document::write(&endpoint(*last))));
            format!(r#"{{"key":"{key}","value":"{value}"}}"#)
        };
        let kvs: Vec<_> = last.iter().map(kv).collect();
        let list = format!(r#"{{"header":{{"revision":"{revision}"}},"kvs":[{}]}}"#, kvs.join(","));
        asked.answer(200, &list).await;
    }

    /// The next request, which is for a watch from this revision on. It has begun.
    async fn watch(net: &FakeNet, from: &str) -> Asked {
        let mut watch = asked(net).await;
        assert_eq!(watch.path, "/v3/watch");
        assert_eq!(watch.body["create_request"]["start_revision"], from);
        watch.begin(200).await;
        watch.tell(r#"{"header":{"revision":"5000"},"created":true}"#).await;
        watch
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_begins_after_the_list_and_only_a_compaction_makes_it_list_again() {
        let net = FakeNet::default();
        watching(&net, async |mut heard| {
            list(&net, 5, &[1]).await;
            assert_eq!(heard.next().await, EndpointUpdate::Endpoints(vec![endpoint(1)]));
            let mut first = watch(&net, "6").await;
            assert_eq!(heard.next().await, EndpointUpdate::Confirmed);
            first.tell(r#"{"canceled":true,"compact_revision":"8"}"#).await;
            list(&net, 9, &[1, 2]).await;
            assert_eq!(heard.next().await, EndpointUpdate::Endpoints(vec![endpoint(1), endpoint(2)]));
            let mut second = watch(&net, "10").await;
            assert_eq!(heard.next().await, EndpointUpdate::Confirmed);
            second.tell(r#"{"canceled":true,"cancel_reason":"no permission"}"#).await;
            let why = "etcd says: the watch was cancelled: no permission";
            assert_eq!(heard.next().await, EndpointUpdate::Lost(why.into()));
            watch(&net, "10").await;
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_breaks_goes_on_after_the_last_change_that_it_told() {
        let net = FakeNet::default();
        watching(&net, async |mut heard| {
            list(&net, 5, &[1, 2]).await;
            let mut broken = watch(&net, "6").await;
            // It catches up: the head stands at the newest revision, of which it has not told yet.
            let kv = format!(r#"{{"key":"{}","mod_revision":"1005"}}"#, base64("/a/1"));
            let event = format!(r#"{{"type":"DELETE","kv":{kv}}}"#);
            broken.tell(&format!(r#"{{"header":{{"revision":"5000"}},"events":[{event}]}}"#)).await;
            broken.end().await;
            watch(&net, "1006").await;
            let (two, one) = (vec![endpoint(1), endpoint(2)], vec![endpoint(2)]);
            let lost = EndpointUpdate::Lost("the watch has ended".into());
            for update in [
                EndpointUpdate::Endpoints(two),
                EndpointUpdate::Confirmed,
                EndpointUpdate::Endpoints(one),
                lost,
            ] {
                assert_eq!(heard.next().await, update);
            }
        })
        .await;
    }
}
