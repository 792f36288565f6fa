//! Entries of the timeline.

use super::{mesh, message};

#[test]
fn entries_that_do_nothing_or_too_much() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/entries_that_do_nothing_or_too_much.toml"))));
}

#[test]
fn a_configuration_that_changes_nothing() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/a_configuration_that_changes_nothing.toml"))));
}

#[test]
fn entries_beyond_the_end() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/entries_beyond_the_end.toml"))));
}

#[test]
fn faults_that_would_undo_each_other() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/faults_that_would_undo_each_other.toml"))));
}

#[test]
fn apps_that_cannot_behave_so() {
    let text = mesh(include_str!("cases/apps_that_cannot_behave_so.toml"));
    insta::assert_snapshot!("the_shape_of_apps_that_cannot_behave_so", message(&text));
    insta::assert_snapshot!(message(&text.replace("fail = 0.3", "fail = \"30%\"")));
}

#[test]
fn entries_that_cannot_be_repeated() {
    insta::assert_snapshot!(message(&mesh(include_str!("cases/entries_that_cannot_be_repeated.toml"))));
}

#[test]
fn certificates_and_roots_that_cannot_be_changed_so() {
    let text = mesh(
        "[ca.trust]\n[cert.stolen]\n\
         [[timeline]]\nat = \"1s\"\nfor = \"1s\"\ncertificate = { instance = \"trust\", cert = \"stollen\" }\n\
         [[timeline]]\nat = \"3s\"\nfor = \"1s\"\nrotate = { ca = \"truth\" }\n\
         [load.signing]\nfrom = \"trust\"\nurl = \"http://orders:8080/\"\nrate = \"1/s\"\n",
    );
    insta::assert_snapshot!(message(&text));
}
