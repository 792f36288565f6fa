//! How the end of a connection crosses two sidecars: the table of `docs/sidecar.md`. Each row is played directly and through
//! the sidecars; where the two differ, the page says why.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy::world::{Abort, KernelNet, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, oneshot};

use crate::common::{SERVICE, Side, TestNet, app, cluster, inbound, outbound, pair, run, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}
use End::{Fin, Reset};

/// What one side does.
#[derive(Debug, Clone, Copy)]
enum Step {
    Say(&'static str),
    /// Sends so many bytes.
    Bulk(usize),
    /// Reads so many bytes.
    Swallow(usize),
    /// Reads up to and including this.
    Hear(&'static str),
    /// Waits until the other side is as far.
    Meet,
    /// Ends its half.
    Finish,
    /// Reads to the end, and notes it.
    Rest,
    /// Writes until that fails, and notes it as a reset.
    Push,
    Abort,
}
use Step::*;

/// What one side heard since it last looked for something, and how the stream then ended.
type Heard = Option<(String, End)>;

async fn hear(io: &mut TcpStream) -> (String, End) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match io.read(&mut piece).await {
            Ok(0) => return (String::from_utf8(bytes).unwrap(), Fin),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(_) => return (String::from_utf8(bytes).unwrap(), Reset),
        }
    }
}

async fn play(mut io: TcpStream, steps: Vec<Step>, meeting: Rc<Barrier>) -> Heard {
    let mut heard = None;
    for step in steps {
        match step {
            Say(text) => io.write_all(text.as_bytes()).await.unwrap(),
            Bulk(n) => io.write_all(&vec![b'b'; n]).await.unwrap(),
            Swallow(n) => drop(io.read_exact(&mut vec![0; n]).await.unwrap()),
            Hear(text) => {
                let mut bytes = Vec::new();
                while !bytes.ends_with(text.as_bytes()) {
                    bytes.push(io.read_u8().await.unwrap_or_else(|e| panic!("{e} before {text:?}")));
                }
            }
            Meet => {
                meeting.wait().await;
            }
            Finish => io.shutdown().await.unwrap(),
            Rest => heard = Some(hear(&mut io).await),
            Push => {
                while io.write_all(b"more").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                heard = Some((String::new(), Reset));
            }
            Abort => io.abort(),
        }
    }
    heard
}

/// For one row; no test waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server does on its next connection, and who is told what it heard.
type Script = (Vec<Step>, Rc<Barrier>, oneshot::Sender<Heard>);

/// A server that does as it is told.
struct Stage {
    server: SocketAddr,
    script: Rc<RefCell<Option<Script>>>,
}

impl Stage {
    async fn set() -> Stage {
        let script = Rc::<RefCell<Option<Script>>>::default();
        let next = script.clone();
        let server = app(move |_, wire| {
            let script = next.borrow_mut().take();
            async move {
                let Some((steps, meeting, told)) = script else { return };
                let _ = told.send(play(wire.io, steps, meeting).await);
            }
        })
        .await;
        Stage { server, script }
    }

    /// Client and server each do their part; `at` is the server or what stands before it.
    async fn play(&self, at: SocketAddr, client: &[Step], server: &[Step]) -> [Heard; 2] {
        let meeting = Rc::new(Barrier::new(2));
        let (told, heard) = oneshot::channel();
        *self.script.borrow_mut() = Some((server.to_vec(), meeting.clone(), told));
        let io = KernelNet::default().connect(at, None).await.unwrap();
        let both = async { [play(io, client.to_vec(), meeting).await, heard.await.unwrap()] };
        let ends = tokio::time::timeout(PATIENCE, both).await;
        ends.unwrap_or_else(|_| panic!("it does not end: {client:?} {server:?}"))
    }
}

/// A part of each side, and what one heard and the other.
type Row = (&'static str, &'static [Step], &'static [Step], [Option<(&'static str, End)>; 2]);

/// What holds for opaque bytes, whichever side begins: one side, the other, and what they hear.
const OPAQUE: &[Row] = &[
    ("FIN before a byte", &[Finish, Rest], &[Rest], [Some(("", Fin)), Some(("", Fin))]),
    ("RST before a byte", &[Meet, Abort], &[Meet, Rest], [None, Some(("", Reset))]),
    ("close after a part", &[Say("half"), Meet], &[Hear("half"), Meet, Rest], [None, Some(("", Fin))]),
    ("RST after a part", &[Say("half"), Meet, Abort], &[Hear("half"), Meet, Rest], [None, Some(("", Reset))]),
    (
        "half-close, and the answer comes later",
        &[Say("question"), Finish, Rest],
        &[Rest, Say("answer")],
        [Some(("answer", Fin)), Some(("question", Fin))],
    ),
    (
        "half-close, and the answer is reset",
        &[Say("question"), Finish, Hear("part"), Meet, Rest],
        &[Rest, Say("part"), Meet, Abort],
        [Some(("", Reset)), Some(("question", Fin))],
    ),
    ("RST after half-close", &[Finish, Meet, Abort], &[Rest, Meet, Push], [None, Some(("", Reset))]),
];

