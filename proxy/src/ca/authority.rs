//! The authority itself: who may have which certificate, and how its roots follow each other.
//!
//! Whatever changes is on the disk before anybody hears of it. If the disk refuses, nothing has
//! changed, and the caller is told to come again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustls::crypto::CryptoProvider;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::credentials;
use super::issue::{self, Leaf, SignError, has_ended};
pub use super::proof::Proof;
use super::roots::{Lifetimes, Root};
use super::store::{IssuedRecord, RevokedRecord, State, Store};
use super::token::{AuthorityToken, Bearer, TokenError, unix, unix_ms};
use super::wire::{Bundle, IssuedCertificate, Revocation};
use crate::config::defaults::{CA_BODY, CA_BODY_TIME, CA_CERTIFICATES, CA_PAGE};
use crate::spiffe_id::SpiffeId;
use crate::tls::TlsContext;
use crate::tls::trust::TrustBundle;
use crate::world::{Wall, World, crypto};

/// Bytes of the key of tokens, and of a serial number (RFC 5280 allows 20).
const TOKEN_KEY: usize = 32;
const SERIAL: usize = 16;

/// How many times as long as a certificate a root lives at least, so that there is time to follow
/// it.
pub const ROOT_TO_CERTIFICATE: u32 = 4;

/// For how long after the start nothing is forgotten, unless certificates live shorter: a clock
/// that is wrong when a machine starts is set in that time.
const DISTRUST: Duration = Duration::from_secs(3600);

/// With which segment the paths of names begin that are the authority's own, and no workload's.
const RESERVED: &str = "sidelab";

/// What an authority is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whose workloads it knows.
    pub trust_domain: String,
    /// How long certificates are valid, and roots.
    pub lifetimes: Lifetimes,
    /// How many certificates a workload may have that are valid: whoever has its token could fill
    /// the lists of revoked ones, which every workload reads.
    pub per_workload: usize,
}

/// Why an authority does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The request makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// The request's body is too large.
    #[error("the body is larger than {CA_BODY} bytes")]
    TooLarge,
    /// The request's body did not come in time.
    #[error("the body did not come within {} s", CA_BODY_TIME.as_secs())]
    Late,
    /// Who asks has no token that counts.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What who asks has shown counts no longer.
    #[error("{0}")]
    Unauthenticated(String),
    /// Who asks may not have it.
    #[error("{0}")]
    Forbidden(String),
    /// Not now.
    #[error("{0}")]
    Conflict(String),
    /// The workload has as many certificates as it may have.
    #[error("{why}")]
    TooMany {
        /// In words.
        why: String,
        /// When one of them ends.
        after: Duration,
    },
    /// The disk does not take it, or nothing can be signed.
    #[error("{0}")]
    Unavailable(String),
}

impl From<io::Error> for AuthorityError {
    fn from(error: io::Error) -> Self {
        AuthorityError::Unavailable(error.to_string())
    }
}

impl From<SignError> for AuthorityError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Request(_) | SignError::Kind(_) | SignError::Extension(_) => {
                AuthorityError::Malformed(error.to_string())
            }
            SignError::Name { .. } => AuthorityError::Forbidden(error.to_string()),
            SignError::Root(_) => AuthorityError::Unavailable(error.to_string()),
        }
    }
}

/// An authority.
pub struct Authority {
    settings: Settings,
    wall: Arc<dyn Wall>,
    crypto: Arc<CryptoProvider>,
    new_key: crypto::KeySource,
    /// When it started, by both clocks.
    started: (SystemTime, Instant),
    inner: Mutex<Inner>,
}

struct Inner {
    store: Store,
    state: State,
    bundle: Bundle,
    /// The bundle's tag, which takes time to make.
    tag: String,
    /// What it proves itself with, and since when.
    own: Option<(SystemTime, Arc<TlsContext>)>,
    /// Why the disk did not take what was written to it last.
    trouble: Option<String>,
}

