//! Python's websockets, client and server: an HTTP/1.1 upgrade that becomes a tunnel.

use crate::mesh::{PYTHON, Passed, turn};

/// Runs a step of the client; what both sidecars counted meanwhile.
fn step(name: &str) -> Option<Passed> {
    let mesh = turn()?;
    let program = mesh.dir().join("websocket_client.py");
    let ((), passed) = mesh.watch("chat", || {
        mesh.client(&[PYTHON, &program.to_string_lossy(), "ws://chat:8765", name]);
    });
    Some(passed)
}

#[test]
fn a_websocket_carries_text_bytes_pings_and_the_reason_of_its_end() {
    let Some(passed) = step("talk") else { return };
    passed.as_http("http1", 2, 2);
}

#[test]
fn a_websocket_carries_thousands_of_frames_under_way_both_ways_at_once() {
    let Some(passed) = step("pipeline") else { return };
    passed.as_http("http1", 1, 1);
}

#[test]
fn a_websocket_may_stay_silent_for_longer_than_idle_connections_are_kept() {
    let Some(passed) = step("idle") else { return };
    passed.as_http("http1", 1, 1);
}

#[test]
fn a_websocket_client_that_vanishes_is_gone_for_the_server_too() {
    let Some(passed) = step("vanish") else { return };
    passed.as_http("http1", 2, 2);
}
