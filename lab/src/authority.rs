//! What the lab does in the place of an operator: it gives each authority its first root before
//! that runs, and each sidecar the files with which it begins.
//!
//! Both worlds call it with the worlds of their authorities: their disks, their time of day and
//! their keys. Nothing here names a clock or a source of chance.

use std::time::Duration;

use proxy::ca::authority::{self, Authority, AuthorityError, Settings};
use proxy::ca::issue::{self, Leaf};
use proxy::ca::roots::Lifetimes;
use proxy::ca::token::Bearer;
use proxy::config::defaults::CA_PER_WORKLOAD;
use proxy::identity::SpiffeId;
use proxy::world::World;

use crate::plan::{
    self, CERTIFICATE_FILE, Identity, IdentitySource, KEY_FILE, Plan, ROOTS_FILE, TOKEN_FILE, TRUSTED_FILE,
};

/// Bytes of a serial number.
const SERIAL: usize = 16;
/// How long bootstrap tokens count: a run does not renew them.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why a sidecar's files cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The authority, in words.
    #[error("authority `{name}`: {error}")]
    Authority {
        /// Its name.
        name: String,
        /// What it says.
        error: AuthorityError,
    },
    /// Keys or names.
    #[error("{0}")]
    Certificate(String),
}

/// How the authority of a plan is run.
pub fn settings(authority: &plan::Authority) -> Settings {
    let plan::Authority { trust_domain, certificate_lifetime, root_lifetime, .. } = authority;
    let lifetimes = Lifetimes { workload: *certificate_lifetime, root: *root_lifetime };
    Settings { trust_domain: trust_domain.clone(), lifetimes, per_workload: CA_PER_WORKLOAD }
}

/// Makes the state and the first root of an authority, on the disk of `world`, if it has none. It
/// must not run.
///
/// # Errors
/// What the authority says.
pub async fn found<N>(world: &World<N>, authority: &plan::Authority) -> Result<(), IdentityError> {
    Authority::open(world, settings(authority)).await.map(drop).map_err(of(authority))
}

/// The roots of an authority that are to be trusted now, PEM, each by itself.
///
/// # Errors
/// What the authority says.
pub async fn roots<N>(world: &World<N>, authority: &plan::Authority) -> Result<Vec<String>, IdentityError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let (_, all) = authority::roots(world).await.map_err(of(authority))?;
    Ok(all.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{rest}")).collect())
}

/// The files, by name, with which the sidecar of a workload begins. `worlds` are those of the
/// plan's authorities, which may run or not.
///
/// # Errors
/// What an authority says, or why there is no key.
pub async fn files<N>(
    worlds: &[World<N>],
    plan: &Plan,
    identity: &Identity,
) -> Result<Vec<(&'static str, String)>, IdentityError> {
    let id: SpiffeId = identity.id.parse().map_err(words)?;
    match identity.source {
        IdentitySource::Authority(position) => {
            let (world, asked) = (&worlds[position], &plan.authorities[position]);
            let (_, roots) = authority::roots(world).await.map_err(of(asked))?;
            let token = authority::token(world, Bearer::Workload(id), TOKEN_LIFETIME).await;
            Ok(vec![(ROOTS_FILE, roots), (TOKEN_FILE, token.map_err(of(asked))?)])
        }
        IdentitySource::Certificate(position) => {
            let certificate = &plan.certificates[position];
            let (world, signer) = (&worlds[certificate.authority], &plan.authorities[certificate.authority]);
            let (root, _) = authority::roots(world).await.map_err(of(signer))?;
            let mut trusted = String::new();
            for &position in &certificate.trusts {
                let (world, authority) = (&worlds[position], &plan.authorities[position]);
                trusted += &authority::roots(world).await.map_err(of(authority))?.1;
            }
            let mut serial = [0; SERIAL];
            world.crypto.secure_random.fill(&mut serial).map_err(|_| words("there is no randomness"))?;
            let key = (world.new_key)().map_err(words)?;
            let (now, lifetime) = (world.wall.now(), certificate.lifetime);
            let leaf = Leaf { id: &id, serial: &serial, now, lifetime };
            let certificate = issue::own(&root, &key, &leaf).map_err(words)?;
            Ok(vec![
                (KEY_FILE, key.serialize_pem()),
                (TRUSTED_FILE, trusted),
                (CERTIFICATE_FILE, certificate),
            ])
        }
    }
}

fn of(authority: &plan::Authority) -> impl FnOnce(AuthorityError) -> IdentityError {
    |error| IdentityError::Authority { name: authority.name.clone(), error }
}

fn words(error: impl ToString) -> IdentityError {
    IdentityError::Certificate(error.to_string())
}
