//! Writes the access log, on the control thread.
//!
//! Lines are written in batches. The file is opened for each, so one that was renamed is followed
//! at once, and nobody has to be told. A batch that could not be written is lost, which is counted:
//! an access log is worth less than the requests that it tells of. (The audit log is the other way
//! round.)

use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep};

use crate::config::defaults::{LOG_BATCH, LOG_PAUSE};
use crate::telemetry::access::{AccessQueue, LogItem};
use crate::telemetry::{AccessLogMetrics, Throttle};
use crate::world::World;

/// Writes what is in the queue to the log of `world`, until nothing can come any more.
pub async fn run<N>(world: World<N>, queue: AccessQueue, metrics: AccessLogMetrics) {
    let AccessQueue { mut items, lost, config } = queue;
    let failures = Throttle::default();
    let (mut batch, mut waiting) = (Vec::new(), Vec::new());
    while items.recv_many(&mut batch, LOG_BATCH).await > 0 {
        let (mut lines, mut count) = (Vec::new(), 0);
        for item in batch.drain(..) {
            match item {
                LogItem::Record(record) => {
                    config.format.write(&record, &mut lines);
                    count += 1;
                }
                LogItem::Flush(done) => waiting.push(done),
            }
        }
        metrics.lost.inc_by(lost.swap(0, Ordering::Relaxed));
        if count > 0 {
            match world.log.write(lines).await {
                Ok(()) => {
                    metrics.written.inc_by(count);
                }
                Err(error) => {
                    metrics.failures.inc();
                    metrics.lost.inc_by(count);
                    if let Some(withheld) = failures.admit("write", Instant::now()) {
                        tracing::error!(%error, lines = count, withheld, "the access log cannot be written");
                    }
                }
            }
        }
        for done in waiting.drain(..) {
            let _ = done.send(());
        }
        // Meanwhile workers put records in without waking anybody.
        sleep(LOG_PAUSE).await;
    }
}
