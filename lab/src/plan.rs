//! What follows from a scenario: every name, address, sidecar configuration and time, with nothing
//! left to decide.
//!
//! A plan is plain data and making one is pure, so two runs of one file differ in nothing but what
//! happens. Both worlds take the same plan.

mod identity;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

pub use identity::{
    Authority, CA_PORT, CA_UID, CERTIFICATE_FILE, Certificate, IDENTITY_DIR, Identity, IdentitySource,
    KEY_FILE, ROOTS_FILE, TOKEN_FILE, TRUSTED_FILE, TlsMode,
};

use crate::app::AppSpec;
use crate::fault::Entry;
use crate::load::Load;
use crate::mesh::{Link, ProcessId, Role};
use crate::statistic::Statistic;

/// Where a sidecar takes outgoing connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where a sidecar takes incoming connections.
pub const INBOUND_PORT: u16 = 15006;
/// A sidecar's admin port, on loopback.
pub const ADMIN_PORT: u16 = 15000;
/// A sidecar's metrics.
pub const METRICS_PORT: u16 = 15020;
/// A sidecar's readiness.
pub const HEALTH_PORT: u16 = 15021;
/// The user and group of every sidecar; interception exempts it.
pub const SIDECAR_UID: u32 = 1337;
/// The user and group of every app and load generator.
pub const APP_UID: u32 = 2000;

/// A scenario with everything resolved.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// One line for people.
    pub name: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Load runs, samples are not judged.
    #[serde(with = "crate::readable")]
    pub warmup: Duration,
    /// The measured part.
    #[serde(with = "crate::readable")]
    pub duration: Duration,
    /// The kind of sidecar.
    pub sidecar: SidecarKind,
    /// Services, by name; authorities come last.
    pub services: Vec<Service>,
    /// Certificate authorities, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<Authority>,
    /// Certificates that the lab makes, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Instances, by service and index. Every other part of the plan refers to them by position.
    pub instances: Vec<Instance>,
    /// Positions of the instances whose packets are captured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<usize>,
    /// Base profile of each ordered pair that has one.
    pub links: Vec<Link>,
    /// Load generators, by name.
    pub loads: Vec<Load>,
    /// Faults, in the order of the file.
    pub timeline: Vec<Entry>,
    /// What must hold, in the order of the file.
    pub expectations: Vec<Expectation>,
    /// How many conditions of the file are not among them, since they need sidecars, or are of
    /// another kind of sidecar.
    #[serde(skip_serializing_if = "crate::readable::is_default")]
    pub left_out: usize,
}

/// The kind of sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SidecarKind {
    /// This project's sidecar.
    Ours,
    /// Nothing: a rule spreads connections at random, as kube-proxy does.
    None,
}

impl SidecarKind {
    /// All kinds.
    pub const ALL: [SidecarKind; 2] = [SidecarKind::Ours, SidecarKind::None];

    /// As a scenario and the command line have it.
    pub fn name(self) -> &'static str {
        match self {
            SidecarKind::Ours => "ours",
            SidecarKind::None => "none",
        }
    }
}

/// A name that callers dial.
#[derive(Debug, Clone, Serialize)]
pub struct Service {
    /// Its name, also in /etc/hosts.
    pub name: String,
    /// Virtual address; no interface has it.
    pub vip4: Ipv4Addr,
    /// Virtual address; no interface has it.
    pub vip6: Ipv6Addr,
    /// The port of callers and app alike; `None` if the service only sends load.
    pub port: Option<u16>,
    /// What the sidecar is told about the port.
    pub protocol: Protocol,
    /// Whether HTTP/1 requests to it share HTTP/2 connections between sidecars.
    #[serde(skip_serializing_if = "crate::readable::is_default")]
    pub bridge: bool,
    /// Keys for its cluster in every sidecar's configuration. They replace what the lab would
    /// write.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub policy: toml::Table,
    /// Keys for its own sidecars' configuration. They replace what the lab would write, and add to
    /// its clusters.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub settings: toml::Table,
    /// Who may call it: keys for the `[authorization]` of its own sidecars.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub authorization: toml::Table,
    /// Whom callers expect there: a SPIFFE id; `None`: they call it without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether its callers must prove who they are; `None`: what its sidecar does by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// What each of its processes may take of the machine.
    #[serde(skip_serializing_if = "crate::readable::is_default")]
    pub limits: ServiceLimits,
    /// Position of the service that its instances register with and callers learn them from;
    /// `None`: every sidecar is configured with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<usize>,
    /// Positions of its instances in [`Plan::instances`].
    pub instances: Vec<usize>,
}

