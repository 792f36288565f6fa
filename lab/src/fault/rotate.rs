//! `rotate = { .. }`: an authority announces a new root, before its time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Lasts, Primitives};
use crate::syntax::diagnose::Mistake;

/// Lets a new root follow the one that signs. It is for good: the old one goes by itself once
/// nothing that it has signed is valid.
#[derive(Debug, Clone, Serialize)]
pub struct Rotate {
    /// Position in the plan's authorities.
    pub authority: usize,
}

/// `rotate = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateTable {
    /// The authority, `[ca.NAME]`.
    pub ca: Spanned<String>,
}

impl Fault for Rotate {
    type Table = RotateTable;

    const EVIDENCE: &'static [&'static str] = &["announced", "retired"];

    fn resolve(table: &Spanned<RotateTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let word = &table.get_ref().ca;
        let found = context.authorities.iter().position(|name| name == word.get_ref());
        if found.is_none() {
            mistakes.push(Mistake::unknown(
                "authority",
                word,
                context.authorities.iter().map(String::as_str),
            ));
        }
        Rotate { authority: found.unwrap_or_default() }
    }

    fn lasts(_: &RotateTable) -> Lasts<'_> {
        Lasts::UntilDone("until the old root is gone")
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.rotate_root(fault, self.authority).await
    }

    /// There is nothing to take back.
    async fn revert<W: Primitives>(&self, _: &str, _: &W) -> Result<(), W::Error> {
        Ok(())
    }

    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        world.note_roots(fault, self.authority).await;
        world.counted(fault).await
    }
}
