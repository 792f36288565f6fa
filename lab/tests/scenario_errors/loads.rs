//! Load generators.

use super::{mesh, message};

#[test]
fn loads_that_call_nobody() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/loads_that_call_nobody.toml"))));
}

#[test]
fn loads_in_no_part_of_the_run() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/loads_in_no_part_of_the_run.toml"))));
}
