//! `link = { .. }`: links become slower, or lose packets.

use serde::Serialize;
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives};
use crate::mesh::Link;
use crate::syntax::diagnose::Mistake;
use crate::syntax::links::{LinkTable, Sides, change};

/// Replaces the profile of some directions; the revert puts the base profile back.
#[derive(Debug, Clone, Serialize)]
pub struct Impair {
    /// The new profile of each ordered pair.
    pub links: Vec<Link>,
}

impl Fault for Impair {
    type Table = LinkTable;

    const EVIDENCE: &'static [&'static str] = &["packets", "lost_packets", "delayed_packets"];

    fn resolve(table: &Spanned<LinkTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let pairs = Sides::of_link(table).pairs(context.names, mistakes);
        let profiles = change(table, &pairs, context.base, true, mistakes);
        let links = profiles.into_iter().map(|((from, to), profile)| Link { from, to, profile });
        Impair { links: links.collect() }
    }

    fn links(&self) -> &[Link] {
        &self.links
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.impair(fault, &self.links).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.heal(fault, &self.links).await
    }
}
