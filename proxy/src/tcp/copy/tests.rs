use super::*;
use crate::tls::Stream;
use crate::world::{KernelNet, Listener};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMITS: CopyTimeouts =
    CopyTimeouts { half_close: Duration::from_secs(60), idle: Duration::from_secs(3600) };

fn ignore(_: BytesCopied) {}

#[tokio::test(start_paused = true)]
async fn an_answer_still_arrives_after_the_question_was_closed() {
    let (mut client, mut a) = tokio::io::duplex(64);
    let (mut b, mut server) = tokio::io::duplex(64);
    let client = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let server = async {
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        tokio::time::sleep(LIMITS.half_close / 2).await;
        server.write_all(b"answer to ").await.unwrap();
        tokio::time::sleep(LIMITS.half_close / 2).await;
        server.write_all(question.as_bytes()).await.unwrap();
        drop(server);
    };
    let mut counted = BytesCopied::default();
    let count = |moved: BytesCopied| {
        counted.forth += moved.forth;
        counted.back += moved.back;
    };
    let (moved, answer, ()) = tokio::join!(both_ways(&mut a, &mut b, LIMITS, count), client, server);
    assert_eq!(answer, "answer to question");
    assert_eq!(moved.unwrap(), BytesCopied { forth: 8, back: 18, spliced: 0 });
    assert_eq!(counted, BytesCopied { forth: 8, back: 18, spliced: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_that_stays_silent_is_cut_and_an_open_one_is_not() {
    let (mut client, mut a) = tokio::io::duplex(64);
    let (mut b, _server) = tokio::io::duplex(64);
    let copy = both_ways(&mut a, &mut b, LIMITS, ignore);
    let begun = Instant::now();
    let close = async {
        tokio::time::sleep(10 * LIMITS.half_close).await;
        client.shutdown().await.unwrap();
    };
    let (result, ()) = tokio::join!(copy, close);
    assert_eq!(result.unwrap_err().kind(), Some(Kind::HalfClosed));
    assert_eq!(begun.elapsed(), 11 * LIMITS.half_close);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_cut_once_it_has_been_idle_for_its_limit_and_not_before() {
    let (mut client, mut a) = tokio::io::duplex(64);
    let (mut b, mut server) = tokio::io::duplex(64);
    let copy = both_ways(&mut a, &mut b, LIMITS, ignore);
    let begun = Instant::now();
    let talk = async {
        for _ in 0..3 {
            tokio::time::sleep(LIMITS.idle / 2).await;
            client.write_all(b"x").await.unwrap();
            server.read_u8().await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(copy, talk);
    assert_eq!(result.unwrap_err().kind(), Some(Kind::Idle));
    assert_eq!(begun.elapsed(), LIMITS.idle / 2 * 5);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_a_byte_at_a_time_gets_every_byte_in_order() {
    let (mut client, mut a) = tokio::io::duplex(4096);
    let (mut b, mut server) = tokio::io::duplex(1);
    let sent: Vec<u8> = (0..40_000_u32).map(|n| ((n * n) >> 3) as u8).collect();
    let send = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let receive = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        drop(server);
        all
    };
    let (moved, (), received) = tokio::join!(both_ways(&mut a, &mut b, LIMITS, ignore), send, receive);
    assert!(received == sent);
    assert_eq!(moved.unwrap().forth, 40_000);
}

#[test]
fn a_connection_that_holds_no_bytes_has_no_buffer() {
    let mut direction = Direction::default();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (mut client, mut a) = tokio::io::duplex(64);
    let (mut b, _server) = tokio::io::duplex(8);
    let mut write = |bytes: &'static [u8]| {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut client).poll_write(&mut cx, bytes).is_ready());
    };
    let mut turn = |direction: &mut Direction| {
        let _ = direction.poll(&mut cx, (&mut a, |_| None), (&mut b, |_| None));
    };
    turn(&mut direction);
    assert_eq!(direction.kept.capacity(), 0);
    write(b"1234");
    turn(&mut direction);
    assert_eq!((direction.moved, direction.kept.capacity()), (4, 0));
    write(b"567890");
    turn(&mut direction);
    assert_eq!((direction.moved, direction.kept.len()), (8, 2), "only what the receiver did not take");
}

/// Two connected sockets of the kernel.
async fn connection() -> (TcpStream, TcpStream) {
    let net = KernelNet::default();
    let mut listener = net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let to = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(net.connect(to, None), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn bulk_between_sockets_is_spliced_and_small_messages_are_copied_before_and_after() {
    let (mut client, a) = connection().await;
    let (b, mut server) = connection().await;
    let bulk: Vec<u8> = (0..12_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut a = Aborting::new(Prefixed::new(Bytes::from_static(b"read before "), Stream::Plain(a)));
    let mut b = Aborting::new(Prefixed::unread(Stream::Plain(b)));
    let relay = async {
        let moved = relay::<KernelNet>(&mut a, &mut b, LIMITS, ignore).await;
        drop((a, b));
        moved
    };
    let talk = async {
        let mut start = [0; 12];
        server.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"read before ");
        let mut received = vec![0; bulk.len()];
        for _ in 0..2 {
            for n in 0..100_u8 {
                client.write_all(&[n; 100]).await.unwrap();
                let mut said = [0; 100];
                server.read_exact(&mut said).await.unwrap();
                assert_eq!(said, [n; 100]);
                server.write_all(&said).await.unwrap();
                client.read_exact(&mut said).await.unwrap();
            }
            let (sent, read) = tokio::join!(client.write_all(&bulk), server.read_exact(&mut received));
            sent.unwrap();
            read.unwrap();
            assert!(received == bulk);
        }
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let (moved, ()) = tokio::join!(relay, talk);
    let moved = moved.unwrap();
    assert_eq!((moved.forth, moved.back), (12 + 2 * (10_000 + 12_000_000), 20_000));
    // At least half, whatever the scheduling; all but the first half MiB of each run as a rule.
    assert!(moved.spliced > 12_000_000 && moved.spliced < moved.forth, "{moved:?}");
}

#[tokio::test]
async fn a_spliced_receiver_that_stops_reading_holds_the_sender_back_and_loses_nothing() {
    let (mut client, a) = connection().await;
    let (b, mut server) = connection().await;
    let (empty, also) = (Bytes::new(), Bytes::new());
    let mut a = Aborting::new(Prefixed::new(empty, Stream::Plain(a)));
    let mut b = Aborting::new(Prefixed::new(also, Stream::Plain(b)));
    let relay = async {
        let moved = relay::<KernelNet>(&mut a, &mut b, LIMITS, ignore).await;
        drop((a, b));
        moved
    };
    const TOTAL: usize = 64 << 20;
    let send = async {
        let block: Vec<u8> = (0..=250_u8).cycle().take(251 * 1000).collect();
        let mut sent = 0;
        while sent < TOTAL {
            sent += client.write(&block[sent % 251..]).await.unwrap();
        }
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        sent
    };
    let receive = async {
        let (mut received, mut block) = (0, vec![0; 300_000]);
        for pause in 0.. {
            let n = server.read(&mut block).await.unwrap();
            if n == 0 {
                break;
            }
            let right =
                block[..n].iter().enumerate().all(|(i, byte)| usize::from(*byte) == (received + i) % 251);
            assert!(right, "after {received} bytes");
            received += n;
            if pause % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(server);
        received
    };
    let (moved, sent, received) = tokio::join!(relay, send, receive);
    assert_eq!((received, moved.unwrap().forth), (sent, sent as u64));
}

#[tokio::test]
async fn a_spliced_direction_that_is_idle_holds_no_pipe_and_takes_one_again() {
    let (mut client, mut a) = connection().await;
    let (mut b, mut server) = connection().await;
    let socket: Socket<TcpStream> = |io| Some(io);
    let mut direction = Direction::default();
    const COPY_BULK: usize = 4 << 20;
    let (sent, mut received) = (vec![7; COPY_BULK], vec![0; COPY_BULK]);
    let mut spliced = 0;
    for _ in 0..2 {
        let talk = async {
            let (sent, read) = tokio::join!(client.write_all(&sent), server.read_exact(&mut received));
            sent.unwrap();
            read.unwrap();
        };
        tokio::select! {
            biased;
            _ = poll_fn(|cx| direction.poll(cx, (&mut a, socket), (&mut b, socket))) => panic!("it has ended"),
            () = talk => {}
        }
        assert!(direction.splices && direction.pipe.is_none(), "{direction:?}");
        assert!(direction.spliced > spliced, "{direction:?}");
        spliced = direction.spliced;
    }
}
