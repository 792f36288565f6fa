//! Load generators.

use super::{mesh, message};

#[test]
fn loads_that_call_nobody() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[load.a]
from = "web"
url = "orders:8080"
rate = "1/s"

[load.b]
from = "web"
url = "https://orders:8080/"
rate = "1/s"

[load.c]
from = "web"
url = "http://orders/"
rate = "1/s"

[load.d]
from = "web"
url = "http://web:8080/"
rate = "1/s"

[load.e]
from = "web"
url = "http://orders-1:8080/"
rate = "0/s"

[load.f]
from = "web"
url = "tcp://orders:8080"
rate = "1/s"

[load.g]
from = "orders-*"
url = "http://orders:8080/"
method = "get"
rate = "1/s"
"#
    )));
}

#[test]
fn loads_in_no_part_of_the_run() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[load.late]
from = "web"
url = "http://orders:8080/"
rate = "1/s"
at = "20s"

[load.long]
from = "web"
url = "http://orders:8080/"
rate = "1/s"
at = "8s"
for = "5s"
headers = { "x user" = "1", x-other = "a\nb" }
"#
    )));
}
