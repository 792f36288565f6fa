//! The iptables rules that bring an app's connections to the sidecar, and their exact undo.
//!
//! Only the `nat` table is touched: four chains of our own, and one jump into them from PREROUTING
//! and OUTPUT each. [`Rules`] writes text for `iptables-restore --noflush`, which changes the table
//! in one step or not at all; [`Rules::apply`] and [`Rules::remove`] run it. What has to change is
//! worked out from what `iptables-save` shows, so applying twice is applying once, rules of others
//! are never touched, and nothing is rewritten (no counter goes back to zero) where nothing has to
//! change. Every rule carries its reason as a comment, to be read in `iptables -t nat -S`.
//!
//! The order of the rules is Istio's (`tools/istio-iptables/pkg/capture/run.go`), with one
//! difference: where Istio repeats three rules for the user and for the group, here each rule is
//! repeated for everything that exempts before the next one comes. In Istio's order the second of
//! them, which spares everybody who is not the user, would hide a connection to the own address of
//! a sidecar that is known by its group or mark only.
//!
//! It acts on the network namespace that it runs in, and captures TCP only.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::str::FromStr;

use super::source;
use crate::config::defaults;

/// The chain that connections from outside pass.
const INBOUND: &str = "SIDELAB_INBOUND";
/// The chain that redirects to the inbound listener.
const IN_REDIRECT: &str = "SIDELAB_IN_REDIRECT";
/// The chain that connections from inside pass.
const OUTPUT: &str = "SIDELAB_OUTPUT";
/// The chain that redirects to the outbound listener.
const REDIRECT: &str = "SIDELAB_REDIRECT";
/// All of them, in the order in which `iptables-save` lists them.
const CHAINS: [&str; 4] = [INBOUND, IN_REDIRECT, OUTPUT, REDIRECT];

/// Source address of the sidecar's IPv4 connections to its own app. Istio's. All of 127.0.0.0/8 is
/// local, so it needs no set-up, and no app binds it, so it tells these connections apart from the
/// app's own.
pub const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6, and Istio's too. There is only one loopback address, so this one has to be
/// added to the loopback interface ([`super::source`]); a host without it falls back to `::1`.
pub const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4, `iptables`.
    V4,
    /// IPv6, `ip6tables`.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn save(self) -> &'static str {
        if self == Family::V4 { "iptables-save" } else { "ip6tables-save" }
    }

    fn restore(self) -> &'static str {
        if self == Family::V4 { "iptables-restore" } else { "ip6tables-restore" }
    }

    fn loopback(self) -> &'static str {
        if self == Family::V4 { "127.0.0.0/8" } else { "::1/128" }
    }

    /// Whether this kernel has it at all.
    fn exists(self) -> bool {
        self == Family::V4 || std::path::Path::new("/proc/net/if_inet6").exists()
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

/// A network such as `10.0.0.0/8`; an address without a length stands for itself alone. Bits behind
/// the length are dropped, as iptables does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network such as 10.0.0.0/8 or fd00::/8");
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(bits), |length| length.parse().map_err(|_| wrong()))?;
        if length > bits {
            return Err(format!("{text:?} asks for {length} bits of an address that has {bits}"));
        }
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Ok(Cidr { address, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What to capture, and whom to spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Where connections of the app are redirected to. Default 15001.
    pub outbound_port: u16,
    /// Where connections to the app are redirected to. Default 15006.
    pub inbound_port: u16,
    /// The user whose connections are the sidecar's own. Default 1337.
    pub uid: u32,
    /// The group whose connections are the sidecar's own. Default 1337.
    pub gid: u32,
    /// The socket mark (SO_MARK) of connections that are the sidecar's own. Default: none.
    pub mark: Option<u32>,
    /// Ports on which connections from outside go straight to whoever listens. Default: the
    /// sidecar's own that others ask, 15020 (metrics) and 15021 (health).
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports of the app's connections that are not intercepted. Default: none.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations of the app's connections that are not intercepted. Default: none.
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// Where. Default: both families.
    pub families: Vec<Family>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            outbound_port: defaults::OUTBOUND_PORT,
            inbound_port: defaults::INBOUND_PORT,
            uid: defaults::EXEMPT_ID,
            gid: defaults::EXEMPT_ID,
            mark: None,
            exclude_inbound_ports: vec![defaults::METRICS_PORT, defaults::HEALTH_PORT],
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            families: Family::BOTH.to_vec(),
        }
    }
}

