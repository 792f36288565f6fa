//! Whose connection it is, and what its requests may hold of the app.
//!
//! Over HTTP/1 each request takes a connection to the app, of which a worker opens `limits.endpoint_connections`. One client
//! gets a share of them, and its further requests wait as others do for a connection: while nobody else is there, that is
//! all that it notices.
//!
//! What it leaves out: the streams of an app that speaks HTTP/2, and `adaptive_concurrency`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Kind;
use crate::limit::client::{Client, ClientRequest};

/// The client of a connection.
pub(super) struct Caller {
    client: Client,
    /// A place for each of its requests that may be at the app.
    places: Arc<Semaphore>,
}

impl Caller {
    /// Takes on a request, of `most` that the client may have.
    pub(super) fn request(&self, most: usize) -> Result<ClientRequest, Kind> {
        self.client.request(most)
    }

    /// A place at an app that takes one request on a connection. Waits for one, but no longer than `limit`; `None` if there
    /// was none.
    pub(super) async fn place(&self, limit: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        tokio::time::timeout(limit, self.places.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// The clients that one worker serves.
#[derive(Default)]
pub(super) struct Callers(RefCell<BTreeMap<IpAddr, Known>>);

struct Known {
    size: usize,
    places: Weak<Semaphore>,
}

impl Callers {
    /// The client at `address`, of whose requests `size` may be at the app.
    pub(super) fn caller(&self, client: Client, address: IpAddr, size: usize) -> Caller {
        let address = address.to_canonical();
        let mut all = self.0.borrow_mut();
        let known = all.get(&address).filter(|known| known.size == size);
        if let Some(places) = known.and_then(|known| known.places.upgrade()) {
            return Caller { client, places };
        }
        all.retain(|_, known| known.places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(size));
        all.insert(address, Known { size, places: Arc::downgrade(&places) });
        Caller { client, places }
    }
}
