//! All connections of one worker to endpoints, whatever they speak.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::ConnectionLease;
use super::h2::Streams;
use super::pool::{Pool, PoolLimits};
use crate::config::{AttemptTimeouts, Retry};
use crate::connect::{Connector, Target};
use crate::error::{Error, Kind};
use crate::http::closing::ClientEnd;
use crate::http::headers::{self, X_FORWARDED_CLIENT_CERT};
use crate::http::interim::InterimSender;
use crate::http::timer::RequestTimer;
use crate::http::{RequestBody, deadline, forward, header_limits, informational};
use crate::limit::client::ClientRequest;
use crate::limit::concurrency::InFlight;
use crate::telemetry::{EndpointMetrics, Open, RequestLog};
use crate::world::{Net, RngTree};

/// The permit of a request to be in flight, for as long as its response is under way. Shared by its
/// attempts.
#[derive(Debug)]
pub struct RequestPermit {
    _all: Open,
    /// Among those of its cluster, or of its port of the app.
    of_cluster: Option<InFlight>,
    /// Among those of its client.
    _of_client: Option<ClientRequest>,
}

impl RequestPermit {
    /// Among all of the sidecar, and those of a cluster.
    pub fn new(all: Open, of_cluster: Option<InFlight>) -> Self {
        RequestPermit { _all: all, of_cluster, _of_client: None }
    }

    /// And among those of a client.
    pub fn of_client(self, request: ClientRequest) -> Self {
        RequestPermit { _of_client: Some(request), ..self }
    }

    /// The request has been answered, or has failed.
    pub fn ended<B>(&self, result: &Result<Response<B>, Error>) {
        if let Some(in_flight) = &self.of_cluster {
            in_flight.ended(result, Instant::now());
        }
    }
}

/// What a request asks of the choice of its endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PickContext {
    /// What it has in common with others that are to meet the same endpoint; `None`: nothing, or
    /// nobody asks.
    pub hash: Option<u64>,
    /// Which of the cluster's subsets it is for, counted from 1 in `config::Cluster::subsets`; 0:
    /// all that the cluster uses.
    pub subset: usize,
}

/// What a call asks of every attempt.
pub struct Call<'a> {
    /// Where its attempts are noted.
    pub log: &'a RequestLog<'a>,
    /// Which request of its worker it is, so that the lines of the log that belong together can be
    /// found; 0 for one that is not followed.
    pub number: u64,
    /// Of the endpoint.
    pub context: PickContext,
    /// Its permit to be in flight.
    pub permit: Rc<RequestPermit>,
    /// Of connections.
    pub limits: PoolLimits,
    /// Of time.
    pub timer: RequestTimer,
    /// Whether the client hears of failures as gRPC statuses.
    pub is_grpc: bool,
    /// When the caller gives up, if it said so.
    pub deadline: Option<Instant>,
    /// What happens after a failed attempt.
    pub retry: Arc<Retry>,
    /// Of the time of each attempt.
    pub attempt_timeouts: AttemptTimeouts,
    /// Who hears of interim responses; not every client may.
    pub interim: Option<InterimSender>,
    /// How its client's connection ends; `None` where that is nobody's, or carries others too.
    pub client: Option<ClientEnd>,
}

impl Call<'_> {
    /// Waits for the head of the response, which `sending` gets, for as long as the call may take.
    /// It is pinned by the caller: by value its kilobytes would be kept and moved twice.
    ///
    /// # Errors
    /// Why there is none. It is the caller's to count.
    pub async fn answer<B>(
        &self,
        sending: Pin<&mut impl Future<Output = Result<Response<B>, Error>>>,
    ) -> Result<Response<B>, Error> {
        let result = self.timer.wait(sending).await;
        self.permit.ended(&result);
        result
    }

    /// Says to the next hop what is left of the caller's time.
    fn pass_deadline_on(&self, request: &mut Request<RequestBody>) {
        if let Some(deadline) = self.deadline {
            deadline::forward(request.headers_mut(), self.is_grpc, deadline - Instant::now());
        }
    }
}

/// A request that got no answer: why, and the request itself if it is certain that not a byte of it
/// was sent.
pub type SendError = (Error, Option<Box<Request<RequestBody>>>);

/// How many connections may turn out to be at their end before a request that never left fails.
const STALE_CONNECTIONS: u32 = 3;

/// The pools of one worker.
pub struct Pools<N: Net> {
    /// HTTP/1, one request at a time on each connection.
    pub http1: Pool<N>,
    /// HTTP/2, many at once.
    pub http2: Streams<N>,
}

impl<N: Net> Pools<N> {
    /// Empty ones, which connect by `connector`; `rng` spreads the ends of connections.
    pub fn new(connector: Connector<N>, rng: RngTree) -> Self {
        let [ages1, ages2] = [1, 2].map(|version| rng.child("age", version).rng());
        Pools { http1: Pool::new(connector.clone(), ages1), http2: Streams::new(connector, ages2) }
    }

