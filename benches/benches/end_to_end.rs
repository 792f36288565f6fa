//! What a path from client to app costs: direct, through our sidecars, through Envoy. See
//! `docs/performance.md`.
//!
//! A plain program, because criterion measures one function in one process; this builds namespaces,
//! starts processes (itself again, as app and load generator) and asks the kernel what each of them
//! used.

use std::io;
use std::process::ExitCode;

use benches::lane::Programs;
use benches::options::{Options, Program, Sidecar};
use benches::{INSTALL, envoy, haproxy, nginx, report, roles, run};
use clap::Parser;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.role {
        Some(role) => roles::play(role),
        None => bench(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves out the paths of a peer that is not there, unless they were asked for.
fn leave_out(program: &mut Program, peer: Sidecar, missing: bool) -> io::Result<()> {
    if !missing || !program.paths.iter().any(|path| path.sidecar() == Some(peer)) {
        return Ok(());
    }
    let name = peer.name();
    let how =
        format!("{name} is not installed: run {INSTALL}, or name its binary in {}", name.to_uppercase());
    if program.peers_needed {
        return Err(io::Error::other(how));
    }
    println!("{how}. Its paths are left out.");
    program.paths.retain(|path| path.sidecar() != Some(peer));
    Ok(())
}

fn bench(options: &Options) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let why = "end_to_end measures on network namespaces, which takes root";
        if std::env::var_os("LAB_REQUIRE_KERNEL").is_some_and(|v| v == "1") {
            return Err(io::Error::other(why));
        }
        println!("{why}: skipped");
        return Ok(());
    }
    let root =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member lies in the workspace");
    let mut program = options.program();
    let (envoy, haproxy, nginx) = (envoy::find(root), haproxy::find(), nginx::find());
    for (peer, found) in Sidecar::PEERS.into_iter().zip([&envoy, &haproxy, &nginx]) {
        leave_out(&mut program, peer, found.is_none())?;
    }
    let own = Programs::new(std::env::current_exe()?, run::sidecar(root)?);
    let programs = Programs { envoy, haproxy, nginx, ..own };
    println!("sidecar: {}", programs.proxy.display());
    if cfg!(debug_assertions) {
        println!("This build is not optimised: only whether requests succeed means something.");
    }
    let results = roles::here(run::run(&program, &programs, |what| eprintln!("{what}")))?;
    println!("{}", report::tables(&results));
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&results)?)?;
    }
    Ok(())
}
