//! `partition = { .. }`: no packet passes between two sets of instances.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Impair, Primitives};
use crate::fabric::LinkProfile;
use crate::mesh::Link;
use crate::syntax::diagnose::Mistake;
use crate::syntax::links::Sides;

/// Cuts some directions; the revert puts the base profile back.
#[derive(Debug, Clone, Serialize)]
pub struct Partition {
    /// Of each ordered pair, by a loss of 100 %.
    #[serde(flatten)]
    pub impair: Impair,
}

/// `partition = { .. }`: the same words as a link.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionTable {
    /// Both directions.
    pub between: Option<Vec<Spanned<String>>>,
    /// One direction: packets from these ...
    pub from: Option<Vec<Spanned<String>>>,
    /// ... to these vanish.
    pub to: Option<Vec<Spanned<String>>>,
}

impl Fault for Partition {
    type Table = PartitionTable;

    const EVIDENCE: &'static [&'static str] = &["packets", "lost_packets"];

    fn resolve(table: &Spanned<PartitionTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let at = table.span();
        let table = table.get_ref();
        let (between, from, to) = (table.between.as_ref(), table.from.as_ref(), table.to.as_ref());
        let sides = Sides { between, from, to, at, what: "partition" };
        let pairs = sides.pairs(context.names, mistakes);
        let links = pairs.into_iter().map(|(from, to)| Link { from, to, profile: LinkProfile::CUT });
        Partition { impair: Impair { links: links.collect() } }
    }

    fn links(&self) -> &[Link] {
        &self.impair.links
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.impair.apply(fault, world).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.impair.revert(fault, world).await
    }
}
