//! Faults: what a timeline entry can do to a mesh, one kind a file.
//!
//! The file of a kind owns everything about it: its table in a scenario, what can be wrong with
//! that, what the fault holds while it is in force, how it is applied and reverted, and the
//! evidence that it took effect. A kind acts only through the [`Primitives`] that a world offers,
//! so it is the same on the kernel and in the simulator.
//!
//! To add a kind, write its file (an implementation of [`Fault`]) and register it in `kinds!`.
//! Only a kind that needs a new primitive touches the worlds. Left out: when entries begin, repeat
//! and end, which is the timeline's (`scenario/timeline.rs`, `run.rs`).

mod behave;
mod certificate;
mod configure;
mod crash;
mod impair;
mod kill;
mod partition;
mod pause;
mod primitives;
mod refuse;
mod restart;
mod revoke;
mod rotate;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

pub use primitives::Primitives;

use crate::mesh::{Link, ProcessId};
use crate::syntax::diagnose::Mistake;
use crate::syntax::links::Profiles;
use crate::syntax::names::Names;
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::Span;

/// A fault and its time.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The name from the file, or `kill-1` and the like.
    pub name: String,
    /// When, from the start of the measured part.
    #[serde(with = "crate::readable")]
    pub at: Duration,
    /// When it is reverted (for a kill: restarted) for good, if ever.
    #[serde(serialize_with = "crate::readable::option::serialize")]
    pub until: Option<Duration>,
    /// Whether it is injected more than once until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// What it does.
    pub action: Action,
}

/// A fault that is injected and reverted several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Repeat {
    /// From one injection to the next.
    #[serde(with = "crate::readable")]
    pub every: Duration,
    /// Injections in total.
    pub times: u32,
}

/// What a kind needs to know of the scenario to resolve its table.
pub struct Context<'a> {
    /// Services and instances.
    pub names: &'a Names,
    /// The base profiles of links.
    pub base: &'a Profiles,
    /// Names of the authorities, by their position in the plan.
    pub authorities: &'a [String],
    /// Names of the certificates that the lab makes, by their position in the plan.
    pub certificates: &'a [String],
    /// Whether the scenario runs with sidecars at all.
    pub has_sidecars: bool,
}

impl Context<'_> {
    /// The processes that several patterns name.
    fn processes(&self, patterns: &Spanned<OneOrMany>, mistakes: &mut Vec<Mistake>) -> Vec<ProcessId> {
        self.names.all_processes(patterns, self.has_sidecars, mistakes)
    }

    /// The instances that several patterns name, each once.
    fn instances(&self, asked: &Spanned<OneOrMany>, mistakes: &mut Vec<Mistake>) -> BTreeSet<usize> {
        let words = asked.get_ref().words(asked.span());
        if words.is_empty() {
            let mistake = Mistake::new(asked.span(), "no instance is named", "empty");
            mistakes.push(mistake.help("name one, such as \"orders-1\""));
        }
        words.iter().flat_map(|word| self.names.instances(word, mistakes)).collect()
    }
}

/// What decides how long a fault lasts.
pub enum Lasts<'a> {
    /// The entry's `for`.
    For,
    /// The `restart` of its own table.
    Restart(Option<&'a Spanned<Span>>),
    /// It ends by itself, as these words say.
    UntilDone(&'static str),
}

/// Something that a fault holds while it is in force. Two faults may not hold the same thing at one
/// time: the end of one would undo the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A process.
    Process(ProcessId),
    /// One direction between two instances, whose profile is replaced.
    Link(usize, usize),
    /// One direction that is cut because the machine at one end is gone.
    DeadLink(usize, usize),
    /// The configuration of the sidecars.
    Configuration,
}

impl Resource {
    /// Whether two faults that hold these may not overlap.
    fn conflicts(self, other: Resource) -> bool {
        match (self, other) {
            // Two crashes cut the links between their machines alike, so either may end first.
            (Resource::DeadLink(..), Resource::DeadLink(..)) => false,
            (
                Resource::Link(from, to) | Resource::DeadLink(from, to),
                Resource::Link(other_from, other_to) | Resource::DeadLink(other_from, other_to),
            ) => (from, to) == (other_from, other_to),
            (one, other) => one == other,
        }
    }

    /// In words, for a message.
    fn describe(self, names: &Names) -> String {
        let name = |instance: usize| &names.instances[instance].name;
        match self {
            Resource::Process(process) => format!("a process of {}", name(process.instance)),
            Resource::Link(from, to) | Resource::DeadLink(from, to) => {
                format!("the link from {} to {}", name(from), name(to))
            }
            Resource::Configuration => "the configuration of the sidecars".into(),
        }
    }
}

