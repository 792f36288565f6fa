//! Endpoints by name: all addresses of a host (A and AAAA), or the servers of a service (SRV) with
//! their priorities, weights and ports. Asked again when their time to live is over.
//!
//! Questions travel over TCP (RFC 7766: every server speaks it), because a connection of [`Net`] is
//! all that this sidecar has of the network, on the kernel and in the simulator; nothing is ever
//! truncated, and nobody off the path can forge an answer. A sidecar asks once in a time to live,
//! so the handshake costs nothing worth mentioning.
//!
//! A name without addresses, or that does not exist, is an answer: there are no endpoints (and
//! `empty_grace` applies). A server that fails, refuses or is silent is not: the next one is asked,
//! and what is known stays. One family that cannot be answered while the other can is waited for if
//! it ever had an answer, or half of the endpoints would come and go.
//!
//! What it leaves out: UDP, DNSSEC, search lists (names are absolute), and caching between
//! clusters.

pub mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{EndpointUpdate, UpdateSender};
use crate::backoff::Backoff;
use crate::config::defaults::{DISCOVERY_BACKOFF, DNS_EARLY, DNS_PORT, DNS_TIMEOUT};
use crate::config::names;
use crate::config::{Dns, DnsQuery, Endpoint};
use crate::world::Net;
use message::Target;

/// Where the machine's own name servers stand (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Tells the endpoints of a name, now and whenever they were to be asked for again, for as long as
/// it is polled.
pub(super) async fn follow<N: Net>(net: N, dns: Dns, mut rng: StdRng, updates: UpdateSender) {
    let mut resolver = Resolver { net, servers: Vec::new(), heard: [false; 2] };
    let mut backoff = Backoff::new(DISCOVERY_BACKOFF);
    loop {
        // The machine's may have changed.
        resolver.servers =
            if dns.servers.is_empty() { named_in(RESOLV_CONF.as_ref()) } else { dns.servers.clone() };
        let wait = match resolver.endpoints(&dns.wanted, &mut rng).await {
            Ok((endpoints, ttl)) => {
                backoff.reset();
                updates.tell(EndpointUpdate::Endpoints(endpoints));
                let ttl = Duration::from_secs(ttl.unwrap_or(0).into()).clamp(dns.min_ttl, dns.max_ttl);
                // A little early, and not all sidecars at once.
                ttl.mul_f64(1.0 - rng.random_range(0.0..DNS_EARLY))
            }
            Err(why) => {
                updates.tell(EndpointUpdate::Lost(why));
                backoff.next(&mut rng)
            }
        };
        sleep(wait).await;
    }
}

/// The addresses of a name, as the machine's own name servers say.
///
/// # Errors
/// Why there are none.
pub(crate) async fn lookup<N: Net>(net: N, name: &str, rng: &mut StdRng) -> Result<Vec<IpAddr>, String> {
    let mut resolver = Resolver { net, servers: named_in(RESOLV_CONF.as_ref()), heard: [false; 2] };
    let (addresses, _) = resolver.addresses(&names::absolute(name)?, rng).await?;
    if addresses.is_empty() { Err(format!("{name} has no address")) } else { Ok(addresses) }
}

/// The servers that a resolv.conf names; none if there is no such file. The zone of an IPv6 address
/// (`%eth0`) is not understood.
fn named_in(file: &Path) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, DNS_PORT))
    };
    std::fs::read_to_string(file).unwrap_or_default().lines().filter_map(server).collect()
}

struct Resolver<N> {
    net: N,
    servers: Vec<SocketAddr>,
    /// Whether IPv4 and IPv6 ever had an answer.
    heard: [bool; 2],
}

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

