//! The kernel's netem as a backend, where the kernel has it: a bridge, and on each outer end a
//! class with a netem leaf for every sender that any base link or timeline entry ever touches
//! ([`crate::fabric::netem`] writes the scripts).
//!
//! Counters come from `tc -s -j qdisc show`. netem does not count the packets that it delayed; all
//! that passed a leaf while its profile had a delay are taken for delayed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;

use super::link::{Backend, Bridge, LinkBackend, PairCounts, outer_name};
use super::node::Node;
use crate::fabric::LinkProfile;
use crate::fabric::netem::{Sender, change, setup, without_large_frames};
use crate::plan::Plan;
use crate::world::Fidelity;

/// A bridge with emulators on its ports.
pub struct Netem {
    bridge: Bridge,
    fabric: Rc<Node>,
    leaves: RefCell<BTreeMap<(usize, usize), Leaf>>,
}

/// One direction.
struct Leaf {
    /// Position among the receiver's senders.
    position: usize,
    profile: LinkProfile,
    /// Packets delayed under earlier profiles, and how many had passed when the present one came
    /// into force.
    delayed: u64,
    since: u64,
}

impl Netem {
    /// Joins the instances of `plan` and prepares every direction that may be impaired.
    pub fn start(plan: &Plan, fabric: Rc<Node>, nodes: &[Rc<Node>]) -> io::Result<Netem> {
        let bridge = Bridge::start(fabric.clone(), nodes.len())?;
        let mut senders: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let impaired = plan.timeline.iter().flat_map(|entry| entry.action.links());
        for link in plan.links.iter().chain(impaired) {
            let senders = senders.entry(link.to).or_default();
            if !senders.contains(&link.from) {
                senders.push(link.from);
            }
        }
        let mut leaves = BTreeMap::new();
        for (&to, from) in &senders {
            let sender = |&from: &usize| {
                let instance = &plan.instances[from];
                Sender { v4: instance.v4, v6: instance.v6, profile: LinkProfile::default() }
            };
            let script = setup(&outer_name(to), &from.iter().map(sender).collect::<Vec<_>>());
            fabric.run(move || batch("tc", &script))??;
            for (position, &from) in from.iter().enumerate() {
                let leaf = Leaf { position, profile: LinkProfile::default(), delayed: 0, since: 0 };
                leaves.insert((from, to), leaf);
                // netem would drop a large frame whole, so none are made.
                nodes[from].run(|| batch("ip", &without_large_frames("eth0")))??;
            }
        }
        Ok(Netem { bridge, fabric, leaves: RefCell::new(leaves) })
    }

    /// What passed each direction's leaf and what it dropped.
    async fn counts(&self) -> io::Result<BTreeMap<(usize, usize), Counts>> {
        let receivers: BTreeSet<usize> = self.leaves.borrow().keys().map(|&(_, to)| to).collect();
        let mut shown: BTreeMap<usize, Vec<Qdisc>> = BTreeMap::new();
        for to in receivers {
            shown.insert(to, show(&self.fabric, &outer_name(to)).await?);
        }
        let leaves = self.leaves.borrow();
        let counts = leaves.iter().filter_map(|(&(from, to), leaf)| {
            // The leaf's handle is its class number, see `fabric::netem`.
            let handle = format!("{:x}:", leaf.position + 2);
            let qdisc = shown.get(&to)?.iter().find(|q| q.kind == "netem" && q.handle == handle)?;
            Some(((from, to), Counts { passed: qdisc.packets, lost: qdisc.drops }))
        });
        Ok(counts.collect())
    }

    async fn change(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> io::Result<()> {
        let counts = self.counts().await?;
        let script = self.script(&counts, profiles)?;
        self.fabric.call(move || batch("tc", &script)).await?
    }

    /// What brings `profiles` about, which are in force from `counts` on.
    fn script(
        &self,
        counts: &BTreeMap<(usize, usize), Counts>,
        profiles: Vec<(usize, usize, LinkProfile)>,
    ) -> io::Result<String> {
        let mut leaves = self.leaves.borrow_mut();
        let mut script = String::new();
        for (from, to, profile) in profiles {
            let Some(leaf) = leaves.get_mut(&(from, to)) else {
                return Err(io::Error::other("a direction that the plan does not name cannot be impaired"));
            };
            let passed = counts.get(&(from, to)).map_or(0, |c| c.passed);
            if !leaf.profile.delay.is_zero() {
                leaf.delayed += passed - leaf.since;
            }
            (leaf.since, leaf.profile) = (passed, profile);
            script += &change(&outer_name(to), leaf.position, &profile);
        }
        Ok(script)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    passed: u64,
    lost: u64,
}

/// What `tc -s -j qdisc show` says of one.
#[derive(Debug, Deserialize)]
struct Qdisc {
    kind: String,
    handle: String,
    #[serde(default)]
    packets: u64,
    #[serde(default)]
    drops: u64,
}

impl LinkBackend for Netem {
    fn set_profiles(&self, profiles: Vec<(usize, usize, LinkProfile)>) -> LocalBoxFuture<'_, io::Result<()>> {
        self.change(profiles).boxed_local()
    }

    fn pairs(&self) -> LocalBoxFuture<'_, Vec<PairCounts>> {
        async {
            let Ok(counts) = self.counts().await else { return Vec::new() };
            let leaves = self.leaves.borrow();
            let pair = |(&(from, to), leaf): (&(usize, usize), &Leaf)| {
                let Counts { passed, lost } = counts.get(&(from, to)).copied().unwrap_or_default();
                let now = if leaf.profile.delay.is_zero() { 0 } else { passed - leaf.since };
                PairCounts { from, to, packets: passed + lost, lost, delayed: leaf.delayed + now }
            };
            leaves.iter().map(pair).collect()
        }
        .boxed_local()
    }

    fn fidelity(&self) -> Fidelity {
        let mut fidelity = self.bridge.fidelity();
        fidelity.link_backend = Backend::Netem.name().to_owned();
        fidelity.notes.push("netem does not tell how late it is".to_owned());
        fidelity
    }
}

/// Runs `tool -batch -` in the calling thread's namespace.
fn batch(tool: &'static str, script: &str) -> io::Result<()> {
    let mut child = Command::new(tool)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{tool}: {e}")))?;
    let written = child.stdin.take().map(|mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    written.unwrap_or(Ok(()))
}

async fn show(node: &Node, dev: &str) -> io::Result<Vec<Qdisc>> {
    let dev = dev.to_owned();
    let shown = node.call(move || {
        let output = Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", &dev]).output()?;
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    });
    shown.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_a_leaf_are_read_from_what_tc_prints() {
        let printed = r#"[{"kind":"htb","handle":"1:","root":true,"options":{"r2q":10},"bytes":0,"packets":9,"drops":3},
            {"kind":"netem","handle":"2:","parent":"1:2","options":{"limit":100000},"bytes":98,"packets":7,"drops":2}]"#;
        let qdiscs: Vec<Qdisc> = serde_json::from_str(printed).unwrap();
        let netem = qdiscs.iter().find(|q| q.kind == "netem").unwrap();
        assert_eq!((netem.handle.as_str(), netem.packets, netem.drops), ("2:", 7, 2));
    }
}
