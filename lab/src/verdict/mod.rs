//! Expectations, judged: pass or fail, with the number that decided.
//!
//! [`evaluate`] compares what was measured with the conditions of the plan, [`statistics`] says what a load's numbers
//! mean, and [`fidelity`] says whether the run was good enough to judge anything by it.
//! [`account`](mod@account) compares the counts of everybody that a request passed.

pub mod account;
pub mod evaluate;
pub mod fidelity;
pub mod statistics;

pub use account::account;
pub use evaluate::{Evidence, Judged, JudgedCondition, judge};
pub use fidelity::trustworthy;
pub use statistics::{STATISTICS, Summary, summary};