/// What the processes of a service may take of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ServiceLimits {
    /// Each app.
    pub app: ResourceLimits,
    /// Each sidecar.
    pub sidecar: ResourceLimits,
}

/// What a process may take of the machine; `None`: what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ResourceLimits {
    /// CPUs.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// What the sidecar is told about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Look at the first bytes.
    Detect,
    /// HTTP/1.1, HTTP/2 or gRPC.
    Http,
    /// Opaque bytes; the server may speak first.
    Tcp,
}

/// One replica: a network namespace on the kernel, a host in the simulator.
#[derive(Debug, Clone, Serialize)]
pub struct Instance {
    /// `orders-1`, or the service's name if it is the only one.
    pub name: String,
    /// Position of its service in [`Plan::services`].
    pub service: usize,
    /// Address of eth0, in a /16 that holds all instances.
    pub v4: Ipv4Addr,
    /// Address of eth0, in a /64 that holds all instances.
    pub v6: Ipv6Addr,
    /// Hardware address of eth0, so that neighbours need no discovery.
    pub mac: [u8; 6],
    /// The zone that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its share of the load, relative to the other replicas'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// What tells it apart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who it is, if its sidecar can prove that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The app, if any.
    pub app: Option<AppSpec>,
    /// The sidecar's configuration file, if it has a sidecar.
    pub sidecar: Option<String>,
}

/// Conditions over a window of time.
#[derive(Debug, Clone, Serialize)]
pub struct Expectation {
    /// One line for people.
    pub name: String,
    /// When they must hold.
    pub window: Window,
    /// Judged only with this kind of sidecar; `None`: always.
    pub sidecar: Option<SidecarKind>,
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
}

/// When conditions must hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// From one time to another.
    During {
        /// First instant.
        from: TimePoint,
        /// First instant after.
        to: TimePoint,
    },
    /// Somewhere in the `within` after `start` a stretch of `hold` begins in which they hold.
    Recovery {
        /// When the clock starts.
        start: TimePoint,
        /// How late the good stretch may begin.
        #[serde(with = "crate::readable")]
        within: Duration,
        /// How long it lasts.
        #[serde(with = "crate::readable")]
        hold: Duration,
    },
    /// Over the evidence of one timeline entry.
    Evidence {
        /// Position in [`Plan::timeline`].
        entry: usize,
    },
}

/// A point in time of a window. One that belongs to a timeline entry stays a reference to it, so
/// that it moves with the entry; [`TimePoint::in_run`] alone says when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimePoint {
    /// So long after the start of the measured part.
    At(#[serde(with = "crate::readable")] Duration),
    /// When a timeline entry begins, by its position.
    Begin(usize),
    /// When it is reverted for good, or the end of the run if it never is.
    End(usize),
}

impl TimePoint {
    /// When it is, from the start of the measured part of a run that lasts for `duration`.
    pub fn in_run(self, timeline: &[Entry], duration: Duration) -> Duration {
        match self {
            TimePoint::At(time) => time,
            TimePoint::Begin(entry) => timeline[entry].at,
            TimePoint::End(entry) => timeline[entry].until.unwrap_or(duration),
        }
    }
}