/// A kind of fault, resolved: what it does and to what.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait Fault: Sized {
    /// Its table in a timeline entry.
    type Table;

    /// Keys of its table whose times scale with the length of the fault.
    const TIMES: &'static [&'static str] = &[];

    /// The names of its evidence.
    const EVIDENCE: &'static [&'static str];

    /// Those that only its revert counts.
    const EVIDENCE_OF_REVERT: &'static [&'static str] = &[];

    /// Resolves its table. Where that is wrong, notes the mistakes and returns something harmless.
    fn resolve(table: &Spanned<Self::Table>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Self;

    /// What decides how long it lasts.
    fn lasts(_: &Self::Table) -> Lasts<'_> {
        Lasts::For
    }

    /// The processes that it holds.
    fn processes(&self) -> &[ProcessId] {
        &[]
    }

    /// Leaves out the processes that are not `wanted`.
    fn retain_processes(&mut self, _wanted: &dyn Fn(&ProcessId) -> bool) {}

    /// The directions whose profile it replaces.
    fn links(&self) -> &[Link] {
        &[]
    }

    /// Everything that it holds.
    fn holds(&self) -> Vec<Resource> {
        let links = self.links().iter().map(|link| Resource::Link(link.from, link.to));
        links.chain(self.processes().iter().copied().map(Resource::Process)).collect()
    }

    /// Whether it ends its processes, for a while or for ever.
    fn ends_processes(&self) -> bool {
        false
    }

    /// Whether it stops its processes, which then are there and do nothing.
    fn stops_processes(&self) -> bool {
        false
    }

    /// Applies it; returns when it is in force. Evidence is counted for the entry called `fault`.
    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error>;

    /// Reverts it; returns when it is no longer in force.
    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error>;

    /// What proves that it took effect, by name.
    async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
        let mut counted = world.counted(fault).await;
        if !self.links().is_empty() {
            counted.extend(world.packets(fault, self.links()).await);
        }
        counted
    }
}

/// What is known of a kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Its key in a timeline entry.
    pub key: &'static str,
    /// Keys of its table whose times scale with the length of the fault.
    pub times: &'static [&'static str],
    /// The names of its evidence.
    pub evidence: &'static [&'static str],
    evidence_of_revert: &'static [&'static str],
}

impl KindInfo {
    const fn of<F: Fault>(key: &'static str) -> Self {
        let (times, evidence, evidence_of_revert) = (F::TIMES, F::EVIDENCE, F::EVIDENCE_OF_REVERT);
        KindInfo { key, times, evidence, evidence_of_revert }
    }

    /// The names of the evidence that it leaves. `is_reverted`: whether it ends before the run
    /// does.
    pub fn leaves(&self, is_reverted: bool) -> Vec<&'static str> {
        let names = self.evidence.iter().copied();
        names.filter(|name| is_reverted || !self.evidence_of_revert.contains(name)).collect()
    }
}

/// In the `impl Fault` of a kind that holds processes: the field that has them.
macro_rules! holds_processes {
    ($($field:ident).+) => {
        fn processes(&self) -> &[ProcessId] {
            &self.$($field).+
        }

        fn retain_processes(&mut self, wanted: &dyn Fn(&ProcessId) -> bool) {
            self.$($field).+.retain(wanted);
        }
    };
}

use holds_processes;

