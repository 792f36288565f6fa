//! Certificates from a folder that something else writes to: `tls.crt`, `tls.key` and `ca.crt`, as
//! cert-manager and Kubernetes' secrets have them, and `crl.pem` if certificates are revoked.
//!
//! The folder is watched, whether it is there or not. Files that do not belong together, because
//! they are being written or are wrong, change nothing: what was in force stays, and the reason is
//! told. So it is if a list of revoked certificates goes away, or an older one comes: it may be
//! between being removed and being written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use tokio::sync::Notify;

use crate::config::LoadError;
use crate::config::watch::{Watch, changed};
use crate::spiffe_id::SpiffeId;
use crate::tls::pem::{self, PemFile};
use crate::tls::trust::TrustBundle;
use crate::tls::{Credentials, CredentialsError};
use crate::world::Files;

/// The workload's certificates, its own first.
const CHAIN: &str = "tls.crt";
/// The key of the first.
const KEY: &str = "tls.key";
/// The roots.
const ROOTS: &str = "ca.crt";
/// The lists of revoked certificates; need not be there.
pub(super) const REVOKED: &str = "crl.pem";

/// Why the files of a folder make no credentials.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error(transparent)]
    Unreadable(#[from] LoadError),
    /// One is malformed.
    #[error(transparent)]
    Pem(#[from] pem::PemError),
    /// They do not belong together.
    #[error("{}: {error}", path.display())]
    Credentials {
        /// Whose fault it is: the certificate's or the key's.
        path: PathBuf,
        /// Why.
        error: CredentialsError,
    },
}

/// Reads the folder.
///
/// # Errors
/// What is wrong with which file.
pub fn load(
    files: &dyn Files,
    folder: &Path,
    id: &SpiffeId,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<Credentials, FilesError> {
    let read = |name: &str| {
        let path = folder.join(name);
        pem::read(files, &path).map(|text| (path, text))
    };
    let (chain, key, roots) = (read(CHAIN)?, read(KEY)?, read(ROOTS)?);
    let revoked = match read(REVOKED) {
        Ok(file) => Some(file),
        Err(LoadError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    fn pem((path, text): &(PathBuf, String)) -> PemFile<'_> {
        PemFile { path, text }
    }
    let algorithms = provider.signature_verification_algorithms;
    let trust = TrustBundle::of_pem(&pem(&roots), revoked.as_ref().map(pem).as_ref(), algorithms)?;
    let trust = trust.without_expired(now).map_err(|why| pem(&roots).error(1, why.into()))?;
    let certificates = pem::certificates(&pem(&chain))?.into_iter().map(|(_, certificate)| certificate);
    let (_, private) = pem::private_key(&pem(&key))?;
    let made = Credentials::new(certificates.collect(), private, Arc::new(trust), id, provider, now);
    made.map_err(|error| {
        let path = match error {
            CredentialsError::Key | CredentialsError::Mismatch => key.0.clone(),
            _ => chain.0.clone(),
        };
        FilesError::Credentials { path, error }
    })
}

/// Watches the folder.
pub(super) struct FolderWatch {
    look: Arc<Notify>,
    watch: Box<dyn Watch>,
    paths: [PathBuf; 4],
}

impl FolderWatch {
    /// Watches nothing yet.
    pub(super) fn new(files: &dyn Files, folder: &Path) -> Self {
        let look = Arc::new(Notify::new());
        let paths = [CHAIN, KEY, ROOTS, REVOKED].map(|name| folder.join(name));
        FolderWatch { watch: files.watch(look.clone()), look, paths }
    }

    /// Watches what is there now. To be called before each look at the files: a link may lead
    /// elsewhere.
    pub(super) fn cover(&mut self) {
        if let Err(error) = self.watch.cover(&self.paths) {
            let path = self.paths[0].display();
            tracing::warn!(%path, %error, "cannot watch; a new certificate is noticed later");
        }
    }

    /// Waits until something has changed there, and then nothing for a moment.
    pub(super) async fn changed(&self) {
        changed(&*self.watch, &self.look).await;
    }
}