/// What [`Rules::apply`] or [`Rules::remove`] did, for each family in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(pub Vec<(Family, Done)>);

/// What was done in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The table was changed.
    Changed,
    /// The table was as it should be.
    AlreadySo,
    /// The kernel does not have this family, so there is nothing to capture.
    NoSuchFamily,
}

impl Done {
    /// The same, if the address that IPv6 takes was changed as well.
    fn and_also(self, family: Family, changed: impl FnOnce() -> bool) -> Self {
        let takes_an_address = family == Family::V6 && self != Done::NoSuchFamily;
        if takes_an_address && changed() { Done::Changed } else { self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (family, done)) in self.0.iter().enumerate() {
            let done = match done {
                Done::Changed => "changed",
                Done::AlreadySo => "nothing to change",
                Done::NoSuchFamily => "not in this kernel, nothing to capture",
            };
            write!(f, "{}{family}: {done}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Why rules could not be applied or removed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RulesError {
    /// iptables is not installed.
    #[error("there is no {program} on this machine")]
    #[diagnostic(help("install it: apt-get install iptables"))]
    Missing {
        /// What was looked for.
        program: &'static str,
    },
    /// The process may not change the table.
    #[error("{program} may not touch the nat table: {said}")]
    #[diagnostic(help(
        "it takes CAP_NET_ADMIN in this network namespace: run it as root, or give the container that capability"
    ))]
    NotPermitted {
        /// What was run.
        program: &'static str,
        /// Its words.
        said: String,
    },
    /// iptables refused.
    #[error("{program} failed: {said}")]
    #[diagnostic(help(
        "nothing was changed by it; `proxy rules print` shows the text, and a kernel without \
        the nat table, xt_owner or xt_REDIRECT cannot run it"
    ))]
    Refused {
        /// What was run.
        program: &'static str,
        /// Its words.
        said: String,
    },
    /// iptables could not be run or talked to.
    #[error("cannot run {program}: {error}")]
    Io {
        /// What was run.
        program: &'static str,
        /// Why not.
        error: io::Error,
    },
}

impl RulesError {
    /// Whether no other options would help: the machine, or the rights of this process, do not
    /// allow it.
    pub fn is_the_machine(&self) -> bool {
        match self {
            RulesError::Missing { .. } | RulesError::NotPermitted { .. } => true,
            RulesError::Refused { said, .. } => {
                ["missing kernel module", "Table does not exist", "can't initialize"]
                    .iter()
                    .any(|words| said.contains(words))
            }
            RulesError::Io { .. } => false,
        }
    }
}

impl Rules {
    /// Text for `iptables-restore --noflush` that puts the rules into a table without them.
    pub fn ipv4_apply(&self) -> String {
        self.apply_text(Family::V4)
    }

    /// Text that takes exactly those rules out again.
    pub fn ipv4_remove(&self) -> String {
        self.remove_text(Family::V4)
    }

    /// Text for `ip6tables-restore --noflush` that puts the rules into a table without them.
    pub fn ipv6_apply(&self) -> String {
        self.apply_text(Family::V6)
    }

    /// Text that takes exactly those rules out again.
    pub fn ipv6_remove(&self) -> String {
        self.remove_text(Family::V6)
    }

    /// Text that puts the rules of `family` into a table without them.
    pub fn apply_text(&self, family: Family) -> String {
        self.change_to_apply(family, "").expect("an empty table lacks the rules")
    }

