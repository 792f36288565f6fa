//! Who the workloads of a plan are, and who says so.
//!
//! No key and no certificate is here: each world makes its own, and delivers to the folder
//! [`IDENTITY_DIR`] of a sidecar what its [`Identity`] asks for. An authority is a service and an
//! instance like others, without a port that callers dial and without a sidecar.

use std::time::Duration;

use serde::Serialize;

use super::Plan;

/// The port of an authority.
pub const CA_PORT: u16 = proxy::config::defaults::CA_PORT;
/// The user and group of every authority: what it keeps is nobody else's.
pub const CA_UID: u32 = 1338;
/// The folder of a sidecar's certificates, relative to where it is started.
pub const IDENTITY_DIR: &str = "identity";
/// In [`IDENTITY_DIR`]: the roots of the authority that is asked.
pub const ROOTS_FILE: &str = "roots.pem";
/// In [`IDENTITY_DIR`]: the bootstrap token that the authority is shown.
pub const TOKEN_FILE: &str = "token";
/// In [`IDENTITY_DIR`]: a certificate that the lab has made.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// In [`IDENTITY_DIR`]: its key.
pub const KEY_FILE: &str = "tls.key";
/// In [`IDENTITY_DIR`]: the roots that are trusted with it.
pub const TRUSTED_FILE: &str = "ca.crt";

/// A certificate authority: `proxy ca run`.
#[derive(Debug, Clone, Serialize)]
pub struct Authority {
    /// Its name, which is also that of its instance.
    pub name: String,
    /// Position of its instance in [`Plan::instances`].
    pub instance: usize,
    /// Whose workloads it knows.
    pub trust_domain: String,
    /// How long what it gives to workloads is valid.
    #[serde(with = "crate::readable")]
    pub certificate_lifetime: Duration,
    /// How long its roots are.
    #[serde(with = "crate::readable")]
    pub root_lifetime: Duration,
}

/// A certificate that the lab makes and nobody renews.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// Its name.
    pub name: String,
    /// Position in [`Plan::authorities`] of the one that has signed it.
    pub authority: usize,
    /// The SPIFFE id in it; `None`: that of the workload that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How long it is valid, from when the workload gets it.
    #[serde(with = "crate::readable")]
    pub lifetime: Duration,
    /// Positions in [`Plan::authorities`] of those that the workload trusts with it.
    pub trusts: Vec<usize>,
}

/// Who a workload is, and how its sidecar proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its SPIFFE id.
    pub id: String,
    /// Where its certificates come from.
    pub source: IdentitySource,
}

/// Where certificates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentitySource {
    /// The authority at this position is asked.
    Authority(usize),
    /// The certificate at this position is in files.
    Certificate(usize),
}

/// Whether callers of a service must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// All of them.
    Strict,
    /// Those that can.
    Permissive,
}

impl Plan {
    /// The authority that an instance is.
    pub fn authority(&self, instance: usize) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.instance == instance)
    }

    /// Who an instance is once it has this certificate; `None` if nobody can say, because neither
    /// the certificate nor its service has a name.
    pub fn identity_with(&self, instance: usize, certificate: usize) -> Option<Identity> {
        let own = &self.services[self.instances[instance].service].identity;
        let id = self.certificates[certificate].id.clone().or_else(|| own.clone())?;
        Some(Identity { id, source: IdentitySource::Certificate(certificate) })
    }

    /// The authority that has signed the certificates of an instance, if it has any.
    pub fn signer(&self, instance: usize) -> Option<usize> {
        Some(match self.instances[instance].identity.as_ref()?.source {
            IdentitySource::Authority(authority) => authority,
            IdentitySource::Certificate(certificate) => self.certificates[certificate].authority,
        })
    }

    /// Who has given its certificates to a service, and the id that is in them. The error says that
    /// it has none.
    pub fn certified(&self, service: usize) -> Result<(usize, &str), String> {
        let of_it = &self.services[service];
        let signer = of_it.instances.first().and_then(|instance| self.signer(*instance));
        let found = signer.zip(of_it.identity.as_deref());
        found.ok_or_else(|| format!("{} has no identity, and so no certificate", of_it.name))
    }

    /// What the sidecar of an instance is given: who it is from now on, and its configuration. With
    /// the certificate at a position, and the configurations of all instances for that, or as
    /// planned. The error says why nobody can be that.
    pub fn given<'a>(
        &'a self,
        instance: usize,
        certificate: Option<(usize, &'a [String])>,
    ) -> Result<(Option<Identity>, Option<&'a String>), String> {
        let of_it = &self.instances[instance];
        let Some((certificate, configs)) = certificate else {
            return Ok((of_it.identity.clone(), of_it.sidecar.as_ref()));
        };
        let identity = self.identity_with(instance, certificate).ok_or_else(|| {
            let message = "has no identity, and the certificate names nobody: give that an `id`";
            format!("{} {message}", of_it.name)
        })?;
        Ok((Some(identity), configs.get(instance)))
    }
}