impl Authority {
    /// The authority whose state is on the disk of `world`, or a new one if there is none.
    ///
    /// # Errors
    /// If the disk cannot be read or written, or has another trust domain's state.
    pub async fn open<N>(world: &World<N>, settings: Settings) -> Result<Self, AuthorityError> {
        let now = world.wall.now();
        let (store, state) = Store::open(world.disk.clone()).await?;
        let lifetimes = settings.lifetimes;
        // Before a certificate lives longer than any did, the roots must be kept for longer.
        let outlives = state.as_ref().is_some_and(|state| state.longest < lifetimes.workload);
        let state = match state {
            Some(state) if state.trust_domain != settings.trust_domain => {
                let message = format!(
                    "the state is that of the trust domain {}, and not of {}",
                    state.trust_domain, settings.trust_domain
                );
                return Err(AuthorityError::Conflict(message));
            }
            Some(state) => State { longest: state.longest.max(lifetimes.workload), ..state },
            None => State {
                trust_domain: settings.trust_domain.clone(),
                version: 0,
                token_key: random(&world.crypto, TOKEN_KEY)?,
                longest: lifetimes.workload,
                roots: super::roots::Roots::default(),
                revoked: Default::default(),
                barred: Default::default(),
            },
        };
        let bundle = bundle_of(&state, now)?;
        let tag = bundle.tag();
        let authority = Authority {
            settings,
            wall: world.wall.clone(),
            crypto: world.crypto.clone(),
            new_key: world.new_key,
            started: (now, Instant::now()),
            inner: Mutex::new(Inner { store, state, bundle, tag, own: None, trouble: None }),
        };
        authority.tend().await?;
        if outlives {
            authority.change(&mut *authority.inner.lock().await, |_| Ok(())).await?;
        }
        Ok(authority)
    }

    /// Does what is due: announces a root, takes one out, forgets what has ended by itself.
    ///
    /// # Errors
    /// If the disk refuses. Nothing has changed then.
    pub async fn tend(&self) -> Result<(), AuthorityError> {
        let mut inner = self.inner.lock().await;
        let (now, lifetimes) = (unix(self.wall.now()), inner.state.lifetimes(&self.settings));
        let is_due = inner.state.roots.is_due(now, lifetimes);
        let is_over = inner.state.roots.is_over(now, lifetimes);
        let is_saved = inner.state.version > 0;
        if !is_due && !is_over && !inner.state.is_outdated(unix(self.surely())) && is_saved {
            return Ok(());
        }
        self.change(&mut inner, |state| {
            if is_due {
                self.announce_in(state)?;
            }
            // After that, so that one is left.
            state.roots.retire(now, lifetimes);
            Ok(())
        })
        .await
    }

    /// Whether it can issue: it has a root that has not ended, and the disk takes what is issued.
    ///
    /// # Errors
    /// If not: why.
    pub async fn ready(&self) -> Result<(), AuthorityError> {
        let mut inner = self.inner.lock().await;
        self.signer(&inner.state, self.wall.now())?;
        if inner.trouble.is_some() {
            // Where nobody is sent who is not ready, nobody else would find out that it is over.
            let probed = inner.store.probe().await;
            inner.note(&probed);
        }
        match &inner.trouble {
            Some(why) => Err(AuthorityError::Unavailable(why.clone())),
            None => Ok(()),
        }
    }

    /// Sees whether the disk takes anything.
    pub async fn probe(&self) {
        let mut inner = self.inner.lock().await;
        let probed = inner.store.probe().await;
        inner.note(&probed);
    }

    /// Announces a new root, which signs once everybody trusts it. The bundle that has it.
    ///
    /// # Errors
    /// If one is on its way already, or the disk refuses.
    pub async fn announce(&self) -> Result<Bundle, AuthorityError> {
        let mut inner = self.inner.lock().await;
        let lifetimes = inner.state.lifetimes(&self.settings);
        if inner.state.roots.is_changing(unix(self.wall.now()), lifetimes) {
            let message = "a new root is announced already, and does not sign yet";
            return Err(AuthorityError::Conflict(message.into()));
        }
        self.change(&mut inner, |state| self.announce_in(state)).await?;
        Ok(inner.bundle.clone())
    }

    /// Whom workloads trust.
    pub async fn bundle(&self) -> Bundle {
        self.inner.lock().await.bundle.clone()
    }

    /// The tag of the bundle, and the bundle if `known` does not say that it is known.
    pub async fn bundle_unless(&self, known: impl FnOnce(&str) -> bool) -> (String, Option<Bundle>) {
        let inner = self.inner.lock().await;
        let bundle = (!known(&inner.tag)).then(|| inner.bundle.clone());
        (inner.tag.clone(), bundle)
    }