/// Registers the kinds: the key of each in a timeline entry, and its type.
macro_rules! kinds {
    ($($key:literal: $module:ident::$kind:ident,)*) => {
        $(pub use $module::$kind;)*

        /// `[[timeline]]`: a time and exactly one action.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct EntryTable {
            /// How expectations refer to it.
            pub name: Option<Spanned<String>>,
            /// When, from the start of the measured part.
            pub at: Spanned<Span>,
            /// How long; afterwards it is reverted. Not for `kill` and `crash`, which have
            /// `restart`, nor for `restart`.
            #[serde(default, rename = "for")]
            pub lasts: Option<Spanned<Span>>,
            /// From one injection to the next, with `times`.
            pub every: Option<Spanned<Span>>,
            /// How often it is injected. Default once.
            pub times: Option<Spanned<u32>>,
            $(
                #[doc = concat!("See [`", stringify!($kind), "`].")]
                #[serde(default, rename = $key)]
                pub $module: Option<Spanned<<$kind as Fault>::Table>>,
            )*
        }

        /// What a fault does.
        #[derive(Debug, Clone, Serialize)]
        pub enum Action {
            $(
                #[doc = concat!("See [`", stringify!($kind), "`].")]
                #[serde(rename = $key)]
                $kind($kind),
            )*
        }

        /// All kinds.
        pub const KINDS: &[KindInfo] = &[$(KindInfo::of::<$kind>($key)),*];

        impl EntryTable {
            /// The actions that it has, and where each is written.
            pub fn actions(&self) -> Vec<(&'static str, Range<usize>)> {
                let all = [$(($key, self.$module.as_ref().map(Spanned::span))),*];
                all.into_iter().filter_map(|(key, at)| at.map(|at| (key, at))).collect()
            }

            /// What decides how long its fault lasts.
            pub fn how_long(&self) -> Lasts<'_> {
                $(if let Some(table) = &self.$module {
                    return $kind::lasts(table.get_ref());
                })*
                Lasts::For
            }

            /// Resolves its action; without one, to something harmless.
            pub fn resolve(&self, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Action {
                $(if let Some(table) = &self.$module {
                    return Action::$kind($kind::resolve(table, context, mistakes));
                })*
                Action::Impair(Impair { links: Vec::new() })
            }
        }

        impl Action {
            /// The processes that it holds.
            pub fn processes(&self) -> &[ProcessId] {
                match self { $(Action::$kind(fault) => fault.processes(),)* }
            }

            /// Leaves out the processes that are not `wanted`.
            pub fn retain_processes(&mut self, wanted: impl Fn(&ProcessId) -> bool) {
                match self { $(Action::$kind(fault) => fault.retain_processes(&wanted),)* }
            }

            /// The directions that it holds, with their profiles.
            pub fn links(&self) -> &[Link] {
                match self { $(Action::$kind(fault) => fault.links(),)* }
            }

            /// Everything that it holds.
            pub fn holds(&self) -> Vec<Resource> {
                match self { $(Action::$kind(fault) => fault.holds(),)* }
            }

            /// Whether it ends its processes, for a while or for ever.
            pub fn ends_processes(&self) -> bool {
                match self { $(Action::$kind(fault) => fault.ends_processes(),)* }
            }

            /// Whether it stops its processes, which then are there and do nothing.
            pub fn stops_processes(&self) -> bool {
                match self { $(Action::$kind(fault) => fault.stops_processes(),)* }
            }

            /// What is known of its kind.
            pub fn kind(&self) -> KindInfo {
                match self { $(Action::$kind(_) => KindInfo::of::<$kind>($key),)* }
            }

            /// Applies it for the entry called `fault`; returns when it is in force.
            ///
            /// # Errors
            /// If the world cannot do it.
            pub async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
                match self { $(Action::$kind(action) => action.apply(fault, world).await,)* }
            }

            /// Reverts it; returns when it is no longer in force.
            ///
            /// # Errors
            /// If the world cannot do it.
            pub async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
                match self { $(Action::$kind(action) => action.revert(fault, world).await,)* }
            }

            /// What proves that it took effect, by name.
            pub async fn evidence<W: Primitives>(&self, fault: &str, world: &W) -> BTreeMap<String, f64> {
                match self { $(Action::$kind(action) => action.evidence(fault, world).await,)* }
            }
        }
    };
}

kinds! {
    "kill": kill::Kill,
    "crash": crash::Crash,
    "refuse": refuse::Refuse,
    "restart": restart::Restart,
    "configure": configure::Configure,
    "certificate": certificate::Certificate,
    "rotate": rotate::Rotate,
    "revoke": revoke::Revoke,
    "app": behave::Behave,
    "pause": pause::Pause,
    "partition": partition::Partition,
    "link": impair::Impair,
}

impl Action {
    /// Whether it has to do with an instance, or with a link of it. To others, a machine that
    /// crashes is only silent.
    pub fn touches(&self, instance: usize) -> bool {
        let links = if self.ends_processes() { &[] } else { self.links() };
        self.processes().iter().any(|process| process.instance == instance)
            || links.iter().any(|link| [link.from, link.to].contains(&instance))
    }

    /// Whether it ends a process, for a while or for ever.
    pub fn ends(&self, process: ProcessId) -> bool {
        self.ends_processes() && self.processes().contains(&process)
    }

    /// Whether it ends or stops a process, for a while or for ever.
    pub fn interrupts(&self, process: ProcessId) -> bool {
        (self.ends_processes() || self.stops_processes()) && self.processes().contains(&process)
    }

    /// Something that both actions hold, in words.
    pub fn conflict(&self, other: &Action, names: &Names) -> Option<String> {
        let others = other.holds();
        let both = self.holds().into_iter().find(|own| others.iter().any(|other| own.conflicts(*other)))?;
        Some(both.describe(names))
    }
}
