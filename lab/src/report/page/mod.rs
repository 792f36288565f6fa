//! A run as one page for a browser: self-contained, with nothing to load from anywhere.
//!
//! The page is a template with the data of the run in it as JSON; its script draws that. All that
//! is shown was known when it was written, so it can be kept, sent, and opened in ten years.

mod data;
mod distribution;
mod logs;

use std::collections::BTreeMap;

pub use logs::Log;

use crate::events::Event;
use crate::run::Report;

/// What is shown beside the report.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// The text of the scenario's file.
    pub scenario: &'a str,
    /// The command that runs it again.
    pub command: &'a str,
    /// What happened, in order.
    pub events: &'a [Event],
    /// What processes said, by their names.
    pub logs: BTreeMap<String, Log>,
}

/// The page of a run.
pub fn of(report: &Report, sources: &Sources<'_>) -> String {
    let data = serde_json::to_string(&data::Page::of(report, sources)).expect("plain data can be written");
    // Inside a script element nothing else has a meaning, and in JSON a `<` is only in texts.
    let data = data.replace('<', "\\u003c");
    let (head, tail) = include_str!("page.html").split_once("{data}").expect("it has a place for data");
    let head =
        head.replace("/* style */", include_str!("page.css")).replace("{title}", &escaped(&report.plan.name));
    let tail = tail.replace("/* script */", include_str!("page.js"));
    [head, data, tail].concat()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::load::{Outcome, Record};
    use crate::metrics::{Series, parse};
    use crate::report::terminal::tests::{failing, passing};
    use crate::run::Measurements;

    /// The data of a page.
    fn data(page: &str) -> Value {
        let (_, rest) = page.split_once("id=\"run\">").expect("it has data");
        let (data, _) = rest.split_once("</script>").expect("it ends");
        serde_json::from_str(data).expect("JSON")
    }

    #[test]
    fn texts_of_a_run_are_no_markup() {
        let mut report = passing();
        report.plan.name = "</title><script>alert(1)</script>{data}<!--".into();
        let sources = Sources { scenario: "</script><script>", ..Sources::default() };
        let page = of(&report, &sources);
        assert_eq!(page.matches("<script").count(), 2, "the data and the script");
        assert_eq!(data(&page)["scenario"], report.plan.name.as_str());
        assert_eq!(data(&page)["file"], "</script><script>");
        assert!(
            page.contains("<title>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;{data}&lt;!--</title>")
        );
    }

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        let page = of(&failing(), &Sources::default());
        for word in ["src=", "href=", "url(", "@import", "fetch(", "import("] {
            assert!(!page.contains(word), "{word}");
        }
        let addresses = page
            .match_indices("http")
            .filter(|(at, _)| page[*at..].starts_with("http://www.w3.org/2000/svg"));
        assert_eq!(addresses.count(), page.matches("://").count() - page.matches("http://orders").count());
    }

    #[test]
    fn a_page_of_much_stays_under_a_megabyte() {
        let mut report = passing();
        let record = |due_us: i64| Record {
            due_us,
            latency_us: (due_us as u64).wrapping_mul(0x9e37_79b9) % 1_000_000,
            late_us: 0,
            outcome: if due_us % 7 == 0 { Outcome::Status(500 + (due_us % 20) as u16) } else { Outcome::Ok },
        };
        let records = vec![(0..400_000).map(|n| record(n * 20)).collect(); 2];
        let mut series = Series::default();
        for at in (0..8_000_000).step_by(250_000) {
            let usage = |n: u32| {
                let process = format!("a-service-with-a-long-name-{n}/sidecar");
                let used = f64::from(n) * at as f64 / 7e6;
                format!(
                    "process_cpu_seconds_total{{process=\"{process}\"}} {used}\n\
                    process_resident_memory_bytes{{process=\"{process}\"}} {used}\n"
                )
            };
            let text: String = (1..=400).map(usage).collect();
            series.push(&"fabric".into(), (at, at), parse("fabric", &text));
        }
        report.measurements = Arc::new(Measurements { records, series });
        let event = Event {
            at_us: 0,
            time: "2026-01-01T00:00:00.000000Z".into(),
            kind: "fault",
            subject: "lose-one".into(),
            detail: "x".repeat(100),
        };
        let events = vec![event; 10_000];
        let line = |process: u32| (format!("orders-{process}/sidecar"), "y".repeat(200));
        let logs = Log::of((0..400).flat_map(|process| (0..100).map(move |_| line(process))));
        let page = of(&report, &Sources { events: &events, logs, ..Sources::default() });
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        let data = data(&page);
        assert_eq!(data["cpu"]["lines"].as_array().map(Vec::len), Some(12));
        assert_eq!((&data["cpu"]["left_out"], &data["events_left_out"]), (&388.into(), &9_600.into()));
        let busiest = "a-service-with-a-long-name-400/sidecar";
        assert_eq!(data["cpu"]["lines"][0]["name"], busiest);
        let resident = data["memory"]["lines"][0]["values"].as_array().expect("values");
        assert!(resident.iter().all(Value::is_number), "{resident:?}");
    }

    #[test]
    fn the_topology_follows_the_calls() {
        let data = data(&of(&passing(), &Sources::default()));
        let topology = &data["topology"];
        assert_eq!(topology["edges"][0]["from"], "web");
        assert_eq!(topology["edges"][0]["to"], "orders");
        let column = |name: &str| {
            let services = topology["services"].as_array().expect("services");
            services.iter().find(|s| s["name"] == name).expect("the service")["column"].clone()
        };
        assert_eq!((column("web"), column("orders")), (0.into(), 1.into()));
        assert_eq!(data["faults"][0]["kind"], "kill");
        assert_eq!(data["faults"][0]["instances"], serde_json::json!(["orders-1"]));
    }
}
