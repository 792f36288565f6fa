//! `[timeouts]` and `[cluster.timeouts]`: what their lengths mean and which contradict each other.

use std::time::Duration;

use serde_spanned::Spanned;

use super::Check;
use crate::config::{AttemptTimeouts, RequestTimeouts, Timeouts, defaults, model, units};

impl Check<'_> {
    pub(super) fn timeouts(&mut self, given: &model::Timeouts) -> Timeouts {
        let timeouts = Timeouts {
            connect: self.duration("connect", given.connect.as_ref(), defaults::CONNECT_TIMEOUT).value,
            detect: self.duration("detect", given.detect.as_ref(), defaults::DETECT_TIMEOUT).value,
            pool_idle: self.duration("pool_idle", given.pool_idle.as_ref(), defaults::POOL_IDLE).value,
            drain_min: self.duration("drain_min", given.drain_min.as_ref(), defaults::DRAIN_MIN).value,
            tunnel_idle: self
                .duration("tunnel_idle", given.tunnel_idle.as_ref(), defaults::TUNNEL_IDLE)
                .value,
            half_close: self
                .duration("half_close", given.half_close.as_ref(), defaults::HALF_CLOSE_TIMEOUT)
                .value,
            tcp_idle: self.duration("tcp_idle", given.tcp_idle.as_ref(), defaults::TCP_IDLE_TIMEOUT).value,
            drain: self.duration("drain", given.drain.as_ref(), defaults::DRAIN_TIMEOUT).value,
            pool_age: self.limit("pool_age", given.pool_age.as_ref(), Some(defaults::POOL_AGE)),
            stream_idle: self.limit("stream_idle", given.stream_idle.as_ref(), Some(defaults::STREAM_IDLE)),
            request_headers: self
                .duration("request_headers", given.request_headers.as_ref(), defaults::HEADER_TIMEOUT)
                .value,
            max_connection_idle: self.limit(
                "max_connection_idle",
                given.max_connection_idle.as_ref(),
                Some(defaults::MAX_CONNECTION_IDLE),
            ),
            max_connection_age: self.limit(
                "max_connection_age",
                given.max_connection_age.as_ref(),
                Some(defaults::MAX_CONNECTION_AGE),
            ),
        };
        if let Some(connect) = given.connect.as_ref().filter(|_| timeouts.connect.is_zero()) {
            self.diagnostics
                .add("no connection opens in no time", connect.span(), "must be longer than 0")
                .help(format!("the default is {:?}", units::show(defaults::CONNECT_TIMEOUT)));
        }
        if let Some(detect) = given.detect.as_ref().filter(|_| timeouts.detect.is_zero()) {
            self.diagnostics
                .add("no protocol shows itself in no time", detect.span(), "must be longer than 0")
                .help(r#"to look at nothing, set `protocol = "tcp"` on the cluster or the inbound port"#);
        }
        if let Some(headers) = given.request_headers.as_ref().filter(|_| timeouts.request_headers.is_zero()) {
            self.diagnostics
                .add("no head arrives in no time", headers.span(), "must be longer than 0")
                .help(format!("the default is {:?}", units::show(defaults::HEADER_TIMEOUT)));
        }
        if let Some(idle) = given.tunnel_idle.as_ref().filter(|_| timeouts.tunnel_idle.is_zero()) {
            self.diagnostics
                .add("no tunnel is never silent", idle.span(), "must be longer than 0")
                .help(format!("the default is {:?}", units::show(defaults::TUNNEL_IDLE)));
        }
        for (given, value, default) in [
            (&given.half_close, timeouts.half_close, defaults::HALF_CLOSE_TIMEOUT),
            (&given.tcp_idle, timeouts.tcp_idle, defaults::TCP_IDLE_TIMEOUT),
        ] {
            if let Some(given) = given.as_ref().filter(|_| value.is_zero()) {
                self.diagnostics
                    .add(
                        "a connection that may never be silent carries nothing",
                        given.span(),
                        "must be longer than 0",
                    )
                    .help(format!("the default is {:?}", units::show(default)));
            }
        }
        timeouts
    }

    /// A limit that zero switches off.
    pub(super) fn limit(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let limit = self.duration(key, given, default.unwrap_or_default()).value;
        (!limit.is_zero()).then_some(limit)
    }

    pub(super) fn request_timeouts(
        &mut self,
        [request, per_try, response]: [Option<&Spanned<String>>; 3],
        general: RequestTimeouts,
    ) -> RequestTimeouts {
        let timeouts = RequestTimeouts {
            request: self.limit("request", request, general.request),
            attempt_timeouts: AttemptTimeouts {
                per_try: self.limit("per_try", per_try, general.attempt_timeouts.per_try),
                response: self.limit("response", response, general.attempt_timeouts.response),
            },
        };
        if let (Some(whole), Some(part), Some(span)) =
            (timeouts.request, timeouts.attempt_timeouts.per_try, per_try.or(request).map(Spanned::span))
            && part >= whole
        {
            let (whole, part) = (units::show(whole), units::show(part));
            self.diagnostics
                .add(
                    "an attempt may take as long as the whole request",
                    span,
                    format!("`per_try` is {part}, `request` is {whole}"),
                )
                .help("make `per_try` shorter, so that there is time for another attempt, or leave it out");
        }
        timeouts
    }
}
