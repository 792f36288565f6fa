//! The attempts of an outbound request: at one endpoint, and if that fails and it is safe, at
//! another. [`crate::retry`] knows whether, when and how often; this asks its questions in order.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{Request, Response};
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::Outbound;
use crate::balance::{Attempted, Cluster, Picked};
use crate::config::defaults::DISCARDED_FRAMES;
use crate::endpoint::{Call, Outcome, RequestGuard, ResponseBody, SendError};
use crate::error::{Error, Kind};
use crate::grpc;
use crate::http::{RequestBody, forward, headers, reply};
use crate::limit::concurrency::RetrySlot;
use crate::mutant::Mutant;
use crate::retry::backoff::{self, RetryAfter};
use crate::retry::condition::reason;
use crate::retry::{self, AttemptOutcome, Attempts};
use crate::telemetry::{RetryDenied, emit};
use crate::world::Net;

type AttemptResponse<N> = Response<ResponseBody<N>>;

/// Sends a request to an endpoint, and to another one if that fails and it is safe. What the last
/// attempt gave is the answer: a response with a bad status is passed on as it is. The last failure
/// is the caller's to count.
pub(super) async fn send<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    call: &Call<'_>,
    mut request: Request<RequestBody>,
) -> Result<AttemptResponse<N>, Error> {
    let outer = retry::is_repeated(request.headers_mut());
    let upload = request.body().upload();
    let mut attempts = Attempts::new(&call.retry, &mut request, outer);
    let mut attempted = Attempted::default();
    let mut slot: Option<RetrySlot> = None;
    loop {
        let picked = pick(outbound, cluster, call, &mut attempted)?;
        let position = picked.position;
        note(cluster, call, picked);
        let result = match call.retry.hedge {
            None => attempt(outbound, cluster, position, call, request).await,
            Some(after) => {
                let hedged =
                    hedged(outbound, cluster, call, after, &mut attempts, &mut attempted, position, request);
                // Boxed, because all requests would keep room for it.
                Box::pin(hedged).await
            }
        };
        let (last, unsent) = match result {
            Ok(response) => (Ok(response), None),
            Err((error, unsent)) => (Err(error), unsent),
        };
        let ended = AttemptOutcome::of(&last, unsent.is_some(), call.is_grpc);
        if ended.is_success() {
            cluster.pay_for_retries();
        }
        let Some(reason) = reason(&call.retry, ended) else { return last };
        let others = cluster.endpoints.len() > attempts.nth() as usize;
        let permitted = attempts.permit(ended, upload.is_unfinished());
        let permitted = permitted.and_then(|()| when(outbound, call, attempts.nth(), ended, others, &last));
        // The permit of the attempt before, if that was a retry too, is free again.
        if !Mutant::HoldsTwoSlots.is_planted() {
            drop(slot.take());
        }
        let wait = match permitted.and_then(|wait| Ok((wait, afford(cluster, ended)?))) {
            Ok((wait, taken)) => {
                slot = Some(taken);
                wait
            }
            Err(denied) => {
                if call.retry.attempts > 0 {
                    cluster.metrics.denied(denied);
                    emit!(NotTryingAgain { request: call.number, why: denied.label() });
                }
                return last;
            }
        };
        let nth = attempts.nth();
        let Some(again) = attempts.again(unsent.map(|request| *request)) else { return last };
        request = again;
        retry::mark(request.headers_mut(), nth);
        emit!(TryingAgain {
            request: call.number,
            reason: reason.name(),
            wait,
            nth,
            budget: cluster.retry_budget.tokens(),
        });
        if !Mutant::UncountedRetry.is_planted() {
            cluster.metrics.retried(reason);
        }
        match last {
            Ok(response) => discard(response).await,
            Err(error) => cluster.metrics.failed(error.kind),
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// Where to try next.
fn pick<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    call: &Call<'_>,
    attempted: &mut Attempted,
) -> Result<Picked, Error> {
    let picked = cluster.pick(Instant::now(), &mut *outbound.side.rng.borrow_mut(), call.context, *attempted);
    let picked = picked.ok_or_else(|| Error::new(Kind::NoEndpoint))?;
    if !Mutant::ForgetsWhereItTried.is_planted() {
        attempted.insert(picked.position);
    }
    Ok(picked)
}

/// Counts a choice that is made use of, and notes it in the log.
fn note(cluster: &Cluster, call: &Call<'_>, picked: Picked) {
    cluster.count(picked);
    emit!(EndpointPicked {
        request: call.number,
        cluster: cluster.config.name,
        endpoint: cluster.endpoints[picked.position].address(),
        panic: picked.panic,
    });
}

/// How long to wait before the next attempt. One that would come after the request's end is none:
/// the caller gets what there is at once.
fn when<N: Net>(
    outbound: &Outbound<N>,
    call: &Call<'_>,
    nth: u32,
    ended: AttemptOutcome,
    others: bool,
    last: &Result<AttemptResponse<N>, Error>,
) -> Result<Duration, RetryDenied> {
    let asked = last.as_ref().map_or(RetryAfter::Nothing, |response| RetryAfter::of(response.headers()));
    let elsewhere = others && ended.is_untouched();
    let wait = backoff::wait(&call.retry, nth, elsewhere, asked, &mut *outbound.side.rng.borrow_mut());
    let wait = wait.ok_or(RetryDenied::Wait)?;
    let end = call.timer.end();
    let comes_too_late = end.is_some_and(|end| Instant::now() + wait >= end);
    if comes_too_late && !Mutant::WaitsPastTheEnd.is_planted() { Err(RetryDenied::Wait) } else { Ok(wait) }
}

/// A place among the cluster's retries, and the price of one. An attempt that takes the place of
/// another that nobody had begun with costs nothing, as gRPC's transparent retries (A6): no
/// endpoint works more for it.
pub(super) fn afford(cluster: &Cluster, ended: AttemptOutcome) -> Result<RetrySlot, RetryDenied> {
    let slot = cluster.try_retry_slot().ok_or(RetryDenied::Limit)?;
    let paid =
        ended.is_untouched() || cluster.affords_retry(Instant::now()) || Mutant::RetriesOnCredit.is_planted();
    if paid { Ok(slot) } else { Err(RetryDenied::Budget) }
}

/// An attempt, and if it is silent for `after`, another one beside it at another endpoint. The
/// first good answer wins and the other attempt is cancelled; if the first to end has failed, the
/// other has the last word.
#[allow(clippy::too_many_arguments, reason = "it is the middle of `send`, boxed")]
async fn hedged<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    call: &Call<'_>,
    after: Duration,
    attempts: &mut Attempts,
    attempted: &mut Attempted,
    position: usize,
    request: Request<RequestBody>,
) -> Result<AttemptResponse<N>, SendError> {
    let mut first = pin!(attempt(outbound, cluster, position, call, request));
    tokio::select! {
        biased;
        done = first.as_mut() => return done,
        () = sleep(after) => {}
    }
    let Some((other, request)) = hedge(outbound, cluster, call, attempts, attempted) else {
        return first.await;
    };
    cluster.metrics.hedges.inc();
    let mut second = pin!(attempt(outbound, cluster, other, call, request));
    let (done, first_ended) = tokio::select! {
        biased;
        done = first.as_mut() => (done, true),
        done = second.as_mut() => (done, false),
    };
    let good = done.as_ref().is_ok_and(|response| {
        reason(&call.retry, AttemptOutcome::answered(response, call.is_grpc)).is_none()
    });
    match (good, first_ended) {
        (true, true) => done,
        (true, false) => {
            // That the first was silent for so long counts as its latency when it is dropped.
            cluster.metrics.hedges_won.inc();
            done
        }
        (false, true) => second.await,
        (false, false) => first.await,
    }
}

/// The endpoint and the request of a second attempt beside the first, if there may be one.
fn hedge<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    call: &Call<'_>,
    attempts: &mut Attempts,
    attempted: &mut Attempted,
) -> Option<(usize, Request<RequestBody>)> {
    if !attempts.permits_hedge() {
        return None;
    }
    let before = *attempted;
    let other = pick(outbound, cluster, call, attempted).ok()?;
    let is_new = !before.contains(other.position);
    if !is_new || !cluster.affords_retry(Instant::now()) {
        if is_new {
            cluster.metrics.denied(RetryDenied::Budget);
        }
        // It was not tried there, and a retry may well be.
        *attempted = before;
        return None;
    }
    let nth = attempts.nth();
    let mut request = attempts.again(None)?;
    retry::mark(request.headers_mut(), nth);
    note(cluster, call, other);
    Some((other.position, request))
}

