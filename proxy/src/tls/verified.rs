//! Chains of certificates that were found to lead to a root.
//!
//! Whoever opens many connections shows the same chain with each, and its signatures are most of
//! what a judgement costs. What is remembered belongs to one bundle, which never changes, so a new
//! root or a new list of revoked certificates begins with nothing. Time is the one thing that
//! changes under a bundle, so a chain is remembered together with when it is valid.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::credentials::{Validity, validity};
use super::trust::{PeerSide, unix_time};
use crate::spiffe_id::SpiffeId;

/// Chains that are remembered at most, for each bundle. Only workloads whose certificates lead to a
/// root have one, and a new one when they renew it.
const MOST: usize = 1024;

/// SHA-256 of a chain, and on which side its owner is.
type Key = (PeerSide, [u8; 32]);

/// Those of one bundle.
#[derive(Debug, Default)]
pub(super) struct VerifiedChains(Mutex<BTreeMap<Key, Verified>>);

#[derive(Debug)]
struct Verified {
    id: SpiffeId,
    valid: Validity,
}

impl VerifiedChains {
    /// Whose the chain is, as it was judged before, or as `judge` says.
    ///
    /// # Errors
    /// Those of `judge`, which are not remembered.
    pub(super) fn or_judge<E>(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        (side, now): (PeerSide, UnixTime),
        judge: impl FnOnce() -> Result<SpiffeId, E>,
    ) -> Result<SpiffeId, E> {
        let all = || std::iter::once(end_entity).chain(intermediates);
        let key = (side, hash(all()));
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = known().get(&key)
            && (unix_time(verified.valid.not_before)..=unix_time(verified.valid.not_after)).contains(&now)
        {
            return Ok(verified.id.clone());
        }
        let id = judge()?;
        if let Some(valid) = common(all()) {
            let mut known = known();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(key, Verified { id: id.clone(), valid });
        }
        Ok(id)
    }
}

fn hash<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        // Their lengths too, so that no two chains have the same bytes.
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// When all certificates of a chain are valid; `None` if one of them cannot be read.
fn common<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Option<Validity> {
    let both = |a: Validity, b: Validity| Validity {
        not_before: a.not_before.max(b.not_before),
        not_after: a.not_after.min(b.not_after),
    };
    chain.map(|certificate| validity(certificate).ok()).reduce(|a, b| Some(both(a?, b?))).flatten()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const FROM: Duration = Duration::from_secs(1000);
    const UNTIL: Duration = Duration::from_secs(2000);

    fn certificate(from: Duration, until: Duration) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = (SystemTime::UNIX_EPOCH + from).into();
        params.not_after = (SystemTime::UNIX_EPOCH + until).into();
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").into()
    }

    fn web() -> SpiffeId {
        "spiffe://mesh.test/ns/shop/sa/web".parse().expect("a SPIFFE id")
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_chain_is_judged_once_on_each_side_while_all_of_it_is_valid() {
        let (leaf, between) = (certificate(FROM, 10 * UNTIL), certificate(FROM / 2, UNTIL));
        let (known, judged) = (VerifiedChains::default(), Cell::new(0));
        let ask = |side, now, chain: &[CertificateDer<'_>]| {
            let judge = || {
                judged.set(judged.get() + 1);
                Ok::<_, ()>(web())
            };
            assert_eq!(known.or_judge(&chain[0], &chain[1..], (side, at(now)), judge), Ok(web()));
            judged.take()
        };
        let chain = [leaf.clone(), between.clone()];
        for (side, now, times) in [
            (PeerSide::Client, 1000, 1),
            (PeerSide::Client, 1000, 0),
            (PeerSide::Client, 2000, 0),
            (PeerSide::Server, 1500, 1),
            (PeerSide::Server, 1500, 0),
            (PeerSide::Client, 999, 1),
            (PeerSide::Client, 2001, 1),
        ] {
            assert_eq!(ask(side, now, &chain), times, "{side:?} at {now}");
        }
        assert_eq!(ask(PeerSide::Client, 1500, &[between, leaf.clone()]), 1, "another chain");
        assert_eq!(ask(PeerSide::Client, 1500, &[leaf]), 1, "and another");
    }

    #[test]
    fn what_is_refused_is_judged_again() {
        let (leaf, known) = (certificate(FROM, UNTIL), VerifiedChains::default());
        let ask = |answer| known.or_judge(&leaf, &[], (PeerSide::Client, at(1500)), || answer);
        assert_eq!(ask(Err("no")), Err("no"));
        assert_eq!(ask(Ok(web())), Ok(web()));
        assert_eq!(ask(Err("no")), Ok(web()));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (leaf, known) = (certificate(FROM, UNTIL), VerifiedChains::default());
        for n in 0..MOST + 10 {
            // Bytes behind a certificate change nothing but its hash.
            let other = CertificateDer::from([&leaf[..], &n.to_be_bytes()].concat());
            let judged = known.or_judge(&other, &[], (PeerSide::Client, at(1500)), || Ok::<_, ()>(web()));
            assert_eq!(judged, Ok(web()));
        }
        assert_eq!(known.0.lock().expect("no panic").len(), 10, "all the others are forgotten");
    }
}