    /// Text that takes the rules of `family` out of a table to which they were applied once.
    pub fn remove_text(&self, family: Family) -> String {
        change_to_remove(&self.apply_text(family)).expect("this table has the rules")
    }

    /// The change that brings the table that `saved` shows (in the words of `iptables-save -t nat`)
    /// to have these rules once; `None` if it has.
    pub fn change_to_apply(&self, family: Family, saved: &str) -> Option<String> {
        let (jumps, own) = (self.jumps(), self.own_rules(family));
        // Jumps as they should be stay where they are among the rules of others; any other goes.
        let mut missing: Vec<&String> = jumps.iter().collect();
        let mut wrong = Vec::new();
        for jump in foreign_jumps(saved) {
            match missing.iter().position(|wanted| *wanted == jump) {
                Some(index) => drop(missing.remove(index)),
                None => wrong.push(jump),
            }
        }
        let own_are_right = CHAINS.iter().all(|chain| {
            let in_chain = |rule: &&str| chain_of(rule) == Some(chain);
            declared(saved, chain)
                && saved.lines().filter(in_chain).eq(own.iter().map(String::as_str).filter(in_chain))
        });
        if own_are_right && missing.is_empty() && wrong.is_empty() {
            return None;
        }
        let mut text = String::from("*nat\n");
        // Declaring a chain empties it if it is there: whatever an earlier version left is gone.
        CHAINS.iter().for_each(|chain| push(&mut text, format_args!(":{chain} - [0:0]")));
        wrong.iter().for_each(|rule| push(&mut text, format_args!("{}", rule.replacen("-A", "-D", 1))));
        own.iter().for_each(|rule| push(&mut text, format_args!("{rule}")));
        missing.iter().for_each(|rule| push(&mut text, format_args!("{rule}")));
        text.push_str("COMMIT\n");
        Some(text)
    }

    /// Puts the rules into force in this network namespace. If a later family fails, what this call
    /// did to an earlier one is undone.
    ///
    /// # Errors
    /// If iptables is missing, not permitted or refuses.
    pub fn apply(&self) -> Result<Report, RulesError> {
        let mut report = Report(Vec::new());
        for &family in &self.families {
            match change(family, |saved| self.change_to_apply(family, saved)) {
                // Without the address everything works, but that a closed port of the app is found
                // out late.
                Ok(done) => report.0.push((
                    family,
                    done.and_also(family, || source::add(INBOUND_SOURCE_V6).unwrap_or(false)),
                )),
                Err(error) => {
                    for (earlier, _) in report.0.iter().filter(|(_, done)| *done == Done::Changed) {
                        // The first error is the one to tell; this one would only repeat it.
                        let _ = remove(*earlier);
                    }
                    return Err(error);
                }
            }
        }
        Ok(report)
    }

    /// Takes the rules out of this network namespace, whatever options they were applied with.
    /// Leaves the table as it was before. Goes on to the next family if one fails.
    ///
    /// # Errors
    /// The first, if iptables is missing, not permitted or refuses.
    pub fn remove(&self) -> Result<Report, RulesError> {
        let done: Vec<_> = self.families.iter().map(|&family| Ok((family, remove(family)?))).collect();
        done.into_iter().collect::<Result<_, _>>().map(Report)
    }

    /// The jumps from the kernel's chains into ours.
    fn jumps(&self) -> [String; 2] {
        let jump = |from, to, why| format!("-A {from} -p tcp{} -j {to}", comment(why));
        [
            jump("PREROUTING", INBOUND, "every TCP connection from outside"),
            jump("OUTPUT", OUTPUT, "every TCP connection from inside"),
        ]
    }

