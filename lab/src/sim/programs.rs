//! What runs in the simulated processes: the same app, sidecar and load generator as on the kernel.
//!
//! The only file of the simulator that names them: [`Mesh`]. Tests of the simulator itself bring
//! programs of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::rc::Rc;

use proxy::ca::{self, serve};
use proxy::world::{Net, World};
use tokio::sync::watch;

use crate::app::{self, AppSpec, RegistryData};
use crate::authority;
use crate::load::{self, LoadJob};
use crate::plan::{Authority, CA_PORT};

use super::net::SimNet;
use super::process::Term;

/// A program's main task. The process ends with it.
pub type Main = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// The programs of a simulated world.
pub trait Programs: 'static {
    /// An instance's app. SIGTERM ends it at once, as it does a process without a handler.
    fn app(&self, world: World<SimNet>, spec: AppSpec) -> Main;

    /// A certificate authority. SIGTERM ends it at once.
    fn authority(&self, world: World<SimNet>, authority: Authority) -> Main {
        Box::pin(async move {
            let settings = authority::settings(&authority);
            let listener = world.net.bind((Ipv4Addr::UNSPECIFIED, CA_PORT).into()).await?;
            let authority = ca::Authority::open(&world, settings).await.map_err(io::Error::other)?;
            serve::run(world.net, listener, authority).await;
            Ok(())
        })
    }

    /// A sidecar with this configuration file, which may change. It ends some time after `term`.
    fn sidecar(&self, world: World<SimNet>, config: watch::Receiver<String>, term: Term) -> Main;

    /// A load generator.
    fn load(&self, world: World<SimNet>, job: LoadJob) -> Main;
}

/// The programs of a real mesh.
#[derive(Clone, Default)]
pub struct Mesh {
    /// What each app's process leaves behind for the next one.
    disks: Rc<RefCell<BTreeMap<String, RegistryData>>>,
}

impl Programs for Mesh {
    fn app(&self, world: World<SimNet>, spec: AppSpec) -> Main {
        let data = self.disks.borrow_mut().entry(spec.instance.clone()).or_default().clone();
        Box::pin(app::serve(world, spec, data))
    }

    fn sidecar(&self, world: World<SimNet>, mut config: watch::Receiver<String>, term: Term) -> Main {
        Box::pin(async move {
            let read = |config: &str| {
                proxy::config::parse("sidecar.toml", config)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))
            };
            let snapshot = read(&config.borrow_and_update())?;
            let next = async move || loop {
                if config.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                // The scenario's check has read it before; one that is wrong all the same changes
                // nothing.
                if let Ok(snapshot) = read(&config.borrow_and_update()) {
                    break snapshot;
                }
            };
            proxy::app::serve_and_reload(world, snapshot, next, term.wait()).await
        })
    }

    fn load(&self, world: World<SimNet>, job: LoadJob) -> Main {
        Box::pin(load::generate(world, job))
    }
}
