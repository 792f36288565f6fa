//! `revoke = { .. }`: an authority takes back what it has given to a workload.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Lasts, Primitives};
use crate::syntax::diagnose::Mistake;

/// Revokes the certificates of a service, and the tokens with which it would get others. It is for
/// good.
#[derive(Debug, Clone, Serialize)]
pub struct Revoke {
    /// Position of the service; authorities come last.
    pub service: usize,
}

/// `revoke = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeTable {
    /// Whose certificates.
    pub service: Spanned<String>,
}

impl Fault for Revoke {
    type Table = RevokeTable;

    const EVIDENCE: &'static [&'static str] = &["revoked"];

    fn resolve(table: &Spanned<RevokeTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let word = &table.get_ref().service;
        let all = || context.names.services.iter().filter(|service| !service.is_authority);
        let found = all().position(|service| service.name == *word.get_ref());
        if found.is_none() {
            let known = all().map(|service| service.name.as_str());
            mistakes.push(Mistake::unknown("service", word, known));
        } else if context.authorities.is_empty() {
            let mistake = Mistake::new(word.span(), "there is no authority", "has no certificate");
            mistakes.push(mistake.help("add one, such as [ca.mesh]"));
        }
        Revoke { service: found.unwrap_or_default() }
    }

    fn lasts(_: &RevokeTable) -> Lasts<'_> {
        Lasts::UntilDone("once everybody has heard of it")
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.revoke(fault, self.service).await
    }

    /// There is nothing to take back.
    async fn revert<W: Primitives>(&self, _: &str, _: &W) -> Result<(), W::Error> {
        Ok(())
    }
}
