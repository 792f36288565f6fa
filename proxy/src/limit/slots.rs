//! Places for connections of which the newest is the most important: when all are taken, the oldest
//! connection gives way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use tokio::sync::oneshot;

/// The connections of one port, the oldest first. When all slots are taken, a new connection gets
/// that of the oldest: connections that do nothing cannot keep a probe or a scrape out.
#[derive(Debug, Default)]
pub struct ConnectionSlots(VecDeque<(IpAddr, oneshot::Sender<()>)>);

impl ConnectionSlots {
    /// A slot, of which there are `limit`; it is resolved once it is needed for somebody else.
    pub fn take(&mut self, limit: usize) -> oneshot::Receiver<()> {
        self.take_for(Ipv4Addr::UNSPECIFIED.into(), limit)
    }

    /// The same, fair by address: the oldest gives way of the client that has the most slots.
    pub fn take_for(&mut self, client: IpAddr, limit: usize) -> oneshot::Receiver<()> {
        self.0.retain(|(_, slot)| !slot.is_closed());
        while self.0.len() >= limit && !self.0.is_empty() {
            let oldest = self.oldest_of_the_most(client);
            self.0.remove(oldest);
        }
        let (kept, slot) = oneshot::channel();
        self.0.push_back((client, kept));
        slot
    }

    /// The position of the oldest slot of the client that has the most, once `next` has another.
    fn oldest_of_the_most(&self, next: IpAddr) -> usize {
        let mut clients = BTreeMap::<IpAddr, (usize, Reverse<usize>)>::new();
        for (position, (client, _)) in self.0.iter().enumerate() {
            clients.entry(*client).or_insert((0, Reverse(position))).0 += 1;
        }
        if let Some((slots, _)) = clients.get_mut(&next) {
            *slots += 1;
        }
        clients.values().max().map_or(0, |(_, Reverse(oldest))| *oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_when_all_seats_are_taken_gets_that_of_the_oldest() {
        let mut slots = ConnectionSlots::default();
        let mut open: Vec<_> = (0..3).map(|_| slots.take(3)).collect();
        drop(open.remove(1));
        open.push(slots.take(3));
        assert!(open.iter_mut().all(|slot| slot.try_recv() == Err(oneshot::error::TryRecvError::Empty)));
        open.push(slots.take(3));
        let closed =
            |slot: &mut oneshot::Receiver<()>| slot.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(open.iter_mut().map(closed).collect::<Vec<_>>(), [true, false, false, false]);
        open.push(slots.take(1));
        assert_eq!(open.iter_mut().map(closed).collect::<Vec<_>>(), [true, true, true, true, false]);
    }

    #[test]
    fn a_client_that_has_many_slots_takes_none_from_another() {
        let mut slots = ConnectionSlots::default();
        let [many, few] = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
        let mut open: Vec<_> = [few, many, many, few].map(|client| slots.take_for(client, 4)).into();
        let closed =
            |slot: &mut oneshot::Receiver<()>| slot.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        open.push(slots.take_for(many, 4));
        assert_eq!(open.iter_mut().map(closed).collect::<Vec<_>>(), [false, true, false, false, false]);
        open.extend([many, few, many].map(|client| slots.take_for(client, 4)));
        let left: Vec<_> = open.iter_mut().map(|slot| !closed(slot)).collect();
        assert_eq!(left, [false, false, false, true, false, true, true, true]);
    }
}
