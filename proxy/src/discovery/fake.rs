//! A board of which a test hears every word that a source tells it.

use std::future::Future;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::board::Task;
use super::{News, Teller};
use crate::world::fake::run;

/// What a source has told and the test has not heard yet.
pub(super) struct Heard(UnboundedReceiver<(Task, News)>);

impl Heard {
    /// The next.
    pub(super) async fn next(&mut self) -> News {
        self.0.recv().await.expect("the source still runs").1
    }
}

/// Runs a source for as long as `story` goes on.
pub(super) async fn followed<F>(source: impl FnOnce(Teller) -> F, story: impl AsyncFnOnce(Heard))
where
    F: Future<Output = ()>,
{
    let (news, heard) = unbounded_channel();
    let source = source(Teller { task: Task::default(), news });
    run(async {
        tokio::select! {
            () = source => unreachable!("it follows for as long as it is polled"),
            () = story(Heard(heard)) => {}
        }
    })
    .await;
}
