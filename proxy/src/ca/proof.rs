//! Who a workload is that asks the authority, by a token or by the certificate that it has.

use std::time::SystemTime;

use data_encoding::HEXLOWER;

use super::authority::AuthorityError;
use super::issue::BACKDATED;
use super::store::{IssuedRecord, State};
use super::token::{AuthorityToken, Bearer, unix_ms};
use crate::spiffe_id::SpiffeId;
use crate::tls::Shown;

/// With what a workload proves who it is.
#[derive(Debug, Clone)]
pub enum Proof {
    /// A bootstrap token.
    Token(String),
    /// The certificate that it has shown when it connected.
    Certificate {
        /// That certificate.
        shown: Shown,
        /// The version of the bundle by which it was judged.
        version: u64,
    },
}

impl State {
    /// Whom a token speaks for at `now`.
    pub(super) fn bearer(&self, token: &str, now: SystemTime) -> Result<Bearer, AuthorityError> {
        let token = AuthorityToken::verify(token, &self.token_key, now)?;
        if let Bearer::Workload(id) = &token.bearer
            // By its own time a token would be of before or after, as clocks say.
            && token.follows != self.barred.get(id).copied()
        {
            return Err(AuthorityError::Unauthenticated(format!("the tokens of {id} were revoked")));
        }
        Ok(token.bearer)
    }

    /// Which workload it is that proves itself like this at `now`. `issued` is the log.
    pub(super) fn workload(
        &self,
        proof: &Proof,
        issued: &[IssuedRecord],
        now: SystemTime,
    ) -> Result<SpiffeId, AuthorityError> {
        let (Shown { id, validity, serial }, version) = match proof {
            Proof::Certificate { shown, version } => (shown, version),
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
        let serial = HEXLOWER.encode(serial);
        let is_in_log = || issued.iter().any(|record| record.serial == serial && record.id == *id);
        let begin = unix_ms(validity.not_before + BACKDATED);
        // Times in certificates have whole seconds. But what is in the log when a workload is
        // revoked is in the list afterwards: what is in the log alone was issued later.
        let is_barred = self.barred.get(id).is_some_and(|at| begin <= *at) && !is_in_log();
        if is_barred || self.revoked.contains_key(&serial) {
            return refuse(format!("the certificates of {id} were revoked"));
        }
        if self.version != *version {
            let message = "roots or revocations have changed since this connection began: open another";
            return refuse(message.into());
        }
        Ok(id.clone())
    }
}
