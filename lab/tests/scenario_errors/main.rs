//! Broken scenario files and what their authors read. Every snapshot is meant to be read by a
//! person: it must point at the words and say what to write instead.

mod expectations;
mod loads;
mod services;
mod shape;
mod timeline;

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

fn message(text: &str) -> String {
    let error = lab::scenario::parse("broken.toml", text).expect_err("the file is broken");
    let mut rendered = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut rendered, &error)
        .unwrap();
    let lines: Vec<_> = rendered.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A good header and two services, followed by what is to be wrong.
fn mesh(more: &str) -> String {
    format!(
        r#"[scenario]
name = "test"
duration = "10s"

[service.web]

[service.orders]
replicas = 3
port = 8080
app = {{ http = {{}} }}

[load.checkout]
from = "web"
url = "http://orders:8080/checkout"
rate = "400/s"

{more}"#
    )
}

#[test]
fn one_mistake_among_many_lines_is_told_alone() {
    let text = mesh("[[timeline]]\nname = \"lose-one\"\nat = \"2s\"\nkill = { process = \"orders-3\" }\n");
    insta::assert_snapshot!(message(&text));
}

#[test]
fn every_mistake_is_told_once_and_in_the_order_of_the_file() {
    let text = mesh(
        "[[timeline]]\nat = \"20s\"\npause = { process = \"nobody\" }\n[[expect]]\nthat = [\"x.errors == 0\"]\n",
    );
    let error = lab::scenario::parse("broken.toml", &text).unwrap_err();
    let messages: Vec<_> = error.mistakes().iter().map(|m| m.message()).collect();
    assert_eq!(
        messages,
        [
            "this entry would begin after the run is over: 20s of 10s",
            "unknown instance `nobody`",
            "unknown load `x`"
        ]
    );
    assert!(error.mistakes().is_sorted_by_key(|m| m.offset()));
}

proptest! {
    #[test]
    fn no_damage_to_a_file_makes_the_parser_panic(
        from in 0usize..400,
        length in 0usize..12,
        new in "[a-z0-9\\[\\]{}=\"'.,*/+%é \n-]{0,12}",
    ) {
        let mut text = mesh("[[timeline]]\nat = \"1s\"\nkill = { process = \"orders-1\" }\n\
                             [[expect]]\nduring = \"kill-1\"\nthat = [\"checkout.errors == 0\"]\n");
        let from = from.min(text.len());
        let to = (from + length).min(text.len());
        text.replace_range(from..to, &new);
        if let Err(errors) = lab::scenario::parse("broken.toml", &text) {
            prop_assert!(!errors.mistakes().is_empty());
            let mut rendered = String::new();
            GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
                .render_report(&mut rendered, &errors)
                .unwrap();
        }
    }
}