    /// The rules of our own chains, word for word as `iptables-save` shows them.
    fn own_rules(&self, family: Family) -> Vec<String> {
        let mut rules = Vec::new();
        let mut add = |chain: &str, matches: &str, why: &str, target: &str| {
            let space = if matches.is_empty() { "" } else { " " };
            rules.push(format!("-A {chain}{space}{matches}{} -j {target}", comment(why)));
        };
        let loopback = family.loopback();
        let to = |port| format!("REDIRECT --to-ports {port}");
        add(REDIRECT, "-p tcp", "to the outbound listener", &to(self.outbound_port));
        add(IN_REDIRECT, "-p tcp", "to the inbound listener", &to(self.inbound_port));

        for port in sorted(&self.exclude_inbound_ports) {
            let matches = format!("-p tcp -m tcp --dport {port}");
            add(INBOUND, &matches, "port excluded from inbound capture", "RETURN");
        }
        add(INBOUND, "-p tcp", "all else from outside is for the inbound side", IN_REDIRECT);

        for port in sorted(&self.exclude_outbound_ports) {
            let matches = format!("-p tcp -m tcp --dport {port}");
            add(OUTPUT, &matches, "port excluded from outbound capture", "RETURN");
        }
        let sidecar = self.sidecar();
        let why = "the inbound side delivers to its app";
        match family {
            Family::V4 => add(OUTPUT, &format!("-s {INBOUND_SOURCE_V4}/32 -o lo"), why, "RETURN"),
            // Apps use ::1 as well, so that address alone does not tell.
            Family::V6 => {
                add(OUTPUT, &format!("-s {INBOUND_SOURCE_V6}/128 -o lo"), why, "RETURN");
                for it in &sidecar {
                    add(OUTPUT, &format!("-s {loopback} -o lo {it}"), why, "RETURN");
                }
            }
        }
        for it in &sidecar {
            let matches = format!("! -d {loopback} -o lo -p tcp {it}");
            add(OUTPUT, &matches, "the sidecar picked its own app as the endpoint", IN_REDIRECT);
        }
        add(OUTPUT, "-o lo", "all else inside this host stays direct", "RETURN");
        for it in &sidecar {
            add(OUTPUT, it, "what the sidecar sends is not captured again", "RETURN");
        }
        add(OUTPUT, &format!("-d {loopback}"), "the app means itself", "RETURN");
        for cidr in &self.exclude_outbound_cidrs {
            if cidr.address.is_ipv4() == (family == Family::V4) {
                add(OUTPUT, &format!("-d {cidr}"), "network excluded from outbound capture", "RETURN");
            }
        }
        add(OUTPUT, "-p tcp", "all else from the app is for the outbound side", REDIRECT);
        rules
    }

    /// The matches that tell a connection of the sidecar's own.
    fn sidecar(&self) -> Vec<String> {
        let mark = self.mark.map(|mark| format!("-m mark --mark {mark:#x}"));
        [format!("-m owner --uid-owner {}", self.uid), format!("-m owner --gid-owner {}", self.gid)]
            .into_iter()
            .chain(mark)
            .collect()
    }
}

/// The change that takes every rule of ours out of the table that `saved` shows; `None` if there is
/// none.
fn change_to_remove(saved: &str) -> Option<String> {
    let jumps = foreign_jumps(saved);
    let chains: Vec<_> = CHAINS.into_iter().filter(|chain| declared(saved, chain)).collect();
    if jumps.is_empty() && chains.is_empty() {
        return None;
    }
    let mut text = String::from("*nat\n");
    jumps.iter().for_each(|rule| push(&mut text, format_args!("{}", rule.replacen("-A", "-D", 1))));
    // All are emptied before the first is deleted, because they lead to each other.
    chains.iter().for_each(|chain| push(&mut text, format_args!("-F {chain}")));
    chains.iter().for_each(|chain| push(&mut text, format_args!("-X {chain}")));
    text.push_str("COMMIT\n");
    Some(text)
}

/// Takes the rules of `family` out, and the address that they need.
fn remove(family: Family) -> Result<Done, RulesError> {
    let done = change(family, change_to_remove)?;
    Ok(done.and_also(family, || source::remove(INBOUND_SOURCE_V6).unwrap_or(false)))
}