fn same(heard: &[Heard; 2], expected: [Option<(&str, End)>; 2]) -> bool {
    heard.iter().zip(expected).all(|(heard, expected)| match (heard, expected) {
        (_, None) => true,
        (Some((text, end)), Some((part, as_expected))) => *end == as_expected && text.contains(part),
        (None, Some(_)) => false,
    })
}

/// Two sidecars between a client and `server`, which speaks what nobody declared but that it is TCP.
async fn opaque(server: SocketAddr, splices: bool) -> (Side, Side) {
    let net = |to: &str| if splices { TestNet::to(to).splicing() } else { TestNet::to(to) };
    let far = format!("service = 'orders'\nopaque_ports = [{}]", server.port());
    let far = inbound(net(&server.to_string()), &far).await;
    let near = outbound(net(SERVICE).redirect(server, far.at), &cluster("tcp", &[server], "")).await;
    (near, far)
}

/// Plays all rows of opaque bytes behind a beginning of both sides.
async fn all_rows(stage: &Stage, at: SocketAddr, client: &[Step], server: &[Step]) {
    for (name, one, other, [first, second]) in OPAQUE {
        for swapped in [false, true] {
            let (mine, yours) = if swapped { (other, one) } else { (one, other) };
            let expected = if swapped { [*second, *first] } else { [*first, *second] };
            let (mine, yours) = ([client, mine].concat(), [server, yours].concat());
            let heard = stage.play(at, &mine, &yours).await;
            assert!(same(&heard, expected), "{name}, by the server {swapped}: {heard:?}");
        }
    }
}

/// Enough to be spliced.
const BULK: usize = 2 << 20;

#[test]
fn every_end_of_an_opaque_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let stage = Stage::set().await;
        all_rows(&stage, stage.server, &[], &[]).await;
        let (near, far) = opaque(stage.server, false).await;
        all_rows(&stage, near.at, &[], &[]).await;
        near.at_rest().await;
        far.at_rest().await;
        assert_eq!(near.count("proxy_tcp_bytes_spliced_total", &[]), 0);
    });
}

#[test]
fn every_end_of_a_spliced_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let stage = Stage::set().await;
        let (near, far) = opaque(stage.server, true).await;
        let bulk = ([Bulk(BULK), Swallow(BULK)], [Swallow(BULK), Bulk(BULK)]);
        all_rows(&stage, near.at, &bulk.0, &bulk.1).await;
        near.at_rest().await;
        far.at_rest().await;
        assert!(near.count("proxy_tcp_bytes_spliced_total", &[]) > BULK as u64);
    });
}

