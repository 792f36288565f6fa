//! How long a request may take, in all and in silence; and how long one attempt of it.
//!
//! Most requests end long before any limit, so a limit costs them little: the next moment at which
//! one could be passed is computed when somebody has to wait anyway, one timer runs until then, and
//! bytes that move only note the time. A timer that goes off early, because something moved in the
//! meantime, is set again.
//!
//! What is waited for is lent and not given: a future that passes through two functions by value
//! would be stored, and copied, four times over, and every connection keeps room for one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::body::Upload;
use crate::config::AttemptTimeouts;
use crate::error::{Error, Kind};
use crate::mutant::Mutant;

/// The limits of one request.
#[derive(Debug, Clone)]
pub struct RequestTimer {
    /// The end of it all, and what passing it means.
    end: Option<(Instant, Kind)>,
    /// How long nothing may move.
    idle: Option<Duration>,
    /// When a byte of the response moved last.
    moved: Instant,
    upload: Upload,
}

impl RequestTimer {
    /// A request that begins now and may be silent for `idle`.
    pub fn new(now: Instant, idle: Option<Duration>, upload: Upload) -> Self {
        RequestTimer { end: None, idle, moved: now, upload }
    }

    /// It must be over by `at`, or it failed with `kind`. The earliest such moment counts.
    pub fn until(mut self, at: Option<Instant>, kind: Kind) -> Self {
        if Mutant::KnowsNoDeadline.is_planted() {
            return self;
        }
        if let Some(at) = at.filter(|at| self.end.is_none_or(|(end, _)| *at < end)) {
            self.end = Some((at, kind));
        }
        self
    }

    /// When it must be over, if it must.
    pub fn end(&self) -> Option<Instant> {
        self.end.map(|(at, _)| at)
    }

    /// Bytes of the response have moved.
    pub fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// When to look again; `None` if nothing limits the request.
    ///
    /// # Errors
    /// The limit that has been passed.
    pub fn due(&self, now: Instant) -> Result<Option<Instant>, Kind> {
        let moved = self.upload.moved().map_or(self.moved, |at| at.max(self.moved));
        let idle = self.idle.map(|idle| (moved + idle, Kind::Idle));
        earliest(now, [self.end, idle])
    }

    /// Waits for the response to begin, within the limits.
    ///
    /// # Errors
    /// The future's own, or the limit that was passed.
    pub async fn wait<T>(
        &self,
        response: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> Result<T, Error> {
        wait(|now| self.due(now), response).await.unwrap_or_else(|kind| Err(Error::new(kind)))
    }

    /// Waits for one attempt, which began at `begun`, to be answered within its own limits.
    ///
    /// # Errors
    /// The limit that was passed.
    pub async fn wait_for_try<T>(
        &self,
        begun: Instant,
        limits: AttemptTimeouts,
        answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Kind> {
        let begun = if Mutant::TimesAttemptsTogether.is_planted() { self.moved } else { begun };
        let per_try = limits.per_try.filter(|_| !Mutant::KnowsNoAttemptLimit.is_planted());
        let per_try = per_try.map(|limit| (begun + limit, Kind::TryTimeout));
        let due = |now: Instant| {
            let first_byte = limits.response.map(|limit| {
                let since =
                    if self.upload.is_unfinished() { now } else { self.upload.moved().unwrap_or(begun) };
                (since.max(begun) + limit, Kind::ResponseTimeout)
            });
            earliest(now, [per_try, first_byte])
        };
        wait(due, answer).await
    }
}

fn earliest(now: Instant, limits: [Option<(Instant, Kind)>; 2]) -> Result<Option<Instant>, Kind> {
    match limits.into_iter().flatten().min_by_key(|(at, _)| *at) {
        Some((at, kind)) if at <= now => Err(kind),
        next => Ok(next.map(|(at, _)| at)),
    }
}

async fn wait<T>(
    due: impl Fn(Instant) -> Result<Option<Instant>, Kind>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Kind> {
    loop {
        let Some(at) = due(Instant::now())? else { return Ok(work.await) };
        tokio::select! {
            biased;
            done = work.as_mut() => return Ok(done),
            () = sleep_until(at) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::rc::Rc;

    use super::*;
    use crate::http::body::Progress;
    use tokio::time::sleep;

    const S: Duration = Duration::from_secs(1);

    async fn kind_and_time(timer: RequestTimer) -> (Option<Kind>, Duration) {
        let begun = Instant::now();
        let result = timer.wait(pin!(std::future::pending::<Result<(), Error>>())).await;
        (result.err().map(|e| e.kind), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_limit_is_the_one_that_ends_a_request() {
        let now = Instant::now();
        let timer = RequestTimer::new(now, Some(10 * S), Upload::default())
            .until(Some(now + 7 * S), Kind::RequestTimeout)
            .until(Some(now + 3 * S), Kind::Deadline)
            .until(Some(now + 5 * S), Kind::RequestTimeout)
            .until(None, Kind::RequestTimeout);
        assert_eq!(kind_and_time(timer).await, (Some(Kind::Deadline), 3 * S));
        let now = Instant::now();
        let timer = RequestTimer::new(now, Some(2 * S), Upload::default());
        let timer = timer.until(Some(now + 7 * S), Kind::RequestTimeout);
        assert_eq!(kind_and_time(timer).await, (Some(Kind::Idle), 2 * S));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_upload_moves_is_not_idle() {
        let progress = Rc::new(Progress::begin(Instant::now()));
        let timer = RequestTimer::new(Instant::now(), Some(2 * S), Upload::of(&progress));
        let uploading = async {
            for _ in 0..5 {
                sleep(S).await;
                progress.moved(Instant::now());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = kind_and_time(timer) => assert_eq!(ended, (Some(Kind::Idle), 7 * S)),
            () = uploading => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_the_first_byte_begins_when_the_request_has_been_sent() {
        let begun = Instant::now();
        let progress = Rc::new(Progress::begin(begun));
        let timer = RequestTimer::new(begun, None, Upload::of(&progress));
        let limits = AttemptTimeouts { per_try: Some(20 * S), response: Some(2 * S) };
        let uploading = async {
            sleep(5 * S).await;
            progress.end(Instant::now());
            std::future::pending::<()>().await;
        };
        let never = pin!(std::future::pending::<()>());
        tokio::select! {
            ended = timer.wait_for_try(begun, limits, never) => {
                assert_eq!((ended, begun.elapsed()), (Err(Kind::ResponseTimeout), 7 * S));
            }
            () = uploading => {}
        }
        let limits = AttemptTimeouts { per_try: Some(S), response: Some(2 * S) };
        let begun = Instant::now();
        let ended = timer.wait_for_try(begun, limits, pin!(std::future::pending::<()>())).await;
        assert_eq!((ended, begun.elapsed()), (Err(Kind::TryTimeout), S));
    }
}