    /// Whom a token speaks for.
    ///
    /// # Errors
    /// If it does not count.
    pub async fn bearer(&self, token: &str) -> Result<Bearer, AuthorityError> {
        self.inner.lock().await.state.bearer(token, self.wall.now())
    }

    /// Which workload it is that proves itself like this.
    ///
    /// # Errors
    /// If that does not count: it has ended or was revoked, say.
    pub async fn workload(&self, proof: &Proof) -> Result<SpiffeId, AuthorityError> {
        let inner = self.inner.lock().await;
        inner.state.workload(proof, &inner.store.issued, self.wall.now())
    }

    /// A certificate for the workload that proves itself with `proof`, and for the key of the
    /// request `csr`.
    ///
    /// # Errors
    /// If the proof does not count, the request is wrong, or the disk does not take the record.
    pub async fn issue(&self, proof: &Proof, csr: &str) -> Result<IssuedCertificate, AuthorityError> {
        self.tend().await?;
        let mut inner = self.inner.lock().await;
        let now = self.wall.now();
        // Under the lock that revoking takes, too: whatever is issued is in the list of those that
        // are revoked after it, and nothing is issued afterwards.
        let id = &inner.state.workload(proof, &inner.store.issued, now)?;
        check_workload(id, &self.settings.trust_domain)?;
        self.check_room(&inner, id, unix(now))?;
        let serial = random(&self.crypto, SERIAL)?;
        let (root, lifetime) = self.signer(&inner.state, now)?;
        let leaf = Leaf { id, serial: &serial, now, lifetime };
        let certificate = issue::workload(root, csr, &leaf)?;
        let record =
            IssuedRecord { serial: HEXLOWER.encode(&serial), id: id.clone(), expires: unix(now + lifetime) };
        let serial = record.serial.clone();
        let noted = inner.store.note(record, unix(self.surely())).await;
        inner.note(&noted);
        noted?;
        tracing::info!(%id, serial, "certificate issued");
        Ok(IssuedCertificate { certificate, bundle: inner.bundle.clone() })
    }

    /// Revokes certificates that are still valid, and says how many.
    ///
    /// # Errors
    /// If nothing or two things are named, or the disk refuses.
    pub async fn revoke(&self, what: &Revocation) -> Result<usize, AuthorityError> {
        if what.id.is_some() == what.serial.is_some() {
            return Err(AuthorityError::Malformed("say whose certificates, or which serial number".into()));
        }
        if let Some(id) = &what.id {
            check_workload(id, &self.settings.trust_domain)?;
        }
        let serial = what.serial.as_deref().map(serial_number).transpose()?;
        let mut inner = self.inner.lock().await;
        let (now, now_ms) = (unix(self.wall.now()), unix_ms(self.wall.now()));
        let is_meant = |record: &&IssuedRecord| {
            Some(&record.id) == what.id.as_ref() || Some(&record.serial) == serial.as_ref()
        };
        // Those among them that have ended by a clock that is ahead.
        let valid = inner.state.valid(inner.store.issued.iter(), unix(self.surely()));
        let mut meant: Vec<(String, u64)> =
            valid.filter(is_meant).map(|record| (record.serial.clone(), record.expires)).collect();
        if let (Some(serial), []) = (&serial, &meant[..]) {
            if inner.is_full(now) {
                let message = "the log has no such certificate, and the list of revoked ones has no room";
                return Err(AuthorityError::Conflict(message.into()));
            }
            // It may be one that the log has lost.
            meant.push((serial.clone(), now + inner.state.longest.as_secs()));
        }
        self.change(&mut inner, |state| {
            let revoked = meant
                .iter()
                .map(|(serial, expires)| (serial.clone(), RevokedRecord { at: now, expires: *expires }));
            state.revoked.extend(revoked);
            if let Some(id) = &what.id {
                let next = state.barred.get(id).map_or(0, |last| last + 1);
                state.barred.insert(id.clone(), now_ms.max(next));
            }
            Ok(())
        })
        .await?;
        let count = meant.iter().filter(|(_, expires)| !has_ended(*expires, now)).count();
        let whose = what.id.as_ref().map(tracing::field::display);
        tracing::warn!(id = whose, serial, certificates = count, "revoked");
        Ok(count)
    }

