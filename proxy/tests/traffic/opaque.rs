//! Opaque connections: who speaks first, which server name leads where, what is counted.

use crate::common::{SERVICE, TestNet, app, cluster, inbound, nobody, outbound, pair, run};
use proxy::telemetry::Metrics;

/// A ClientHello for `name`, and some more bytes.
pub fn hello(name: &str) -> Vec<u8> {
    fn vector(bytes: usize, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&length[4 - bytes..], body].concat()
    }
    let names = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &vector(2, &names)].concat();
    let head = [&[3, 3][..], &[7; 32], &[0], &vector(2, &[0x13, 1]), &vector(1, &[0])].concat();
    let message = [&[1][..], &vector(3, &[head, vector(2, &extensions)].concat())].concat();
    [&[0x16, 3, 1][..], &vector(2, &message), b"more"].concat()
}

/// An app that says its name and how many bytes it was sent.
async fn counting(name: &'static str) -> std::net::SocketAddr {
    app(move |_, mut wire| async move {
        let said = wire.rest().await;
        wire.send(&format!("{name}: {}", said.len())).await;
    })
    .await
}

async fn say(side: &crate::common::Side, bytes: &[u8]) -> String {
    use tokio::io::AsyncWriteExt;
    let mut client = side.client().await;
    client.io.write_all(bytes).await.unwrap();
    client.io.shutdown().await.unwrap();
    String::from_utf8(client.rest().await).unwrap()
}

#[test]
fn an_undeclared_server_is_heard_without_the_time_out_and_remembered_by_both_sidecars() {
    run(async {
        let app = app(|_, mut wire| async move { wire.send("220 hello\r\n").await }).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'\ntimeouts.detect = '1h'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &cluster("detect", &[app], "timeouts.detect = '1h'")).await;
        for _ in 0..2 {
            assert_eq!(near.client().await.rest().await, b"220 hello\r\n");
        }
        for side in [&near, &far] {
            side.at_rest().await;
            let count = |name, result| side.count(name, &[result]);
            assert_eq!(count("proxy_detections_total", "\"server_first\""), 1);
            assert_eq!(count("proxy_detections_total", "known_server_first"), 1);
            assert_eq!(count("proxy_server_first_races_total", "server_first"), 1);
            assert_eq!(side.count("proxy_tcp_bytes_received_total", &[]), 22);
        }
    });
}

#[test]
fn a_slow_http_client_is_served_as_http_and_the_connection_that_was_dialled_for_nothing_is_counted() {
    run(async {
        let (near, far) =
            pair(crate::common::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await).await;
        let mut client = near.client().await;
        crate::common::until("the server was dialled", || near.count("proxy_connects_total", &[]) == 1).await;
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!(near.count("proxy_server_first_races_total", &["unused"]), 1);
        near.at_rest_without(client).await;
        far.at_rest().await;
        assert_eq!(near.count("proxy_detections_total", &["http1"]), 1);
        assert_eq!(far.count("proxy_detections_total", &["closed"]), 1);
    });
}

#[test]
fn a_slow_opaque_client_gets_the_connection_that_was_dialled() {
    run(async {
        let (near, far) = pair(counting("app").await).await;
        let mut client = near.client().await;
        crate::common::until("the app was dialled", || far.count("proxy_connects_total", &[]) == 1).await;
        client.send("*1\r\n").await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.io).await.unwrap();
        assert_eq!(client.rest().await, b"app: 4");
        for side in [&near, &far] {
            side.at_rest().await;
            assert_eq!(side.count("proxy_server_first_races_total", &["client_first"]), 1);
            assert_eq!(side.count("proxy_connects_total", &[]), 1);
        }
    });
}

#[test]
fn tls_to_an_address_of_no_cluster_goes_where_its_server_name_leads() {
    run(async {
        let (named, wild, direct) =
            (counting("named").await, counting("wild").await, counting("direct").await);
        let config = |more: &str| {
            format!(
                "service = 'web'\n{more}\n[[cluster]]\nname = 'db'\naddresses = []\nsni = ['db.example']\n\
                 endpoints = ['{named}']\n[[cluster]]\nname = 'wild'\naddresses = []\nsni = ['*.example']\n\
                 endpoints = ['{wild}']\n"
            )
        };
        let near = outbound(TestNet::to(&direct.to_string()), &config("")).await;
        for (name, expected) in [("DB.example", "named"), ("a.example", "wild"), ("other.test", "direct")] {
            let bytes = hello(name);
            assert_eq!(say(&near, &bytes).await, format!("{expected}: {}", bytes.len()));
        }
        assert_eq!(say(&near, b"\0plain").await, "direct: 6");
        near.at_rest().await;
        assert_eq!(near.count("proxy_tls_hellos_total", &["\"sni\""]), 3);
        let sent = |cluster| near.count("proxy_tcp_bytes_sent_total", &[cluster]);
        assert_eq!(sent("\"db\""), hello("db.example").len() as u64);
        assert_eq!(sent("passthrough"), hello("other.test").len() as u64 + 6);

        let closed = outbound(TestNet::to(&direct.to_string()), &config("passthrough = false")).await;
        assert_eq!(say(&closed, &hello("db.example")).await, format!("named: {}", hello("db.example").len()));
        let mut refused = closed.client().await;
        refused.send("\0plain").await;
        assert_eq!(refused.rest().await, b"");
        closed.at_rest().await;
        assert_eq!(closed.count("proxy_connections_refused_total", &["no_route"]), 1);
    });
}