/// `subject.statistic op value`, parsed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Condition {
    /// The words of the file.
    pub text: String,
    /// What is measured.
    pub subject: Subject,
    /// How it is compared.
    pub op: Op,
    /// With what, in the subject's own unit: microseconds, a count, a fraction, a rate per second.
    pub value: f64,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Of a load generator.
    Load {
        /// Position in the plan.
        load: usize,
        /// Which statistic.
        stat: Statistic,
    },
    /// A metric of some processes, summed: its increase over the window for counters, its last
    /// value for gauges.
    Metric {
        /// `web/sidecar`, `orders-*/app`.
        process: String,
        /// `proxy_retries_total`.
        name: String,
        /// `{reason="connect"}`.
        labels: Vec<(String, String)>,
    },
    /// One divided by the other.
    Ratio {
        /// The part.
        of: Box<Subject>,
        /// The whole.
        to: Box<Subject>,
    },
    /// Of a fault's evidence.
    Evidence {
        /// `killed`, `dropped_packets`, ...
        name: String,
    },
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Op {
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `==`
    Eq,
    /// `!=`
    Ne,
}

impl Plan {
    /// When a point in time of a window is, from the start of the measured part.
    pub fn time(&self, point: TimePoint) -> Duration {
        point.in_run(&self.timeline, self.duration)
    }

    /// The service's callable address (IPv4).
    pub fn vip(&self, service: &str) -> Option<SocketAddr> {
        let service = self.services.iter().find(|s| s.name == service)?;
        Some(SocketAddr::new(service.vip4.into(), service.port?))
    }

    /// `orders-1/app`
    pub fn process_name(&self, id: ProcessId) -> String {
        let role = match id.role {
            Role::App if self.authority(id.instance).is_some() => "ca",
            Role::App => "app",
            Role::Sidecar => "sidecar",
        };
        format!("{}/{role}", self.instances[id.instance].name)
    }

    /// What a process may take of the machine.
    pub fn limits(&self, id: ProcessId) -> ResourceLimits {
        let limits = self.services[self.instances[id.instance].service].limits;
        match id.role {
            Role::App => limits.app,
            Role::Sidecar => limits.sidecar,
        }
    }

    /// Every process of the plan, in order.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.instances.iter().enumerate().flat_map(|(instance, i)| {
            let has_program = i.app.is_some() || self.authority(instance).is_some();
            let app = has_program.then_some(ProcessId { instance, role: Role::App });
            let sidecar = i.sidecar.is_some().then_some(ProcessId { instance, role: Role::Sidecar });
            app.into_iter().chain(sidecar)
        })
    }

    /// Whether any link or timeline entry asks for an impairment, so that a wire must stand between
    /// instances.
    pub fn needs_wire(&self) -> bool {
        !self.links.is_empty() || self.timeline.iter().any(|e| !e.action.links().is_empty())
    }

    /// The configuration file of each instance's sidecar, by position; empty if there are no
    /// sidecars.
    pub fn configs(&self) -> Vec<String> {
        self.instances.iter().filter_map(|instance| instance.sidecar.clone()).collect()
    }

    /// The port at which connections to a process come in: its own, or where interception
    /// leads others to a sidecar.
    pub fn way_in(&self, id: ProcessId) -> Option<u16> {
        match id.role {
            Role::App => match self.authority(id.instance) {
                Some(_) => Some(CA_PORT),
                None => self.instances[id.instance].app.as_ref().map(|app| app.port),
            },
            Role::Sidecar => Some(INBOUND_PORT),
        }
    }

    /// The text of every instance's /etc/hosts: services by their virtual addresses, instances by
    /// their own.
    pub fn hosts(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for service in self.services.iter().filter(|s| s.port.is_some()) {
            text += &format!("{} {name} {name}.lab\n", service.vip4, name = service.name);
            text += &format!("{} {name} {name}.lab\n", service.vip6, name = service.name);
        }
        for instance in &self.instances {
            if self.services.iter().any(|s| s.name == instance.name) {
                continue;
            }
            text += &format!("{} {}\n{} {}\n", instance.v4, instance.name, instance.v6, instance.name);
        }
        text
    }
}