    /// Sends a request of `call` to `target` in the version that it is written for, and waits for
    /// the head of the response. What is left of the caller's time is passed on, counted when there
    /// is a connection: waiting for one took a part of it. Over no connection that was open before
    /// the endpoint was last `stale_since`: else a probe of one that is well again could fail as
    /// often as there are such connections, and keep it out.
    ///
    /// # Errors
    /// If there is no connection, or it ends before the response begins.
    pub async fn send(
        &self,
        target: &Target,
        stale_since: Option<Instant>,
        call: &Call<'_>,
        metrics: &EndpointMetrics,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, ConnectionLease<N>), SendError> {
        if target.identity.is_some() {
            // The other end may believe what a workload of the mesh says of its own callers: an
            // Envoy that appends does. Apps are not to write that.
            headers::remove_spellings(request.headers_mut(), &X_FORWARDED_CLIENT_CERT);
        }
        let mut others = STALE_CONNECTIONS;
        loop {
            let (error, unsent) = if request.version() == Version::HTTP_2 {
                if let Some(client) = &call.client {
                    client.cancel_at_fin();
                }
                let stream = match self.http2.checkout(target, stale_since, call.limits, metrics).await {
                    Ok(stream) => stream,
                    Err(error) => return Err((error, Some(Box::new(request)))),
                };
                call.pass_deadline_on(&mut request);
                match stream.send(request).await {
                    Ok((response, stream)) => {
                        let checked = forward::check(&response, false)
                            .and_then(|()| header_limits::response(&response, call.limits.http1));
                        return match checked {
                            Ok(()) => Ok((response, ConnectionLease::Http2(stream))),
                            Err(wrong) => Err((Error::at(Kind::Protocol, target.address, wrong), None)),
                        };
                    }
                    Err(failed) => failed,
                }
            } else {
                let checkout = match self.http1.checkout(target, stale_since, call.limits, metrics).await {
                    Ok(checkout) => checkout,
                    Err(error) => return Err((error, Some(Box::new(request)))),
                };
                call.pass_deadline_on(&mut request);
                informational::listen(&mut request, call.interim.as_ref());
                match checkout.send(request, call.client.clone()).await {
                    Ok((response, exchange)) => return Ok((response, ConnectionLease::Http1(exchange))),
                    Err(failed) => failed,
                }
            };
            match unsent {
                // Not a failure of the endpoint: it took leave of a connection that the pool still had.
                Some(unsent) if error.reused && others > 0 => {
                    others -= 1;
                    request = *unsent;
                }
                unsent => return Err((error, unsent)),
            }
        }
    }

    /// An attempt at `target` that began at `begun` was not answered in its time, and is about to
    /// be dropped. Over HTTP/1 that ends its connection, over HTTP/2 only if that was silent all
    /// the while.
    pub fn gave_up(&self, target: &Target, begun: Instant) {
        self.http2.gave_up(target, begun);
    }

    /// Closes connections that have been idle for too long (`max_idle` for HTTP/1) and forgets
    /// those that have ended.
    pub fn sweep(&self, max_idle: Duration) {
        self.http1.sweep(max_idle);
        self.http2.sweep();
    }

    /// Forgets an endpoint: its idle connections close, and what is under way there ends.
    pub fn forget(&self, target: &Target) {
        self.http1.forget(target);
        self.http2.forget(target);
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.http1.clear();
        self.http2.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeNet, limits, metrics, run, target};
    use super::*;
    use crate::config::defaults::H2_IDLE;

    /// SETTINGS of a server.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    #[tokio::test(start_paused = true)]
    async fn what_pools_are_told_reaches_the_connections_of_both_versions() {
        run(async {
            let net = FakeNet { greeting: SETTINGS, ..FakeNet::default() };
            let pools = Pools::new(Connector::new(net.clone(), |_| None), RngTree::new(1));
            let dials = || net.servers.borrow().len();
            let checkout =
                || async { pools.http2.checkout(&target(), None, limits(), &metrics()).await.unwrap() };
            let held = checkout().await;
            drop(checkout().await);
            assert_eq!(dials(), 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
            pools.gave_up(&target(), Instant::now());
            drop(checkout().await);
            assert_eq!(dials(), 2, "the first was silent");
            pools.forget(&target());
            drop(checkout().await);
            assert_eq!(dials(), 3, "the second was forgotten");
            tokio::time::advance(H2_IDLE).await;
            pools.sweep(limits().max_idle);
            drop(checkout().await);
            assert_eq!(dials(), 4, "the third had idled for long");
            drop(held);
        })
        .await;
    }
}
