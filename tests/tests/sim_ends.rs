//! How connections end, in the simulator: the table of `ends`, without sidecars and through two.
//! That the table can fail is shown by mutants of the sidecars.

mod ends;
mod sim_kit;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use ends::*;
use lab::app::{APP_METRICS_PORT, AppSpec};
use lab::load::LoadJob;
use lab::plan::SidecarKind;
use lab::sim::{Main, Mesh, Programs, SimIo, SimNet, SimWorld, Simulation, Term, Who};
use lab::world::World as _;
use proxy::mutant::{self, Mutant};
use proxy::world::{Listener, Net, World};
use sim_kit::*;
use tokio::sync::watch;

const SCENARIO: &str = include_str!("ends/scenario.toml");

/// A mesh whose apps do as they are told.
#[derive(Clone, Default)]
struct Staged {
    mesh: Mesh,
    stage: Stage,
}

impl Programs for Staged {
    fn app(&self, world: World<SimNet>, spec: AppSpec) -> Main {
        let stage = self.stage.clone();
        Box::pin(async move {
            let _metrics = world.net.bind((Ipv4Addr::LOCALHOST, APP_METRICS_PORT).into()).await?;
            let mut listener = world.net.bind((Ipv6Addr::UNSPECIFIED, spec.port).into()).await?;
            loop {
                let (io, _) = listener.accept().await?;
                stage.serve(io).await;
            }
        })
    }

    fn sidecar(&self, world: World<SimNet>, config: watch::Receiver<String>, term: Term) -> Main {
        self.mesh.sidecar(world, config, term)
    }

    fn load(&self, world: World<SimNet>, job: LoadJob) -> Main {
        self.mesh.load(world, job)
    }
}

type Dialling = std::pin::Pin<Box<dyn Future<Output = io::Result<SimIo>>>>;

/// Opens connections to an address.
fn dials(net: &SimNet, to: SocketAddr) -> impl Fn() -> Dialling {
    let net = net.clone();
    move || {
        let net = net.clone();
        Box::pin(async move { net.connect(to, None).await })
    }
}

/// Plays the whole table; what went wrong.
fn wrong(kind: SidecarKind) -> Vec<String> {
    let plan = parse("ends.toml", SCENARIO).plan(kind);
    let staged = Staged::default();
    let stage = staged.stage.clone();
    let direct = kind == SidecarKind::None;
    let run = Simulation::new(&plan, 1, staged).run(move |world: Rc<SimWorld>| async move {
        world.up().await.expect("up");
        let at = |name: &str| {
            let service = world.plan().services.iter().find(|s| s.name == name).expect("a service");
            SocketAddr::new(service.vip4.into(), service.port.expect("a port"))
        };
        let (raw, site) = (at("raw"), at("site"));
        let played = world.inside(0, Who::Load, "client", move |world| async move {
            let mut wrong = opaque_rows(&stage, dials(&world.net, raw), &[], &[]).await;
            wrong.extend(http_rows(&stage, dials(&world.net, site), direct).await);
            wrong.extend(tunnel_rows(&stage, dials(&world.net, site)).await);
            wrong
        });
        let wrong = played.await.expect("the client ends");
        world.down().await.expect("down");
        wrong
    });
    run.map_or_else(|failure| vec![failure.to_string()], |run| run.value)
}

#[test]
fn every_connection_ends_as_the_table_says_with_and_without_sidecars() {
    for kind in [SidecarKind::None, SidecarKind::Ours] {
        let wrong = wrong(kind);
        assert!(wrong.is_empty(), "{kind:?}: {}", wrong.join("\n"));
    }
}

#[test]
fn every_mutant_about_ends_shows_in_the_table() {
    for planted in [Mutant::EndsWhatWasReset, Mutant::GivesUpWithAFin, Mutant::CancelsAtHalfClose] {
        mutant::plant(Some(planted));
        let wrong = wrong(SidecarKind::Ours);
        mutant::plant(None);
        println!("{}: {wrong:?}", planted.name());
        assert!(!wrong.is_empty(), "{} is not found", planted.name());
    }
}
