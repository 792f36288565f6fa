//! The attempts of one request: whether there may be another, and what it looks like.
//!
//! A copy of the head is kept, and of the body as much of it as may be
//! ([`replay`](crate::http::replay)). Where only an unsent request may be repeated (a POST over
//! HTTP/1, which is given back as it was) nothing is kept.

use http::header::{HeaderMap, HeaderValue, UPGRADE};
use http::{Extensions, Method, Request, Uri, Version};

use super::condition::AttemptOutcome;
use crate::config::Retry;
use crate::http::RequestBody;
use crate::http::headers::X_RETRY_ATTEMPT;
use crate::http::replay::ReplayBuffer;
use crate::mutant::Mutant;
use crate::telemetry::RetryDenied;

/// Whether an outer hop repeats this request already. Takes the mark out if it is not one.
pub fn is_repeated(headers: &mut HeaderMap) -> bool {
    let Some(value) = headers.get(X_RETRY_ATTEMPT) else { return false };
    let is_mark = value.to_str().is_ok_and(|text| text.parse::<u32>().is_ok_and(|nth| nth > 0));
    if !is_mark {
        headers.remove(X_RETRY_ATTEMPT);
    }
    is_mark
}

/// Marks a request as the retry that is the `nth`.
pub fn mark(headers: &mut HeaderMap, nth: u32) {
    headers.insert(X_RETRY_ATTEMPT, HeaderValue::from(nth));
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts {
    /// Retries that there may be, and have been.
    most: u32,
    made: u32,
    /// Whether an outer hop repeats the request already.
    outer: bool,
    /// Whether it may be made twice.
    safe: bool,
    /// What it was, if it can be made again although it was sent.
    copy: Option<Box<RequestHead>>,
    /// Its body, if it has one.
    replay: Option<ReplayBuffer>,
}

#[derive(Debug, Clone)]
struct RequestHead {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    /// hyper keeps the case of header names here.
    extensions: Extensions,
}

impl Attempts {
    /// The attempts that `retry` allows for `request`, whose body is kept from now on if that may
    /// be of use.
    pub fn new(retry: &Retry, request: &mut Request<RequestBody>, outer: bool) -> Self {
        let safe =
            retry.unsafe_methods && request.method() != Method::CONNECT || request.method().is_idempotent();
        let safe = safe || Mutant::RepeatsWhatIsNotIdempotent.is_planted();
        let most = retry.attempts + u32::from(Mutant::OneRetryTooMany.is_planted());
        let mut attempts = Attempts { most, made: 0, outer, safe, copy: None, replay: None };
        // Over HTTP/2 a request that was sent can still be one that nobody has begun with.
        if outer || retry.attempts == 0 || !(safe || request.version() == Version::HTTP_2) {
            return attempts;
        }
        attempts.replay = request.body_mut().record(retry.body);
        if attempts.replay.is_some() || matches!(request.body(), RequestBody::Empty) {
            attempts.copy = Some(Box::new(RequestHead {
                method: request.method().clone(),
                uri: request.uri().clone(),
                headers: request.headers().clone(),
                version: request.version(),
                extensions: request.extensions().clone(),
            }));
        }
        attempts
    }

    /// Which retry comes next, counted from 1.
    pub fn nth(&self) -> u32 {
        self.made + 1
    }

    /// Whether the request may be tried again after an attempt that ended so. `under_way`: its body
    /// has not been sent to its end; then an answer is the endpoint's last word.
    ///
    /// # Errors
    /// Why not.
    pub fn permit(&self, ended: AttemptOutcome, under_way: bool) -> Result<(), RetryDenied> {
        if self.outer {
            return Err(RetryDenied::OuterHop);
        }
        if self.made >= self.most {
            return Err(RetryDenied::Attempts);
        }
        if let AttemptOutcome::Failed { unsent: true, .. } = ended {
            return Ok(());
        }
        if !self.safe && !ended.is_untouched() {
            return Err(RetryDenied::Unsafe);
        }
        let answered = matches!(ended, AttemptOutcome::Answered { .. });
        if self.copy.is_none()
            || self.replay.as_ref().is_some_and(|replay| !replay.is_good())
            || answered && under_way
        {
            return Err(RetryDenied::Body);
        }
        Ok(())
    }

    /// Whether a second attempt may begin beside one that is under way: all of the request is
    /// there, nothing speaks against making it twice, and it does not ask for a tunnel.
    pub fn permits_hedge(&self) -> bool {
        let whole = self.replay.as_ref().is_none_or(ReplayBuffer::is_complete);
        let copy = self.copy.as_ref().filter(|_| self.safe && whole && self.made < self.most);
        copy.is_some_and(|head| !head.headers.contains_key(UPGRADE))
    }

    /// The request for the retry that was permitted. `unsent` is the last one, if it never left.
    pub fn again(&mut self, unsent: Option<Request<RequestBody>>) -> Option<Request<RequestBody>> {
        let request = match unsent {
            Some(request) => request,
            // The last attempt takes the copy itself.
            None if self.nth() >= self.most => self.copy.take()?.into_request(self.replay.as_ref())?,
            None => self.copy.clone()?.into_request(self.replay.as_ref())?,
        };
        self.made += 1;
        Some(request)
    }
}

impl RequestHead {
    fn into_request(self: Box<Self>, replay: Option<&ReplayBuffer>) -> Option<Request<RequestBody>> {
        let body = match replay {
            Some(replay) => replay.play()?,
            None => RequestBody::Empty,
        };
        let mut request = Request::new(body);
        *request.version_mut() = self.version;
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RetryConditions, defaults};
    use crate::error::Kind;
    use proptest::prelude::*;

    fn retry(attempts: u32, unsafe_methods: bool) -> Retry {
        Retry {
            attempts,
            on: RetryConditions::default(),
            status_codes: vec![],
            unsafe_methods,
            base: defaults::BACKOFF_BASE,
            max: defaults::BACKOFF_MAX,
            retry_after: defaults::RETRY_AFTER_MAX,
            body: defaults::RETRY_BODY,
            hedge: None,
        }
    }

    fn request(method: Method, version: Version) -> Request<RequestBody> {
        let builder = Request::builder().method(method).version(version).uri("/x").header("a", "b");
        builder.body(RequestBody::Empty).unwrap()
    }

    const fn failed(kind: Kind, unsent: bool) -> AttemptOutcome {
        AttemptOutcome::Failed { kind, unsent }
    }

    /// How many attempts there are if every one ends so, and why there are no more.
    fn count(retry: &Retry, mut request: Request<RequestBody>, ended: AttemptOutcome) -> (u32, RetryDenied) {
        let mut attempts = Attempts::new(retry, &mut request, false);
        for n in 1.. {
            assert_eq!(attempts.nth(), n);
            assert_eq!((request.uri().path(), &request.headers()["a"]), ("/x", &"b".parse().unwrap()));
            if let Err(denied) = attempts.permit(ended, false) {
                return (n, denied);
            }
            let unsent = matches!(ended, AttemptOutcome::Failed { unsent: true, .. }).then_some(request);
            request = attempts.again(unsent).unwrap();
        }
        unreachable!()
    }

    #[test]
    fn only_what_is_safe_is_tried_again_and_only_so_often() {
        use RetryDenied::{Attempts as Spent, Unsafe};
        const SENT: AttemptOutcome = failed(Kind::Terminated, false);
        const REFUSED: AttemptOutcome = failed(Kind::Refused, false);
        const ANSWERED: AttemptOutcome = AttemptOutcome::Answered { status: 503, grpc: None };
        for (method, version, ended, attempts, unsafe_methods, expected) in [
            (Method::GET, Version::HTTP_11, SENT, 2, false, (3, Spent)),
            (Method::PUT, Version::HTTP_11, SENT, 1, false, (2, Spent)),
            (Method::DELETE, Version::HTTP_11, ANSWERED, 2, false, (3, Spent)),
            (Method::POST, Version::HTTP_11, SENT, 2, false, (1, Unsafe)),
            (Method::POST, Version::HTTP_2, ANSWERED, 2, false, (1, Unsafe)),
            (Method::PATCH, Version::HTTP_2, REFUSED, 2, false, (3, Spent)),
            (Method::POST, Version::HTTP_11, SENT, 2, true, (3, Spent)),
            (Method::CONNECT, Version::HTTP_11, SENT, 2, true, (1, Unsafe)),
            (Method::POST, Version::HTTP_11, failed(Kind::Connect, true), 2, false, (3, Spent)),
            // A response only says that nobody has begun with it.
            (Method::POST, Version::HTTP_2, failed(Kind::Connect, false), 2, false, (1, Unsafe)),
            (Method::GET, Version::HTTP_11, failed(Kind::Connect, true), 0, false, (1, Spent)),
        ] {
            let found = count(&retry(attempts, unsafe_methods), request(method.clone(), version), ended);
            assert_eq!(found, expected, "{method} {version:?} {ended:?} {attempts}");
        }
    }

    #[test]
    fn what_an_outer_hop_repeats_is_not_repeated_here() {
        let mut request = request(Method::GET, Version::HTTP_11);
        for (value, expected) in
            [("1", true), ("7", true), ("0", false), ("-1", false), ("x", false), ("", false)]
        {
            request.headers_mut().insert(X_RETRY_ATTEMPT, value.parse().unwrap());
            assert_eq!(is_repeated(request.headers_mut()), expected, "{value:?}");
            assert_eq!(request.headers().contains_key(X_RETRY_ATTEMPT), expected, "{value:?}");
        }
        let attempts = Attempts::new(&retry(2, true), &mut request, true);
        assert_eq!(attempts.permit(failed(Kind::Connect, true), false), Err(RetryDenied::OuterHop));
        assert!(!attempts.permits_hedge());
    }

    #[test]
    fn beside_the_last_attempt_of_all_there_is_no_other() {
        let mut request = request(Method::GET, Version::HTTP_11);
        let mut attempts = Attempts::new(&retry(1, false), &mut request, false);
        assert!(attempts.permits_hedge());
        attempts.again(Some(request)).unwrap();
        assert!(!attempts.permits_hedge());
    }

    #[test]
    fn an_answer_before_the_end_of_the_body_is_the_last_word() {
        let mut request = request(Method::PUT, Version::HTTP_11);
        let attempts = Attempts::new(&retry(2, false), &mut request, false);
        let answered = AttemptOutcome::Answered { status: 503, grpc: None };
        assert_eq!(attempts.permit(answered, true), Err(RetryDenied::Body));
        assert_eq!(attempts.permit(answered, false), Ok(()));
    }

    fn any_ended() -> impl Strategy<Value = AttemptOutcome> {
        let kind = proptest::sample::select(Kind::ALL.to_vec());
        prop_oneof![
            (kind, any::<bool>()).prop_map(|(kind, unsent)| failed(kind, unsent)),
            (400_u16..600).prop_map(|status| AttemptOutcome::Answered { status, grpc: None }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_attempts_are_bounded_and_an_effect_is_never_repeated(
            (attempts, ends, post, http2) in
                (0_u32..5, proptest::collection::vec(any_ended(), 10), any::<bool>(), any::<bool>())
        ) {
            let method = if post { Method::POST } else { Method::GET };
            let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
            let mut current = request(method, version);
            let mut tracker = Attempts::new(&retry(attempts, false), &mut current, false);
            let mut made = 0;
            for ended in ends {
                if tracker.permit(ended, false).is_err() {
                    break;
                }
                prop_assert!(!post || ended.is_untouched());
                let unsent = matches!(ended, AttemptOutcome::Failed { unsent: true, .. }).then_some(current);
                current = tracker.again(unsent).unwrap();
                made += 1;
            }
            prop_assert!(made <= attempts);
        }
    }
}
