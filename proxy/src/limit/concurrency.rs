//! How many requests a cluster, or a port of the local app, has in flight, against a fixed limit
//! and one that follows latency ([`super::adaptive`]). Shared by all workers; survives
//! configuration changes with its cluster or port.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::adaptive::{Gradient, Sample};
use crate::config::Adaptive;
use crate::error::{Error, Kind};
use crate::mutant::Mutant;

/// Requests in flight.
#[derive(Debug, Default)]
pub struct Concurrency {
    in_flight: AtomicU32,
    retries: AtomicU32,
    gradient: Mutex<Option<Gradient>>,
}

/// Which limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestLimit {
    /// The fixed one.
    Requests,
    /// The one that follows latency.
    Adaptive,
}

impl Concurrency {
    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The adaptive concurrency limit, if there is one in use.
    pub fn limit(&self) -> Option<u32> {
        self.gradient().as_ref().map(Gradient::limit)
    }

    /// Takes on a request, until the guard is dropped.
    ///
    /// # Errors
    /// Which limit forbids it.
    pub fn take(
        self: &Arc<Self>,
        requests: u32,
        adaptive: Option<Adaptive>,
        now: Instant,
    ) -> Result<InFlight, RequestLimit> {
        // Counted first: two workers that look before they count would both find the last permit.
        let count = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        let in_flight = InFlight { of: self.clone(), begun: now, adaptive: Cell::default(), count };
        let requests = requests.saturating_add(u32::from(Mutant::OneRequestTooMany.is_planted()));
        if count > requests {
            return Err(RequestLimit::Requests);
        }
        if let Some(config) = adaptive {
            let limit = self.gradient().get_or_insert_with(|| Gradient::new(&config)).limit();
            if count > limit {
                return Err(RequestLimit::Adaptive);
            }
            in_flight.adaptive.set(Some(config));
        }
        Ok(in_flight)
    }

    /// Takes on a retry, until the guard is dropped; `None` if `most` are under way.
    pub fn retry(self: &Arc<Self>, most: u32) -> Option<RetrySlot> {
        let slot = RetrySlot(self.clone());
        (self.retries.fetch_add(1, Ordering::Relaxed) < most).then_some(slot)
    }

    fn gradient(&self) -> std::sync::MutexGuard<'_, Option<Gradient>> {
        self.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight. If it ends without a word it says nothing about latency: its client has
/// left.
#[derive(Debug)]
pub struct InFlight {
    of: Arc<Concurrency>,
    begun: Instant,
    adaptive: Cell<Option<Adaptive>>,
    /// How many there were with it.
    count: u32,
}

impl InFlight {
    /// Its response has begun, or it has failed.
    pub fn ended<B>(&self, result: &Result<Response<B>, Error>, now: Instant) {
        let Some(config) = self.adaptive.take() else { return };
        let Some(sample) = sample(result, now.saturating_duration_since(self.begun)) else { return };
        if let Some(gradient) = &mut *self.of.gradient() {
            gradient.add(sample, self.count, now, &config);
        }
    }
}

/// What a result after `time` says about load. Errors that are quick for other reasons say nothing.
fn sample<B>(result: &Result<Response<B>, Error>, time: Duration) -> Option<Sample> {
    match result {
        Ok(response) => match response.status().as_u16() {
            429 | 503 | 504 => Some(Sample::Dropped),
            500.. => None,
            _ => Some(Sample::Answered(time)),
        },
        Err(error) => {
            use Kind::{Deadline, Overload, RequestTimeout, ResponseTimeout, TryTimeout};
            let late =
                matches!(error.kind, Deadline | Overload | RequestTimeout | ResponseTimeout | TryTimeout);
            late.then_some(Sample::Dropped)
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.of.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A retry under way.
#[derive(Debug)]
pub struct RetrySlot(Arc<Concurrency>);

impl Drop for RetrySlot {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::RequestPermit;
    use crate::telemetry::Open;
    use prometheus_client::metrics::gauge::Gauge;

    const ADAPTIVE: Adaptive = Adaptive { initial: 2, min: 1, max: 10 };

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_leaves_no_trace_and_what_ends_makes_room() {
        let concurrency = Arc::new(Concurrency::default());
        let now = Instant::now();
        let first = concurrency.take(1, None, now).unwrap();
        assert_eq!(concurrency.take(1, None, now).unwrap_err(), RequestLimit::Requests);
        assert_eq!(concurrency.in_flight(), 1);
        drop(first);
        assert!(concurrency.take(1, None, now).is_ok());
        assert_eq!(concurrency.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_that_follows_latency_goes_beside_the_fixed_one() {
        let concurrency = Arc::new(Concurrency::default());
        let now = Instant::now();
        assert_eq!(concurrency.limit(), None);
        let held: Vec<_> = (0..2).map(|_| concurrency.take(5, Some(ADAPTIVE), now).unwrap()).collect();
        assert_eq!(concurrency.take(5, Some(ADAPTIVE), now).unwrap_err(), RequestLimit::Adaptive);
        assert_eq!(concurrency.limit(), Some(2));
        drop(held);
        assert_eq!(concurrency.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_too_late_lowers_the_limit_that_follows_latency() {
        let concurrency = Arc::new(Concurrency::default());
        for _ in 0..1000 {
            let of_cluster = concurrency.take(5, Some(ADAPTIVE), Instant::now()).unwrap();
            let permit = RequestPermit::new(Open::new(&Gauge::default()), Some(of_cluster));
            permit.ended(&Err::<Response<()>, _>(Error::new(Kind::Deadline)));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(concurrency.limit(), Some(1));
    }

    #[test]
    fn only_answers_and_what_came_too_late_say_something_about_load() {
        let time = Duration::from_millis(5);
        let status = |status: u16| {
            let mut response = Response::new(());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            sample(&Ok(response), time)
        };
        assert_eq!([200, 404].map(status), [Some(Sample::Answered(time)); 2]);
        assert_eq!([429, 503, 504].map(status), [Some(Sample::Dropped); 3]);
        assert_eq!([500, 502].map(status), [None; 2]);
        let failed = |kind| sample(&Err::<Response<()>, _>(Error::new(kind)), time);
        assert_eq!([Kind::Deadline, Kind::TryTimeout].map(failed), [Some(Sample::Dropped); 2]);
        assert_eq!([Kind::Connect, Kind::Client].map(failed), [None; 2]);
    }

    #[test]
    fn only_so_many_retries_are_under_way_at_once() {
        let concurrency = Arc::new(Concurrency::default());
        let slot = concurrency.retry(1).unwrap();
        assert!(concurrency.retry(1).is_none());
        drop(slot);
        assert!(concurrency.retry(1).is_some());
        assert!(concurrency.retry(0).is_none());
    }
}
