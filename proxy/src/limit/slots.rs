//! Places for connections of which the newest is the most important: when all are taken, the oldest
//! connection gives way.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// The connections of one port, the oldest first. When all slots are taken, a new connection gets
/// that of the oldest: connections that do nothing cannot keep a probe or a scrape out.
#[derive(Debug, Default)]
pub struct ConnectionSlots(VecDeque<oneshot::Sender<()>>);

impl ConnectionSlots {
    /// A slot, of which there are `limit`; it is resolved once it is needed for somebody else.
    pub fn take(&mut self, limit: usize) -> oneshot::Receiver<()> {
        self.0.retain(|slot| !slot.is_closed());
        while self.0.len() >= limit {
            self.0.pop_front();
        }
        let (kept, slot) = oneshot::channel();
        self.0.push_back(kept);
        slot
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
}
