//! How connections reach a sidecar, or, without one, an instance: the rules of the nat table, as text.
//!
//! With a sidecar: Istio's order, in both families. Outgoing connections of everyone but the sidecar go to its outbound
//! port, incoming ones to its inbound port. Without: what kube-proxy does, a random DNAT from the service's virtual
//! address to one of its instances. Each family's rules are loaded by one `iptables-restore --noflush`, which is
//! atomic. The counters of the rules are the proof that interception happened.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use crate::plan::{
    HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, Plan, SIDECAR_UID, Service, SidecarKind,
};

/// An address family, with the names of its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn restore(self) -> &'static str {
        match self {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        }
    }

    fn save(self) -> &'static str {
        match self {
            Family::V4 => "iptables-save",
            Family::V6 => "ip6tables-save",
        }
    }

    /// A service's virtual address.
    pub fn vip(self, service: &Service) -> IpAddr {
        match self {
            Family::V4 => service.vip4.into(),
            Family::V6 => service.vip6.into(),
        }
    }
}

/// Connections that the rules of one namespace took, both families together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redirected {
    /// Outgoing: to the sidecar's outbound port, or spread by DNAT.
    pub outbound: u64,
    /// Incoming: to the sidecar's inbound port.
    pub inbound: u64,
}

/// The rules of every instance of `plan`.
pub fn rules(plan: &Plan, family: Family) -> String {
    match plan.sidecar {
        SidecarKind::Ours => redirect_rules(family),
        SidecarKind::None => spread_rules(plan, family),
    }
}

/// Rules that bring connections to a sidecar. The order is Istio's: every exception stands before what it excepts from.
pub fn redirect_rules(family: Family) -> String {
    // A sidecar reaches its own app over loopback; those connections must not come back to it. IPv4 has a source
    // address to tell them by. IPv6 has only one loopback address, so there the user tells.
    let (own_app, loopback) = match family {
        Family::V4 => ("-s 127.0.0.6/32".to_owned(), "127.0.0.1/32"),
        Family::V6 => (format!("-s ::1/128 -m owner --uid-owner {SIDECAR_UID}"), "::1/128"),
    };
    let mut text = format!(
        "*nat\n:LAB_INBOUND - [0:0]\n:LAB_IN_REDIRECT - [0:0]\n:LAB_OUTPUT - [0:0]\n:LAB_REDIRECT - [0:0]\n\
         -A LAB_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}\n\
         -A LAB_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND_PORT}\n\
         -A PREROUTING -p tcp -j LAB_INBOUND\n\
         -A OUTPUT -p tcp -j LAB_OUTPUT\n"
    );
    for port in [METRICS_PORT, HEALTH_PORT] {
        text += &format!("-A LAB_INBOUND -p tcp --dport {port} -j RETURN\n");
    }
    text += "-A LAB_INBOUND -p tcp -j LAB_IN_REDIRECT\n";
    text += &format!("-A LAB_OUTPUT -o lo {own_app} -j RETURN\n");
    for owner in ["uid", "gid"] {
        text += &format!(
            "-A LAB_OUTPUT -o lo ! -d {loopback} -p tcp -m owner --{owner}-owner {SIDECAR_UID} -j LAB_IN_REDIRECT\n\
             -A LAB_OUTPUT -o lo -m owner ! --{owner}-owner {SIDECAR_UID} -j RETURN\n\
             -A LAB_OUTPUT -m owner --{owner}-owner {SIDECAR_UID} -j RETURN\n"
        );
    }
    text += &format!("-A LAB_OUTPUT -d {loopback} -j RETURN\n-A LAB_OUTPUT -p tcp -j LAB_REDIRECT\nCOMMIT\n");
    text
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
            // The first of n rules takes 1/n, the next 1/(n-1) of the rest, the last all that is left.
            let chance = match left {
                1 => String::new(),
                n => format!(" -m statistic --mode random --probability {:.9}", 1.0 / n as f64),
            };
            text += &format!(
                "-A OUTPUT -d {} -p tcp --dport {port}{chance} -j DNAT --to-destination {}\n",
                family.vip(service),
                SocketAddr::new(to, port),
            );
        }
    }
    text + "COMMIT\n"
}

/// Loads rules into the calling thread's namespace. Errors carry what the tool said.
pub fn load(family: Family, rules: &str) -> io::Result<()> {
    let mut child = Command::new(family.restore())
        .args(["-w", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", family.restore())))?;
    // Dropped at once, so that the tool sees the end of its input. Its complaint tells more than a broken pipe.
    let written = child.stdin.take().map(|mut i| i.write_all(rules.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", family.restore(), said.trim())));
    }
    written.unwrap_or(Ok(()))
}

/// Reads the counters of both families in the calling thread's namespace.
pub fn counters() -> io::Result<Redirected> {
    let mut sum = Redirected::default();
    for family in Family::BOTH {
        let output = Command::new(family.save()).args(["-c", "-t", "nat"]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{}: {}", family.save(), said.trim())));
        }
        let one = parse_counters(&String::from_utf8_lossy(&output.stdout));
        sum.outbound += one.outbound;
        sum.inbound += one.inbound;
    }
    Ok(sum)
}

/// Adds up what the rules took, from the text of `iptables-save -c -t nat`. The nat table sees the first packet of each
/// connection only, so packets are connections.
pub fn parse_counters(text: &str) -> Redirected {
    let mut sum = Redirected::default();
    for line in text.lines() {
        let Some((packets, rule)) = line.strip_prefix('[').and_then(|l| l.split_once(':')) else { continue };
        let packets: u64 = packets.parse().unwrap_or(0);
        if rule.contains(" -j DNAT ") || rule.contains(&format!("--to-ports {OUTBOUND_PORT}")) {
            sum.outbound += packets;
        } else if rule.contains(&format!("--to-ports {INBOUND_PORT}")) {
            sum.inbound += packets;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_both_directions_are_added_up_over_their_rules() {
        let text = "*nat\n:OUTPUT ACCEPT [7:420]\n\
            [5:300] -A LAB_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
            [2:120] -A LAB_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n\
            [9:540] -A OUTPUT -p tcp -j LAB_OUTPUT\n\
            [3:180] -A OUTPUT -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.20.0.1:80\nCOMMIT\n";
        assert_eq!(parse_counters(text), Redirected { outbound: 8, inbound: 2 });
    }

    #[test]
    fn every_exception_stands_before_the_redirect() {
        for family in Family::BOTH {
            let rules = redirect_rules(family);
            let output: Vec<&str> = rules.lines().filter(|l| l.starts_with("-A LAB_OUTPUT ")).collect();
            assert_eq!(output.last(), Some(&"-A LAB_OUTPUT -p tcp -j LAB_REDIRECT"), "{rules}");
            assert_eq!(output.iter().filter(|l| l.ends_with("-j LAB_REDIRECT")).count(), 1, "{rules}");
            let inbound: Vec<&str> = rules.lines().filter(|l| l.starts_with("-A LAB_INBOUND ")).collect();
            assert!(inbound.last().unwrap().ends_with("-j LAB_IN_REDIRECT"), "{rules}");
            assert!(rules.ends_with("COMMIT\n"));
        }
    }
}
