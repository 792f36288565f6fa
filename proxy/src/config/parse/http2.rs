//! `[http2]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_spanned::Spanned;

use super::Check;
use crate::config::{Http2, defaults, model, units};

impl Check<'_> {
    pub(super) fn http2(&mut self, given: &model::Http2) -> Http2 {
        let default = Http2::default();
        let (stream, connection) = (&given.initial_stream_window_size, &given.initial_connection_window_size);
        let max_concurrent_streams =
            given.max_concurrent_streams.as_ref().map_or(default.max_concurrent_streams, |n| *n.get_ref());
        if let Some(given) = given.max_concurrent_streams.as_ref().filter(|n| *n.get_ref() == 0) {
            self.diagnostics
                .add("a client that may open no stream can ask nothing", given.span(), "must be at least 1")
                .help(format!("the default is {}", default.max_concurrent_streams));
        }
        Http2 {
            max_concurrent_streams,
            initial_stream_window_size: self.window(
                "initial_stream_window_size",
                stream.as_ref(),
                default.initial_stream_window_size,
            ),
            initial_connection_window_size: self.window(
                "initial_connection_window_size",
                connection.as_ref(),
                default.initial_connection_window_size,
            ),
            connection_keepalive_interval: self.keepalive(given.connection_keepalive_interval.as_ref()),
        }
    }

    fn keepalive(&mut self, given: Option<&Spanned<String>>) -> Duration {
        let default = defaults::H2_KEEPALIVE_INTERVAL;
        let found = self.duration("connection_keepalive_interval", given, default);
        if let Some(span) = found.span.filter(|_| found.value.is_zero()) {
            let message = "`connection_keepalive_interval` leaves no time between two pings";
            self.diagnostics.add(message, span, "must be more than 0").help("the default is 5m");
        }
        found.value
    }

    fn window(&mut self, key: &str, given: Option<&Spanned<String>>, default: u32) -> u32 {
        const RANGE: RangeInclusive<u32> = defaults::H2_WINDOW_RANGE;
        let Some(given) = given else { return default };
        let bytes = match units::size(given.get_ref()) {
            Ok(bytes) => bytes,
            Err(hint) => {
                let message = format!("`{key}` is not a size");
                self.diagnostics.add(message, given.span(), "not a size with a unit").help(hint);
                return default;
            }
        };
        match u32::try_from(bytes).ok().filter(|bytes| RANGE.contains(bytes)) {
            Some(bytes) => bytes,
            None => {
                self.diagnostics
                    .add(format!("`{key}` is out of range"), given.span(), "out of range")
                    .help("it is at least 64KiB and less than 2GiB");
                default
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_carries_no_more_streams_than_its_window_has_room_for() {
        for (connection, stream, most, expected) in [
            (256 << 20, 64 << 10, 200, 200),
            (1 << 20, 64 << 10, 200, 16),
            (1 << 20, 64 << 10, 11, 11),
            (64 << 10, 1 << 20, 200, 1),
        ] {
            let http2 = Http2 {
                max_concurrent_streams: most,
                initial_stream_window_size: stream,
                initial_connection_window_size: connection,
                ..Http2::default()
            };
            assert_eq!(http2.streams(), expected, "{http2:?}");
        }
    }
}
