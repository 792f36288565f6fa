//! How connections reach a sidecar, or, without one, an instance: the rules of the nat table, as
//! text.
//!
//! With a sidecar: the rules that the sidecar itself would write ([`proxy::capture::rules`]), in
//! both families. Outgoing connections of everyone but the sidecar go to its outbound port,
//! incoming ones to its inbound port. Without: what kube-proxy does, a random DNAT from the
//! service's virtual address to one of its instances. Each family's rules are loaded by one
//! `iptables-restore --noflush`, which is atomic. The counters of the rules are the proof that
//! interception happened.

use std::io;
use std::net::{IpAddr, SocketAddr};

use proxy::capture::rules::{self, Family, INBOUND_SOURCE_V6, Rules};
use proxy::capture::source;

use crate::plan::{
    HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, Plan, SIDECAR_UID, Service, SidecarKind,
};

/// Connections that the rules of one namespace took, both families together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redirected {
    /// Outgoing: to the sidecar's outbound port, or spread by DNAT.
    pub outbound: u64,
    /// Incoming: to the sidecar's inbound port.
    pub inbound: u64,
}

/// The mark of the rules that refuse connections.
const REFUSED: &str = "sidelab-refused";

/// A service's virtual address.
pub fn vip(service: &Service, family: Family) -> IpAddr {
    match family {
        Family::V4 => service.vip4.into(),
        Family::V6 => service.vip6.into(),
    }
}

/// The rules of every instance of `plan`.
pub fn text(plan: &Plan, family: Family) -> String {
    match plan.sidecar {
        SidecarKind::Ours => redirect_rules(family),
        SidecarKind::None => spread_rules(plan, family),
    }
}

/// The sidecar's own rules, as `proxy rules apply` would write them.
fn redirect_rules(family: Family) -> String {
    let rules = Rules {
        outbound_port: OUTBOUND_PORT,
        inbound_port: INBOUND_PORT,
        uid: SIDECAR_UID,
        gid: SIDECAR_UID,
        exclude_inbound_ports: vec![METRICS_PORT, HEALTH_PORT],
        ..Default::default()
    };
    rules.apply_text(family)
}

/// Rules that spread connections to each virtual address evenly over the service's instances.
pub fn spread_rules(plan: &Plan, family: Family) -> String {
    let mut text = String::from("*nat\n");
    for service in &plan.services {
        let Some(port) = service.port else { continue };
        let left = (1..=service.instances.len()).rev();
        for (&instance, left) in service.instances.iter().zip(left) {
            let instance = &plan.instances[instance];
            let to: IpAddr = match family {
                Family::V4 => instance.v4.into(),
                Family::V6 => instance.v6.into(),
            };
            // The first of n rules takes 1/n, the next 1/(n-1) of the rest, the last all that is
            // left.
            let chance = match left {
                1 => String::new(),
                n => format!(" -m statistic --mode random --probability {:.9}", 1.0 / n as f64),
            };
            text += &format!(
                "-A OUTPUT -d {} -p tcp --dport {port}{chance} -j DNAT --to-destination {}\n",
                vip(service, family),
                SocketAddr::new(to, port),
            );
        }
    }
    text + "COMMIT\n"
}

/// Loads rules into the calling thread's namespace, and adds the address from which an IPv6 app is
/// dialled. Errors carry what the tool said.
pub fn load(family: Family, text: &str) -> io::Result<()> {
    rules::restore(family, text).map_err(io::Error::other)?;
    if family == Family::V6 {
        source::add(INBOUND_SOURCE_V6)?;
    }
    Ok(())
}

/// Reads the counters of both families in the calling thread's namespace.
pub fn counters() -> io::Result<Redirected> {
    let mut sum = Redirected::default();
    for family in Family::BOTH {
        let one = parse_counters(&rules::saved_with_counters(family, "nat").map_err(io::Error::other)?);
        sum.outbound += one.outbound;
        sum.inbound += one.inbound;
    }
    Ok(sum)
}

/// Adds up what the rules took, from the text of `iptables-save -c -t nat`. The nat table sees the
/// first packet of each connection only, so packets are connections.
pub fn parse_counters(text: &str) -> Redirected {
    let sidecar = rules::parse_counters(text);
    let spread = text.lines().filter(|line| line.contains(" -j DNAT ")).filter_map(packets);
    Redirected {
        outbound: sidecar.redirected_outbound + spread.sum::<u64>(),
        inbound: sidecar.redirected_inbound,
    }
}

/// Packets that a rule has taken, from its line of `iptables-save -c`.
fn packets(line: &str) -> Option<u64> {
    line.strip_prefix('[')?.split_once(':')?.0.parse().ok()
}

/// Refuses new connections to a port in the calling thread's namespace, in both families, or lets
/// them in again. A reset is what a port without a listener answers.
pub fn refuse(port: u16, on: bool) -> io::Result<()> {
    let change = if on { "-A" } else { "-D" };
    let rule = format!(
        "-p tcp --syn --dport {port} -m comment --comment {REFUSED} -j REJECT --reject-with tcp-reset"
    );
    let text = format!("*filter\n{change} INPUT {rule}\nCOMMIT\n");
    Family::BOTH.into_iter().try_for_each(|family| load(family, &text))
}

/// Connections to a port that [`refuse`] has refused since it began.
pub fn refused(port: u16) -> io::Result<u64> {
    let mut sum = 0;
    for family in Family::BOTH {
        let saved = rules::saved_with_counters(family, "filter").map_err(io::Error::other)?;
        let ours = |line: &&str| line.contains(REFUSED) && line.contains(&format!(" --dport {port} "));
        sum += saved.lines().filter(ours).filter_map(packets).sum::<u64>();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_both_directions_are_added_up_over_their_rules() {
        let text = "*nat\n:OUTPUT ACCEPT [7:420]\n\
            [5:300] -A SIDELAB_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
            [2:120] -A SIDELAB_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n\
            [9:540] -A OUTPUT -p tcp -j SIDELAB_OUTPUT\n\
            [3:180] -A OUTPUT -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.20.0.1:80\nCOMMIT\n";
        assert_eq!(parse_counters(text), Redirected { outbound: 8, inbound: 2 });
    }
}