    /// What it proves itself with, and the version of the bundle by which it judges clients.
    ///
    /// # Errors
    /// If its certificate cannot be made.
    pub async fn server(&self) -> Result<(Arc<TlsContext>, u64), AuthorityError> {
        let mut inner = self.inner.lock().await;
        let (now, version) = (self.wall.now(), inner.bundle.version);
        let is_fresh = |(made, context): &&(SystemTime, Arc<TlsContext>)| {
            let life = context.credentials.not_after.duration_since(*made).unwrap_or_default();
            now.duration_since(*made).is_ok_and(|age| age < life / 2)
        };
        if let Some((_, context)) = inner.own.as_ref().filter(is_fresh) {
            return Ok((context.clone(), version));
        }
        let (root, lifetime) = self.signer(&inner.state, now)?;
        let id = SpiffeId::of_authority(&self.settings.trust_domain);
        let key = (self.new_key)().map_err(SignError::Root)?;
        let serial = random(&self.crypto, SERIAL)?;
        let certificate = issue::own(root, &key, &Leaf { id: &id, serial: &serial, now, lifetime })?;
        let made = credentials(&certificate, &key, &inner.bundle, &id, &self.crypto, now);
        let credentials = made.map_err(AuthorityError::Unavailable)?;
        let context = TlsContext::of_authority(credentials, self.crypto.clone(), self.wall.clone());
        inner.own = Some((now, context.clone()));
        Ok((context, version))
    }

    /// Certificates that are valid now, in the order of their serial numbers: those after `after`,
    /// and at most [`CA_PAGE`]. None: there are no more.
    pub async fn issued(&self, after: &str) -> Vec<IssuedRecord> {
        let (inner, now) = (self.inner.lock().await, unix(self.wall.now()));
        let following = inner.store.issued.iter().filter(|record| &*record.serial > after);
        // Here a clock that is a little behind need not be feared: nothing is forgotten.
        let following = following.filter(|record| record.expires > now);
        let mut page: Vec<_> = inner.state.valid(following, now).collect();
        if page.len() > CA_PAGE {
            page.select_nth_unstable_by(CA_PAGE, |a, b| a.serial.cmp(&b.serial));
            page.truncate(CA_PAGE);
        }
        page.sort_unstable_by(|a, b| a.serial.cmp(&b.serial));
        page.into_iter().cloned().collect()
    }

    /// How long what it issues is valid.
    pub fn certificate_lifetime(&self) -> Duration {
        self.settings.lifetimes.workload
    }

    /// The time that has come both by the time of day and by how long it has run. By this it
    /// forgets: a clock that is ahead for a while, and is set back, must not have let anybody in
    /// again.
    fn surely(&self) -> SystemTime {
        let ((begin, started), lifetime) = (self.started, self.settings.lifetimes.workload);
        match started.elapsed() {
            running if running < DISTRUST.min(lifetime) => SystemTime::UNIX_EPOCH,
            running => self.wall.now().min(begin + running),
        }
    }

