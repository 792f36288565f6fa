//! Connections that are open, so that other policies can close them, and a bundle that does not
//! accept the peer any more.
//!
//! A connection is registered before policies check it. So a change of policies is either what it
//! is checked by, or it finds the connection here: there is no moment between the two in which it
//! could be missed (as in ztunnel). All of it happens on one worker, whose connections these are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::connection::Connection;
use crate::mutant::Mutant;
use crate::tls::Peer;

/// The open connections of one worker.
#[derive(Default)]
pub struct LiveConnections {
    open: RefCell<BTreeMap<u64, Rc<Live>>>,
    next: Cell<u64>,
}

struct Live {
    connection: Connection,
    peer: Option<Arc<Peer>>,
    refused: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

/// A connection that is open until this is dropped.
pub struct Registered<'l> {
    all: &'l LiveConnections,
    id: u64,
    live: Rc<Live>,
}

impl LiveConnections {
    /// Notes that a connection is open.
    /// `peer` has proved to be on its other end, if anybody has.
    pub fn register(&self, connection: Connection, peer: Option<Arc<Peer>>) -> Registered<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        let live = Rc::new(Live { connection, peer, refused: Cell::new(false), waiting: RefCell::default() });
        self.open.borrow_mut().insert(id, live.clone());
        Registered { all: self, id, live }
    }

    /// Refuses those that may not live on. How many they were.
    pub fn refuse(&self, may_live: impl Fn(&Connection, Option<&Peer>) -> bool) -> u64 {
        let mut refused = 0;
        for live in self.open.borrow().values() {
            let stays = Mutant::ForgetsOpenConnections.is_planted()
                || may_live(&live.connection, live.peer.as_deref());
            if !live.refused.get() && !stays {
                refused += 1;
                live.refused.set(true);
                if let Some(waker) = live.waiting.take() {
                    waker.wake();
                }
            }
        }
        refused
    }
}

impl Registered<'_> {
    /// Waits until it may not live on.
    pub async fn refused(&self) {
        poll_fn(|cx| {
            if self.live.refused.get() {
                return Poll::Ready(());
            }
            let mut waiting = self.live.waiting.borrow_mut();
            if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waiting = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.all.open.borrow_mut().remove(&self.id);
    }
}
