//! What an executable does when a bench starts it again, inside a namespace.

use std::io;
use std::time::Duration;

use proxy::world::{KernelNet, raise_nofile};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, LocalOptions};

use crate::options::Role;
use crate::{app, load, relay};

/// Plays `role`, in most cases until it is killed.
///
/// # Errors
/// What went wrong with it.
pub fn play(role: &Role) -> io::Result<()> {
    let net = KernelNet::default();
    match role {
        Role::App { protocol, pause_ms } => {
            here(app::serve(net, *protocol, Duration::from_millis(*pause_ms)))
        }
        Role::Relay { port, to } => relay::serve(*port, *to),
        Role::Load { job } => {
            let print = |outcome: &load::LoadOutcome| println!("{}", serde_json::json!(outcome));
            print(&here(load::run(net, parsed(job)?, print))?);
            Ok(())
        }
        Role::Slices { job } => {
            let job = parsed(job)?;
            here(async {
                println!("{}", serde_json::json!(load::sliced::run(net, job).await?));
                std::future::pending().await
            })
        }
    }
}

fn parsed<T: DeserializeOwned>(job: &str) -> io::Result<T> {
    serde_json::from_str(job).map_err(io::Error::other)
}

/// Runs `work` on a runtime of this thread.
///
/// # Errors
/// Those of `work`, or if there can be no runtime.
pub fn here<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    raise_nofile()?;
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?.block_on(work)
}
