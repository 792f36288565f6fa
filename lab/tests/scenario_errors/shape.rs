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
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"

[service.orders]
replica = 3
port = 8080

[[timelines]]
at = "5s"
"#
    ));
}

#[test]
fn numbers_without_units() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"
duration = 10

[service.web]

[[link]]
between = ["web", "web"]
delay = 5

[[link]]
between = ["web", "web"]
loss = 0.01

[[link]]
between = ["web", "web"]
loss = "150%"

[load.checkout]
from = "web"
url = "http://web:80/"
rate = 400

[[timeline]]
at = "5 minutes"
"#
    ));
}

#[test]
fn values_of_the_wrong_kind() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"
duration = "10s"
sidecar = 5

[service.web]
port = "8080"

[service.orders]
port = 80800

[[expect]]
that = "checkout.errors == 0"

[load]
from = "web"

[link]
delay = "5ms"
"#
    ));
}
