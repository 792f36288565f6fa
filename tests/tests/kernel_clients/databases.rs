//! psql, pgbench and redis-cli against PostgreSQL and Redis: neither may be taken for HTTP, and
//! nothing may wait for detection.

use std::io::Write;
use std::process::Stdio;

use crate::mesh::{Mesh, said, turn};

const PSQL: [&str; 9] =
    ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "host=db user=lab dbname=postgres"];

fn psql(mesh: &Mesh, arguments: &[&str]) -> String {
    mesh.client(&[&PSQL[..], arguments].concat())
}

/// Runs a client that reads `input`.
fn fed(mesh: &Mesh, argv: &[&str], input: &[u8]) -> String {
    let mut client = mesh.command(argv);
    let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().expect("nsenter starts");
    let mut stdin = client.stdin.take().expect("a pipe");
    std::thread::scope(|threads| {
        threads.spawn(move || {
            // One that ends early says why by itself.
            let _ = stdin.write_all(input);
        });
        said(argv, client.wait_with_output().expect("it ends"))
    })
}

#[test]
fn psql_queries_and_copies_100_000_rows_each_way() {
    let Some(mesh) = turn() else { return };
    let rows: String = (0..100_000).map(|i| format!("{i}\trow {i} with some words\n")).collect();
    let ((), passed) = mesh.watch("db", || {
        assert_eq!(psql(&mesh, &["-c", "select 6 * 7"]), "42\n");
        psql(&mesh, &["-c", "create table many (id int primary key, words text)"]);
        fed(&mesh, &[&PSQL[..], &["-c", "\\copy many from pstdin"]].concat(), rows.as_bytes());
        assert_eq!(psql(&mesh, &["-c", "\\copy (select * from many order by id) to stdout"]), rows);
        // A message of 50 MB in one row.
        assert_eq!(psql(&mesh, &["-c", "select length(repeat('x', 50000000))"]), "50000000\n");
        assert_eq!(psql(&mesh, &["-c", "select repeat('x', 50000000)"]).len(), 50_000_001);
    });
    passed.as_bytes(6);
    assert_eq!(passed.detected("timeout"), 0.0, "somebody waited for bytes that were not to come");
}

#[test]
fn an_interrupted_psql_cancels_its_query_on_a_connection_of_its_own() {
    let Some(mesh) = turn() else { return };
    let ((), passed) = mesh.watch("db", || {
        let argv =
            [&["timeout", "--foreground", "--signal=INT", "1"], &PSQL[..], &["-c", "select pg_sleep(60)"]];
        let interrupted = mesh.output(&argv.concat());
        let errors = String::from_utf8_lossy(&interrupted.stderr);
        assert!(errors.contains("canceling statement due to user request"), "{interrupted:?}");
    });
    passed.as_bytes(2);
}

#[test]
fn pgbench_runs_prepared_transactions_on_four_connections() {
    let Some(mesh) = turn() else { return };
    let ((), passed) = mesh.watch("db", || {
        let run = |arguments: &str| {
            let line =
                format!("exec /usr/lib/postgresql/*/bin/pgbench -h db -U lab {arguments} postgres 2>&1");
            mesh.shell(&line, &[])
        };
        run("--initialize --quiet");
        let said = run("--client=4 --protocol=prepared --transactions=100 --no-vacuum");
        assert!(said.contains("number of transactions actually processed: 400/400"), "{said}");
        assert!(said.contains("number of failed transactions: 0"), "{said}");
        println!(
            "{}",
            said.lines().filter(|l| l.starts_with("tps") || l.starts_with("latency")).collect::<String>()
        );
    });
    assert!(passed.out("proxy_connections_total", &[]) >= 5.0);
    assert_eq!(passed.detected("http1") + passed.detected("http2") + passed.detected("timeout"), 0.0);
}

const REDIS: [&str; 4] = ["redis-cli", "-h", "cache", "--no-auth-warning"];

fn redis(mesh: &Mesh, arguments: &[&str]) -> String {
    mesh.client(&[&REDIS[..], arguments].concat())
}

#[test]
fn redis_cli_stores_and_reads_values_of_up_to_32_mb() {
    let Some(mesh) = turn() else { return };
    let ((), passed) = mesh.watch("cache", || {
        assert_eq!(redis(&mesh, &["ping"]), "PONG\n");
        let big = "0123456789abcdef".repeat(2_000_000);
        assert_eq!(fed(&mesh, &[&REDIS[..], &["-x", "set", "big"]].concat(), big.as_bytes()), "OK\n");
        assert_eq!(redis(&mesh, &["get", "big"]).trim_end(), big);
    });
    passed.as_bytes(3);
    assert_eq!(passed.detected("timeout"), 0.0, "somebody waited for bytes that were not to come");
}

#[test]
fn redis_cli_pipes_ten_thousand_commands_and_redis_benchmark_pipelines_more() {
    let Some(mesh) = turn() else { return };
    let commands: String = (0..10_000).map(|i| format!("SET key:{i} {i}\r\n")).collect();
    let ((), passed) = mesh.watch("cache", || {
        let said = fed(&mesh, &[&REDIS[..], &["--pipe"]].concat(), commands.as_bytes());
        assert!(said.contains("errors: 0, replies: 10000"), "{said}");
        assert_eq!(redis(&mesh, &["get", "key:9999"]), "9999\n");
        let argv = [
            "redis-benchmark",
            "-h",
            "cache",
            "-n",
            "20000",
            "-P",
            "16",
            "-c",
            "8",
            "-t",
            "set,get",
            "--csv",
        ];
        let said = mesh.client(&argv);
        assert!(said.contains("\"SET\"") && said.contains("\"GET\""), "{said}");
    });
    assert!(passed.out("proxy_connections_total", &[]) >= 10.0);
    assert_eq!(passed.detected("http1") + passed.detected("http2") + passed.detected("timeout"), 0.0);
}

#[test]
fn a_redis_subscriber_hears_what_another_client_publishes() {
    let Some(mesh) = turn() else { return };
    let ((), passed) = mesh.watch("cache", || {
        let mut subscriber = mesh.command(&[&REDIS[..], &["subscribe", "news"]].concat());
        // It complains of its end, which is what is asked for.
        let subscriber = subscriber.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut subscriber = subscriber.spawn().expect("nsenter starts");
        let mut heard = std::io::BufReader::new(subscriber.stdout.take().expect("a pipe"));
        let mut line = || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut heard, &mut line).expect("a line");
            line
        };
        let greeting: String = (0..3).map(|_| line()).collect();
        assert_eq!(greeting, "subscribe\nnews\n1\n");
        assert_eq!(redis(&mesh, &["publish", "news", "it works"]), "1\n");
        let message: String = (0..3).map(|_| line()).collect();
        assert_eq!(message, "message\nnews\nit works\n");
        // Ends the subscriber from the server's side: what it is given as an end, it must see as
        // one.
        redis(&mesh, &["client", "kill", "type", "pubsub"]);
        subscriber.wait().expect("it ends");
    });
    passed.as_bytes(3);
}
