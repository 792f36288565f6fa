//! Expectations, judged: pass or fail, with the number that decided.
//!
//! `evaluate` compares what was measured with the conditions of the plan, `statistics` says
//! what a load's numbers mean, and `fidelity` says whether the run was good enough to judge
//! anything by it. `impact` says what each fault did to each load, `margin` by how much an
//! expectation was missed, and `conservation` compares the counts of every
//! component that requests pass.

pub(crate) mod conservation;
pub(crate) mod evaluate;
pub(crate) mod fidelity;
pub(crate) mod impact;
pub(crate) mod margin;
pub(crate) mod statistics;

pub use conservation::conservation;
pub use evaluate::{Evidence, Judged, JudgedCondition, STEP, judge};
pub use fidelity::trustworthy;
pub use impact::{Impact, Phase, impacts};
pub use margin::{broken, found};
pub use statistics::{Summary, summary};
