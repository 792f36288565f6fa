//! curl and nginx: every version of HTTP that curl speaks in clear text, and bodies of a gibibyte.

use tokio::time::Instant;

use crate::mesh::{Mesh, PAYLOAD_BYTES, POEM, turn};

const FILES: &str = "http://files:8080";
/// Where nginx speaks HTTP/2 only.
const MULTI: &str = "http://multi:8081";

/// The options of every curl: no progress, errors in words, and a status of 400 or more is one.
const CURL: [&str; 3] = ["curl", "--fail", "-sS"];

fn curl(mesh: &Mesh, arguments: &[&str]) -> String {
    mesh.client(&[&CURL[..], arguments].concat())
}

fn poem() -> String {
    POEM.repeat(1000)
}

#[test]
fn curl_gets_a_page_over_http_1_0() {
    let Some(mesh) = turn() else { return };
    let url = &format!("{FILES}/poem.txt");
    let (got, passed) = mesh.watch("files", || {
        assert_eq!(curl(&mesh, &["--http1.0", url]), poem());
        // Its length is not known beforehand, and such a client takes no chunks.
        assert_eq!(curl(&mesh, &["--http1.0", "--compressed", url]), poem());
        curl(&mesh, &["--http1.0", "--include", "--compressed", url])
    });
    let (head, _) = got.split_once("\r\n\r\n").expect("a head");
    let head = head.to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    passed.as_http("http1", 3, 3);
}

#[test]
fn curl_gets_many_pages_on_one_connection_over_http_1_1() {
    let Some(mesh) = turn() else { return };
    let url = &format!("{FILES}/poem.txt");
    let (said, passed) = mesh.watch("files", || {
        let count = ["--http1.1", "--write-out", "%{http_version} %{http_code} %{num_connects}\\n"];
        let each = ["-o", "/dev/null", url];
        curl(&mesh, &[&count[..], &each, &each, &["--compressed"], &each].concat())
    });
    assert_eq!(said, "1.1 200 1\n1.1 200 0\n1.1 200 0\n");
    passed.as_http("http1", 1, 3);
}

#[test]
fn curl_sees_heads_ranges_errors_and_unchanged_pages_as_the_server_sent_them() {
    let Some(mesh) = turn() else { return };
    let url = &format!("{FILES}/poem.txt");
    let tag = &format!("{}/files/tag", mesh.dir().display());
    let code = ["--write-out", "%{http_code} %{size_download}"];
    let ((), passed) = mesh.watch("files", || {
        let head = curl(&mesh, &["--head", url]).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains(&format!("\ncontent-length: {}\r", poem().len())), "{head}");
        assert_eq!(curl(&mesh, &["--range", "7-19", url]).as_bytes(), &poem().as_bytes()[7..20]);
        curl(&mesh, &["--etag-save", tag, "-o", "/dev/null", url]);
        let unchanged = curl(&mesh, &[&code[..], &["--etag-compare", tag, url]].concat());
        assert_eq!(unchanged, "304 0");
        let missing = mesh.client(
            &[
                &["curl", "-sS", "-o", "/dev/null"],
                &code[..1],
                &["%{http_code}"],
                &[&format!("{FILES}/missing")[..]],
            ]
            .concat(),
        );
        assert_eq!(missing, "404");
        let seen = curl(&mesh, &["-X", "PATCH", "-H", "X-Test: a, b", &format!("{FILES}/seen?q=%20/../x")]);
        assert_eq!(seen, "PATCH /seen?q=%20/../x test=a, b host=files:8080 expect=\n");
    });
    passed.as_http("http1", 6, 6);
}

#[test]
fn curls_get_pages_over_http_2_with_prior_knowledge_side_by_side() {
    let Some(mesh) = turn() else { return };
    // One page each: with prior knowledge curl 7.88 fails at the second one by itself, without any
    // sidecar.
    let line = "for i in {1..20}; do curl --fail -sS --http2-prior-knowledge --compressed -o /dev/null \
                --write-out '%{http_version} %{http_code}\n' \"$1\" & done; wait";
    let (said, passed) = mesh.watch("multi", || {
        let url = &format!("{MULTI}/poem.txt");
        let head = curl(&mesh, &["--http2-prior-knowledge", "--head", url]);
        assert!(head.starts_with("HTTP/2 200"), "{head}");
        assert_eq!(curl(&mesh, &["--http2-prior-knowledge", "--compressed", url]), poem());
        mesh.shell(line, &[url])
    });
    assert_eq!(said, "2 200\n".repeat(20));
    passed.as_http("http2", 22, 22);
}

