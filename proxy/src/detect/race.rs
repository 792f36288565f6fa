//! Who speaks first? Detection that also listens to the server.
//!
//! A server that speaks first and a client that waits for it would sit out the whole detection
//! timeout. So after a short silence of the client the server is dialled, and if it speaks, the
//! connection is opaque. Its address is remembered for a while: the next connection waits for
//! nothing. Linkerd and Istio leave it to users to declare such ports; that remains the better way,
//! since it costs nothing at all.
//!
//! One race runs at a time for an address; other silent connections to it wait for its end. Each
//! worker has its own memory, since connections do not cross threads.
//!
//! What it leaves out: a server that answers with HTTP before it is asked (some do when they are
//! overloaded) is heard, but not remembered as one that speaks first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Detected, Detection, Prefixed, Reader};
use crate::config::defaults::SERVER_FIRST_BYTES;
use crate::config::defaults::{SERVER_FIRST_CAPACITY, SERVER_FIRST_DELAY, SERVER_FIRST_TTL};

/// The addresses whose servers were heard to speak first, for a limited time.
#[derive(Debug)]
pub struct ServerFirst {
    /// Until when each is remembered.
    known: BTreeMap<SocketAddr, Instant>,
    capacity: usize,
    ttl: Duration,
}

impl ServerFirst {
    /// A memory of at most `capacity` addresses (at least one), each for `ttl`.
    pub fn new(capacity: usize, ttl: Duration) -> Self {
        ServerFirst { known: BTreeMap::new(), capacity: capacity.max(1), ttl }
    }

    /// Whether the server at `address` is remembered at `now`. To ask does not prolong it: an
    /// address that changes hands must be found out, however busy it is.
    pub fn knows(&mut self, address: SocketAddr, now: Instant) -> bool {
        match self.known.get(&address) {
            Some(until) if *until > now => true,
            Some(_) => {
                self.known.remove(&address);
                false
            }
            None => false,
        }
    }

    /// Remembers an address. If there are too many, the one that would be forgotten soonest makes
    /// room.
    pub fn remember(&mut self, address: SocketAddr, now: Instant) {
        if self.known.len() >= self.capacity && !self.known.contains_key(&address) {
            let oldest = self.known.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(address, now + self.ttl);
    }
}

/// The memory of one side of one worker, and the races that it runs.
#[derive(Debug)]
pub struct Races {
    known: RefCell<ServerFirst>,
    running: RefCell<BTreeMap<SocketAddr, Rc<Notify>>>,
}

impl Default for Races {
    fn default() -> Self {
        let known = ServerFirst::new(SERVER_FIRST_CAPACITY, SERVER_FIRST_TTL);
        Races { known: known.into(), running: RefCell::default() }
    }
}

/// The right to race for an address, until dropped.
struct RaceGuard<'a> {
    races: &'a Races,
    address: SocketAddr,
    ended: Rc<Notify>,
}

impl Races {
    /// Whether the server at `address` is known to speak first.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.known.borrow_mut().knows(address, Instant::now())
    }

    /// The turn to race, or the end of the race that runs.
    fn turn(&self, address: SocketAddr) -> Result<RaceGuard<'_>, Rc<Notify>> {
        let mut running = self.running.borrow_mut();
        if let Some(ended) = running.get(&address) {
            return Err(ended.clone());
        }
        let ended = Rc::new(Notify::new());
        running.insert(address, ended.clone());
        Ok(RaceGuard { races: self, address, ended })
    }
}

impl Drop for RaceGuard<'_> {
    fn drop(&mut self) {
        self.races.running.borrow_mut().remove(&self.address);
        self.ended.notify_waiters();
    }
}

