//! Who this workload is, and what obtains, proves and renews its identity.
//!
//! [`run`] keeps the certificate in force up to date for as long as the sidecar lives. Whatever
//! goes wrong with a new one, the old one stays in force while it is valid; the reason is told on
//! `/ready` once it is not, and is counted at once.
//!
//! The name of a workload is a type that everything below may use, so it stands in
//! [`crate::spiffe_id`]; it is named here because this is where one looks for it.

mod ca;
pub mod files;
pub mod workload_api;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::timeout;

use crate::config::defaults::WRONG_FILES;
use crate::config::{Identity, IdentitySource};
pub use crate::spiffe_id::{SpiffeId, SpiffeIdError, check_trust_domain};
use crate::telemetry::{Metrics, emit};
use crate::tls::trust::TrustBundle;
use crate::tls::{Credentials, TlsContext, TlsStore};
use crate::world::{Net, World, seconds};

/// Keeps the certificate of this workload in `store` up to date, for ever.
pub async fn run<N: Net>(world: World<N>, identity: Identity, store: Arc<TlsStore>, metrics: Arc<Metrics>) {
    let Identity { id, source } = identity;
    match source {
        IdentitySource::Files(folder) => follow(world, &id, &folder, &store, &metrics).await,
        IdentitySource::Ca(ca) => ca::run(world, id, ca, store, metrics).await,
        IdentitySource::WorkloadApi(socket) => workload_api::run(world, id, socket, store, metrics).await,
    }
}

/// Follows the files of a folder, for ever.
async fn follow<N>(world: World<N>, id: &SpiffeId, folder: &Path, store: &TlsStore, metrics: &Metrics) {
    let mut watch = files::FolderWatch::new(&*world.files, folder);
    // What was told last of wrong files, and whether they are looked at again although nothing has
    // changed: a certificate whose time has not come yet becomes good.
    let (mut told, mut again) = (None, false);
    loop {
        watch.cover();
        let loaded = files::load(&*world.files, folder, id, &world.crypto, world.wall.now());
        let loaded = loaded.map_err(|error| error.to_string()).and_then(|mut credentials| {
            let trust = Arc::get_mut(&mut credentials.trust).expect("nobody else has it yet");
            let follow = |current: Arc<TlsContext>| trust.follow(&current.credentials.trust);
            let follows = store.current().map_or(Ok(()), follow);
            follows.map_err(|why| format!("{}: {why}", folder.join(files::REVOKED).display()))?;
            Ok(credentials)
        });
        again = match loaded {
            Ok(credentials) => {
                put_in_force(&world, credentials, store, metrics);
                told = None;
                watch.changed().await;
                false
            }
            Err(why) => {
                if !again && told.as_ref() != Some(&why) {
                    refuse(why.clone(), store, metrics);
                    told = Some(why);
                }
                timeout(WRONG_FILES, watch.changed()).await.is_err()
            }
        };
    }
}

/// Puts new credentials in force.
fn put_in_force<N>(world: &World<N>, credentials: Credentials, store: &TlsStore, metrics: &Metrics) {
    let not_after = seconds(credentials.not_after);
    tell_doubts(&credentials.trust, world.wall.now());
    emit!(CertificateInForce { id: credentials.id, not_after });
    metrics.certificate(true, Some(credentials.not_after));
    store.replace(TlsContext::new(credentials, world.crypto.clone(), world.wall.clone()));
}

/// Tells what an operator should look at in a bundle.
fn tell_doubts(trust: &TrustBundle, now: SystemTime) {
    for doubt in trust.doubts(now) {
        tracing::warn!(doubt, "the bundle is in force all the same");
    }
}

/// Tells why there are no new credentials. What was in force stays.
fn refuse(why: String, store: &TlsStore, metrics: &Metrics) {
    emit!(NoNewCertificate { why, kept: store.current().is_some() });
    metrics.certificate(false, None);
    store.refused(why);
}
