//! Which version of HTTP a client begins with, on a port that is known to speak HTTP: the client
//! speaks first, so there is no silence to guess about. What is no HTTP at all is left to the
//! HTTP/1 server, which has an answer for it.

use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::sleep;

use crate::config::defaults::LAST_REQUEST;
use crate::detect::{Detected, Detection, Prefixed, Sniffed, detect};
use crate::drain;

/// Waits for the first bytes and says whether they are HTTP/2's. `None` if the client closes, is
/// silent for longer than `limit`, or the sidecar drains.
pub async fn is_http2<I: AsyncRead + Unpin>(
    io: I,
    limit: Duration,
    drain: drain::Watch,
) -> Option<(bool, Prefixed<I>)> {
    let Detected { outcome, client, .. } = first_bytes(io, limit, drain).await?;
    Some((outcome == Detection::Sniffed(Sniffed::Http2), client))
}

/// The same for whoever wants to know more of them.
pub async fn first_bytes<I: AsyncRead + Unpin>(
    io: I,
    limit: Duration,
    mut drain: drain::Watch,
) -> Option<Detected<I>> {
    let drained = async {
        drain.signaled().await;
        sleep(LAST_REQUEST).await;
    };
    tokio::select! {
        biased;
        detected = detect(io, limit) => match detected {
            Err(_) | Ok(Detected { outcome: Detection::Closed | Detection::Timeout, .. }) => None,
            Ok(found) => Some(found),
        },
        () = drained => None,
    }
}