#[test]
fn a_connection_that_a_limit_cuts_is_reset_on_both_sides_and_so_is_one_that_nobody_takes() {
    run(async {
        let stage = Stage::set().await;
        let net = TestNet::to(SERVICE);
        for (limit, client) in [("tcp_idle", &[Rest][..]), ("half_close", &[Finish, Rest, Meet])] {
            let near = outbound(
                net.clone(),
                &cluster("tcp", &[stage.server], &format!("timeouts.{limit} = '50ms'")),
            )
            .await;
            let server = if limit == "tcp_idle" { &[Rest][..] } else { &[Rest, Meet, Push] };
            let heard = stage.play(near.at, client, server).await;
            assert!(same(&heard, [Some(("", Reset)), Some(("", Reset))]), "{limit}: {heard:?}");
            near.at_rest().await;
        }
        let near = outbound(net, &cluster("tcp", &[crate::common::nobody()], "retry.attempts = 0")).await;
        let mut client = near.client().await;
        assert_eq!(hear(&mut client.io).await, (String::new(), Reset));
    });
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const CONNECT: &str = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 OK\r\n\r\n";

#[test]
fn every_end_of_a_tunnel_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let stage = Stage::set().await;
        let (near, far) = pair(stage.server).await;
        for (ask, agree) in [(UPGRADE, SWITCHING), (CONNECT, CONNECTED)] {
            for at in [stage.server, near.at] {
                let client = [Say(ask), Hear("\r\n\r\n")];
                all_rows(&stage, at, &client, &[Hear("\r\n\r\n"), Say(agree)]).await;
            }
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

const HEAD: Step = Hear("\r\n\r\n");
const LENGTH: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf");
const WHOLE: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalfhalf");
/// Its end is that of the connection.
const OPEN: Step = Say("HTTP/1.0 200 OK\r\n\r\nhalf");

/// A client's part after its request and the server's after that; what they hear directly, and through sidecars if that is
/// something else.
type HttpRow = (
    &'static str,
    &'static [Step],
    &'static [Step],
    [Option<(&'static str, End)>; 2],
    Option<[Option<(&'static str, End)>; 2]>,
);

const HTTP: &[HttpRow] = &[
    (
        "half-close, and the answer comes later",
        &[Finish, Rest],
        &[HEAD, Rest, WHOLE],
        [Some(("halfhalf", Fin)), Some(("", Fin))],
        None,
    ),
    (
        "half-close in an answer",
        &[Hear("half"), Finish, Rest],
        &[HEAD, LENGTH, Rest, Say("half")],
        [Some(("half", Fin)), Some(("", Fin))],
        None,
    ),
    (
        "half-close, which the server takes for leaving",
        &[Finish, Rest],
        &[HEAD, Rest],
        [Some(("", Fin)), Some(("", Fin))],
        None,
    ),
    ("RST before the answer", &[Meet, Abort], &[HEAD, Meet, Rest], [None, Some(("", Reset))], None),
    ("RST in the answer", &[Hear("half"), Abort], &[HEAD, LENGTH, Rest], [None, Some(("", Reset))], None),
    ("FIN without an answer", &[Rest], &[HEAD], [Some(("", Fin)), None], Some([Some((" 502 ", Fin)), None])),
    (
        "RST without an answer",
        &[Rest],
        &[HEAD, Abort],
        [Some(("", Reset)), None],
        Some([Some((" 502 ", Fin)), None]),
    ),
    (
        "FIN in an answer of known length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, LENGTH, Meet],
        [Some(("", Fin)), None],
        Some([Some(("", Reset)), None]),
    ),
    (
        "RST in an answer of known length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, LENGTH, Meet, Abort],
        [Some(("", Reset)), None],
        None,
    ),
    (
        "FIN at the end of an answer of unknown length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, OPEN, Meet],
        [Some(("", Fin)), None],
        None,
    ),
    (
        "RST in an answer of unknown length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, OPEN, Meet, Abort],
        [Some(("", Reset)), None],
        None,
    ),
];

#[test]
fn every_end_of_an_http_connection_is_what_it_is_without_sidecars_or_what_the_page_says() {
    run(async {
        let stage = Stage::set().await;
        let far = inbound(TestNet::to(&stage.server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(stage.server, far.at);
        // Each row has one try, and those before do not matter.
        let once = "retry.attempts = 0\nbreaker = { consecutive_failures = 0, success_rate = '0%' }";
        let near = outbound(net, &cluster("detect", &[stage.server], once)).await;
        for ask in
            ["GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"]
        {
            for (name, client, server, direct, through) in HTTP {
                let client = [&[Say(ask)], *client].concat();
                let heard = stage.play(stage.server, &client, server).await;
                assert!(same(&heard, *direct), "{ask:?}, {name}, directly: {heard:?}");
                let heard = stage.play(near.at, &client, server).await;
                let expected = through.unwrap_or(*direct);
                assert!(same(&heard, expected), "{ask:?}, {name}, through sidecars: {heard:?}");
            }
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_request_that_is_cut_off_by_a_fin_is_reset_at_the_app_which_directly_sees_the_fin() {
    run(async {
        let stage = Stage::set().await;
        let (near, far) = pair(stage.server).await;
        let client = [Say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf"), Meet, Finish, Rest];
        let server = [HEAD, Hear("half"), Meet, Rest];
        let [_, heard] = stage.play(stage.server, &client, &server).await;
        assert_eq!(heard, Some((String::new(), Fin)));
        let [_, heard] = stage.play(near.at, &client, &server).await;
        assert_eq!(heard, Some((String::new(), Reset)));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_bridged_client_that_half_closes_gets_its_answer_and_the_app_does_not_hear_of_it() {
    run(async {
        let stage = Stage::set().await;
        let far = inbound(TestNet::to(&stage.server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(stage.server, far.at);
        let near = outbound(net, &(cluster("http", &[stage.server], "") + "bridge = true\n")).await;
        for ask in ["GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let client = [Say(ask), Finish, Meet, Rest];
            let [heard, _] = stage.play(near.at, &client, &[HEAD, Meet, WHOLE]).await;
            let (text, end) = heard.unwrap();
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
