//! What to measure: the command line, and the names of paths and protocols.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Measures what sidecars cost, on network namespaces of this machine. Takes root.
#[derive(Debug, Clone, Parser)]
#[command(name = "end_to_end", about)]
pub struct Options {
    /// Takes a few seconds for each protocol and only asks that every request succeeds. Always so
    /// in a build without optimisation, whose numbers would mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Which paths. Default: all; those of Envoy and HAProxy only where they are installed.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub paths: Vec<Path>,
    /// Which protocols. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub protocols: Vec<Protocol>,
    /// Requests in flight. Default: 1, 16 and 64. Bulk transfers always use one connection.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: Vec<u16>,
    /// Times that every path is measured; the table shows medians. Default: 5.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: Option<u16>,
    /// Length of one measurement, after a warm-up of a quarter of it. Default: 2.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Idle connections to hold for the memory table; 0 leaves it out. Default: 10 000.
    #[arg(long)]
    pub idle: Option<u32>,
    /// Writes every single measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Told by `cargo bench` to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What the executable is when the bench starts it again, inside a namespace.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// The app.
    #[command(name = "__app", hide = true)]
    App {
        /// What it speaks.
        #[arg(value_enum)]
        protocol: Protocol,
        /// Milliseconds that it waits before each answer.
        #[arg(default_value_t = 0)]
        pause_ms: u64,
    },
    /// The floor's relay.
    #[command(name = "__relay", hide = true)]
    Relay {
        /// Where it listens.
        port: u16,
        /// Where it relays to.
        to: std::net::SocketAddr,
    },
    /// The load generator.
    #[command(name = "__load", hide = true)]
    Load {
        /// A [`crate::load::Job`] as JSON.
        job: String,
    },
    /// The load generator, in slices. It stays with its connections open until it is killed.
    #[command(name = "__slices", hide = true)]
    Slices {
        /// A [`crate::load::sliced::Job`] as JSON.
        job: String,
    },
}

/// What is spoken between client and app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge, up to 16 streams on a connection.
    Http2,
    /// Unary gRPC calls that echo 1 KiB.
    Grpc,
    /// One byte to and fro on an opaque connection.
    TcpPingpong,
    /// As many bytes as fit through one opaque connection, from the app to the client.
    TcpBulk,
}

impl Protocol {
    /// For headings.
    pub fn title(self) -> &'static str {
        match self {
            Protocol::Http1 => "HTTP/1.1 keep-alive, 1 KiB",
            Protocol::Http2 => "HTTP/2, 1 KiB",
            Protocol::Grpc => "gRPC unary echo, 1 KiB",
            Protocol::TcpPingpong => "TCP ping-pong, 1 byte",
            Protocol::TcpBulk => "TCP bulk",
        }
    }

    /// Whether sidecars are told that the bytes are opaque.
    pub fn is_opaque(self) -> bool {
        matches!(self, Protocol::TcpPingpong | Protocol::TcpBulk)
    }
}

/// The way from the client to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Nothing in between.
    Direct,
    /// The rules without a sidecar: connections pass the same chains and connection tracking on
    /// both sides, and the app's side redirects to the app itself. On the client's side the same
    /// chains are walked to their end, but a redirect there would stay on the client's own machine,
    /// so the destination is exempt.
    Iptables,
    /// The smallest relay, which knows no protocol, beside the app.
    FloorOne,
    /// The smallest relay on both sides.
    FloorTwo,
    /// Our sidecar beside the app.
    One,
    /// Our sidecars on both sides.
    Two,
    /// Envoy beside the app.
    EnvoyOne,
    /// Envoy on both sides.
    EnvoyTwo,
    /// HAProxy beside the app.
    HaproxyOne,
    /// HAProxy on both sides.
    HaproxyTwo,
}

impl Path {
    /// All of them, cheapest first.
    pub const ALL: [Path; 10] = [
        Path::Direct,
        Path::Iptables,
        Path::FloorOne,
        Path::FloorTwo,
        Path::One,
        Path::Two,
        Path::EnvoyOne,
        Path::EnvoyTwo,
        Path::HaproxyOne,
        Path::HaproxyTwo,
    ];

