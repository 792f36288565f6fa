//! Interfaces, addresses, routes and neighbours, and what joins the instances.
//!
//! Every instance has a veth pair: `eth0` inside, `v<position>` in the fabric namespace. All that a
//! neighbour would have to be asked for is entered beforehand (permanent neighbour entries for both
//! families, no address detection), so the first packet on a link is the first packet of an app.
//! Virtual addresses have no neighbour: the default route only makes them routable, and the rules
//! in OUTPUT rewrite them before a frame is made.
//!
//! What joins the outer ends is a [`LinkBackend`]: a Linux bridge here, the userspace wire or netem
//! elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use futures_util::future::{LocalBoxFuture, ready};
use futures_util::{FutureExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope};
use rtnetlink::{Error, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::node::Node;
use crate::fabric::LinkProfile;
use crate::plan::{Instance, Plan};
use crate::world::Fidelity;

/// Congestion control of every connection that leaves an instance: bbr, some machines' default,
/// hides loss.
///
/// It is a property of the routes, because a namespace's own default (a sysctl) can only be what
/// the machine's owner allows everyone.
pub const CONGESTION_CONTROL: &str = "cubic";
/// Name of the bridge in the fabric namespace.
const BRIDGE: &str = "br0";

/// What joins the outer ends of the instances' veth pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A Linux bridge: nothing in the way, so no impairment is possible.
    Bridge,
    /// A Linux bridge with the kernel's own emulator on every port.
    Netem,
    /// The userspace wire.
    Wire,
}

impl Backend {
    /// What to use for `plan`: `asked` if given, otherwise nothing where nothing is asked of the
    /// links, otherwise the kernel's emulator where it exists.
    pub fn choose(plan: &Plan, asked: Option<Backend>, netem_works: impl FnOnce() -> bool) -> Backend {
        match asked {
            Some(backend) => backend,
            None if !plan.needs_wire() => Backend::Bridge,
            None if netem_works() => Backend::Netem,
            None => Backend::Wire,
        }
    }

    /// `bridge`, `netem` or `wire`.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Bridge => "bridge",
            Backend::Netem => "netem",
            Backend::Wire => "wire",
        }
    }
}

/// What one direction of a link did since the world came up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairCounts {
    /// Position of the sender.
    pub from: usize,
    /// Position of the receiver.
    pub to: usize,
    /// Packets that entered the link.
    pub packets: u64,
    /// Packets that the model lost on purpose.
    pub lost: u64,
    /// Packets that the model held back.
    pub delayed: u64,
}

/// What joins the instances. Dropping it stops it.
pub trait LinkBackend {
    /// Puts profiles in force, each `(from, to, profile)` for one direction, together if it can;
    /// packets under way keep theirs.
    fn set_profiles(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> LocalBoxFuture<'_, io::Result<()>>;
    /// Counters of every direction that it can tell apart; empty if it cannot.
    fn pairs(&self) -> LocalBoxFuture<'_, Vec<PairCounts>>;
    /// How far it can be trusted.
    fn fidelity(&self) -> Fidelity;
}

/// Runs `work` with a route-netlink handle of the calling thread's namespace.
///
/// The socket belongs to the namespace of the thread that makes it, so this runs on a node's
/// worker.
pub fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::pin!(connection);
        let work = work(handle.clone());
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => result.map_err(io::Error::other),
            () = &mut connection => Err(io::Error::other("the netlink connection closed")),
        }
    })
}

/// The name of an instance's outer end.
pub fn outer_name(instance: usize) -> String {
    format!("v{instance}")
}

/// Makes the veth pair of each instance, configures the inner ends completely and sets the outer
/// ends up. Blocks.
pub fn connect_instances(plan: &Plan, nodes: &[std::rc::Rc<Node>], fabric: &Node) -> io::Result<()> {
    for (position, node) in nodes.iter().enumerate() {
        let own = plan.instances[position].clone();
        let others: Vec<Instance> = plan
            .instances
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != position)
            .map(|(_, i)| i.clone())
            .collect();
        let (outer, fabric_fd) = (outer_name(position), fabric.netns().as_raw_fd());
        node.run(move || {
            with_netlink(async |handle| inner_end(&handle, &own, &others, &outer, fabric_fd).await)
        })?
        .map_err(|e| io::Error::other(format!("network of {}: {e}", node.name())))?;
    }
    // A pair cannot be up before both of its ends exist.
    let instances = nodes.len();
    fabric.run(move || {
        with_netlink(async |handle| {
            for instance in 0..instances {
                let outer = index_of(&handle, &outer_name(instance)).await?;
                handle.link().set(LinkUnspec::new_with_index(outer).up().build()).execute().await?;
            }
            Ok(())
        })
    })?
}

