//! Who a workload is that asks the authority, by a token or by the certificate that it has.

use std::time::SystemTime;

use super::authority::AuthorityError;
use super::issue::BACKDATED;
use super::store::State;
use super::token::{AuthorityToken, Bearer, unix_ms};
use crate::spiffe_id::SpiffeId;
use crate::tls::Validity;

/// With what a workload proves who it is.
#[derive(Debug, Clone)]
pub enum Proof {
    /// A bootstrap token.
    Token(String),
    /// The certificate that it has shown when it connected.
    Certificate {
        /// Whose it is.
        id: SpiffeId,
        /// How long it is valid.
        validity: Validity,
        /// The version of the bundle by which it was judged.
        version: u64,
    },
}

impl State {
    /// Whom a token speaks for at `now`.
    pub(super) fn bearer(&self, token: &str, now: SystemTime) -> Result<Bearer, AuthorityError> {
        let token = AuthorityToken::verify(token, &self.token_key, now)?;
        if let Bearer::Workload(id) = &token.bearer
            && self.barred.get(id).is_some_and(|until| token.issued_ms <= *until)
        {
            return Err(AuthorityError::Unauthenticated(format!("the tokens of {id} were revoked")));
        }
        Ok(token.bearer)
    }

    /// Which workload it is that proves itself like this at `now`.
    pub(super) fn workload(&self, proof: &Proof, now: SystemTime) -> Result<SpiffeId, AuthorityError> {
        let (id, validity, version) = match proof {
            Proof::Certificate { id, validity, version } => (id, validity, version),
            Proof::Token(token) => match self.bearer(token, now)? {
                Bearer::Workload(id) => return Ok(id),
                Bearer::Operator => {
                    let message = "this is an operator's token, and no workload's";
                    return Err(AuthorityError::Forbidden(message.into()));
                }
            },
        };
        let refuse = |message| Err(AuthorityError::Unauthenticated(message));
        // It may have ended or been revoked since the connection began.
        if now > validity.not_after {
            return refuse("the certificate has expired".into());
        }
        let issued = unix_ms(validity.not_before + BACKDATED);
        // Times in certificates have whole seconds.
        if self.barred.get(id).is_some_and(|until| issued <= *until) {
            return refuse(format!("the certificates of {id} were revoked"));
        }
        if self.version != *version {
            let message = "roots or revocations have changed since this connection began: open another";
            return refuse(message.into());
        }
        Ok(id.clone())
    }
}