    /// The root that signs now, and how long what it signs is valid: not longer than itself.
    fn signer<'s>(&self, state: &'s State, now: SystemTime) -> Result<(&'s Root, Duration), AuthorityError> {
        let root = state.roots.signer(unix(now), state.lifetimes(&self.settings));
        let root = root.ok_or_else(|| AuthorityError::Unavailable("every root has ended".into()))?;
        let left = Duration::from_secs(root.expires.saturating_sub(unix(now)));
        Ok((root, self.settings.lifetimes.workload.min(left)))
    }

    /// Whether `id` may have one more certificate.
    fn check_room(&self, inner: &Inner, id: &SpiffeId, now: u64) -> Result<(), AuthorityError> {
        let own = inner.store.issued.iter().filter(|record| record.id == *id);
        let (mut count, mut first_end) = (0, u64::MAX);
        for record in inner.state.valid(own, now) {
            (count, first_end) = (count + 1, first_end.min(record.expires));
        }
        if count >= self.settings.per_workload {
            let why = format!("{id} has {count} certificates that are valid, and may have no more");
            let ends = Duration::from_secs(first_end.saturating_sub(now)) + issue::BACKDATED;
            return Err(AuthorityError::TooMany { why, after: ends });
        }
        match inner.is_full(now) {
            true => Err(AuthorityError::Unavailable(format!("{CA_CERTIFICATES} certificates are valid"))),
            false => Ok(()),
        }
    }

    fn announce_in(&self, state: &mut State) -> Result<(), AuthorityError> {
        let key = (self.new_key)().map_err(SignError::Root)?;
        let lifetime = state.lifetimes(&self.settings).root;
        state.roots.announce(issue::root(&state.trust_domain, &key, self.wall.now(), lifetime)?);
        Ok(())
    }

    async fn change(
        &self,
        inner: &mut Inner,
        edit: impl FnOnce(&mut State) -> Result<(), AuthorityError>,
    ) -> Result<(), AuthorityError> {
        let mut state = inner.state.clone();
        edit(&mut state)?;
        state.version += 1;
        let now = self.wall.now();
        let surely = unix(self.surely());
        state.revoked.retain(|_, record| !has_ended(record.expires, surely));
        let bundle = bundle_of(&state, now)?;
        let saved = inner.store.save(&state).await;
        inner.note(&saved);
        saved?;
        let roots = state.roots.iter().count();
        tracing::info!(version = state.version, roots, revoked = state.revoked.len(), "new bundle");
        // What it has shown so far may be of a root that is going, and judges by the old bundle.
        inner.tag = bundle.tag();
        (inner.state, inner.bundle, inner.own) = (state, bundle, None);
        Ok(())
    }
}

impl State {
    /// Roots are kept for as long as what they have signed. One that lived shorter than there is
    /// time to follow it would be due again at once.
    fn lifetimes(&self, settings: &Settings) -> Lifetimes {
        let root = settings.lifetimes.root.max(ROOT_TO_CERTIFICATE * self.longest);
        Lifetimes { workload: self.longest, root }
    }

    /// Those of `issued` that are valid.
    fn valid<'s>(
        &'s self,
        issued: impl Iterator<Item = &'s IssuedRecord>,
        now: u64,
    ) -> impl Iterator<Item = &'s IssuedRecord> {
        issued.filter(move |record| {
            !has_ended(record.expires, now) && !self.revoked.contains_key(&record.serial)
        })
    }

    /// Whether half of what is in the lists of revoked certificates has ended by itself. To make
    /// new lists for each would make all workloads fetch them.
    fn is_outdated(&self, now: u64) -> bool {
        let ended = self.revoked.values().filter(|record| has_ended(record.expires, now)).count();
        ended > 0 && 2 * ended >= self.revoked.len()
    }
}

impl Inner {
    /// Whether so many certificates have not ended that the lists could not name more.
    fn is_full(&self, now: u64) -> bool {
        let (issued, revoked) = (&self.store.issued, &self.state.revoked);
        // To count takes time, and is seldom needed.
        issued.len() + revoked.len() >= CA_CERTIFICATES && {
            let revoked = revoked.values().filter(|record| !has_ended(record.expires, now)).count();
            self.state.valid(issued.iter(), now).count() + revoked >= CA_CERTIFICATES
        }
    }

    /// Notes whether the disk has taken something.
    fn note(&mut self, result: &io::Result<()>) {
        self.trouble = result.as_ref().err().map(ToString::to_string);
    }
}

/// The serial number in what somebody wrote: hexadecimal, perhaps with `0x` or colons, as tools
/// print it.
fn serial_number(text: &str) -> Result<String, AuthorityError> {
    let digits = text.to_ascii_lowercase().replace(':', "");
    let mut digits = digits.strip_prefix("0x").unwrap_or(&digits);
    // DER begins a number with a zero whose first bit is set.
    while let Some(rest) = digits.strip_prefix("00").filter(|rest| !rest.is_empty()) {
        digits = rest;
    }
    // People leave out a zero in front.
    let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    let is_short = !digits.is_empty() && digits.len() <= 40;
    match is_short && HEXLOWER.decode(digits.as_bytes()).is_ok() {
        true => Ok(digits),
        false => Err(AuthorityError::Malformed("this is no serial number: write it hexadecimal".into())),
    }
}

/// Whether `id` may be the name of a workload.
fn check_workload(id: &SpiffeId, trust_domain: &str) -> Result<(), AuthorityError> {
    let is_one = id.is_member_of(trust_domain) && !id.path().is_empty();
    match is_one && id.path().split('/').nth(1) != Some(RESERVED) {
        true => Ok(()),
        false => {
            let message = format!("{id} is no workload of the trust domain {trust_domain}");
            Err(AuthorityError::Forbidden(message))
        }
    }
}

