//! The [`stories`] on the kernel with their features switched off: each must break, and break what
//! it is said to break. That each holds with its feature is what CI shows by running every scenario
//! on the kernel.

mod stories;

use stories::STORIES;
use tests::testbed::{Testbed, named};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

#[test]
fn every_story_breaks_on_the_kernel_too_when_its_feature_is_switched_off() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let mut held = Vec::new();
    for story in STORIES {
        let file = testbed.write(story.scenario, &story.without());
        let ended = testbed.run_conclusive(&file, &[]);
        ended.expect(1);
        let expectation = named(&ended.results(0)["expectations"], story.breaks).clone();
        println!("{}, {}: {}", story.scenario, story.off, shown(&expectation));
        if expectation["passed"] != false {
            held.push(story.scenario);
        }
    }
    assert!(held.is_empty(), "hold without their features: {held:?}");
}

/// An expectation with its numbers, in a line.
fn shown(expectation: &serde_json::Value) -> String {
    let conditions = expectation["conditions"].as_array().into_iter().flatten();
    let condition =
        |c: &serde_json::Value| format!("{} (was {})", c["text"].as_str().unwrap_or_default(), c["actual"]);
    conditions.map(condition).collect::<Vec<_>>().join(", ")
}
