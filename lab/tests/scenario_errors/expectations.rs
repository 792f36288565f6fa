//! Windows and conditions of expectations.

use super::{mesh, message};

#[test]
fn windows_that_cannot_be_judged() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/windows_that_cannot_be_judged.toml"))));
}

#[test]
fn conditions_that_mean_nothing() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/conditions_that_mean_nothing.toml"))));
}
