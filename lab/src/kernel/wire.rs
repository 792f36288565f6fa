//! The userspace wire as a backend: [`crate::fabric::Wire`] on the outer ends of the instances'
//! veth pairs.

use std::io;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, ready};

use super::link::{Backend, LinkBackend, PairCounts, outer_name};
use super::node::Node;
use crate::fabric::{self, LinkProfile, PortSpec};
use crate::plan::Plan;
use crate::world::Fidelity;

/// A running wire.
pub struct WireBackend(fabric::Wire);

impl WireBackend {
    /// Joins the outer ends of all instances of `plan`.
    pub fn start(plan: &Plan, fabric: &Node) -> io::Result<WireBackend> {
        let port = |(position, instance): (usize, &crate::plan::Instance)| PortSpec {
            name: instance.name.clone(),
            ifname: outer_name(position),
            mac: instance.mac,
        };
        let ports = plan.instances.iter().enumerate().map(port).collect();
        Ok(WireBackend(fabric::Wire::start(fabric.netns().try_clone()?, ports, plan.seed)?))
    }
}

impl LinkBackend for WireBackend {
    fn set_profiles(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> LocalBoxFuture<'_, io::Result<()>> {
        ready(self.0.set_profiles(profiles)).boxed_local()
    }

    fn pairs(&self) -> LocalBoxFuture<'_, Vec<PairCounts>> {
        let pair = |p: &fabric::PairStats| PairCounts {
            from: p.from,
            to: p.to,
            packets: p.packets,
            lost: p.lost_segments,
            delayed: p.delayed_packets,
        };
        ready(self.0.stats().map(|s| s.pairs.iter().map(pair).collect()).unwrap_or_default()).boxed_local()
    }

    fn fidelity(&self) -> Fidelity {
        let link_backend = Backend::Wire.name().to_owned();
        match self.0.stats() {
            Ok(stats) => {
                let mut notes = stats.notes;
                notes.push(format!(
                    "packets without delay crossed the wire in p50 {:.0} us, p99 {:.0} us; it used {:.0} ms of CPU",
                    stats.transit_p50_us, stats.transit_p99_us, stats.cpu_ms
                ));
                Fidelity {
                    link_backend,
                    packets: stats.packets,
                    lateness_p50_us: stats.lateness_p50_us,
                    lateness_p99_us: stats.lateness_p99_us,
                    lateness_max_us: stats.lateness_max_us,
                    overflow: stats.overflow,
                    notes,
                }
            }
            Err(e) => Fidelity {
                link_backend,
                notes: vec![format!("the wire ended before its time: {e}")],
                ..Fidelity::default()
            },
        }
    }
}
