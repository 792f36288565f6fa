//! An app that speaks TLS by itself: the sidecars see a ClientHello and carry bytes; the
//! certificate that the client checks is the app's own.

use crate::mesh::{POEM, turn};

#[test]
fn curl_speaks_tls_with_the_app_itself_and_agrees_on_http_2_or_http_1_1() {
    let Some(mesh) = turn() else { return };
    let trusted = mesh.dir().join("cert.pem");
    let ((), passed) = mesh.watch("secure", || {
        for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
            let argv = [
                "curl",
                "--fail",
                "-sS",
                option,
                "--cacert",
                &trusted.to_string_lossy(),
                "--write-out",
                "\n%{http_version}",
                "https://secure:8443/poem.txt",
            ];
            let said = mesh.client(&argv);
            assert_eq!(said, format!("{}\n{version}", POEM.repeat(1000)));
        }
    });
    passed.as_bytes(2);
    assert_eq!(
        [
            passed.out("proxy_detections_total", &[("result", "tls")]),
            passed.inward("proxy_detections_total", &[("result", "tls")])
        ],
        [2.0, 2.0]
    );
}

#[test]
fn a_client_that_trusts_another_certificate_refuses_the_app() {
    let Some(mesh) = turn() else { return };
    let (refused, passed) =
        mesh.watch("secure", || mesh.output(&["curl", "-sS", "https://secure:8443/poem.txt"]));
    // The peer's certificate cannot be authenticated.
    assert_eq!(refused.status.code(), Some(60), "{refused:?}");
    passed.as_bytes(1);
}

#[test]
fn openssl_speaks_tls_1_2_and_1_3_with_the_app_and_closes_in_order() {
    let Some(mesh) = turn() else { return };
    let trusted = mesh.dir().join("cert.pem");
    let ((), passed) = mesh.watch("secure", || {
        for version in ["-tls1_2", "-tls1_3"] {
            // Without ALPN this server speaks HTTP/1.1. The answer ends with the connection.
            let line = "printf 'GET /poem.txt HTTP/1.1\\r\\nHost: secure\\r\\nConnection: close\\r\\n\\r\\n' | \
                        openssl s_client -quiet -verify_return_error -verify_hostname secure -CAfile \"$1\" \
                        -servername secure -connect secure:8443 \"$2\" 2>/dev/null";
            let said = mesh.shell(line, &[&trusted.to_string_lossy(), version]);
            assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said:.300}");
            assert!(said.ends_with(&POEM.repeat(1000)), "{said:.300}");
        }
    });
    passed.as_bytes(2);
    assert_eq!(passed.detected("tls"), 4.0);
}
