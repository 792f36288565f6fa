//! What the user asked for: the file, the defaults behind it, and the immutable snapshot that
//! requests see.
//!
//! [`parse`] turns text into a [`Snapshot`] or into errors that point at words; [`model`] mirrors
//! the file key for key; [`defaults`] is the one place where a default value stands, with its
//! reason; [`reload`] follows the file and keeps the last good snapshot in force when a new one is
//! wrong.
//!
//! Text is read in two steps: its shape (TOML, keys, types) and then its meaning (units, addresses,
//! contradictions). Each step reports everything it finds, and the second does not start before the
//! first has passed, so that no error is a mere consequence of another one.

pub mod defaults;
mod diagnose;
pub mod excerpt;
pub mod log_format;
pub mod model;
pub mod names;
mod parse;
pub mod reload;
mod shape;
mod snapshot;
pub mod units;
pub mod watch;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use defaults::CONFIG_BYTES;

pub use diagnose::{ConfigError, ConfigErrors};
pub use log_format::LogFormat;
pub use parse::{parse, parse_endpoints};
pub use snapshot::route;
pub use snapshot::{
    AccessLog, Adaptive, AgentSocket, App, AttemptTimeouts, Attribute, AttributeTest, Audit, Authorization,
    AuthorizationPolicy, Balance, BalancePolicy, CaClient, ClaimHeader, Cluster, ClusterLimits,
    DefaultAction, Discovery, Dns, DnsQuery, Endpoint, Etcd, ExternalAuthorizer, Forwarded, HashSource,
    Health, Http1, Http2, Identity, IdentitySource, InboundTimeouts, JwksSource, JwksUrl, JwtProvider,
    Labels, Limits, Listen, LogFilter, LogTarget, OutlierDetection, PathNormalization, PathTemplate,
    PolicyAction, PolicyRule, Probe, ProbeRequest, Protocol, Register, RequestTimeouts, Retry, RetryBudget,
    RetryCondition, RetryConditions, SlowStart, Snapshot, Source, TemplateSegment, Thresholds, Timeouts, Tls,
    TlsMode, TokenHeader, ValuePattern, WhenFull,
};

/// Why a file gave no snapshot.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// What to do.
        #[help]
        help: Option<&'static str>,
    },
    /// It could be read, but not understood.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(#[from] ConfigErrors),
}

impl LoadError {
    /// A line for each mistake, without what the file says, in which there may be secrets: for
    /// logs.
    pub fn lines(&self) -> Vec<String> {
        match self {
            LoadError::Unreadable { help: Some(help), .. } => vec![format!("{self} ({help})")],
            LoadError::Unreadable { help: None, .. } => vec![self.to_string()],
            LoadError::Invalid(errors) => errors.lines().collect(),
        }
    }

    fn unreadable(path: &Path, error: io::Error) -> Self {
        let help = "check the path, and that the user the proxy runs as may read it";
        // What the operating system says is about the file, and the rest about what is in it.
        let help = error.raw_os_error().map(|_| help);
        LoadError::Unreadable { path: path.to_owned(), error, help }
    }
}

/// Reads and checks the file at `path`. Errors name it as it was given.
///
/// # Errors
/// If it cannot be read or is not valid.
pub fn load(path: &Path) -> Result<Snapshot, LoadError> {
    let text = File::open(path).and_then(text).map_err(|error| LoadError::unreadable(path, error))?;
    Ok(parse(&path.display().to_string(), &text)?)
}

/// Reads the file at `path` while the sidecar runs: at once, so that nothing waits for who writes a
/// FIFO.
pub(crate) fn read(path: &Path) -> Result<String, LoadError> {
    let read = || {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        text(file)
    };
    read().map_err(|error| LoadError::unreadable(path, error))
}

/// All that `file` holds.
///
/// # Errors
/// If it cannot be read, is larger than a configuration may be (64 MiB), or is not UTF-8.
pub fn text(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", CONFIG_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = good.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len) + 1;
        let wrong = error.as_bytes()[good.len()];
        let why = format!("byte {column} of line {line}, {wrong:#04x}, is not UTF-8");
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}
