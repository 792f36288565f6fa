//! The gate as scripts start it: what it says, and the code that it ends with. It compares nothing
//! here, because that takes root, valgrind and minutes; `ci/prove` does.

use std::process::{Command, Output};

fn regression(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regression")).args(arguments).output().expect("the gate starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn help_lists_the_exit_codes() {
    let help = regression(&["--help"]);
    assert!(help.status.success());
    for words in ["1  a regression", "4  not enough evidence", "--full"] {
        assert!(said(&help).contains(words), "{}", said(&help));
    }
    assert!(!said(&help).contains("__app"), "roles are nobody's business: {}", said(&help));
}

#[test]
fn a_mistake_in_the_arguments_ends_with_2() {
    for (arguments, words) in [
        (&["no-such-revision"][..], "git knows no commit `no-such-revision`"),
        (&["--no-counts"], "--full"),
        (&["--ful"], "--full"),
    ] {
        let failed = regression(arguments);
        assert_eq!(failed.status.code(), Some(2), "{arguments:?}: {}", said(&failed));
        assert!(said(&failed).contains(words), "{arguments:?}: {}", said(&failed));
    }
}