/// The rules of other chains that lead to one of ours.
fn foreign_jumps(saved: &str) -> Vec<&str> {
    let leads_to_us = |rule: &&str| {
        let target = rule.split_whitespace().skip_while(|word| *word != "-j" && *word != "-g").nth(1);
        target.is_some_and(|target| CHAINS.contains(&target))
    };
    saved
        .lines()
        .filter(|rule| chain_of(rule).is_some_and(|chain| !CHAINS.contains(&chain)))
        .filter(leads_to_us)
        .collect()
}

fn chain_of(rule: &str) -> Option<&str> {
    rule.strip_prefix("-A ")?.split(' ').next()
}

fn declared(saved: &str, chain: &str) -> bool {
    saved.lines().any(|line| line.strip_prefix(':').and_then(|line| line.split(' ').next()) == Some(chain))
}

fn comment(why: &str) -> String {
    format!(r#" -m comment --comment "sidelab: {why}""#)
}

fn push(text: &mut String, line: fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}

fn sorted(ports: &[u16]) -> impl Iterator<Item = u16> {
    std::collections::BTreeSet::from_iter(ports.iter().copied()).into_iter()
}

/// Reads the table of `family`, asks `to` what should change and changes it.
fn change(family: Family, to: impl Fn(&str) -> Option<String>) -> Result<Done, RulesError> {
    if !family.exists() {
        return Ok(Done::NoSuchFamily);
    }
    let saved = run(family.save(), &["-t", "nat"], "")?;
    let Some(text) = to(&saved) else { return Ok(Done::AlreadySo) };
    restore(family, &text)?;
    Ok(Done::Changed)
}

/// Adds `text` to the tables of the calling thread's network namespace, all of it or nothing.
///
/// # Errors
/// If iptables is missing, not permitted or refuses.
pub fn restore(family: Family, text: &str) -> Result<(), RulesError> {
    // `-w` waits for another iptables to finish, where there is a lock at all.
    run(family.restore(), &["-w", "--noflush"], text).map(|_| ())
}

/// A table (`nat`, `filter`) of the calling thread's network namespace, with the counters of every
/// rule.
///
/// # Errors
/// If iptables is missing or not permitted.
pub fn saved_with_counters(family: Family, table: &str) -> Result<String, RulesError> {
    run(family.save(), &["-c", "-t", table], "")
}

fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, RulesError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RulesError::Missing { program },
        _ => RulesError::Io { program, error },
    };
    let mut child = Command::new(program)
        .args(arguments)
        // Error messages are looked at, so they must not be translated.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    // iptables reads all of its input before it writes anything, and a rule set is far smaller than
    // a pipe.
    let written = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        written.map_err(fail)?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().filter(|line| !line.starts_with("Try `")).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { output.status.to_string() } else { said };
    let denied = ["Permission denied", "Operation not permitted", "must be root"];
    Err(match denied.iter().any(|words| said.contains(words)) {
        true => RulesError::NotPermitted { program, said },
        false => RulesError::Refused { program, said },
    })
}

/// How many connections our rules have redirected. The nat table sees only the first packet of
/// each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// To the outbound listener.
    pub redirected_outbound: u64,
    /// To the inbound listener.
    pub redirected_inbound: u64,
}

/// Reads the counters from what `iptables-save -c -t nat` printed. Without our rules they are zero.
pub fn parse_counters(saved: &str) -> Counters {
    let mut counters = Counters::default();
    for line in saved.lines() {
        // [packets:bytes] -A CHAIN ... -j REDIRECT ...
        let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
            continue;
        };
        let packets = count.split(':').next().and_then(|packets| packets.parse::<u64>().ok()).unwrap_or(0);
        if !rule.contains(" -j REDIRECT ") {
            continue;
        }
        match chain_of(rule) {
            Some(REDIRECT) => counters.redirected_outbound += packets,
            Some(IN_REDIRECT) => counters.redirected_inbound += packets,
            _ => {}
        }
    }
    counters
}
