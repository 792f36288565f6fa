//! A whole run: protocol after protocol, and within each, round after round over all paths.

use std::io;
use std::path::{Path as File, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::lane::{Lane, Programs};
use crate::load::LoadOutcome;
use crate::options::{Path, Program, Protocol, Sidecar};
use crate::usage::Memory;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What was spoken.
    pub protocol: Protocol,
    /// Through what.
    pub path: Path,
    /// Requests in flight.
    pub concurrency: u16,
    /// From 0.
    pub round: u16,
    /// What came of it.
    pub outcome: LoadOutcome,
}

/// What idle connections cost a sidecar.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// What was spoken.
    pub protocol: Protocol,
    /// Through what.
    pub path: Path,
    /// `a` beside the client, `b` beside the app.
    pub sidecar: String,
    /// How many.
    pub connections: u32,
    /// Before them.
    pub before: Memory,
    /// With them.
    pub after: Memory,
}

/// Everything that a run measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Results {
    /// In the order of the run.
    pub measured: Vec<Measured>,
    /// As what our sidecars carried each protocol.
    pub carried: Vec<(Protocol, Path, &'static str)>,
    /// Memory, by sidecar.
    pub held: Vec<Held>,
}

/// Whose memory is measured.
const HELD: [Option<Sidecar>; 2] = [Some(Sidecar::Ours), Some(Sidecar::Envoy)];

/// Runs `program`; `tell` hears of progress.
///
/// # Errors
/// If a lane cannot be built, or any request of it fails: a path that loses requests must not look
/// fast.
pub async fn run(program: &Program, programs: &Programs, tell: impl Fn(String)) -> io::Result<Results> {
    let mut results = Results::default();
    for &protocol in &program.protocols {
        let mut lanes = Vec::new();
        for &path in program.paths.iter().filter(|path| path.carries(protocol)) {
            let lane = Lane::up(path, protocol, programs).await;
            lanes.push(lane.map_err(|e| in_context(path, protocol, &e))?);
        }
        for round in 0..program.rounds {
            tell(format!("{}: round {} of {}", protocol.title(), round + 1, program.rounds));
            for &concurrency in concurrencies(program, protocol) {
                // Each round begins with another path, so that none always follows the same
                // neighbour.
                let first = usize::from(round) % lanes.len();
                for lane in lanes[first..].iter().chain(&lanes[..first]) {
                    let outcome = measure(lane, protocol, concurrency, program.seconds).await?;
                    results.measured.push(Measured {
                        protocol,
                        path: lane.path,
                        concurrency,
                        round,
                        outcome,
                    });
                }
            }
        }
        for lane in &lanes {
            if let Some(carried) = lane.carried()? {
                results.carried.push((protocol, lane.path, carried));
            }
        }
        // An opaque connection has one of its own to the other sidecar; one of HTTP has none while
        // it is idle.
        if [Protocol::Http1, Protocol::TcpPingpong].contains(&protocol) && program.idle > 0 {
            for lane in lanes.iter().filter(|lane| HELD.contains(&lane.path.sidecar())) {
                let (path, idle) = (lane.path.title(), program.idle);
                tell(format!("memory, {}: {path}, {idle} idle connections", protocol.title()));
                let held =
                    lane.hold(program.idle).await.map_err(|e| failed(lane, protocol, &e.to_string()))?;
                results.held.extend(held.into_iter().map(|(sidecar, (before, after))| Held {
                    protocol,
                    path: lane.path,
                    sidecar,
                    connections: program.idle,
                    before,
                    after,
                }));
            }
        }
    }
    Ok(results)
}

fn concurrencies(program: &Program, protocol: Protocol) -> &[u16] {
    if protocol == Protocol::TcpBulk { &[1] } else { &program.concurrency }
}

async fn measure(lane: &Lane, protocol: Protocol, concurrency: u16, seconds: f64) -> io::Result<LoadOutcome> {
    let outcome =
        lane.measure(concurrency, seconds).await.map_err(|e| failed(lane, protocol, &e.to_string()))?;
    match &outcome.first_error {
        Some(error) => {
            Err(failed(lane, protocol, &format!("{} failures, the first: {error}", outcome.errors)))
        }
        None if outcome.requests == 0 => Err(failed(lane, protocol, "no request was answered")),
        None => Ok(outcome),
    }
}

fn in_context(path: Path, protocol: Protocol, what: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}, {}: {what}", path.title(), protocol.title()))
}

fn failed(lane: &Lane, protocol: Protocol, what: &str) -> io::Error {
    in_context(lane.path, protocol, &format!("{what}{}", lane.log_tail()))
}

/// Builds our sidecar in the profile of this bench and says where it is; `PROXY` names another one
/// instead.
///
/// # Errors
/// If it cannot be built.
pub fn sidecar(root: &File) -> io::Result<PathBuf> {
    if let Some(named) = std::env::var_os("PROXY") {
        return PathBuf::from(named).canonicalize();
    }
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "proxy", "--bin", "proxy", "--message-format", "json"]);
    let built = build
        .args(["--profile", profile])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !built.status.success() {
        return Err(io::Error::other("the sidecar cannot be built"));
    }
    // Cargo alone knows where its target folder is.
    let messages = String::from_utf8_lossy(&built.stdout);
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executable.ok_or_else(|| io::Error::other("cargo built no executable of package proxy"))
}