#[test]
fn the_counters_of_an_untouched_sidecar_are_there_and_zero() {
    let metrics = Metrics::default();
    metrics.side("outbound");
    metrics.cluster("outbound", "orders");
    let text = metrics.text();
    for name in
        ["tcp_bytes_sent", "tcp_bytes_received", "tcp_bytes_spliced", "tls_hellos", "server_first_races"]
    {
        assert!(
            text.lines().any(|l| l.starts_with(&format!("proxy_{name}_total{{")) && l.ends_with(" 0")),
            "{text}"
        );
    }
}

#[test]
fn an_opaque_connection_connects_again_under_the_conditions_of_retries() {
    run(async {
        for (retry, attempts, why) in [
            ("retry = { attempts = 2, base = '1ms' }", 3, "attempts"),
            ("retry = { attempts = 2, base = '1ms', on = ['reset'] }", 1, ""),
            ("retry = { attempts = 2, base = '1ms' }\nlimits.retries = 0", 1, "limit"),
            // Who wants no retries is not told that there were none.
            ("retry.attempts = 0", 1, ""),
        ] {
            let dead = [nobody(), nobody(), nobody(), nobody()];
            let near = outbound(TestNet::to(SERVICE), &retried(&dead, retry)).await;
            near.client().await.closed().await;
            near.at_rest().await;
            assert_eq!(near.count("proxy_connect_failures_total", &[]), attempts, "{retry}");
            assert_eq!(near.count("proxy_retries_total", &["connect-failure"]), attempts - 1, "{retry}");
            let label = format!("\"{why}\"");
            let denied = |labels| near.count("proxy_retries_denied_total", labels);
            assert_eq!(denied(&[]), u64::from(!why.is_empty()), "{retry}");
            assert!(why.is_empty() || denied(&[&label]) == 1, "{retry}");
        }
    });
}

#[test]
fn a_client_that_closes_before_its_first_byte_costs_the_server_nothing_and_is_no_error() {
    run(async {
        let served = app(|_, mut wire| async move { drop(wire.rest().await) }).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("detect", &[served], "")).await;
        // Both ends of it are there before the sidecar can look.
        drop(std::net::TcpStream::connect(near.at).unwrap());
        crate::common::until("it was seen", || near.count("proxy_detections_total", &["\"closed\""]) == 1)
            .await;
        near.at_rest().await;
        assert_eq!(near.count("proxy_connects_total", &[]), 0);
        assert_eq!(near.count("proxy_errors_total", &[]), 0);
    });
}

#[test]
fn nobody_waits_for_first_bytes_where_no_server_name_leads_anywhere() {
    run(async {
        let direct = counting("direct").await;
        let named =
            "[[cluster]]\nname = 'db'\naddresses = []\nsni = ['db.example']\nendpoints = ['10.0.0.1:1']\n";
        let opaque = format!("opaque_ports = [{}]\n{named}", direct.port());
        for (config, detections) in [("", 0), (&*opaque, 0), (named, 1)] {
            let near =
                outbound(TestNet::to(&direct.to_string()), &format!("service = 'web'\n{config}")).await;
            assert_eq!(say(&near, b"\0plain").await, "direct: 6");
            near.at_rest().await;
            assert_eq!(near.count("proxy_detections_total", &[]), detections, "{config}");
        }
    });
}

#[test]
fn a_connection_of_the_sidecars_own_is_refused_as_a_loop_and_closed() {
    run(async {
        let net = TestNet::to(SERVICE).with_own_clients();
        let near = outbound(net, &cluster("tcp", &[counting("app").await], "")).await;
        near.client().await.closed().await;
        near.at_rest().await;
        assert_eq!(near.count("proxy_connections_refused_total", &["\"loop\""]), 1);
        assert_eq!(near.count("proxy_connects_total", &[]), 0);
    });
}

#[test]
fn an_endpoint_without_any_opaque_connection_gets_one_whatever_the_others_have() {
    run(async {
        let served = || app(|_, mut wire| async move { drop(wire.rest().await) });
        let config = retried(&[served().await, served().await], "retry.attempts = 0\nlimits.connections = 1");
        two_are_carried_and_a_third_is_not(&config).await;
    });
}

#[test]
fn opaque_connections_count_against_the_limit_of_their_cluster() {
    run(async {
        let served = app(|_, mut wire| async move { drop(wire.rest().await) }).await;
        let config = retried(&[served], "retry.attempts = 0\nlimits.connections = 2");
        two_are_carried_and_a_third_is_not(&config).await;
    });
}

async fn two_are_carried_and_a_third_is_not(config: &str) {
    let near = outbound(TestNet::to(SERVICE), config).await;
    let mut open = Vec::new();
    for n in 1..=2 {
        open.push(near.client().await);
        crate::common::until("it is open", || near.count("proxy_upstream_connections_open", &[]) == n).await;
    }
    near.client().await.closed().await;
    assert_eq!(near.count("proxy_limited_total", &["connections"]), 1);
    drop(open);
    near.at_rest().await;
}

/// A cluster of opaque bytes, with keys of its own.
fn retried(endpoints: &[std::net::SocketAddr], own: &str) -> String {
    cluster("tcp", endpoints, "") + own + "\n"
}