async fn inner_end(
    handle: &Handle,
    own: &Instance,
    others: &[Instance],
    outer: &str,
    fabric_fd: i32,
) -> Result<(), Error> {
    let lo = index_of(handle, "lo").await?;
    handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await?;

    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(outer).setns_by_fd(fabric_fd).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name("eth0")
        .address(own.mac.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .up()
        .build();
    handle.link().add(pair).execute().await?;
    let eth0 = index_of(handle, "eth0").await?;

    for (address, prefix) in [(own.v4.into(), 16), (own.v6.into(), 64)] {
        let mut request = handle.address().add(eth0, address, prefix);
        // The kernel's own route to the prefix would lack the congestion control.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        request.execute().await?;
    }
    for (to, prefix) in [(own.v4, 16), (Ipv4Addr::UNSPECIFIED, 0)] {
        let to = Ipv4Addr::from_bits(to.to_bits() >> 16 << 16);
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, prefix)
            .output_interface(eth0)
            .scope(RouteScope::Link)
            .pref_source(own.v4);
        handle.route().add(with_congestion_control(route.build())).execute().await?;
    }
    for (to, prefix) in [(own.v6, 64), (Ipv6Addr::UNSPECIFIED, 0)] {
        let to = Ipv6Addr::from_bits(to.to_bits() >> 64 << 64);
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, prefix)
            .output_interface(eth0)
            .pref_source(own.v6);
        handle.route().add(with_congestion_control(route.build())).execute().await?;
    }

    for other in others {
        for address in [other.v4.into(), other.v6.into()] {
            handle
                .neighbours()
                .add(eth0, address)
                .link_layer_address(&other.mac)
                .state(NeighbourState::Permanent)
                .execute()
                .await?;
        }
    }
    Ok(())
}

/// The route, with the lab's congestion control.
pub fn with_congestion_control(mut route: RouteMessage) -> RouteMessage {
    route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::CcAlgo(CONGESTION_CONTROL.into())]));
    route
}

/// The index of an interface of the namespace that `handle` belongs to.
pub async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    let mut links = handle.link().get().match_name(name).execute();
    links.try_next().await?.map(|l| l.header.index).ok_or(Error::RequestFailed)
}

/// A Linux bridge over the outer ends.
pub struct Bridge {
    fabric: std::rc::Rc<Node>,
}

impl Bridge {
    /// Joins the outer ends of `instances` instances. Blocks.
    pub fn start(fabric: std::rc::Rc<Node>, instances: usize) -> io::Result<Bridge> {
        fabric.run(move || {
            with_netlink(async |handle| {
                // Multicast snooping would hold back frames of groups that it has not learnt yet.
                let bridge = LinkBridge::new(BRIDGE).mcast_snooping(false).build();
                handle.link().add(bridge).execute().await?;
                let bridge = index_of(&handle, BRIDGE).await?;
                for instance in 0..instances {
                    let outer = index_of(&handle, &outer_name(instance)).await?;
                    let port = LinkUnspec::new_with_index(outer).controller(bridge).build();
                    handle.link().set(port).execute().await?;
                }
                Ok(())
            })
        })??;
        Ok(Bridge { fabric })
    }
}

impl LinkBackend for Bridge {
    fn set_profiles(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> LocalBoxFuture<'_, io::Result<()>> {
        let unimpaired = profiles.iter().all(|(_, _, profile)| *profile == LinkProfile::default());
        let result = if unimpaired {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the bridge backend cannot impair links: leave the choice of the backend to the lab, or take netem or wire",
            ))
        };
        ready(result).boxed_local()
    }

    fn pairs(&self) -> LocalBoxFuture<'_, Vec<PairCounts>> {
        ready(Vec::new()).boxed_local()
    }

    fn fidelity(&self) -> Fidelity {
        let mut fidelity = Fidelity { link_backend: Backend::Bridge.name().into(), ..Fidelity::default() };
        match port_counters(&self.fabric) {
            Ok((packets, dropped)) => (fidelity.packets, fidelity.overflow) = (packets, dropped),
            Err(e) => fidelity.notes.push(format!("the bridge's counters could not be read: {e}")),
        }
        fidelity
    }
}

/// Packets that came out of the instances, and packets dropped in either direction at the outer
/// ends. Blocks.
pub fn port_counters(fabric: &Node) -> io::Result<(u64, u64)> {
    fabric.run(|| {
        with_netlink(async |handle| {
            let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
            let mut sums = (0, 0);
            for link in links {
                let is_port = link.attributes.iter().any(
                    |a| matches!(a, LinkAttribute::IfName(n) if n.starts_with('v') && n[1..].parse::<usize>().is_ok()),
                );
                for attribute in link.attributes.iter().filter(|_| is_port) {
                    if let LinkAttribute::Stats64(s) = attribute {
                        sums.0 += s.rx_packets;
                        sums.1 += s.rx_dropped + s.tx_dropped;
                    }
                }
            }
            Ok(sums)
        })
    })?
}
