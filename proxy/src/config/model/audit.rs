//! `[audit]`: the audit log.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[audit]`: a line for every request and connection that reaches the app. Only read at start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The directory of the log, `audit.log` and older ones. It is made if there is none.
    pub directory: Spanned<String>,
    /// `"drop"` or `"block"`: what happens while the disk is slow or full. Default `"drop"`.
    pub when_full: Option<Spanned<String>>,
    /// How many lines may wait to be written, those of requests under way among them. Default
    /// 16384.
    pub queue: Option<Spanned<u32>>,
    /// How large a file may become before the next one begins. Default `"64MiB"`.
    pub rotate: Option<Spanned<String>>,
    /// How many older files are kept, at least 1. Default 8.
    pub keep: Option<Spanned<u32>>,
    /// Whether each line has the hash of the one before. Default: no.
    #[serde(default)]
    pub chain: bool,
    /// Whether lines outlive the machine's power before more are written. Default: no.
    #[serde(default)]
    pub sync: bool,
}
