//! Broken expectations in words: what was expected, what was measured, and how far off that is.

use super::evaluate::{Judged, JudgedCondition};
use crate::plan::{Condition, Op, Plan, Subject};
use crate::statistic::number;

/// Every condition that did not hold, one sentence each.
pub fn broken(plan: &Plan, judged: &[Judged]) -> Vec<String> {
    let mut sentences = Vec::new();
    for (position, judged) in judged.iter().enumerate().filter(|(_, j)| !j.passed) {
        let before = sentences.len();
        for (at, condition) in judged.conditions.iter().enumerate().filter(|(_, c)| !c.passed) {
            let asked = plan.expectations.get(position).and_then(|e| e.conditions.get(at));
            let (name, text) = (&judged.name, &condition.text);
            sentences.push(format!("{name}: expected {text}, {}", found(condition, asked)));
        }
        if sentences.len() == before {
            let why = judged.note.as_deref().unwrap_or("the fault never came into force");
            sentences.push(format!("{}: {why}", judged.name));
        }
    }
    sentences
}

/// `was 61.2 ms (11.2 ms over)`, or why there is no value. `asked` is the condition as the plan has
/// it; the conservation check has none.
pub fn found(judged: &JudgedCondition, asked: Option<&Condition>) -> String {
    let Some(asked) = asked else { return format!("but {}", judged.shown) };
    let Some((_, value)) = judged.shown.split_once(" = ").filter(|_| judged.samples > 0) else {
        return format!("but {}", judged.shown);
    };
    let (off, word) = match asked.op {
        Op::Lt | Op::Le => (judged.actual - asked.value, "over"),
        Op::Gt | Op::Ge => (asked.value - judged.actual, "short"),
        Op::Eq | Op::Ne => return format!("was {value}"),
    };
    // One that touches a limit it must not touch is off by nothing.
    if judged.passed || off.is_nan() || off <= 0.0 {
        return format!("was {value}");
    }
    let off = match &asked.subject {
        Subject::Load { stat, .. } => stat.unit().show_difference(off),
        _ => number(off),
    };
    format!("was {value} ({off} {word})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stat: &str, op: Op, limit: f64, actual: f64, shown: &str) -> String {
        let subject = Subject::Load { load: 0, stat: stat.parse().unwrap() };
        let asked = Condition { text: String::new(), subject, op, value: limit };
        let samples = if actual.is_nan() { 0 } else { 100 };
        let judged =
            JudgedCondition { text: String::new(), passed: false, actual, shown: shown.into(), samples };
        found(&judged, Some(&asked))
    }

    #[test]
    fn what_is_off_is_told_in_the_unit_of_what_was_asked() {
        for (told, words) in [
            (told("latency.p99", Op::Lt, 50e3, 61.2e3, "p99 = 61.2 ms"), "was 61.2 ms (11.2 ms over)"),
            (told("success", Op::Ge, 0.999, 0.95, "success = 95 %"), "was 95 % (4.9 points short)"),
            (told("throughput", Op::Gt, 190.0, 100.0, "throughput = 100/s"), "was 100/s (90/s short)"),
            (told("errors", Op::Eq, 0.0, 46.0, "errors = 46"), "was 46"),
            (told("errors", Op::Lt, 4.0, 4.0, "errors = 4"), "was 4"),
            (
                told("errors", Op::Eq, 0.0, f64::NAN, "no requests in this window"),
                "but no requests in this window",
            ),
        ] {
            assert_eq!(told, words);
        }
    }
}