#[test]
fn curl_waits_for_100_continue_before_it_sends_a_body() {
    let Some(mesh) = turn() else { return };
    let dir = mesh.dir().display();
    let ((), passed) = mesh.watch("files", || {
        let send = |to: &str| {
            // Longer than curl waits of its own accord: the body leaves only if the word comes.
            let line = "curl -sv --expect100-timeout 60 -H 'Expect: 100-continue' -T \"$1\" \"$2\" 2>&1 \
                        --write-out '\\nstatus %{http_code} sent %{size_upload}\\n'";
            mesh.shell(line, &[&format!("{dir}/files/poem.txt"), &format!("{FILES}{to}")])
        };
        let accepted = send("/up/poem");
        assert!(accepted.contains("< HTTP/1.1 100 Continue"), "{accepted}");
        assert!(accepted.contains(&format!("status 201 sent {}", poem().len())), "{accepted}");
        let arrived = std::fs::read_to_string(mesh.dir().join("nginx-files/up/poem")).expect("the upload");
        assert_eq!(arrived, poem());
        // nginx looks at the length and refuses; nobody in between may ask for the body.
        let refused = send("/small/poem");
        assert!(!refused.contains("100 Continue"), "{refused}");
        assert!(refused.contains("status 413 sent 0"), "{refused}");
    });
    passed.as_http("http1", 2, 2);
}

#[test]
fn curl_uploads_a_body_of_unknown_length() {
    let Some(mesh) = turn() else { return };
    for (service, url, version, detected) in
        [("files", FILES, "--http1.1", "http1"), ("multi", MULTI, "--http2-prior-knowledge", "http2")]
    {
        let ((), passed) = mesh.watch(service, || {
            mesh.shell(
                "head -c 40000000 \"$1\" | curl --fail -sS \"$2\" -T - \"$3\"",
                &[&mesh.payload().to_string_lossy(), version, &format!("{url}/up/stream")],
            );
        });
        let arrived = mesh.dir().join(format!("nginx-{service}/up/stream"));
        let same = "cmp --bytes=40000000 \"$1\" \"$2\" && stat --format=%s \"$2\"";
        let length = mesh.shell(same, &[&mesh.payload().to_string_lossy(), &arrived.to_string_lossy()]);
        assert_eq!(length, "40000000\n");
        passed.as_http(detected, 1, 1);
    }
}

/// Prints how fast it went.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    let mib = (PAYLOAD_BYTES >> 20) as f64;
    println!("{what}: {:.0} MiB/s", mib / begun.elapsed().as_secs_f64());
    result
}

const SUM: &str = "sha256sum \"$1\" | cut -d ' ' -f 1";

fn a_gibibyte_both_ways(service: &str, url: &str, version: &str, detected: &str) {
    let Some(mesh) = turn() else { return };
    let sum = mesh.shell(SUM, &[&mesh.payload().to_string_lossy()]);
    let ((), passed) = mesh.watch(service, || {
        let down = timed(&format!("download {version}"), || {
            let line = "curl --fail -sS \"$1\" \"$2\" | sha256sum | cut -d ' ' -f 1";
            mesh.shell(line, &[version, &format!("{url}/payload")])
        });
        assert_eq!(down, sum, "the download differs");
        timed(&format!("upload {version}"), || {
            curl(&mesh, &[version, "-T", &mesh.payload().to_string_lossy(), &format!("{url}/up/payload")]);
        });
        let arrived = mesh.dir().join(format!("nginx-{service}/up/payload"));
        assert_eq!(mesh.shell(SUM, &[&arrived.to_string_lossy()]), sum, "the upload differs");
        std::fs::remove_file(arrived).expect("the upload can go");
    });
    passed.as_http(detected, 2, 2);
}

#[test]
fn curl_moves_a_gibibyte_each_way_over_http_1_1_unchanged() {
    a_gibibyte_both_ways("files", FILES, "--http1.1", "http1");
}

#[test]
fn curl_moves_a_gibibyte_each_way_over_http_2_unchanged() {
    a_gibibyte_both_ways("multi", MULTI, "--http2-prior-knowledge", "http2");
}

#[test]
fn a_curl_that_gives_up_leaves_nothing_in_hand() {
    let Some(mesh) = turn() else { return };
    mesh.payload();
    for (service, url, version) in
        [("files", FILES, "--http1.1"), ("multi", MULTI, "--http2-prior-knowledge")]
    {
        let slowly = ["curl", "-sS", version, "--max-time", "1", "--limit-rate", "1M", "-o", "/dev/null"];
        let url = format!("{url}/payload");
        let gave_up = mesh.output(&[&slowly[..], &[&url[..]]].concat());
        // Operation timed out.
        assert_eq!(gave_up.status.code(), Some(28), "{gave_up:?}");
        mesh.wait_until_idle(service);
    }
}