impl<N: Net> Resolver<N> {
    /// The endpoints there are, and for how many seconds that holds.
    async fn endpoints(
        &mut self,
        wanted: &DnsQuery,
        rng: &mut StdRng,
    ) -> Result<(Vec<Endpoint>, Option<u32>), String> {
        match wanted {
            DnsQuery::Host { name, port } => {
                let (addresses, ttl) = self.addresses(&names::absolute(name)?, rng).await?;
                let at = |address| Endpoint::at(SocketAddr::new(address, *port));
                Ok((addresses.into_iter().map(at).collect(), ttl))
            }
            DnsQuery::Service(name) => {
                let name = names::absolute(name)?;
                let services = message::services(&self.ask(&name, RecordType::SRV, rng).await?);
                let mut known: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
                for (name, address) in services.known {
                    known.entry(name).or_default().push(address);
                }
                let mut ttl = services.ttl;
                let names: BTreeSet<&Name> = services.targets.iter().map(|target| &target.name).collect();
                for name in names {
                    if !known.contains_key(name) {
                        let (addresses, own) = self.addresses(name, rng).await?;
                        ttl = ttl.into_iter().chain(own).min();
                        known.insert(name.clone(), addresses);
                    }
                }
                Ok((of_services(&services.targets, &known), ttl))
            }
        }
    }

    async fn addresses(
        &mut self,
        name: &Name,
        rng: &mut StdRng,
    ) -> Result<(Vec<IpAddr>, Option<u32>), String> {
        let (mut addresses, mut ttl, mut failure) = (Vec::new(), None, None);
        for (family, kind) in FAMILIES.into_iter().enumerate() {
            match self.ask(name, kind, rng).await {
                Ok(answer) => {
                    let found = message::addresses(&answer);
                    self.heard[family] |= !found.addresses.is_empty();
                    addresses.extend(found.addresses);
                    ttl = ttl.into_iter().chain(found.ttl).min();
                }
                Err(why) if self.heard[family] => return Err(why),
                Err(why) => failure = Some(why),
            }
        }
        match failure {
            Some(why) if addresses.is_empty() => Err(why),
            _ => Ok((addresses, ttl)),
        }
    }

    /// Asks one server after another until one answers.
    async fn ask(&self, name: &Name, kind: RecordType, rng: &mut StdRng) -> Result<Message, String> {
        let mut failure = format!("{RESOLV_CONF} names no server");
        for &server in &self.servers {
            let id = rng.random();
            let asking = pin!(ask(&self.net, server, id, name, kind));
            match timeout(DNS_TIMEOUT, asking).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => failure = format!("{server}: {why}"),
                Err(_) => failure = format!("{server} did not answer within {DNS_TIMEOUT:?}"),
            }
        }
        Err(failure)
    }
}

/// One question to one server. Over TCP a message has its length before it (RFC 1035 section
/// 4.2.2).
async fn ask<N: Net>(
    net: &N,
    server: SocketAddr,
    id: u16,
    name: &Name,
    kind: RecordType,
) -> Result<Message, String> {
    let question = message::question(id, name, kind)?;
    let exchange = async {
        let mut io = net.connect(server, None).await?;
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX).to_be_bytes();
        io.write_all(&[&length, &question[..]].concat()).await?;
        io.flush().await?;
        let mut length = [0; 2];
        io.read_exact(&mut length).await?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        io.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    message::answer(&answer, id, name, kind)
}

