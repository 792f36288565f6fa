//! `certificate = { .. }`: sidecars prove themselves with another certificate.
//!
//! With one that ends soon, names somebody else or is signed by a stranger, this is what becomes of
//! a workload whose certificate has expired, is wrong, or is of another trust domain; and an
//! instance with the certificate of another workload is what stands behind an address that was
//! reused.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::{Context, Fault, Primitives, holds_processes};
use crate::mesh::{ProcessId, Role};
use crate::syntax::diagnose::Mistake;
use crate::syntax::one_or_many::OneOrMany;

/// Restarts sidecars with another certificate; the revert gives them their own back.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// The sidecars.
    pub processes: Vec<ProcessId>,
    /// Position in the plan's certificates.
    pub certificate: usize,
    /// The whole file of each instance's sidecar, by position; empty if there are no sidecars.
    /// Filled in when the plan is made.
    pub configs: Vec<String>,
}

/// `certificate = { .. }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateTable {
    /// `"orders-2"`, or a list of such.
    pub instance: Spanned<OneOrMany>,
    /// The certificate, `[cert.NAME]`.
    pub cert: Spanned<String>,
}

impl Fault for Certificate {
    type Table = CertificateTable;

    const EVIDENCE: &'static [&'static str] = &["replaced", "killed", "restarted"];

    fn resolve(
        table: &Spanned<CertificateTable>,
        context: &Context<'_>,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let CertificateTable { instance: asked, cert } = table.get_ref();
        let instances = context.instances(asked, mistakes);
        if let Some(authority) = instances.iter().find(|i| context.names.is_authority(**i)) {
            let message = format!("`{}` is an authority", context.names.instances[*authority].name);
            let mistake = Mistake::new(asked.span(), message, "gives certificates to others");
            mistakes.push(mistake.help("name an instance of a service, such as \"orders-1\""));
        }
        let found = context.certificates.iter().position(|name| name == cert.get_ref());
        if found.is_none() {
            let known = context.certificates.iter().map(String::as_str);
            mistakes.push(Mistake::unknown("certificate", cert, known));
        }
        let sidecar = |instance| ProcessId { instance, role: Role::Sidecar };
        Certificate {
            processes: instances.into_iter().map(sidecar).collect(),
            certificate: found.unwrap_or_default(),
            configs: Vec::new(),
        }
    }

    holds_processes!(processes);

    async fn apply<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.give(fault, Some((self.certificate, &self.configs)), world).await
    }

    async fn revert<W: Primitives>(&self, fault: &str, world: &W) -> Result<(), W::Error> {
        self.give(fault, None, world).await
    }
}

impl Certificate {
    /// A sidecar is ready only once it has a certificate, so in the end each has this one.
    async fn give<W: Primitives>(
        &self,
        fault: &str,
        certificate: Option<(usize, &[String])>,
        world: &W,
    ) -> Result<(), W::Error> {
        world.end(fault, &self.processes, false).await?;
        world.deliver(fault, &self.processes, certificate).await?;
        world.start_again(fault, &self.processes).await
    }
}
