//! Whose connection it is, and what its requests may hold of the app.
//!
//! Over HTTP/1 each request takes a connection to the app, of which a worker opens
//! `limits.endpoint_connections`. One client gets a share of them, and its further requests wait as
//! others do for a connection: while nobody else is there, that is all that it notices.
//!
//! What it leaves out: the streams of an app that speaks HTTP/2, and `adaptive_concurrency`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client_cert::ClientCert;
use crate::error::Kind;
use crate::limit::client::{ClientConnection, ClientRequest};

/// The client of a connection.
pub(super) struct Caller {
    client: ClientConnection,
    /// Permits for its requests that are at the app.
    permits: Arc<Semaphore>,
    /// What its certificate proves; `None` where no certificates are asked for.
    pub(super) certified: Option<ClientCert>,
}

impl Caller {
    /// Takes on a request, of `most` that the client may have.
    pub(super) fn request(&self, most: usize) -> Result<ClientRequest, Kind> {
        self.client.request(most)
    }

    /// A permit to use an app that takes one request on a connection. Waits for one, but no longer
    /// than `limit`; `None` if there was none.
    pub(super) async fn permit(&self, limit: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        tokio::time::timeout(limit, self.permits.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// The clients that one worker serves.
#[derive(Default)]
pub(super) struct Callers(RefCell<BTreeMap<IpAddr, Known>>);

struct Known {
    size: usize,
    permits: Weak<Semaphore>,
}

impl Callers {
    /// The client at `address`, of whose requests `size` may be at the app.
    pub(super) fn caller(
        &self,
        client: ClientConnection,
        address: IpAddr,
        size: usize,
        certified: Option<ClientCert>,
    ) -> Caller {
        let address = address.to_canonical();
        let mut all = self.0.borrow_mut();
        let known = all.get(&address).filter(|known| known.size == size);
        if let Some(permits) = known.and_then(|known| known.permits.upgrade()) {
            return Caller { client, permits, certified };
        }
        all.retain(|_, known| known.permits.strong_count() > 0);
        let permits = Arc::new(Semaphore::new(size));
        all.insert(address, Known { size, permits: Arc::downgrade(&permits) });
        Caller { client, permits, certified }
    }
}
