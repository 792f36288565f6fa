//! `app = { .. }` of a timeline entry: built-in HTTP apps answer otherwise for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives};
use crate::mesh::{ProcessId, Role};
use crate::syntax::diagnose::{self, Mistake};
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::{Percent, Span};

/// The path of an app's control port; without a query it puts back what the scenario says.
const CONTROL: &str = "/behave";

/// Changes how built-in apps answer; the revert puts back what the scenario says of them.
#[derive(Debug, Clone, Serialize)]
pub struct Behave {
    /// Which.
    pub processes: Vec<ProcessId>,
    /// What changes.
    pub change: BehaviourChange,
}

/// What changes of how an app answers; the fields are those of `plan::Behaviour`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BehaviourChange {
    /// How long it works on a request.
    #[serde(serialize_with = "crate::readable::option::serialize", skip_serializing_if = "Option::is_none")]
    pub work: Option<Duration>,
    /// Share of requests that fail, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail: Option<f64>,
    /// The status of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Share of answers that break HTTP, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub malformed: Option<f64>,
    /// Share of health checks that fail, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<f64>,
    /// Share of HTTP/2 streams that are refused, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse_streams: Option<f64>,
    /// Share of gRPC calls with which a connection ends by a GOAWAY, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goaway: Option<f64>,
    /// Share of gRPC calls whose answer is broken off by RST_STREAM, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_streams: Option<f64>,
}

/// `app = { .. }` of a timeline entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaveTable {
    /// As in [`KillTable::process`](super::kill::KillTable::process); the role is always `app`.
    pub process: Spanned<OneOrMany>,
    /// How long it works on a request.
    #[serde(default)]
    pub work: Option<Spanned<Span>>,
    /// Share of requests that it fails.
    #[serde(default)]
    pub fail: Option<Spanned<Percent>>,
    /// With which status. Default 503.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    /// Share of its answers that break HTTP.
    #[serde(default)]
    pub malformed: Option<Spanned<Percent>>,
    /// Share of health checks that it answers with 503.
    #[serde(default)]
    pub unhealthy: Option<Spanned<Percent>>,
    /// Share of HTTP/2 streams that it refuses without a look at them.
    #[serde(default)]
    pub refuse_streams: Option<Spanned<Percent>>,
    /// Share of gRPC calls with which it ends their connection by a GOAWAY.
    #[serde(default)]
    pub goaway: Option<Spanned<Percent>>,
    /// Share of gRPC calls whose answer it breaks off by RST_STREAM.
    #[serde(default)]
    pub reset_streams: Option<Spanned<Percent>>,
}

impl BehaviourChange {
    /// The path and query of the app's control port that makes it.
    pub fn query(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.work.map(|work| format!("work={}", crate::readable::text(work))));
        words.extend(self.fail.map(|fail| format!("fail={fail}")));
        words.extend(self.status.map(|status| format!("status={status}")));
        words.extend(self.malformed.map(|malformed| format!("malformed={malformed}")));
        words.extend(self.unhealthy.map(|unhealthy| format!("unhealthy={unhealthy}")));
        words.extend(self.refuse_streams.map(|share| format!("refuse_streams={share}")));
        words.extend(self.goaway.map(|share| format!("goaway={share}")));
        words.extend(self.reset_streams.map(|share| format!("reset_streams={share}")));
        format!("{CONTROL}?{}", words.join("&"))
    }
}

impl Fault for Behave {
    type Table = BehaveTable;

    const EVIDENCE: &'static [&'static str] = &["changed_requests"];

    fn resolve(table: &Spanned<BehaveTable>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self {
        let asked = table.get_ref();
        let processes = apps(asked, context, mistakes);
        let share = |share: &Option<Spanned<Percent>>| share.as_ref().map(|share| share.get_ref().0);
        let change = BehaviourChange {
            work: asked.work.as_ref().map(|work| work.get_ref().0),
            fail: share(&asked.fail),
            status: asked.status.as_ref().map(|word| diagnose::status(word, mistakes)),
            malformed: share(&asked.malformed),
            unhealthy: share(&asked.unhealthy),
            refuse_streams: share(&asked.refuse_streams),
            goaway: share(&asked.goaway),
            reset_streams: share(&asked.reset_streams),
        };
        if (BehaviourChange { status: None, ..change }) == BehaviourChange::default() {
            let missing =
                "no `work`, `fail`, `malformed`, `unhealthy`, `refuse_streams`, `goaway` or `reset_streams`";
            let mistake = Mistake::new(table.span(), "nothing changes", missing);
            mistakes.push(mistake.help("add work = \"200ms\", or one of the others = \"30%\""));
        }
        Behave { processes, change }
    }

    fn processes(&self) -> &[ProcessId] {
        &self.processes
    }

    fn retain_processes(&mut self, wanted: &dyn Fn(&ProcessId) -> bool) {
        self.processes.retain(wanted);
    }

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.note_changed_requests(fault, &self.processes).await;
        world.control_apps(&self.processes, &self.change.query()).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        world.control_apps(&self.processes, CONTROL).await?;
        world.note_changed_requests(fault, &self.processes).await;
        Ok(())
    }

    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        world.note_changed_requests(fault, &self.processes).await;
        world.counted(fault).await
    }
}

/// The apps that a table names, all of which must be built-in HTTP apps.
fn apps(asked: &BehaveTable, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Vec<ProcessId> {
    let before = mistakes.len();
    let mut processes = context.processes(&asked.process, mistakes);
    let found_some = !processes.is_empty();
    processes.retain(|p| p.role == Role::App);
    let instance = |p: &ProcessId| &context.names.instances[p.instance];
    let stranger = processes.iter().find(|p| !context.names.services[instance(p).service].has_echo);
    if let Some(stranger) = stranger {
        let message = format!("the app of `{}` cannot be told how to answer", instance(stranger).name);
        let mistake = Mistake::new(asked.process.span(), message, "not a built-in HTTP app");
        mistakes.push(mistake.help("only `app = { http = { .. } }` can; others can be killed or paused"));
    } else if processes.is_empty() && found_some && mistakes.len() == before {
        let mistake = Mistake::new(asked.process.span(), "a sidecar is no app", "names no app");
        mistakes.push(mistake.help("name an app, such as \"orders-1/app\""));
    }
    processes
}
