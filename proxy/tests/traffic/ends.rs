//! How the end of a connection crosses two sidecars: the table of `docs/sidecar.md`. Each row is played directly and through
//! the sidecars; where the two differ, the page says why. The same table is played in the simulator and on the kernel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::world::{KernelNet, Net};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{SERVICE, Side, TestNet, app, cluster, inbound, nobody, outbound, pair, run, until};
use crate::table::*;

/// A server that does as it is told, and its address.
async fn staged() -> (Stage, SocketAddr) {
    let stage = Stage::default();
    let part = stage.clone();
    let at = app(move |_, wire| {
        let part = part.clone();
        async move { part.serve(wire.io).await }
    })
    .await;
    (stage, at)
}

/// Opens connections to an address.
fn to(at: SocketAddr) -> impl Fn() -> Dialling {
    move || Box::pin(async move { KernelNet::default().connect(at, None).await })
}

type Dialling = std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>>;

/// Nothing went wrong.
fn right(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two sidecars between a client and `server`, which speaks what nobody declared but that it is TCP.
async fn opaque(server: SocketAddr, splices: bool) -> (Side, Side) {
    let net = |to: &str| if splices { TestNet::to(to).splicing() } else { TestNet::to(to) };
    let far = format!("service = 'orders'\nopaque_ports = [{}]", server.port());
    let far = inbound(net(&server.to_string()), &far).await;
    let near = outbound(net(SERVICE).redirect(server, far.at), &cluster("tcp", &[server], "")).await;
    (near, far)
}

/// Enough to be spliced.
const BULK: usize = 2 << 20;

#[test]
fn every_end_of_an_opaque_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        right(opaque_rows(&stage, to(server), &[], &[]).await);
        let (near, far) = opaque(server, false).await;
        right(opaque_rows(&stage, to(near.at), &[], &[]).await);
        near.at_rest().await;
        far.at_rest().await;
        assert_eq!(near.count("proxy_tcp_bytes_spliced_total", &[]), 0);
    });
}

#[test]
fn every_end_of_a_spliced_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = opaque(server, true).await;
        let bulk = ([Bulk(BULK), Swallow(BULK)], [Swallow(BULK), Bulk(BULK)]);
        right(opaque_rows(&stage, to(near.at), &bulk.0, &bulk.1).await);
        near.at_rest().await;
        far.at_rest().await;
        assert!(near.count("proxy_tcp_bytes_spliced_total", &[]) > BULK as u64);
    });
}

#[test]
fn a_connection_that_a_limit_cuts_is_reset_on_both_sides_and_so_is_one_that_nobody_takes() {
    run(async {
        let (stage, server) = staged().await;
        let net = TestNet::to(SERVICE);
        for (limit, client) in [("tcp_idle", &[Rest][..]), ("half_close", &[Finish, Rest, Meet])] {
            let near =
                outbound(net.clone(), &cluster("tcp", &[server], &format!("timeouts.{limit} = '50ms'")))
                    .await;
            let part = if limit == "tcp_idle" { &[Rest][..] } else { &[Rest, Meet, Push] };
            let heard = stage.play(to(near.at)(), client, part).await;
            assert!(same(&heard, [Some(("", Reset)), Some(("", Reset))]), "{limit}: {heard:?}");
            near.at_rest().await;
        }
        let near = outbound(net, &cluster("tcp", &[nobody()], "retry.attempts = 0")).await;
        let mut client = near.client().await;
        assert_eq!(hear(&mut client.io).await, (String::new(), Reset));
    });
}

#[test]
fn every_end_of_a_tunnel_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = pair(server).await;
        right(tunnel_rows(&stage, to(server)).await);
        right(tunnel_rows(&stage, to(near.at)).await);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn every_end_of_an_http_connection_is_what_it_is_without_sidecars_or_what_the_page_says() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        // Each row has one try, and those before do not matter.
        let once = "retry.attempts = 0\nbreaker = { consecutive_failures = 0, success_rate = '0%' }";
        let near = outbound(net, &cluster("detect", &[server], once)).await;
        right(http_rows(&stage, to(server), true).await);
        right(http_rows(&stage, to(near.at), false).await);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_request_that_is_cut_off_by_a_fin_is_reset_at_the_app_which_directly_sees_the_fin() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = pair(server).await;
        let client = [Say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf"), Meet, Finish, Rest];
        let part = [HEAD, Hear("half"), Meet, Rest];
        let [_, heard] = stage.play(to(server)(), &client, &part).await;
        assert_eq!(heard, Ok(Some((String::new(), Fin))));
        let [_, heard] = stage.play(to(near.at)(), &client, &part).await;
        assert_eq!(heard, Ok(Some((String::new(), Reset))));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_bridged_client_that_half_closes_gets_its_answer_and_the_app_does_not_hear_of_it() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        let near = outbound(net, &(cluster("http", &[server], "") + "bridge = true\n")).await;
        for ask in ["GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let client = [Say(ask), Finish, Meet, Rest];
            let [heard, _] = stage.play(to(near.at)(), &client, &[HEAD, Meet, WHOLE]).await;
            let (text, end) = heard.unwrap().unwrap();
            assert!(text.contains("halfhalf") && end == Fin, "{text} {end:?}");
            (near.clear)();
            (far.clear)();
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn requests_that_were_pipelined_before_a_half_close_are_all_answered_and_the_connection_then_ends() {
    run(async {
        let served = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let path = request.head.split(' ').nth(1).unwrap().to_owned();
                tokio::time::sleep(Duration::from_millis(3)).await;
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
            }
        })
        .await;
        let (near, far) = pair(served).await;
        let mut client = near.client().await;
        let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.send(&[ask("/one"), ask("/two"), ask("/three")].concat()).await;
        client.io.shutdown().await.unwrap();
        for path in ["/one", "/two", "/three"] {
            assert_eq!(client.response(false).await.text(), path);
        }
        assert_eq!(hear(&mut client.io).await, (String::new(), Fin));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn an_opaque_connection_keeps_nothing_of_a_configuration_that_is_not_in_force_any_more() {
    run(async {
        let served = app(|_, mut wire| async move {
            wire.rest().await;
        })
        .await;
        let config = |more: &str| cluster("tcp", &[served], more);
        let near = outbound(TestNet::to(SERVICE), &config("")).await;
        let mut client = near.client().await;
        client.send("hello").await;
        until("it is carried", || near.count("proxy_tcp_bytes_sent_total", &[]) == 5).await;
        let old = Arc::downgrade(&near.table.load_full());
        near.reload(&config("timeouts.connect = '2s'"));
        until("the old table is gone", || old.strong_count() == 0).await;
        client.send("and more").await;
        until("it is still carried", || near.count("proxy_tcp_bytes_sent_total", &[]) == 13).await;
        drop(client);
        near.at_rest().await;
    });
}
