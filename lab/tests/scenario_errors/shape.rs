//! What is not TOML, or not of the shape of a scenario.

use super::message;

#[test]
fn a_unit_without_quotation_marks_is_not_toml() {
    insta::assert_snapshot!(message("[scenario]\nname = \"test\"\nduration = 10s\n"));
}

#[test]
fn a_string_without_an_end_is_not_toml() {
    insta::assert_snapshot!(message("[scenario]\nname = \"test\nduration = \"10s\"\n"));
}

#[test]
fn the_header_is_missing() {
    insta::assert_snapshot!(message("[service.web]\n"));
}

#[test]
fn keys_that_do_not_exist_and_keys_that_are_missing() {
    insta::assert_snapshot!(message(include_str!(
        "cases/keys_that_do_not_exist_and_keys_that_are_missing.toml"
    )));
}

#[test]
fn numbers_without_units() {
    insta::assert_snapshot!(message(include_str!("cases/numbers_without_units.toml")));
}

#[test]
fn values_of_the_wrong_kind() {
    insta::assert_snapshot!(message(include_str!("cases/values_of_the_wrong_kind.toml")));
}