/// An attempt without an answer, noted in the log.
fn failed(
    call: &Call<'_>,
    endpoint: SocketAddr,
    error: Error,
    unsent: Option<Box<Request<RequestBody>>>,
) -> SendError {
    emit!(AttemptFailed {
        request: call.number,
        endpoint,
        error: error.kind.label(),
        unsent: unsent.is_some(),
        reused: error.reused,
    });
    (error, unsent)
}

/// Drops an answer that nobody gets. What has come of its body already is read, so that its
/// connection can be used again.
async fn discard<N: Net>(response: AttemptResponse<N>) {
    let mut body = response.into_body();
    std::future::poll_fn(|cx| {
        for _ in 0..DISCARDED_FRAMES {
            if !matches!(Pin::new(&mut body).poll_frame(cx), Poll::Ready(Some(Ok(_)))) {
                break;
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// One attempt at one endpoint. On failure gives the request back if not a byte of it can have
/// reached the app.
async fn attempt<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    position: usize,
    call: &Call<'_>,
    request: Request<RequestBody>,
) -> Result<AttemptResponse<N>, SendError> {
    let endpoint = &cluster.endpoints[position];
    let begun = Instant::now();
    call.log.attempt(endpoint.address(), begun);
    let mut attempt = cluster.outliers.begin(position, begun, call.timer.end(), &outbound.side.rng);
    let (target, stale_since) = (&endpoint.target, endpoint.stale_since());
    let sending = pin!(outbound.side.pool.send(target, stale_since, call, &endpoint.metrics, request));
    let sent = call.timer.wait_for_try(begun, call.attempt_timeouts, sending).await;
    let sent = sent.unwrap_or_else(|kind| {
        outbound.side.pool.gave_up(target, begun);
        let error = Error { endpoint: Some(endpoint.address()), ..Error::new(kind) };
        Err((error, None))
    });
    let (response, lease) = match sent {
        Ok(answered) => answered,
        Err((error, unsent)) => {
            attempt.tell(Outcome::of_error(&error, unsent.is_some()), Instant::now());
            return Err(failed(call, endpoint.address(), error, unsent));
        }
    };
    let now = Instant::now();
    let failed_there = |kind, detail: &str| Error::at(kind, endpoint.address(), detail);
    if let Some(kind) = reply::not_delivered(response.headers()) {
        attempt.tell(Outcome::of_refusal(kind, response.headers()), now);
        let error = failed_there(kind, "its sidecar could not reach the app");
        return Err(failed(call, endpoint.address(), error, None));
    }
    if reply::terminated(response.headers()) {
        attempt.tell(Outcome::Failure(None), now);
        let error = failed_there(Kind::Terminated, "the app closed without an answer");
        return Err(failed(call, endpoint.address(), error, None));
    }
    let outcome = Outcome::of_head(response.status(), response.headers(), call.is_grpc);
    // A failure is often quick, and must not attract load.
    if matches!(outcome, None | Some(Outcome::Success)) || Mutant::FailuresEnterTheLatency.is_planted() {
        attempt.answered(now);
    }
    emit!(EndpointAnswered {
        request: call.number,
        endpoint: endpoint.address(),
        status: response.status().as_u16(),
        // Over HTTP/1 an endpoint can say that it takes no more on this connection.
        last: headers::lists(response.headers(), CONNECTION, "close"),
        grpc: response.headers().get(grpc::STATUS).and_then(|status| status.to_str().ok()),
        average_us: endpoint.latency(now).as_micros() as u64,
    });
    if let Some(outcome) = outcome {
        attempt.tell(outcome, now);
    }
    let held = RequestGuard::new(call.permit.clone(), Some(attempt));
    let (failures, timer) = (cluster.metrics.failures(), call.timer.clone());
    let mut response =
        response.map(|body| ResponseBody::endpoint(body, lease, held, failures, timer, call.is_grpc));
    forward::response(&mut response);
    Ok(response)
}
