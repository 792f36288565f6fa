//! `[access_log]`: the access log.

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[access_log]`: a line for every request and opaque connection, in and out. Only read at start.
/// Of `errors`, `slower_than` and `share` each asks for lines of its own; without any of them there
/// is a line for everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// The file, or `"stdout"`.
    pub path: Spanned<String>,
    /// `"json"` or a text with Envoy's operators. Default `"json"`.
    pub format: Option<Spanned<String>>,
    /// Whether there is a line for whatever fails. Default: no.
    #[serde(default)]
    pub errors: bool,
    /// There is a line for whatever takes longer. Default: no such limit.
    pub slower_than: Option<Spanned<String>>,
    /// The share of all that gets a line by chance. Default: none.
    pub share: Option<Spanned<String>>,
    /// How many lines may wait to be written. Default 16384.
    pub queue: Option<Spanned<u32>>,
}
