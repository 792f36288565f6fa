//! Who the workloads of a run are, and who may call whom: in half of the runs callers prove by
//! mutual TLS who they are, and policies decide.

use std::fmt::Write;

use proptest::prelude::*;

/// Loads of which no request may reach an app.
pub(super) const DENIED: [&str; 2] = ["denied", "stranger"];

/// The load of a caller that is revoked in the run.
pub(super) const REVOKED: &str = "former";

/// Whether a load or a process is that of a caller whom nobody lets in, or not any more: for it no
/// endpoint is well, and nothing of it arrives.
pub(super) fn is_strangers(name: &str) -> bool {
    name.split([' ', '/']).next().is_some_and(|name| [DENIED[1], REVOKED].contains(&name))
}

/// Rows of tables, as [`Knobs`](super::knobs::Knobs). 0: nobody is anybody, and everything is
/// allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdentityKnobs {
    tls: usize,
    policy: usize,
    /// When the authority is lost, and for how long, milliseconds.
    lost: Option<(u16, u16)>,
    /// When a caller is revoked, milliseconds, if that can be heard of in the run and there is an
    /// authority then.
    revoked: Option<u16>,
}

/// How there is mutual TLS.
struct Tls {
    /// Tables of the file.
    file: &'static str,
    /// Keys of the service that is called.
    service: &'static str,
    /// Whether there is a caller of another trust, whom nobody lets in.
    stranger: bool,
}

/// Certificates that end within the run are renewed in it.
const SHORT: &str = "[ca.mesh]\ncertificate_lifetime = \"3s\"\n\n";
const LONG: &str = "[ca.mesh]\n\n";
const STRICT: &str = "tls = { ca = \"mesh\", mode = \"strict\" }\n";
const PERMISSIVE: &str = "tls = { ca = \"mesh\", mode = \"permissive\" }\n";

const TLS: [Tls; 6] = [
    Tls { file: "", service: "", stranger: false },
    Tls { file: SHORT, service: STRICT, stranger: false },
    Tls { file: SHORT, service: PERMISSIVE, stranger: false },
    Tls { file: LONG, service: STRICT, stranger: false },
    Tls {
        file: "[ca.mesh]\n\n[cert.orders]\nca = \"mesh\"\n\n",
        service: "tls = { ca = \"mesh\", mode = \"strict\", cert = \"orders\" }\n",
        stranger: false,
    },
    Tls {
        file: "[ca.mesh]\n\n[ca.foreign]\n\n[cert.stranger]\nca = \"foreign\"\ntrusts = [\"mesh\", \"foreign\"]\n\n\
               [service.stranger]\ntls = { ca = \"mesh\", cert = \"stranger\" }\n\n",
        service: STRICT,
        stranger: true,
    },
];

/// Policies, all of which let `web` do everything but ask for `/denied`.
const POLICY: [&str; 4] = [
    "",
    "policy = [{ name = \"web\", rule = [{ from = [{ principals = [\"cluster.local/ns/default/sa/web\"] }], \
     to = [{ not_paths = [\"/denied\"] }] }] }]\n",
    "policy = [{ name = \"all\", rule = [{ from = [{ namespaces = [\"default\"] }] }] }, \
     { name = \"closed\", action = \"deny\", rule = [{ to = [{ paths = [\"/denied*\"] }] }] }]\n",
    "policy = [{ name = \"closed\", action = \"deny\", rule = [{ from = [{ not_principals = [\"cluster.local/ns/default/sa/web\"] }] }, \
     { to = [{ methods = [\"GET\"], paths = [\"/denied\"] }] }] }]\n",
];

/// Draws them.
pub(super) fn any() -> impl Strategy<Value = IdentityKnobs> {
    let lost = proptest::option::weighted(0.4, (100..1400_u16, 100..900_u16));
    let revoked = proptest::option::weighted(0.5, 300..1600_u16);
    let on = (1..TLS.len(), 1..POLICY.len(), lost, revoked);
    let on = on.prop_map(|(tls, policy, lost, revoked)| IdentityKnobs { tls, policy, lost, revoked });
    prop_oneof![Just(IdentityKnobs::default()), on]
}

impl IdentityKnobs {
    /// Tables that stand before the services.
    pub(super) fn file(&self) -> String {
        let revoked = match self.revoked() {
            Some(_) => format!("[service.{REVOKED}]\ntls = {{ ca = \"mesh\" }}\n\n"),
            None => String::new(),
        };
        format!("{}{revoked}", TLS[self.tls].file)
    }

    fn revoked(&self) -> Option<u16> {
        self.revoked.filter(|_| TLS[self.tls].file == SHORT && self.lost.is_none())
    }

    /// Keys of the other services.
    pub(super) fn of_others(&self) -> &'static str {
        if self.tls > 0 { "tls = { ca = \"mesh\" }\n" } else { "" }
    }

    /// Keys of the service that is called.
    pub(super) fn of_service(&self) -> &'static str {
        TLS[self.tls].service
    }

    /// Who may call it.
    pub(super) fn policies(&self) -> String {
        match POLICY[self.policy] {
            "" => String::new(),
            keys => format!("\n[service.orders.authorization]\n{keys}"),
        }
    }

    /// Loads that are refused, a revocation, and the loss of the authority.
    pub(super) fn loads(&self) -> String {
        let mut text = String::new();
        let mut load = |name: &str, from: &str, path: &str| {
            let url = format!("http://orders:8080/{path}");
            let _ = write!(text, "\n[load.{name}]\nfrom = \"{from}\"\nurl = \"{url}\"\nrate = \"3/s\"\n");
        };
        if self.policy > 0 {
            load(DENIED[0], "web", "denied");
        }
        if TLS[self.tls].stranger {
            load(DENIED[1], "stranger", "");
        }
        if let Some(at) = self.revoked() {
            // Open for long, so that there is something to end.
            let _ = write!(
                text,
                "\n[load.{REVOKED}]\nfrom = \"{REVOKED}\"\nurl = \"grpc://orders:8080/lab.Echo/Stream\"\n\
                 body = 300\nend_delay = \"1s\"\nrate = \"4/s\"\ntimeout = \"2s\"\n"
            );
            let _ = write!(text, "\n[[timeline]]\nat = \"{at}ms\"\nrevoke = {{ service = \"{REVOKED}\" }}\n");
        }
        if let (Some((at, lasts)), true) = (self.lost, self.tls > 0) {
            let _ = write!(
                text,
                "\n[[timeline]]\nat = \"{at}ms\"\nkill = {{ process = \"mesh/ca\", restart = \"{lasts}ms\" }}\n"
            );
        }
        text
    }
}
