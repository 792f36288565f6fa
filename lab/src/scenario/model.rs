//! The scenario file, key for key. Nothing here is resolved: names are names, and every value
//! remembers its place in the text so that a mistake can be pointed at.
//!
//! One noun a table: `[scenario]`, `[service.NAME]`, `[[link]]`, `[load.NAME]`, `[[timeline]]`,
//! `[[expect]]`. Durations, rates and percentages are strings with units (`"250ms"`, `"400/s"`,
//! `"1%"`); a bare number is refused with a hint.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::app::AppTable;
use crate::fault::EntryTable;
use crate::load::LoadTable;
use crate::syntax::links::LinkTable;
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::settings::Settings;
use crate::syntax::units::{Cores, Size, Span};

/// A whole scenario file. `parse` puts it together table by table.
#[derive(Debug)]
pub struct File {
    /// Name, seed, clocks.
    pub scenario: Header,
    /// Services by name.
    pub service: BTreeMap<Spanned<String>, Service>,
    /// Certificate authorities by name.
    pub ca: BTreeMap<Spanned<String>, Authority>,
    /// Certificates that are made by the lab, by name.
    pub cert: BTreeMap<Spanned<String>, Certificate>,
    /// Base links between instances; what is not named here has no delay and no loss.
    pub link: Vec<Spanned<LinkTable>>,
    /// Load generators by name.
    pub load: BTreeMap<Spanned<String>, LoadTable>,
    /// Faults, each with its time.
    pub timeline: Vec<Spanned<EntryTable>>,
    /// What must hold.
    pub expect: Vec<Spanned<Expect>>,
}

/// `[scenario]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// One line for people.
    pub name: Spanned<String>,
    /// Seed of every random choice. Default 1.
    pub seed: Option<u64>,
    /// Load runs but is not judged. Default 1 s.
    pub warmup: Option<Spanned<Span>>,
    /// The measured part; the timeline's clock starts after the warm-up.
    pub duration: Spanned<Span>,
    /// The kind of sidecar: `"ours"` (default), `"none"`, or a list of both to compare.
    pub sidecar: Option<Spanned<OneOrMany>>,
    /// Instances whose packets are captured into the results (kernel only).
    pub capture: Option<Spanned<OneOrMany>>,
}

/// `[service.NAME]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// How many instances. Default 1. More than one are named `NAME-0`, `NAME-1`, ...
    pub replicas: Option<Spanned<u32>>,
    /// The port that the app listens on, and that callers dial. Needed with `app`.
    pub port: Option<Spanned<u16>>,
    /// `"http"` or `"tcp"`; without it the sidecar looks at the first bytes.
    pub protocol: Option<Spanned<String>>,
    /// HTTP/1 requests to it share HTTP/2 connections between sidecars. Default false.
    pub bridge: Option<Spanned<bool>>,
    /// The service that its instances register with, and that callers learn them from: one with
    /// `app = { registry = {} }`. Without it, every sidecar is told where they are.
    pub registry: Option<Spanned<String>>,
    /// Keys for this service's `[[cluster]]` in every sidecar's configuration: how it is called.
    pub policy: Option<Spanned<Settings>>,
    /// Keys for the configuration of this service's own sidecars.
    pub sidecar: Option<Spanned<Settings>>,
    /// Keys for `[authorization]` of its own sidecars: who may call it. The same as
    /// `sidecar.authorization`.
    pub authorization: Option<Spanned<Settings>>,
    /// The namespace in its SPIFFE id. Default `"default"`.
    pub namespace: Option<Spanned<String>>,
    /// Who it is, and whether its callers must prove who they are.
    pub tls: Option<Spanned<Tls>>,
    /// The zones of its replicas, one each and then from the first again.
    pub zones: Option<Vec<Spanned<String>>>,
    /// Its replicas' shares of the load, dealt out as `zones` are. Default 1 each.
    pub weights: Option<Vec<Spanned<u32>>>,
    /// What tells its replicas apart, dealt out as `zones` are.
    pub labels: Option<Vec<Spanned<BTreeMap<String, String>>>>,
    /// What its processes may take of the machine (kernel only). Default: all of it.
    pub limits: Option<ServiceLimits>,
    /// The app. A service without one only sends load.
    pub app: Option<Spanned<AppTable>>,
}

/// `[service.NAME.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// `"strict"`, `"permissive"`, or `"disabled"`: it has no identity, and neither calls by TLS nor
    /// answers it. Default: what the sidecar does, which is `"permissive"`.
    pub mode: Option<Spanned<String>>,
    /// The authority that gives it certificates. Default: the file's only one.
    pub ca: Option<Spanned<String>>,
    /// A certificate that it has in files instead.
    pub cert: Option<Spanned<String>>,
}

/// `[ca.NAME]`: a certificate authority, which runs in an instance of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Default `"cluster.local"`.
    pub trust_domain: Option<Spanned<String>>,
    /// How long the certificates of workloads are valid. Default `"24h"`.
    pub certificate_lifetime: Option<Spanned<Span>>,
    /// How long roots are; at least four times as long. Default: 3650 days.
    pub root_lifetime: Option<Spanned<Span>>,
}

/// `[cert.NAME]`: a certificate that the lab makes and delivers in files, which nobody renews.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The authority that signs it. Default: the file's only one.
    pub ca: Option<Spanned<String>>,
    /// The SPIFFE id in it. Default: that of the workload that has it.
    pub id: Option<Spanned<String>>,
    /// How long it is valid once the workload has it. Default `"24h"`.
    pub lifetime: Option<Spanned<Span>>,
    /// The authorities whose roots come with it: whom the workload trusts. Default: its own.
    pub trusts: Option<Vec<Spanned<String>>>,
}

/// `limits = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLimits {
    /// Of each of its sidecars.
    #[serde(default)]
    pub sidecar: ResourceLimits,
    /// Of each of its apps.
    #[serde(default)]
    pub app: ResourceLimits,
}

/// `sidecar = { cpu = "200m", memory = "64MiB" }`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// `"200m"` or `"20%"` of a CPU.
    pub cpu: Option<Spanned<Cores>>,
    /// Past it the kernel kills. A sidecar is told four fifths of it as its own limit.
    pub memory: Option<Spanned<Size>>,
}

/// `[[expect]]`: conditions over a window of time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// One line for people.
    pub name: Option<Spanned<String>>,
    /// `"10s..20s"` or the name of a timeline entry. Without any window: the whole measured part.
    pub during: Option<Spanned<String>>,
    /// Recovery: within [`Expect::within`] of this entry (or `"entry.end"`) the conditions come
    /// true and stay so for [`Expect::hold`].
    pub after: Option<Spanned<String>>,
    /// See [`Expect::after`].
    pub within: Option<Spanned<Span>>,
    /// See [`Expect::after`]. Default 1 s.
    pub hold: Option<Spanned<Span>>,
    /// Did this entry really bite? Conditions over its evidence.
    pub fault: Option<Spanned<String>>,
    /// Judged only with this kind of sidecar: `"ours"` or `"none"`. Default: always.
    pub sidecar: Option<Spanned<String>>,
    /// Services or instances: every byte of TCP from each of them to each other was TLS, and there
    /// were some (kernel only). Over the whole run.
    pub no_plaintext_between: Option<Spanned<OneOrMany>>,
    /// `"subject.statistic op value"`, all of which must hold.
    #[serde(default)]
    pub that: Vec<Spanned<String>>,
}

/// Default of [`Header::warmup`].
pub const WARMUP: Duration = Duration::from_secs(1);
/// Default of [`Expect::hold`].
pub const HOLD: Duration = Duration::from_secs(1);