    /// For tables.
    pub fn title(self) -> &'static str {
        match self {
            Path::Direct => "direct",
            Path::Iptables => "iptables only",
            Path::FloorOne => "floor, one relay",
            Path::FloorTwo => "floor, two relays",
            Path::One => "one sidecar",
            Path::Two => "two sidecars",
            Path::EnvoyOne => "one Envoy",
            Path::EnvoyTwo => "two Envoys",
            Path::HaproxyOne => "one HAProxy",
            Path::HaproxyTwo => "two HAProxies",
        }
    }

    /// Whether it has Envoy.
    pub fn is_envoy(self) -> bool {
        matches!(self, Path::EnvoyOne | Path::EnvoyTwo)
    }

    /// Whether it has HAProxy.
    pub fn is_haproxy(self) -> bool {
        matches!(self, Path::HaproxyOne | Path::HaproxyTwo)
    }

    /// Whether it has a sidecar of another project.
    pub fn is_peer(self) -> bool {
        self.is_envoy() || self.is_haproxy()
    }

    /// Whether it has the smallest relay.
    pub fn is_floor(self) -> bool {
        matches!(self, Path::FloorOne | Path::FloorTwo)
    }

    /// Whether it has our sidecar.
    pub fn is_ours(self) -> bool {
        matches!(self, Path::One | Path::Two)
    }

    /// Whether there is a sidecar beside the client too.
    pub fn is_double(self) -> bool {
        matches!(self, Path::FloorTwo | Path::Two | Path::EnvoyTwo | Path::HaproxyTwo)
    }

    /// The smallest relay in the same places.
    pub fn floor(self) -> Option<Path> {
        match self {
            Path::One | Path::EnvoyOne | Path::HaproxyOne => Some(Path::FloorOne),
            Path::Two | Path::EnvoyTwo | Path::HaproxyTwo => Some(Path::FloorTwo),
            _ => None,
        }
    }

    /// Envoy in the same places.
    pub fn envoy(self) -> Option<Path> {
        match self {
            Path::One => Some(Path::EnvoyOne),
            Path::Two => Some(Path::EnvoyTwo),
            _ => None,
        }
    }

    /// HAProxy in the same places.
    pub fn haproxy(self) -> Option<Path> {
        match self {
            Path::One => Some(Path::HaproxyOne),
            Path::Two => Some(Path::HaproxyTwo),
            _ => None,
        }
    }
}

/// What a run does, with every default filled in.
#[derive(Debug, Clone)]
pub struct Program {
    /// Paths, each once.
    pub paths: Vec<Path>,
    /// Whether paths of Envoy or HAProxy were asked for by name, so that a missing one is an error.
    pub peers_needed: bool,
    /// Protocols.
    pub protocols: Vec<Protocol>,
    /// Requests in flight.
    pub concurrency: Vec<u16>,
    /// Times that everything is measured.
    pub rounds: u16,
    /// Length of one measurement.
    pub seconds: f64,
    /// Idle connections.
    pub idle: u32,
}

impl Options {
    /// Whether the numbers are not the point.
    pub fn is_quick(&self) -> bool {
        self.quick || cfg!(debug_assertions)
    }

    /// Fills in the defaults.
    pub fn program(&self) -> Program {
        let quick = self.is_quick();
        let or = |given: &[u16], default: &[u16]| if given.is_empty() { default } else { given }.to_vec();
        let mut paths = self.paths.clone();
        if paths.is_empty() {
            paths = if quick {
                Path::ALL.into_iter().filter(|path| !path.is_peer()).collect()
            } else {
                Path::ALL.to_vec()
            };
        }
        paths.sort_unstable();
        paths.dedup();
        let mut protocols = self.protocols.clone();
        if protocols.is_empty() {
            protocols = Protocol::value_variants().to_vec();
        }
        protocols.sort_unstable();
        protocols.dedup();
        Program {
            peers_needed: self.paths.iter().any(|path| path.is_peer()),
            paths,
            protocols,
            concurrency: or(&self.concurrency, if quick { &[4] } else { &[1, 16, 64] }),
            rounds: self.rounds.unwrap_or(if quick { 1 } else { 5 }),
            seconds: self.seconds.unwrap_or(if quick { 0.4 } else { 2.0 }),
            idle: self.idle.unwrap_or(if quick { 100 } else { 10_000 }),
        }
    }
}
