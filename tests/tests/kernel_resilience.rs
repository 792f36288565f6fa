//! The [`stories`] on the kernel with their features switched off: each must break, and break what
//! it is said to break. That each holds with its feature is what CI shows by running every scenario
//! on the kernel.

mod stories;

use serde_json::Value;
use stories::{STORIES, Story};
use tests::testbed::{Ended, Testbed, named};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

#[test]
fn every_story_breaks_on_the_kernel_too_when_its_feature_is_switched_off() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let (mut held, mut busy) = (Vec::new(), Vec::new());
    let mut judge = |story: &Story, expectation: &Value| {
        println!("{}, {}: {}", story.scenario, story.off, shown(expectation));
        if expectation["passed"] != false {
            held.push(story.scenario);
        }
    };
    let broken =
        |story: &Story, ended: &Ended| named(&ended.results(0)["expectations"], story.breaks).clone();
    let first = |testbed: &Testbed, story: &Story| {
        let ended = testbed.run(&testbed.write(story.scenario, &story.without()), &[]);
        (ended.code() == 1).then(|| broken(story, &ended))
    };
    testbed.side_by_side(STORIES, first, |story, expectation| match expectation {
        Some(expectation) => judge(story, &expectation),
        None => busy.push(story),
    });
    // With another run beside it, the machine may have been too busy.
    for story in busy {
        let ended = testbed.run_conclusive(&testbed.write(story.scenario, &story.without()), &[]);
        ended.expect(1);
        judge(story, &broken(story, &ended));
    }
    assert!(held.is_empty(), "hold without their features: {held:?}");
}

/// An expectation with its numbers, in a line.
fn shown(expectation: &Value) -> String {
    let conditions = expectation["conditions"].as_array().into_iter().flatten();
    let condition = |c: &Value| format!("{} (was {})", c["text"].as_str().unwrap_or_default(), c["actual"]);
    conditions.map(condition).collect::<Vec<_>>().join(", ")
}