/// The endpoints of a service. Priorities are counted from 0 without gaps; a weight of 0, which RFC
/// 2782 wants chosen next to never, counts as 1.
fn of_services(targets: &[Target], known: &BTreeMap<Name, Vec<IpAddr>>) -> Vec<Endpoint> {
    let priorities: BTreeSet<u16> = targets.iter().map(|target| target.priority).collect();
    let rank = |priority| priorities.iter().take_while(|other| **other < priority).count();
    let endpoints = |target: &Target| {
        let (priority, weight) = (rank(target.priority), u32::from(target.weight.max(1)));
        let priority = u8::try_from(priority).unwrap_or(u8::MAX);
        let addresses = known.get(&target.name).into_iter().flatten();
        let at = |address: &IpAddr| {
            let address = SocketAddr::new(*address, target.port);
            Endpoint { priority, weight, ..Endpoint::at(address) }
        };
        addresses.map(at).collect::<Vec<_>>()
    };
    targets.iter().flat_map(endpoints).collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, ResponseCode};
    use hickory_proto::rr::{RData, Record};
    use rand::SeedableRng;
    use tokio::time::Instant;

    use super::*;
    use crate::discovery::fake::{Heard, followed};
    use crate::world::fake::FakeNet;

    /// How long an answer of the name server holds.
    const TTL: Duration = Duration::from_secs(60);

    /// Answers the next question, which asks for addresses of this kind: with this one, or with a
    /// failure.
    async fn answer(net: &FakeNet, kind: RecordType, address: Option<&str>) {
        let mut io = net.accept().await;
        let mut question = vec![0; io.read_u16().await.unwrap().into()];
        io.read_exact(&mut question).await.unwrap();
        let question = Message::from_vec(&question).unwrap();
        let query = &question.queries[0];
        assert_eq!(query.query_type(), kind);
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        match address.map(|address| address.parse().unwrap()) {
            Some(address) => {
                let data = match address {
                    IpAddr::V4(address) => RData::A(address.into()),
                    IpAddr::V6(address) => RData::AAAA(address.into()),
                };
                answer.add_answer(Record::from_rdata(query.name.clone(), TTL.as_secs() as u32, data));
            }
            None => answer.metadata.response_code = ResponseCode::ServFail,
        }
        let answer = answer.to_vec().unwrap();
        io.write_u16(answer.len().try_into().unwrap()).await.unwrap();
        io.write_all(&answer).await.unwrap();
    }

    /// Follows the addresses of a host for as long as `story` goes on.
    async fn following(net: &FakeNet, story: impl AsyncFnOnce(Heard)) {
        let dns = Dns {
            wanted: DnsQuery::Host { name: "orders.example".into(), port: 80 },
            servers: vec![([10, 0, 0, 53], DNS_PORT).into()],
            min_ttl: Duration::from_secs(1),
            max_ttl: TTL,
        };
        followed(|updates| follow(net.clone(), dns, StdRng::seed_from_u64(1), updates), story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_fails_is_waited_for_once_it_had_an_answer_and_not_before() {
        let net = FakeNet::default();
        following(&net, async |mut heard| {
            let (four, six) = ("10.0.0.1", "fd00::1");
            for (found, told) in
                [(None, Some(&[four][..])), (Some(six), Some(&[four, six][..])), (None, None)]
            {
                answer(&net, RecordType::A, Some(four)).await;
                answer(&net, RecordType::AAAA, found).await;
                let update = heard.next().await;
                let at = |address: &&str| Endpoint::at(SocketAddr::new(address.parse().unwrap(), 80));
                match told {
                    Some(told) => {
                        assert_eq!(update, EndpointUpdate::Endpoints(told.iter().map(at).collect()))
                    }
                    None => assert!(matches!(update, EndpointUpdate::Lost(_)), "{update:?}"),
                }
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_a_little_before_its_answer_is_too_old() {
        let net = FakeNet::default();
        following(&net, async |_heard| {
            let mut asked = None;
            for _ in 0..8 {
                answer(&net, RecordType::A, Some("10.0.0.1")).await;
                let since = asked.replace(Instant::now()).map(|asked| asked.elapsed());
                assert!(
                    since.is_none_or(|since| since <= TTL && since >= TTL.mul_f64(1.0 - DNS_EARLY)),
                    "{since:?}"
                );
                answer(&net, RecordType::AAAA, Some("fd00::1")).await;
            }
        })
        .await;
    }

    #[test]
    fn the_machines_servers_are_those_that_it_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(named_in(file.path()), []);
        let text = "# a comment\nsearch example\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver fe80::1%eth0\n";
        let servers = ["10.0.0.53:53", "[fd00::53]:53"].map(|text| text.parse().unwrap());
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(named_in(file.path()), servers);
        assert_eq!(named_in("/nowhere/resolv.conf".as_ref()), []);
    }

    #[test]
    fn priorities_are_counted_without_gaps_and_no_weight_is_zero() {
        let target = |priority, weight, name| Target {
            priority,
            weight,
            port: 8080,
            name: names::absolute(name).unwrap(),
        };
        let known = [("a.example", [10, 0, 0, 1]), ("b.example", [10, 0, 0, 2])];
        let known =
            known.map(|(name, address)| (names::absolute(name).unwrap(), vec![IpAddr::from(address)]));
        let targets =
            [target(300, 0, "a.example"), target(10, 7, "b.example"), target(10, 7, "gone.example")];
        let found = of_services(&targets, &known.into());
        let shown: Vec<_> = found.iter().map(|e| (e.address.to_string(), e.priority, e.weight)).collect();
        assert_eq!(shown, [("10.0.0.1:8080".to_owned(), 1, 1), ("10.0.0.2:8080".to_owned(), 0, 7)]);
    }
}
