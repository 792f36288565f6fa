//! A store of which a test hears every word that a source tells it.

use std::future::Future;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::store::SourceId;
use super::{EndpointUpdate, UpdateSender};
use crate::world::fake::run;

/// What a source has told and the test has not heard yet.
pub(super) struct Heard(UnboundedReceiver<(SourceId, EndpointUpdate)>);

impl Heard {
    /// The next.
    pub(super) async fn next(&mut self) -> EndpointUpdate {
        self.0.recv().await.expect("the source still runs").1
    }
}

/// Runs a source for as long as `story` goes on.
pub(super) async fn followed<F>(source: impl FnOnce(UpdateSender) -> F, story: impl AsyncFnOnce(Heard))
where
    F: Future<Output = ()>,
{
    let (update, heard) = unbounded_channel();
    let source = source(UpdateSender { task: SourceId::default(), update });
    run(async {
        tokio::select! {
            () = source => unreachable!("it follows for as long as it is polled"),
            () = story(Heard(heard)) => {}
        }
    })
    .await;
}
