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
    /// Which paths. Default: all; those of Envoy, HAProxy and nginx only where they are installed.
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
    /// One byte to and fro on an opaque connection of its own.
    TcpFresh,
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
            Protocol::TcpFresh => "TCP, a connection for each byte",
            Protocol::TcpBulk => "TCP bulk",
        }
    }

    /// Whether sidecars are told that the bytes are opaque.
    pub fn is_opaque(self) -> bool {
        matches!(self, Protocol::TcpPingpong | Protocol::TcpFresh | Protocol::TcpBulk)
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
    /// Our sidecars on both sides, with mutual TLS between them.
    TwoMtls,
    /// The same, and policies decide who may call.
    TwoAuthorization,
    /// Mutual TLS, and an audit log.
    TwoAudit,
    /// Mutual TLS, policies and an audit log.
    TwoAll,
    /// Envoy on both sides, with mutual TLS between them.
    EnvoyTwoMtls,
    /// HAProxy on both sides, with mutual TLS between them.
    HaproxyTwoMtls,
    /// nginx on both sides, with mutual TLS between them.
    NginxTwoMtls,
}

/// What stands in the sidecar's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// The smallest relay, which knows no protocol.
    Floor,
    /// Our sidecar.
    Ours,
    /// Envoy.
    Envoy,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

impl Sidecar {
    /// Those of other projects.
    pub const PEERS: [Sidecar; 3] = [Sidecar::Envoy, Sidecar::Haproxy, Sidecar::Nginx];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Sidecar::Floor => "the smallest relay",
            Sidecar::Ours => "Sidelab",
            Sidecar::Envoy => "Envoy",
            Sidecar::Haproxy => "HAProxy",
            Sidecar::Nginx => "nginx",
        }
    }
}

impl Path {
    /// All of them, cheapest first.
    pub const ALL: [Path; 17] = [
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
        Path::TwoMtls,
        Path::TwoAuthorization,
        Path::TwoAudit,
        Path::TwoAll,
        Path::EnvoyTwoMtls,
        Path::HaproxyTwoMtls,
        Path::NginxTwoMtls,
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
            Path::TwoMtls => "two, mTLS",
            Path::TwoAuthorization => "two, mTLS, policies",
            Path::TwoAudit => "two, mTLS, audit log",
            Path::TwoAll => "two, mTLS, both",
            Path::EnvoyTwoMtls => "two Envoys, mTLS",
            Path::HaproxyTwoMtls => "two HAProxies, mTLS",
            Path::NginxTwoMtls => "two nginx, mTLS",
        }
    }

    /// What stands in the sidecar's place, if anything does.
    pub fn sidecar(self) -> Option<Sidecar> {
        Some(match self {
            Path::Direct | Path::Iptables => return None,
            Path::FloorOne | Path::FloorTwo => Sidecar::Floor,
            Path::One | Path::Two => Sidecar::Ours,
            Path::TwoMtls | Path::TwoAuthorization | Path::TwoAudit | Path::TwoAll => Sidecar::Ours,
            Path::EnvoyOne | Path::EnvoyTwo | Path::EnvoyTwoMtls => Sidecar::Envoy,
            Path::HaproxyOne | Path::HaproxyTwo | Path::HaproxyTwoMtls => Sidecar::Haproxy,
            Path::NginxTwoMtls => Sidecar::Nginx,
        })
    }

    /// Whether it has a sidecar of another project.
    pub fn is_peer(self) -> bool {
        self.sidecar().is_some_and(|sidecar| Sidecar::PEERS.contains(&sidecar))
    }

    /// Whether it has our sidecar.
    pub fn is_ours(self) -> bool {
        self.sidecar() == Some(Sidecar::Ours)
    }

    /// Whether there is a sidecar beside the client too.
    pub fn is_double(self) -> bool {
        let has_one =
            [Path::Direct, Path::Iptables, Path::FloorOne, Path::One, Path::EnvoyOne, Path::HaproxyOne];
        !has_one.contains(&self)
    }

    /// Whether there is mutual TLS between the sidecars.
    pub fn is_mtls(self) -> bool {
        self.has_policies()
            || self.has_audit()
            || matches!(self, Path::TwoMtls | Path::EnvoyTwoMtls | Path::HaproxyTwoMtls | Path::NginxTwoMtls)
    }

    /// Whether policies decide who may call.
    pub fn has_policies(self) -> bool {
        matches!(self, Path::TwoAuthorization | Path::TwoAll)
    }

    /// Whether it writes an audit log.
    pub fn has_audit(self) -> bool {
        matches!(self, Path::TwoAudit | Path::TwoAll)
    }

    /// Whether it can carry `protocol`. nginx speaks no HTTP/2 to servers but gRPC.
    pub fn carries(self, protocol: Protocol) -> bool {
        self.sidecar() != Some(Sidecar::Nginx) || protocol != Protocol::Http2
    }

    /// The path of ours that has `other` in the same places, with mutual TLS or without as here.
    pub fn with(self, other: Sidecar) -> Option<Path> {
        if !self.is_ours() && other != Sidecar::Floor {
            return None;
        }
        let is_mtls = self.is_mtls() && other != Sidecar::Floor;
        let same = |path: &Path| {
            path.sidecar() == Some(other) && (path.is_double(), path.is_mtls()) == (self.is_double(), is_mtls)
        };
        self.sidecar().and_then(|_| Path::ALL.into_iter().find(same))
    }
}

/// What a run does, with every default filled in.
#[derive(Debug, Clone)]
pub struct Program {
    /// Paths, each once.
    pub paths: Vec<Path>,
    /// Whether paths of other projects were asked for by name, so that a missing one is an error.
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