/// As [`detect`](super::detect), of the client of `reader`, but listens to the server at `address`
/// as well, which `dial` connects to. What it was dialled with is given back unless it was of no
/// use.
///
/// # Errors
/// If reading from the client fails.
pub async fn detect_both<I, S, G, D>(
    mut reader: Reader<I>,
    limit: Duration,
    races: &Races,
    address: SocketAddr,
    dial: impl FnOnce() -> D,
) -> io::Result<(Detected<I>, Option<(Prefixed<S>, G)>)>
where
    I: AsyncRead + Unpin,
    S: AsyncRead + Unpin,
    D: Future<Output = Option<(S, G)>>,
{
    if races.knows(address) {
        return Ok((reader.end(Detection::KnownServerFirst), None));
    }
    let deadline = Instant::now() + limit;
    let alone = deadline.min(Instant::now() + SERVER_FIRST_DELAY);
    if let Some(outcome) = reader.decide_until(alone).await? {
        return Ok((reader.end(outcome), None));
    }
    let _turn = loop {
        if races.knows(address) && reader.is_silent() {
            return Ok((reader.end(Detection::KnownServerFirst), None));
        }
        if !reader.is_silent() || Instant::now() >= deadline {
            let outcome = reader.decide_until(deadline).await?;
            return Ok((reader.end_or_time_out(outcome), None));
        }
        match races.turn(address) {
            Ok(turn) => break turn,
            Err(ended) => tokio::select! {
                biased;
                outcome = reader.decide_until(deadline) => {
                    let outcome = outcome?;
                    return Ok((reader.end_or_time_out(outcome), None));
                }
                () = ended.notified() => {}
            },
        }
    };
    let dialled = {
        let mut dialling = pin!(dial());
        tokio::select! {
            biased;
            heard = reader.fill() => { heard?; None }
            dialled = &mut dialling => dialled,
            () = sleep_until(deadline) => None,
        }
    };
    let Some((mut server, guard)) = dialled else {
        let outcome = reader.decide_until(deadline).await?;
        return Ok((reader.end_or_time_out(outcome), None));
    };
    let mut words = BytesMut::new();
    words.reserve(SERVER_FIRST_BYTES);
    let outcome = tokio::select! {
        biased;
        heard = reader.fill() => { heard?; reader.decide_until(deadline).await? }
        spoken = server.read_buf(&mut words) => match spoken {
            Ok(n) if n > 0 => {
                if !words.starts_with(&b"HTTP/"[..n.min(5)]) {
                    races.known.borrow_mut().remember(address, Instant::now());
                }
                Some(Detection::ServerFirst)
            }
            // It closed without a word, so it is of no use. The client may still say what it wants.
            _ => {
                drop((server, guard));
                let outcome = reader.decide_until(deadline).await?;
                return Ok((reader.end_or_time_out(outcome), None));
            }
        },
        () = sleep_until(deadline) => None,
    };
    Ok((reader.end_or_time_out(outcome), Some((Prefixed::new(words.freeze(), server), guard))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Sniffed;
    use std::future::Ready;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const LIMIT: Duration = Duration::from_secs(1);

    fn address(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 7000).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_remembered_for_its_time_and_the_oldest_makes_room() {
        let mut known = ServerFirst::new(2, Duration::from_secs(10));
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        known.remember(address(1), at(0));
        known.remember(address(2), at(1));
        assert!(known.knows(address(1), at(9)) && !known.knows(address(1), at(10)));
        known.remember(address(3), at(9));
        assert!(known.knows(address(2), at(10)) && known.knows(address(3), at(10)));
        known.remember(address(4), at(10));
        assert!(!known.knows(address(2), at(10)), "it would have been the next to go");
        assert!(known.knows(address(3), at(10)) && known.knows(address(4), at(10)));
    }

    type Raced = io::Result<(Detected<DuplexStream>, Option<(Prefixed<DuplexStream>, ())>)>;

    async fn race(races: &Races, io: DuplexStream, server: DuplexStream) -> Raced {
        detect_both(Reader::new(io), LIMIT, races, address(1), || async { Some((server, ())) }).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_speaks_is_heard_and_the_next_connection_waits_for_nothing() {
        let races = Races::default();
        let (_client, io) = duplex(64);
        let (mut server, dialled) = duplex(64);
        server.write_all(b"220 hello").await.unwrap();
        let begun = Instant::now();
        let (found, dialled) = race(&races, io, dialled).await.unwrap();
        assert_eq!((found.outcome, begun.elapsed()), (Detection::ServerFirst, SERVER_FIRST_DELAY));
        drop(server);
        let mut words = Vec::new();
        dialled.unwrap().0.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"220 hello");
        let (_client, io) = duplex(64);
        let begun = Instant::now();
        let (found, dialled) = race(&races, io, duplex(1).0).await.unwrap();
        assert_eq!((found.outcome, begun.elapsed()), (Detection::KnownServerFirst, Duration::ZERO));
        assert!(dialled.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_speaks_after_the_dial_is_judged_by_its_words_and_the_connection_is_kept() {
        for (words, expected) in [("GET / HTTP/1.1\r\n", Sniffed::Http1), ("*1\r\n", Sniffed::Opaque)] {
            let races = Races::default();
            let (mut client, io) = duplex(64);
            let (_server, dialled) = duplex(64);
            let speak = async {
                tokio::time::sleep(LIMIT / 2).await;
                client.write_all(words.as_bytes()).await.unwrap();
            };
            let (raced, ()) = tokio::join!(race(&races, io, dialled), speak);
            let (mut found, dialled) = raced.unwrap();
            assert_eq!(found.outcome, Detection::Sniffed(expected));
            assert!(dialled.is_some() && !races.knows(address(1)));
            drop(client);
            let mut said = String::new();
            found.client.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, words);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_wait_for_the_one_race_and_learn_from_it() {
        let races = Races::default();
        let begun = Instant::now();
        let (mut server, dialled) = duplex(64);
        let (_first, io) = duplex(64);
        let (_second, other) = duplex(64);
        let answer = async {
            tokio::time::sleep(LIMIT / 4).await;
            server.write_all(b"220").await.unwrap();
        };
        let waits = async {
            // Its own silence ends while the race runs.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let dial = || -> Ready<Option<(DuplexStream, ())>> { panic!("one race at a time") };
            detect_both(Reader::new(other), LIMIT, &races, address(1), dial).await
        };
        let (raced, waited, ()) = tokio::join!(race(&races, io, dialled), waits, answer);
        assert_eq!(raced.unwrap().0.outcome, Detection::ServerFirst);
        assert_eq!(waited.unwrap().0.outcome, Detection::KnownServerFirst);
        assert_eq!(begun.elapsed(), LIMIT / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_answer_in_http_and_a_server_that_closes_are_not_remembered() {
        for (words, expected) in [("HTTP/1.1 503", Detection::ServerFirst), ("", Detection::Timeout)] {
            let races = Races::default();
            let (mut server, dialled) = duplex(64);
            server.write_all(words.as_bytes()).await.unwrap();
            drop(server);
            let (_client, io) = duplex(64);
            let (found, dialled) = race(&races, io, dialled).await.unwrap();
            assert_eq!((found.outcome, dialled.is_some()), (expected, !words.is_empty()));
            assert!(!races.knows(address(1)) && races.running.borrow().is_empty());
        }
    }
}
