//! `kill = { .. }`: ends processes with a signal, all at once.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Lasts, Primitives, holds_processes};
use crate::mesh::ProcessId;
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::Span;

/// Ends processes; the revert starts them again.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// Which.
    pub processes: Vec<ProcessId>,
    /// SIGKILL, or else SIGTERM.
    pub hard: bool,
}

/// `kill = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillTable {
    /// `"orders-2/app"`, `"orders-2/sidecar"`, or `"orders-2"` for both; or a list of such.
    pub process: Spanned<OneOrMany>,
    /// `"KILL"` (default) or `"TERM"`.
    pub signal: Option<Spanned<String>>,
    /// How long afterwards it is started again. Without it, it stays away.
    pub restart: Option<Spanned<Span>>,
}

impl Fault for Kill {
    type Table = KillTable;

    const TIMES: &'static [&'static str] = &["restart"];

    const EVIDENCE: &'static [&'static str] = &["killed", "restarted"];

    const EVIDENCE_OF_REVERT: &'static [&'static str] = &["restarted"];

    fn resolve(table: &Spanned<KillTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let table = table.get_ref();
        let hard = is_hard(table.signal.as_ref(), true, mistakes);
        Kill { processes: context.processes(&table.process, mistakes), hard }
    }

    fn lasts(table: &KillTable) -> Lasts<'_> {
        Lasts::Restart(table.restart.as_ref())
    }

    holds_processes!(processes);

    fn ends_processes(&self) -> bool {
        true
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.end(fault, &self.processes, self.hard).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.start_again(fault, &self.processes).await
    }
}

/// Whether a signal is SIGKILL.
pub(super) fn is_hard(signal: Option<&Spanned<String>>, default: bool, mistakes: &mut Vec<Mistake>) -> bool {
    let Some(word) = signal else { return default };
    match &word.get_ref()[..] {
        "KILL" => true,
        "TERM" => false,
        other => {
            let plain = other.to_uppercase();
            let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
            let mistake = Mistake::unknown("signal", word, ["KILL", "TERM"]);
            mistakes.push(match plain {
                "KILL" | "TERM" => mistake.help(format!("did you mean \"{plain}\"? known: KILL, TERM")),
                "STOP" => mistake.help("to stop it and let it go on later use `pause`; known: KILL, TERM"),
                _ => mistake,
            });
            true
        }
    }
}
