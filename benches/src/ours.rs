//! Our own sidecar's configuration: everything that is not about where the app is, and about what
//! is measured, stays at its default.

use std::fmt::Write as _;

use crate::APP_PORT;
use crate::place::{APP, Place, Side, VIRTUAL};

/// What a mesh asks for: some who may, by name, and something that nobody may.
const POLICIES: &str = r#"
[[authorization.policy]]
name = "callers"
[[authorization.policy.rule]]
from = [{ principals = ["cluster.local/ns/bench/sa/client", "cluster.local/ns/shop/sa/*"] }]
"#;
const POLICIES_OF_HTTP: &str = r#"
[[authorization.policy]]
name = "readers"
[[authorization.policy.rule]]
from = [{ namespaces = ["bench"] }]
to   = [{ methods = ["GET", "POST"], paths = ["/bench", "/bench.Echo/*"] }]
[[authorization.policy]]
name   = "no-admin"
action = "deny"
[[authorization.policy.rule]]
to = [{ paths = ["/admin", "/admin/*"] }]
[[authorization.policy]]
name   = "no-debug"
action = "deny"
[[authorization.policy.rule]]
when = [{ key = "request.headers[x-debug]", values = ["*"] }]
"#;

/// The configuration for `place`.
pub fn config(place: &Place<'_>) -> String {
    let spoken = if place.protocol.is_opaque() { "tcp" } else { "detect" };
    let mut text = match place.side {
        Side::Client => {
            let identity = match place.path.is_mtls() {
                true => format!(", identity = \"{}\"", place.expected()),
                false => String::new(),
            };
            format!(
                "service = \"client\"\n[[cluster]]\nname = \"app\"\naddresses = [\"{VIRTUAL}\"]\n\
                 endpoints = [{{ address = \"{APP}\"{identity} }}]\nprotocol = \"{spoken}\"\n"
            )
        }
        Side::App => {
            format!("service = \"app\"\ninbound = [{{ port = {APP_PORT}, protocol = \"{spoken}\" }}]\n")
        }
    };
    if place.path.is_mtls() {
        let (id, files) = (place.side.identity(), place.certificates());
        let _ = write!(text, "[identity]\nid = \"{id}\"\nfiles = \"{}\"\n", files.display());
    }
    if place.side == Side::App && place.path.is_mtls() {
        text += "[tls]\nmode = \"strict\"\n";
        if place.path.has_policies() {
            text += POLICIES;
            text += if place.protocol.is_opaque() { "" } else { POLICIES_OF_HTTP };
        }
        if place.path.has_audit() {
            let _ = write!(text, "[audit]\ndirectory = \"{}\"\n", place.folder.join("written").display());
        }
    }
    text
}
