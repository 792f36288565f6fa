//! What a user reads when a configuration is wrong, word for word, and what one that says little
//! means.
//!
//! The configurations are kept in `cases/`, and the messages in `snapshots/`; after a deliberate
//! change write those anew with `INSTA_UPDATE=always` and read each of them as the person would who
//! has to act on it.

mod authorization;
mod clusters;
mod defaults;
mod every_key;
mod file;
mod policies;

use std::net::SocketAddr;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use proxy::config::{ConfigErrors, parse};

fn errors(text: &str) -> ConfigErrors {
    parse("sidecar.toml", text).expect_err("this configuration is wrong")
}

/// As a terminal of 100 columns shows it, without colours.
fn drawn(error: &dyn Diagnostic) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut out, error)
        .expect("a string takes everything");
    out
}

/// What is said of each file in `cases/`, as a snapshot of its name.
macro_rules! says {
    ($($case:ident)*) => {$(
        #[test]
        fn $case() {
            $crate::shows(stringify!($case), include_str!(concat!("cases/", stringify!($case), ".toml")));
        }
    )*};
}
use says;

fn shows(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, drawn(&errors(text))));
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_not_utf_8_or_too_large_is_said_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.toml");
    std::fs::write(&path, b"service = \"web\"\n# \xe9t\xe9\n").unwrap();
    let said = proxy::config::load(&path).unwrap_err();
    assert!(said.to_string().ends_with("byte 3 of line 2, 0xe9, is not UTF-8"), "{said}");
    assert!(said.help().is_none(), "whoever reads it may");
    std::fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(proxy::config::load(&path).unwrap_err().to_string().ends_with("larger than 64 MiB"));
    let missing = proxy::config::load(&folder.path().join("missing")).unwrap_err();
    assert!(missing.help().unwrap().to_string().contains("check the path"));
}

#[test]
fn there_is_at_least_one_worker_and_no_more_than_threads_that_a_machine_can_use() {
    for (workers, fine) in [(0, false), (1, true), (1024, true), (1025, false), (usize::MAX >> 1, false)] {
        let parsed = parse("sidecar.toml", &format!("service = \"web\"\nworkers = {workers}\n"));
        assert_eq!(parsed.is_ok(), fine, "{workers}");
    }
}

#[test]
fn every_mistake_is_also_one_line_for_the_log() {
    let errors = errors("service = \"web\"\nworkers = 0\n\n[timeouts]\nconnect = \"soon\"\n");
    assert_eq!(errors.to_string(), "sidecar.toml has 2 mistakes");
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "sidecar.toml:2:11: without a worker nothing is forwarded \
             (leave `workers` out to have one for each CPU that the process may use)",
            "sidecar.toml:5:11: `connect` is not a length of time",
        ]
    );
}

#[test]
fn a_line_for_the_log_has_no_value_of_the_file() {
    const ROUTE: &str = "service = 'a'\n[[cluster]]\nname = 'c'\naddresses = ['10.0.0.1:80']\n\
                         endpoints = ['10.0.0.2:80']\n[[cluster.route]]\n";
    let all = |more: &str| format!("service = 'a'\n{more}");
    for text in [
        format!("{ROUTE}request_headers.set.authorization = 99887766"),
        format!("{ROUTE}request_headers.set.authorization = \"Bearer 99887766\\u000a\""),
        format!("{ROUTE}request_headers.set.authorization = ['99887766']"),
        format!("{ROUTE}request_headers.set.authorization = 99887766a"),
        format!("{ROUTE}request_headers.set.authorization = '99887766"),
        format!("{ROUTE}match.headers.x-api-key = 99887766"),
        format!("{ROUTE}match.headers.x-api-key = {{ prefix = 99887766 }}"),
        format!("{ROUTE}match.headers.x-api-key = {{ regex = '(99887766' }}"),
        format!("{ROUTE}match.query.access_token = 99887766"),
        format!("{ROUTE}name = 'a\"b99887766'\n[[cluster.route]]\nname = 'a\"b99887766'"),
        format!("{ROUTE}to = [{{ cluster = '\"99887766\"' }}]"),
        all("[[authorization.policy]]\nname = 'p'\nrule = [{ when = [{ key = 'request.headers[x]', \
             values = '99887766' }] }]"),
        all(
            "[[authorization.policy]]\nname = 'p'\nrule = { when = [{ key = 'host', values = ['99887766'] }] }",
        ),
        all("[[authorization.provider]]\nname = 'o'\naddress = 'u:99887766@h'\n\
             include_additional_headers = { x = 99887766 }"),
        all("timeouts.connect = '99887766'"),
        all("identity = { id = 'spiffe://99887766', workload_api = '99887766' }"),
        all("mark = '99887766'"),
    ] {
        let said: Vec<_> = errors(&text).lines().collect();
        assert!(!said.concat().contains("99887766"), "{text}: {said:#?}");
    }
}

/// Of all mistakes that there are examples of.
#[test]
fn no_text_of_a_file_is_in_a_line_for_the_log() {
    let texts = regex::Regex::new(r#""[^"\n]{4,}"|'[^'\n]{4,}'"#).unwrap();
    for case in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config_errors/cases")).unwrap()
    {
        let file = std::fs::read_to_string(case.unwrap().path()).unwrap();
        for line in errors(&file).lines() {
            // An example that is a literal may be what the file says, and is in brackets then.
            let said = line.split(" (").next().unwrap();
            let texts = texts.find_iter(&file).map(|text| text.as_str().trim_matches(['"', '\'']));
            // Words such as ring_hash are ours, too.
            for text in
                texts.filter(|text| !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
            {
                assert!(!said.contains(text), "{text} in {line}");
            }
        }
    }
}

#[test]
fn a_missing_file_is_named_in_the_error() {
    let error = proxy::config::load("/nonexistent/sidecar.toml".as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /nonexistent/sidecar.toml: No such file or directory (os error 2)"
    );
}
