//! Runs as JUnit XML, which CI systems show: a suite for each run, a case for each expectation, and
//! one for the run itself, which fails for what no expectation is about.

use quick_junit::{NonSuccessKind, Report as Suites, TestCase, TestCaseStatus, TestSuite};

use super::Ran;
use crate::run::{Report, Verdict};

/// The XML of these runs.
pub fn of(runs: &[Ran]) -> String {
    let mut suites = Suites::new("lab");
    suites.add_test_suites(runs.iter().map(suite));
    suites.to_string().expect("texts can be written")
}

fn suite(ran: &Ran) -> TestSuite {
    let mut suite = TestSuite::new(ran.name());
    match &ran.result {
        Ok(report) => {
            suite.set_time(report.plan.duration);
            suite.add_test_cases(report.expectations.iter().map(|judged| {
                let found = |c: &&crate::verdict::JudgedCondition| !c.passed;
                let missed = judged.conditions.iter().filter(found);
                let missed: Vec<String> = missed.map(|c| format!("{}: {}", c.text, c.shown)).collect();
                let status = match judged.passed {
                    true => TestCaseStatus::success(),
                    false => failed(NonSuccessKind::Failure, &missed),
                };
                case(ran, &judged.name, status)
            }));
            suite.add_test_case(case(ran, "the run", of_run(report)));
        }
        Err(why) => {
            let status = failed(NonSuccessKind::Error, std::slice::from_ref(why));
            suite.add_test_case(case(ran, "the run", status));
        }
    }
    suite
}

/// Whether the run is one to judge by, and what no expectation is about.
fn of_run(report: &Report) -> TestCaseStatus {
    let is_explained = report.expectations.iter().any(|judged| !judged.passed);
    match report.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Failed if is_explained && report.unexpected_exits.is_empty() => TestCaseStatus::success(),
        Verdict::Failed => failed(NonSuccessKind::Failure, &report.reasons),
        Verdict::Inconclusive | Verdict::Interrupted => failed(NonSuccessKind::Error, &report.reasons),
    }
}

fn failed(kind: NonSuccessKind, why: &[String]) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(why.join("; "));
    status
}

fn case(ran: &Ran, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(ran.scenario.display().to_string());
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SidecarKind;
    use crate::report::terminal::tests::{failing, passing};
    use crate::run::UnexpectedExit;

    #[test]
    fn a_suite_has_a_case_for_each_expectation_and_for_the_run() {
        let ran = |kind, result| Ran { scenario: "scenarios/lose-one.toml".into(), kind, result };
        let mut crashed = passing();
        crashed.verdict = Verdict::Failed;
        crashed.reasons = vec!["orders-1/app ended although nothing asked it to: \"<&>\"".into()];
        crashed.unexpected_exits = vec![UnexpectedExit {
            process: "orders-1/app".into(),
            at_us: None,
            how: "exit status: 7".into(),
            log_tail: vec![],
        }];
        let runs = [
            ran(SidecarKind::Ours, Ok(passing())),
            ran(SidecarKind::None, Ok(failing())),
            ran(SidecarKind::Ours, Ok(crashed)),
            ran(SidecarKind::Ours, Err("no root".into())),
        ];
        insta::assert_snapshot!(of(&runs));
    }
}
