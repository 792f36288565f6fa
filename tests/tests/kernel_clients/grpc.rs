//! Python's grpcio, client and server, and grpc-js: `tests/clients/grpc_client.py` asserts, this
//! file looks at the sidecars.

use crate::mesh::{PYTHON, Passed, turn};

/// Runs steps of the client; what both sidecars counted meanwhile.
fn steps(names: &[&str]) -> Option<Passed> {
    let mesh = turn()?;
    let program = mesh.dir().join("grpc_client.py").display().to_string();
    let ((), passed) = mesh.watch("grpc", || {
        let argv = [&[PYTHON, &program[..], "grpc:50051"], names].concat();
        assert_eq!(mesh.client(&argv).lines().count(), names.len());
    });
    Some(passed)
}

#[test]
fn grpc_calls_are_answered() {
    let Some(passed) = steps(&["unary"]) else { return };
    passed.as_http("http2", 1, 21);
}

#[test]
fn grpc_streams_flow_from_the_server_from_the_client_and_both_ways_at_once() {
    let Some(passed) = steps(&["server_stream", "client_stream", "bidirectional"]) else { return };
    passed.as_http("http2", 1, 3);
}

#[test]
fn a_grpc_deadline_ends_the_call_and_the_work_behind_it() {
    let Some(passed) = steps(&["deadline"]) else { return };
    passed.as_http("http2", 1, 2);
}

#[test]
fn a_grpc_server_is_told_how_much_time_is_left() {
    let Some(passed) = steps(&["deadline_is_told"]) else { return };
    passed.as_http("http2", 1, 1);
}

#[test]
fn a_cancelled_grpc_call_is_cancelled_at_the_server_and_nowhere_else() {
    let Some(passed) = steps(&["cancellation"]) else { return };
    passed.as_http("http2", 1, 4);
}

#[test]
fn grpc_messages_of_up_to_64_mib_arrive_whole() {
    let Some(passed) = steps(&["large"]) else { return };
    passed.as_http("http2", 1, 5);
}

#[test]
fn grpc_metadata_passes_both_ways_bytes_included() {
    let Some(passed) = steps(&["metadata"]) else { return };
    passed.as_http("http2", 1, 1);
}

#[test]
fn a_grpc_status_arrives_in_trailers_with_and_without_messages_before_it() {
    let Some(passed) = steps(&["status", "late_status"]) else { return };
    passed.as_http("http2", 1, 3);
}

#[test]
fn a_thousand_grpc_calls_at_once_are_all_answered() {
    let Some(passed) = steps(&["parallel"]) else { return };
    passed.as_http("http2", 1, 1000);
}

/// Connections that the server ends under load, with no more than the client's own wish for
/// success: directly there are no failures either.
fn ages(service: &str, port: u16) {
    let Some(mesh) = turn() else { return };
    let program = mesh.dir().join("grpc_client.py").display().to_string();
    let ((), passed) = mesh.watch(service, || {
        let said = mesh.client(&[PYTHON, &program, &format!("{service}:{port}"), "aging"]);
        println!("{service}: {said}");
    });
    let dialled = passed.inward("proxy_connects_total", &[("cluster", service)]);
    assert!(dialled > 3.0, "{dialled} connections were opened to {service}");
    let refused = passed.inward("proxy_errors_total", &[("cluster", service)]);
    println!("{service}: {dialled} connections, {refused} calls refused or lost by the app and made again");
}

#[test]
fn no_call_fails_while_a_grpcio_server_ends_its_connections_for_their_age() {
    ages("aging", 50052);
}

#[test]
fn no_call_fails_while_a_grpc_js_server_ends_its_connections_for_their_age() {
    ages("aging-js", 50053);
}
