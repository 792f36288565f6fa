//! What a scenario says of an HTTP echo, and what that means.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::behaviour::{Behaviour, behaviour_table};
use crate::syntax::diagnose::Mistake;
use crate::syntax::units::Span;

/// Default of [`HttpTable::size`].
const SIZE: u32 = 128;

behaviour_table! {
    /// `http = { .. }`
    pub struct HttpTable {
        ..behaviour,
        /// HTTP/2 streams that it lets a client open on one connection. Default: as many as it
        /// likes.
        pub max_concurrent_streams: Option<Spanned<u32>>,
        /// Requests that it works on at once; the others queue. Default: all that come.
        pub concurrency: Option<Spanned<u32>>,
        /// Whether it works on requests to the end although their callers have given up. Default:
        /// it drops them.
        #[serde(default)]
        pub finish_abandoned: bool,
        /// How long after its start `/ready` begins to answer 200. Default 0.
        pub ready_after: Option<Spanned<Span>>,
        /// Bytes in a response body. Default 128.
        pub size: Option<Spanned<u32>>,
        /// Whether it sends them in chunks, without saying beforehand how many there are. Default:
        /// it says so.
        #[serde(default)]
        pub chunked: bool,
        /// The longest that it keeps a connection without a request, chosen at random up to this
        /// each time. Default: it never closes one.
        pub close_idle: Option<Spanned<Span>>,
    }
}

/// The built-in HTTP echo.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpEcho {
    /// How it answers, unless the timeline says otherwise.
    #[serde(flatten)]
    pub behaviour: Behaviour,
    /// Bytes in a response body.
    pub size: u32,
    /// Whether it sends them in chunks, without saying beforehand how many there are.
    #[serde(default, skip_serializing_if = "crate::readable::is_default")]
    pub chunked: bool,
    /// The longest that it keeps a connection without a request; it chooses anew each time. 0: for
    /// ever.
    #[serde(with = "crate::readable", default, skip_serializing_if = "Duration::is_zero")]
    pub close_idle: Duration,
    /// Requests that it works on at once; the others wait in the order in which they came. 0: as
    /// many as there are.
    #[serde(default, skip_serializing_if = "crate::readable::is_default")]
    pub concurrency: u32,
    /// HTTP/2 streams that it lets a client open on one connection. 0: as many as it likes.
    #[serde(default, skip_serializing_if = "crate::readable::is_default")]
    pub max_concurrent_streams: u32,
    /// Whether it works on requests to the end although their callers have given up.
    #[serde(default, skip_serializing_if = "crate::readable::is_default")]
    pub finish_abandoned: bool,
    /// How long after its start `/ready` begins to say yes.
    #[serde(with = "crate::readable", default, skip_serializing_if = "Duration::is_zero")]
    pub ready_after: Duration,
}

impl HttpTable {
    /// The app that it describes.
    pub(super) fn resolve(&self, mistakes: &mut Vec<Mistake>) -> HttpEcho {
        let limits = [&self.concurrency, &self.max_concurrent_streams];
        for none in limits.into_iter().flatten().filter(|most| *most.get_ref() == 0) {
            let message = "an app that works on no request answers none";
            let mistake = Mistake::new(none.span(), message, "must be at least 1");
            mistakes.push(mistake.help("leave the key out to let it work on all that come"));
        }
        if let Some(never) = self.close_idle.as_ref().filter(|limit| limit.get_ref().0.is_zero()) {
            let message = "an app that keeps no idle connection at all closes before the second request";
            let mistake = Mistake::new(never.span(), message, "this long");
            mistakes.push(
                mistake.help("a few milliseconds, such as \"20ms\"; leave the key out to keep them for ever"),
            );
        }
        let time = |key: &Option<Spanned<Span>>| key.as_ref().map_or(Duration::ZERO, |time| time.get_ref().0);
        let number =
            |key: &Option<Spanned<u32>>, default| key.as_ref().map_or(default, |number| *number.get_ref());
        HttpEcho {
            behaviour: self.change(mistakes).of(Behaviour::default()),
            size: number(&self.size, SIZE),
            chunked: self.chunked,
            close_idle: time(&self.close_idle),
            concurrency: number(&self.concurrency, 0),
            max_concurrent_streams: number(&self.max_concurrent_streams, 0),
            finish_abandoned: self.finish_abandoned,
            ready_after: time(&self.ready_after),
        }
    }
}
