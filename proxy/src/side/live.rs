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
use crate::error::Kind;
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
        let live = Rc::new(Live { connection, peer, waiting: RefCell::default() });
        self.open.borrow_mut().insert(id, live.clone());
        Registered { all: self, id, live }
    }

    /// Refuses those that may not live on, as `refused` says, and why. How many they were.
    pub fn refuse(&self, refused: impl Fn(&Connection, Option<&Peer>) -> Option<Kind>) -> u64 {
        let mut count = 0;
        for live in self.open.borrow().values() {
            let cut = &live.connection.cut;
            let why = refused(&live.connection, live.peer.as_deref())
                .filter(|_| !Mutant::ForgetsOpenConnections.is_planted());
            if cut.get().is_none() && why.is_some() {
                count += 1;
                cut.set(why);
                if let Some(waker) = live.waiting.take() {
                    waker.wake();
                }
            }
        }
        count
    }
}

impl Registered<'_> {
    /// Waits until it may not live on.
    pub async fn refused(&self) {
        poll_fn(|cx| {
            if self.live.connection.cut.get().is_some() {
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
