//! What a kind of app is: [`App`] says what a scenario may write and what becomes of it, [`Server`]
//! is the built-in app while it runs, [`ForeignProgram`] is what stands in its place on the kernel.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;

use proxy::world::{Net, World};
use serde_spanned::Spanned;
use tokio::io::{AsyncRead, AsyncWrite};

use super::metrics::AppCounters;
use super::store::RegistryData;
use crate::syntax::diagnose::Mistake;

/// A kind of app, resolved: what runs behind a sidecar.
pub trait App: Sized {
    /// Its table in `app = { .. }`.
    type Table;

    /// The built-in app while it runs.
    type Server: Server;

    /// How a scenario writes it, in the fewest words.
    const EXAMPLE: &'static str;

    /// The schemes of the loads that it answers; empty if that cannot be known.
    const SPEAKS: &'static [&'static str] = &[];

    /// Whether it speaks before its clients do.
    const SPEAKS_FIRST: bool = false;

    /// Whether the timeline can change how it answers.
    const IS_CONTROLLED: bool = false;

    /// Whether the lab brings it, and the simulator can run it.
    const IS_BUILT_IN: bool = true;

    /// Resolves its table; nothing, and the mistakes, if that says nothing that can be run.
    fn resolve(table: &Spanned<Self::Table>, mistakes: &mut Vec<Mistake>) -> Option<Self>;

    /// The built-in app, about to serve.
    ///
    /// # Errors
    /// If it cannot be served as it is described.
    fn server<N: Net>(&self, start: Start<'_, N>) -> io::Result<Self::Server>;

    /// What the kernel world runs in place of the built-in app, if it does.
    fn foreign(&self) -> Option<&dyn ForeignProgram> {
        None
    }
}

/// What a built-in app starts with.
pub struct Start<'a, N> {
    /// The name of its instance.
    pub instance: &'a str,
    /// Its network and its chances.
    pub world: &'a World<N>,
    /// What an earlier process of the instance has left.
    pub data: RegistryData,
    /// What it counts.
    pub counters: Rc<AppCounters>,
}

/// A built-in app that runs, shared by its connections.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait Server: Sized + 'static {
    /// The name of the tasks that serve its connections.
    const TASK: &'static str;

    /// Serves one connection until it ends.
    async fn connection<I: AsyncRead + AsyncWrite + Unpin + 'static>(self: Rc<Self>, io: I);

    /// What it does beside, for ever.
    async fn background(&self) {
        pending().await
    }

    /// Changes how it answers, by the query of its control page; `None` if it has no such page.
    fn control(&self, _query: &str) -> Option<Result<(), String>> {
        None
    }
}

/// Of a kind that is not built in.
impl Server for Infallible {
    const TASK: &'static str = "app";

    async fn connection<I: AsyncRead + AsyncWrite + Unpin + 'static>(self: Rc<Self>, _: I) {
        match *self {}
    }
}

/// A program that is not the lab's own, as the kernel world runs it.
pub trait ForeignProgram {
    /// What is started: a path, or a name that is looked up in `PATH`.
    fn name(&self) -> &str;

    /// The Debian package that has it, if the lab knows it.
    fn package(&self) -> Option<&'static str> {
        None
    }

    /// Whether it keeps what must outlive its process in a folder of its own.
    fn keeps_data(&self) -> bool {
        false
    }

    /// How it is started.
    fn command(&self, place: &Place<'_>) -> ForeignCommand;
}

/// Where a foreign program runs.
pub struct Place<'a> {
    /// The name of its instance.
    pub instance: &'a str,
    /// The address of its instance.
    pub address: Ipv4Addr,
    /// The port that it has to listen on.
    pub port: u16,
    /// Its folder, if it keeps data.
    pub data: &'a Path,
}

/// How a foreign program is started.
pub struct ForeignCommand {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// What it finds in its environment, beside what every app does.
    pub env: Vec<(String, String)>,
}
