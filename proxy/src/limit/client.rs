//! How much of the inbound side one client may hold: a share of the connections and of the requests
//! that the sidecar takes on ([`super::Load`]), so that one whose requests never end does not take
//! the app away from all others.
//!
//! A client is an address; a caller's sidecar is one client, whoever asks through it. Whoever wants
//! the connections of one worker to the app counts them apart (`inbound::caller`).
//!
//! The lock is taken when a connection begins and ends, and not for a request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Kind;

/// What each client holds. Belongs to the whole sidecar.
#[derive(Debug, Default)]
pub struct Clients(Mutex<BTreeMap<IpAddr, Holds>>);

#[derive(Debug, Default)]
struct Holds {
    connections: usize,
    requests: Arc<AtomicUsize>,
}

/// A connection of a client, until it is dropped.
#[derive(Debug)]
pub struct ClientConnection {
    clients: Arc<Clients>,
    address: IpAddr,
    requests: Arc<AtomicUsize>,
}

/// A request of a client, until it is dropped.
#[derive(Debug)]
pub struct ClientRequest(Arc<AtomicUsize>);

/// How much of `limit` one client may hold; at least one.
pub fn share_of(limit: usize, share: f64) -> usize {
    ((limit as f64 * share) as usize).max(1)
}

impl Clients {
    /// Takes on a connection of a client that may have `most`.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn connection(self: &Arc<Self>, address: IpAddr, most: usize) -> Result<ClientConnection, Kind> {
        let address = address.to_canonical();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&address).is_some_and(|holds| holds.connections >= most) {
            return Err(Kind::Overload);
        }
        let holds = all.entry(address).or_default();
        holds.connections += 1;
        Ok(ClientConnection { clients: self.clone(), address, requests: holds.requests.clone() })
    }
}

impl ClientConnection {
    /// Takes on a request, of `most` that the client may have.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn request(&self, most: usize) -> Result<ClientRequest, Kind> {
        // Counted first: two workers that look before they count would both find the last permit.
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let request = ClientRequest(self.requests.clone());
        if before >= most { Err(Kind::Overload) } else { Ok(request) }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut all = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holds) = all.get_mut(&self.address) else { return };
        holds.connections -= 1;
        if holds.connections == 0 {
            all.remove(&self.address);
        }
    }
}

impl Drop for ClientRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_holds_as_much_as_it_may_over_all_its_connections_and_no_other_has_less_for_it() {
        let clients = Arc::new(Clients::default());
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let [first, second] = [(); 2].map(|()| clients.connection(a, 2).unwrap());
        assert_eq!(clients.connection("::ffff:10.0.0.1".parse().unwrap(), 2).unwrap_err(), Kind::Overload);
        let held = [first.request(2).unwrap(), second.request(2).unwrap()];
        assert_eq!(first.request(2).unwrap_err(), Kind::Overload);
        assert!(clients.connection(b, 2).unwrap().request(2).is_ok());
        drop(held);
        assert!(first.request(2).is_ok());
        drop((first, second));
        assert!(clients.0.lock().unwrap().is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn a_share_is_never_nothing() {
        for (limit, share, expected) in
            [(100, 0.75, 75), (10, 0.75, 7), (1, 0.75, 1), (100, 0.0, 1), (8, 1.0, 8)]
        {
            assert_eq!(share_of(limit, share), expected, "{limit} {share}");
        }
    }
}