/// A token of the authority whose state is on the disk of `world`, which need not run.
///
/// # Errors
/// If there is no state, or it is no name of a workload there.
pub async fn token<N>(
    world: &World<N>,
    bearer: Bearer,
    lifetime: Duration,
) -> Result<String, AuthorityError> {
    let now = world.wall.now();
    let state = state_of(world).await?;
    let follows = match &bearer {
        Bearer::Workload(id) => {
            check_workload(id, &state.trust_domain)?;
            state.barred.get(id).copied()
        }
        Bearer::Operator => None,
    };
    Ok(AuthorityToken::new(bearer, follows, now, lifetime).sign(&state.token_key))
}

async fn state_of<N>(world: &World<N>) -> Result<State, AuthorityError> {
    let state = super::store::read(&*world.disk).await?;
    state.ok_or_else(|| AuthorityError::Conflict("there is no authority's state here".into()))
}

/// The root that signs now of the authority whose state is on the disk of `world`, which need not
/// run, and all that are to be trusted, PEM.
///
/// # Errors
/// If there is no state, or every root has ended.
pub async fn roots<N>(world: &World<N>) -> Result<(Root, String), AuthorityError> {
    let state = state_of(world).await?;
    let lifetimes = Lifetimes { workload: state.longest, root: ROOT_TO_CERTIFICATE * state.longest };
    let signer = state.roots.signer(unix(world.wall.now()), lifetimes);
    let signer = signer.ok_or_else(|| AuthorityError::Unavailable("every root has ended".into()))?;
    Ok((signer.clone(), state.roots.certificates()))
}

/// By what the authority is known whose state is on the disk of `world`: its roots, and its name.
///
/// # Errors
/// If there is no state.
pub async fn known_by<N>(world: &World<N>) -> Result<(TrustBundle, SpiffeId), AuthorityError> {
    let state = state_of(world).await?;
    let bundle = bundle_of(&State { revoked: Default::default(), ..state.clone() }, world.wall.now())?;
    let trust = super::trust_bundle(&bundle, &world.crypto);
    let trust = trust.map_err(|error| AuthorityError::Unavailable(error.to_string()))?;
    Ok((trust, SpiffeId::of_authority(&state.trust_domain)))
}

fn bundle_of(state: &State, now: SystemTime) -> Result<Bundle, AuthorityError> {
    let mut revoked = String::new();
    if !state.revoked.is_empty() {
        let at = |record: &RevokedRecord| SystemTime::UNIX_EPOCH + Duration::from_secs(record.at);
        let serials: Vec<(Vec<u8>, SystemTime)> = state
            .revoked
            .iter()
            .filter_map(|(serial, record)| Some((HEXLOWER.decode(serial.as_bytes()).ok()?, at(record))))
            .collect();
        for root in state.roots.iter() {
            let serials = serials.iter().map(|(serial, at)| (&serial[..], *at));
            revoked += &issue::revocation_list(root, state.version, serials, now)?;
        }
    }
    Ok(Bundle { version: state.version, roots: state.roots.certificates(), revoked })
}

fn random(crypto: &CryptoProvider, bytes: usize) -> Result<Vec<u8>, AuthorityError> {
    let mut random = vec![0; bytes];
    let filled = crypto.secure_random.fill(&mut random);
    filled.map_err(|_| AuthorityError::Unavailable("the system gives no random bytes".into()))?;
    // A serial number is positive and not shortened.
    random[0] = random[0] & 0x7f | 0x40;
    Ok(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_one_however_it_is_written() {
        for (text, number) in [
            ("ab", "ab"),
            ("00ab", "ab"),
            ("0x0000AB", "ab"),
            ("00:AB:01", "ab01"),
            ("0100", "0100"),
            ("00", "00"),
            ("abc", "0abc"),
            ("1", "01"),
            (&format!("00{}", "ff".repeat(20)), &"ff".repeat(20)),
        ] {
            assert_eq!(serial_number(text).ok().as_deref(), Some(number), "{text}");
        }
        for text in ["", "0x", "none", &"ff".repeat(21)] {
            assert!(serial_number(text).is_err(), "{text}");
        }
    }
}
