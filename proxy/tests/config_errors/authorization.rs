//! Mistakes in policies about callers, and in what is said of issuers of tokens.

use crate::says;

says! {
    policies_about_callers_are_pointed_at: r#"
service = "web"
[authorization]
default = "allowed"
path_normalization = "merge"

[[authorization.policy]]
name = "a"
action = "block"
rule = [{ from = [{ principals = [] }], to = [{}] }]

[[authorization.policy]]
name = "a"
action = "deny"

[[authorization.policy]]
name = "b"
provider = "opa"
rule = [{ from = [], when = [{ key = "request.header[x]", values = ["a"] }, { key = "source.ip" }] }]

[[authorization.policy]]
name = "c"
action = "custom"
provider = "opo"
rule = [{}]

[[authorization.provider]]
name = "opa"
address = "opa:9191"
status_on_error = 200
"#;
    values_of_policies_that_never_match_are_pointed_at: r#"
service = "web"
[[authorization.policy]]
name = "a"
[[authorization.policy.rule]]
from = [{ ip_blocks = ["10.0.0.0/33", "web"], namespaces = ["shop/web"], service_accounts = ["web"], principals = ["td/*/sa/web"] }]
to = [{ methods = ["get"], paths = ["admin", "/a?b", "/a/{id}", "/{**}/{*}"], ports = [0], hosts = [""] }]
when = [{ key = "request.headers[host]", values = ["a"] }, { key = "destination.port", values = ["http"] }]
"#;
    issuers_that_nobody_could_believe_are_pointed_at: r#"
service = "web"
[[jwt]]
name = "idp"
issuer = ""
jwks = { url = "https://idp.example/keys" }
algorithms = ["HS256", "RS265", "none"]
claims_to_headers = { host = "sub" }

[[jwt]]
name = "idp"
issuer = "https://other"
jwks = { file = "keys.json", refresh = "1m", inline = "{}" }
from_headers = []

[[jwt]]
name = "third"
issuer = "https://third"
jwks = { url = "idp.example:8080", refresh = "0s" }

[[jwt]]
name = "fourth"
issuer = "https://fourth"
jwks = { inline = "{}" }
"#;
}
