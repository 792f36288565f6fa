use super::*;

fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_sample_line_is_read_with_all_its_freedoms() {
    for (line, name, expected, value) in [
        ("up 1", "up", &[][..], 1.0),
        ("  up   1  ", "up", &[], 1.0),
        ("a:b_c{} 2", "a:b_c", &[], 2.0),
        ("a{b=\"c\"} 1.5e3 1395066363000", "a", &[("b", "c")], 1500.0),
        ("a { b = \"c\" , d=\"e\", } -2E-1", "a", &[("b", "c"), ("d", "e")], -0.2),
        (
            r#"a{p="C:\\D",q="say \"hi\"\n",r="x}y,z=1"} 3"#,
            "a",
            &[("p", r"C:\D"), ("q", "say \"hi\"\n"), ("r", "x}y,z=1")],
            3.0,
        ),
        (r#"a{p="\d"} 3"#, "a", &[("p", r"\d")], 3.0),
        ("a_bucket{le=\"+Inf\"} 17 # {trace_id=\"x\"} 0.67", "a_bucket", &[("le", "+Inf")], 17.0),
        ("a +Inf", "a", &[], f64::INFINITY),
        ("a -Inf", "a", &[], f64::NEG_INFINITY),
        ("größe 1", "", &[], 0.0),
        ("a", "", &[], 0.0),
        ("a{b=\"c\" 1", "", &[], 0.0),
        ("a{b=c} 1", "", &[], 0.0),
        ("a{b=\"c\"} one", "", &[], 0.0),
        ("9a 1", "", &[], 0.0),
        ("", "", &[], 0.0),
        ("# HELP a 1", "", &[], 0.0),
        ("# EOF", "", &[], 0.0),
    ] {
        let found = parse("web/sidecar", line);
        if name.is_empty() {
            assert_eq!(found, [], "{line}");
            continue;
        }
        assert!(expected.iter().all(|(name, value)| found[0].labels.has(name, value)), "{line}");
        assert!(!found[0].labels.has("b", "") && !found[0].labels.has("x", "y"), "{line}");
        let labels = expected.iter().copied().collect();
        let expected = Sample { process: "web/sidecar".into(), name: name.into(), labels, value };
        assert_eq!(found, [expected], "{line}");
    }
    assert!(parse("p", "a NaN")[0].value.is_nan());
}

#[test]
fn a_counter_that_is_announced_and_silent_is_zero() {
    let text = "# HELP retries Retries.\n# TYPE retries counter\n# TYPE failures_total counter\n\
                # TYPE used counter\nused_total{to=\"a\"} 4\n# TYPE depth gauge\n# EOF\n";
    let found: Vec<(Arc<str>, f64)> = parse("p", text).into_iter().map(|s| (s.name, s.value)).collect();
    assert_eq!(
        found,
        [("used_total".into(), 4.0), ("retries_total".into(), 0.0), ("failures_total".into(), 0.0)]
    );
}

/// Scrapes of one process every 10 us from 0; `None` if it did not answer. Each is `n_total`,
/// `m_total{k="v"}`.
fn series(scrapes: &[Option<(f64, f64)>]) -> Series {
    let mut series = Series::default();
    for (at, scrape) in (0..).step_by(10).zip(scrapes) {
        let text = scrape.map(|(n, m)| format!("n_total {n}\nm_total{{k=\"v\"}} {m}\nlevel {n}\n"));
        let samples = text.map(|t| parse("a/app", &t)).unwrap_or_default();
        series.push(&"a/app".into(), (at, at + 2), samples);
    }
    series
}

#[test]
fn a_window_counts_from_the_first_scrape_that_begins_in_it_to_the_last_that_ends_in_it() {
    let s = series(&[Some((5.0, 0.0)), Some((7.0, 0.0)), Some((10.0, 0.0)), Some((20.0, 0.0))]);
    for (from, to, expected) in [
        (10, 22, Some(3.0)),
        (9, 32, Some(13.0)),
        // What was counted before the first scrape or after the last may lie outside.
        (1, 31, Some(3.0)),
        (11, 40, Some(10.0)),
        // One scrape alone shows no growth.
        (9, 21, None),
        (12, 19, None),
        (25, 1_000, None),
        // Before it was looked at for the first time, it was not there.
        (-5, 2, Some(5.0)),
        (i64::MIN, i64::MAX, Some(20.0)),
        (-20, -10, None),
    ] {
        assert_eq!(s.increase("a/app", "n_total", &[], from, to), expected, "{from}..{to}");
    }
    assert_eq!(s.increase("a/app", "unknown_total", &[], 0, 40), None);
    assert_eq!(s.increase("b/app", "n_total", &[], 0, 40), None);
}

#[test]
fn what_was_counted_before_a_window_never_counts_in_it_also_if_a_scrape_fails() {
    let s = series(&[Some((5.0, 0.0)), None, Some((7.0, 0.0)), Some((9.0, 0.0))]);
    assert_eq!(s.increase("a/app", "n_total", &[], 10, 32), Some(2.0));
    // The whole run is another matter.
    assert_eq!(s.increase("a/app", "n_total", &[], i64::MIN, i64::MAX), Some(9.0));
    let mut s = Series::default();
    for (at, text) in [(0, "n_total 1"), (10, "n_total 2"), (20, "n_total 2\nn_total{k=\"v\"} 3")] {
        s.push(&"a/app".into(), (at, at), parse("a/app", text));
    }
    // It shows up for the first time in a process that had shown that it was not there.
    assert_eq!(s.increase("a/app", "n_total", &labels(&[("k", "v")]), 10, 20), Some(3.0));
}

#[test]
fn a_restart_adds_what_the_new_process_counts_to_what_the_old_one_had() {
    let s = series(&[Some((5.0, 1.0)), Some((9.0, 2.0)), None, Some((2.0, 3.0)), Some((6.0, 4.0))]);
    // 0 to 9 in the first life, 0 to 6 in the second.
    assert_eq!(s.increase("a/app", "n_total", &[], 0, 42), Some(15.0));
    assert_eq!(s.increase("a/app", "n_total", &[], 10, 42), Some(6.0));
    assert_eq!(s.increase("a/app", "n_total", &[], 10, 22), Some(0.0));
    // It was not there when the window began.
    assert_eq!(s.increase("a/app", "n_total", &[], 20, 42), Some(6.0));
    // m went from 2 to 3, but n proves that it began again at 0.
    assert_eq!(s.increase("a/app", "m_total", &[], 10, 42), Some(4.0));
    assert_eq!(s.scrapes("a/app", 0, 42), 4);
    assert_eq!(s.scrapes("a/app", 11, 29), 0);
}

#[test]
fn values_of_all_processes_and_label_sets_that_match_are_summed() {
    let mut s = Series::default();
    for (at, n) in [(0, 1.0), (10, 4.0)] {
        for process in ["orders-0/app", "orders-1/app", "web/app"] {
            let text = format!(
                "n_total{{code=\"200\",to=\"x\"}} {n}\nn_total{{code=\"503\"}} {}\nlevel {n}\n",
                n * 2.0
            );
            s.push(&process.into(), (at, at), parse(process, &text));
        }
    }
    let increase = |glob, l: &[(&str, &str)]| s.increase(glob, "n_total", &labels(l), 0, 10);
    assert_eq!(increase("orders-*/app", &[("code", "200")]), Some(8.0));
    assert_eq!(increase("orders-*/app", &[]), Some(24.0));
    assert_eq!(increase("web/app", &[("code", "503")]), Some(8.0));
    // The metric exists, only not with these labels: none so far.
    assert_eq!(increase("web/app", &[("code", "418")]), Some(0.0));
    assert_eq!(s.last("orders-*/app", "level", &[], 0, 10), Some(8.0));
    assert_eq!(s.names("web/*").into_iter().collect::<Vec<_>>(), ["level", "n_total"]);
}

#[test]
fn a_gauge_needs_a_value_within_the_window() {
    let s = series(&[Some((5.0, 1.0)), None, Some((7.0, 1.0)), None]);
    for (from, to, expected) in
        [(0, 5, Some(5.0)), (1, 19, None), (0, 22, Some(7.0)), (0, 21, Some(5.0)), (15, 99, Some(7.0))]
    {
        assert_eq!(s.last("a/app", "level", &[], from, to), expected, "{from}..{to}");
    }
}

#[test]
fn in_the_world_itself_a_counter_that_goes_down_speaks_for_itself_alone() {
    let mut s = Series::default();
    for (at, (packets, starts)) in (0..).step_by(10).zip([(5, 3), (9, 3), (2, 4)]) {
        let text = format!("link_packets_total {packets}\nprocess_starts_total {starts}\n");
        s.push(&"fabric".into(), (at, at), parse("fabric", &text));
    }
    assert_eq!(s.increase("fabric", "link_packets_total", &[], 0, 20), Some(11.0));
    assert_eq!(s.increase("fabric", "process_starts_total", &[], 0, 20), Some(4.0));
}

#[test]
fn growth_is_told_from_each_scrape_that_was_answered_to_the_next() {
    let s = series(&[Some((5.0, 1.0)), Some((7.0, 1.0)), None, Some((10.0, 1.0)), Some((2.0, 1.0))]);
    let grown: Vec<_> = s.growth("a/app", "n_total").iter().map(|g| (g.span_us, g.by)).collect();
    assert_eq!(grown, [((2, 12), 2.0), ((12, 32), 3.0), ((32, 42), 2.0)]);
    let (_, shown) = &s.shown("a/app", "level")[0];
    assert_eq!(shown[..], [(2, 5.0), (12, 7.0), (32, 10.0), (42, 2.0)]);
}
