//! The two text formats of a scrape: OpenMetrics 1.0, as the registry writes it, and the older text
//! format 0.0.4, which everything else that reads metrics understands. A client says which by
//! `Accept`.

use http::HeaderMap;
use http::header::ACCEPT;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Prometheus,
}

impl Format {
    /// What a client wants: the one that it prefers (RFC 9110 section 12.5.1), OpenMetrics if it
    /// does not care.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<&str> = ranges.flat_map(|value| value.split(',')).collect();
        let weight = |names: [&str; 2]| {
            let weights = ranges.iter().filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?;
                let position = names.iter().position(|known| name.eq_ignore_ascii_case(known))?;
                let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
                Some((position, q.map_or(1.0, |q| q.parse().unwrap_or(0.0))))
            });
            // The exact name counts before the range.
            weights.min_by_key(|(position, _)| *position).map_or(0.0, |(_, q): (_, f64)| q)
        };
        let plain = weight(["text/plain", "text/*"]);
        if plain > weight(["application/openmetrics-text", "application/*"]) {
            Format::Prometheus
        } else {
            Format::OpenMetrics
        }
    }

    /// As `Content-Type` says it.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics text as the text format 0.0.4: there a counter is called what its samples are
/// called, and there are no units and no end mark.
pub fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let (mut help, mut family) = (None, "");
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (keyword, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        match keyword {
            "HELP" => (help, family) = (Some(rest), name),
            "TYPE" => {
                let suffix = if rest == "counter" { "_total" } else { "" };
                let kind = if rest == "unknown" { "untyped" } else { rest };
                if let Some(help) = help.take().filter(|_| family == name) {
                    text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            _ => {}
        }
    }
    text
}

/// The registry keeps the label sets of a metric in a randomly seeded hash map. Simulated runs must
/// repeat byte for byte, and people compare two scrapes with `diff`, so label sets are sorted
/// within each metric; the lines of one label set keep their order, as the buckets of a histogram
/// must.
pub(super) fn in_stable_order(text: &str) -> String {
    fn labels(line: &str) -> &str {
        let labels = line.find('{').map_or("", |at| &line[at + 1..]);
        let labels = labels.rfind('}').map_or("", |at| &labels[..at]);
        // The encoder writes the bound of a bucket before the labels of its set.
        let Some((_, rest)) = labels.strip_prefix("le=\"").and_then(|bucket| bucket.split_once('"')) else {
            return labels;
        };
        rest.trim_start_matches(',')
    }
    let mut out = String::with_capacity(text.len());
    let mut block: Vec<(&str, &str)> = Vec::new();
    for line in text.lines().chain(["# EOF"]) {
        if line.starts_with('#') {
            block.sort_by_key(|(labels, _)| *labels);
            for (_, line) in block.drain(..) {
                out.push_str(line);
                out.push('\n');
            }
            if line != "# EOF" {
                out.push_str(line);
                out.push('\n');
            }
        } else {
            block.push((labels(line), line));
        }
    }
    out.push_str("# EOF\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/html, */*", Format::OpenMetrics),
            (prometheus, Format::OpenMetrics),
            ("text/plain", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("text/*", Format::Prometheus),
            ("TEXT/PLAIN; q=0.9, application/openmetrics-text; q=0.2", Format::Prometheus),
            ("text/plain;q=0, application/openmetrics-text", Format::OpenMetrics),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]);
            assert_eq!(Format::accepted(&headers), expected, "{accept}");
        }
        assert_eq!(Format::accepted(&HeaderMap::new()), Format::OpenMetrics);
    }

    #[test]
    fn the_older_format_names_counters_by_their_samples_and_knows_no_units() {
        let open = "# HELP a Requests.\n# TYPE a counter\na_total{x=\"1 # HELP\"} 2\n\
                    # HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 1.5\n# EOF\n";
        assert_eq!(
            prometheus_text(open),
            "# HELP a_total Requests.\n# TYPE a_total counter\na_total{x=\"1 # HELP\"} 2\n\
             # HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 1.5\n"
        );
    }
}
