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

#[test]
fn captures_that_prove_nothing() {
    let text = mesh(
        "[[expect]]\nduring = \"1s..2s\"\nno_plaintext_between = [\"web\", \"orders\"]\n\
         [[expect]]\nno_plaintext_between = \"web\"\n\
         [[expect]]\nno_plaintext_between = [\"orders-*\", \"wen\"]\n\
         [[expect]]\nname = \"nothing\"\n",
    );
    insta::assert_snapshot!(message(&text));
}
