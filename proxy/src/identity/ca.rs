//! Certificates from an authority (`proxy ca`), for keys that never leave this process.
//!
//! The first time the workload shows its bootstrap token, and from then on the certificate that it
//! has. Each certificate is for a new key. It is renewed at about half of its life, so that an
//! authority may be away for the other half; whatever fails, the old one stays in force, and the
//! authority is asked again after a growing wait, and at the latest when the old one ends. Between
//! renewals it is asked whether roots or revocations have changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use rand::RngExt;
use rand::rngs::StdRng;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use tokio::time::{Instant, sleep};

use super::{put_in_force, refuse, tell_doubts};
use crate::backoff::Backoff;
use crate::ca::wire::{Bundle, CertificateRequest, IssuedCertificate, Problem};
use crate::ca::{client, credentials, trust_bundle};
use crate::config::CaClient;
use crate::config::defaults::{BUNDLE_STALE, CA_BACKOFF, RENEWAL, RENEWAL_JITTER};
use crate::mutant::Mutant;
use crate::spiffe_id::SpiffeId;
use crate::telemetry::{Metrics, emit};
use crate::tls::pem::{self, PemFile};
use crate::tls::trust::TrustBundle;
use crate::tls::{Credentials, TlsContext, TlsStore};
use crate::world::{Net, World};

/// Keeps the certificate of `id` in `store` up to date, for ever.
pub(super) async fn run<N: Net>(
    world: World<N>,
    id: SpiffeId,
    ca: CaClient,
    store: Arc<TlsStore>,
    metrics: Arc<Metrics>,
) {
    let mut rng = world.rng.child("certificate", 0).rng();
    let mut backoff = Backoff::new(CA_BACKOFF);
    let authority = SpiffeId::of_authority(id.trust_domain());
    let mut asking = AuthorityClient { world, id, ca, authority, bundle: None, heard: None, metrics };
    loop {
        let current = store.current();
        if Mutant::DropsItsCertificate.is_planted() {
            store.clear();
        }
        let wait = match asking.obtain(current.as_deref()).await {
            Ok(credentials) => {
                let left = asking.until(credentials.not_after);
                put_in_force(&asking.world, credentials, &store, &asking.metrics);
                backoff.reset();
                renewal(left, &mut rng)
            }
            Err(why) => {
                refuse(why, &store, &asking.metrics);
                asking.note_heard(false);
                let wait = backoff.next(&mut rng);
                let left = current.map(|context| asking.until(context.credentials.not_after));
                left.filter(|left| !left.is_zero()).map_or(wait, |left| wait.min(left))
            }
        };
        asking.watch_bundle(Instant::now() + wait, &store).await;
    }
}

/// After which part of what is `left` of its life a certificate is renewed.
fn renewal(left: Duration, rng: &mut StdRng) -> Duration {
    if Mutant::RenewsTooLate.is_planted() {
        return left + Duration::from_secs(1);
    }
    left.mul_f64(RENEWAL + rng.random_range(-RENEWAL_JITTER..=RENEWAL_JITTER))
}

/// Asks the authority.
struct AuthorityClient<N> {
    world: World<N>,
    id: SpiffeId,
    ca: CaClient,
    /// Who it must be.
    authority: SpiffeId,
    /// What it said last of whom to trust.
    bundle: Option<Bundle>,
    /// When that was.
    heard: Option<Instant>,
    metrics: Arc<Metrics>,
}

impl<N: Net> AuthorityClient<N> {
    /// How long it is until a time of day.
    fn until(&self, end: SystemTime) -> Duration {
        end.duration_since(self.world.wall.now()).unwrap_or_default()
    }

    fn context(&self, credentials: Credentials) -> Arc<TlsContext> {
        TlsContext::new(credentials, self.world.crypto.clone(), self.world.wall.clone())
    }

    /// A new certificate for a new key.
    async fn obtain(&mut self, current: Option<&TlsContext>) -> Result<Credentials, String> {
        let key = (self.world.new_key)().map_err(|error| error.to_string())?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = self.id.as_str().try_into().map_err(|error: rcgen::Error| error.to_string())?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
        let asked = CertificateRequest { csr: csr.map_err(|error| error.to_string())? };
        let body = serde_json::to_vec(&asked).map_err(|error| error.to_string())?;
        let own = current.map(|context| &context.credentials).filter(|own| self.is_good(own));
        let shown = match own {
            Some(own) => self.ask(&body, Proof::Certificate(own)).await,
            None => Err("there is no certificate to show".into()),
        };
        let response = match (shown, self.token()) {
            (Ok(response), _) => response,
            // It may have forgotten the certificate, or revoked it.
            (Err(_), Ok(token)) => self.ask(&body, Proof::Token(&token)).await?,
            (Err(why), Err(_)) if own.is_some() => return Err(why),
            (Err(_), Err(why)) => return Err(format!("no bootstrap token: {why}")),
        };
        let issued: IssuedCertificate = read(&response)?;
        let (crypto, now) = (&self.world.crypto, self.world.wall.now());
        let made = credentials(&issued.certificate, &key, &issued.bundle, &self.id, crypto, now);
        let made = made.map_err(|error| format!("what the authority has sent is of no use: {error}"))?;
        self.bundle = Some(issued.bundle);
        self.note_heard(true);
        Ok(made)
    }

    /// The bootstrap token.
    fn token(&self) -> Result<String, String> {
        let path = self.ca.token.display();
        let text = self.world.files.read(&self.ca.token).map_err(|error| error.to_string())?;
        let token = text.trim();
        match token.split_whitespace().count() {
            0 => Err(format!("{path} is empty")),
            1 if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned()),
            1 => Err(format!("{path} has something else than a token")),
            _ => Err(format!("{path} has more than one word: write one token into it")),
        }
    }

    /// Notes whether the authority has said whom to trust, and for how long it has not.
    fn note_heard(&mut self, is_heard: bool) {
        if is_heard {
            self.heard = Some(Instant::now());
            self.metrics.trust_heard(self.world.wall.now());
        }
        let is_stale = self.heard.is_some_and(|heard| heard.elapsed() >= BUNDLE_STALE * self.ca.refresh);
        self.metrics.set_trust_stale(is_stale);
    }

    /// Whether the authority would believe this certificate, as far as one knows here.
    fn is_good(&self, own: &Credentials) -> bool {
        own.is_trusted(self.world.wall.now())
    }

    /// Follows roots and revocations until `end`, or until the certificate is of no use any more.
    async fn watch_bundle(&mut self, end: Instant, store: &TlsStore) {
        loop {
            let pause = self.ca.refresh.min(end.saturating_duration_since(Instant::now()));
            sleep(pause).await;
            if Instant::now() >= end {
                return;
            }
            let Some(current) = store.current() else { continue };
            let refreshed = self.refresh().await;
            let mut is_heard = refreshed.is_ok();
            match refreshed {
                Ok(None) => {}
                Ok(Some(_)) if Mutant::IgnoresNewBundles.is_planted() => {}
                Ok(Some(bundle)) => match self.trust_of(&bundle) {
                    Ok(trust) => {
                        tell_doubts(&trust, self.world.wall.now());
                        emit!(TrustChanged { version: bundle.version });
                        let own = current.credentials.with_trust(Arc::new(trust));
                        store.replace(self.context(own));
                        self.bundle = Some(bundle);
                    }
                    Err(why) => {
                        is_heard = false;
                        tracing::warn!(why, "the new bundle was not taken");
                    }
                },
                Err(why) => tracing::warn!(why, "cannot ask whether roots or revocations have changed"),
            }
            self.note_heard(is_heard);
            if store.current().is_some_and(|now| !self.is_good(&now.credentials)) {
                return;
            }
        }
    }

    fn trust_of(&self, bundle: &Bundle) -> Result<TrustBundle, String> {
        let trust = trust_bundle(bundle, &self.world.crypto).map_err(|error| error.to_string())?;
        Ok(trust.without_expired(self.world.wall.now())?)
    }

    /// The bundle, if it is not the one that is known. The certificate is not shown: were it
    /// revoked, this workload would never hear of it.
    async fn refresh(&self) -> Result<Option<Bundle>, String> {
        let tag = self.bundle.as_ref().map(Bundle::tag);
        let request = Request::get("/v1/bundle").header(IF_NONE_MATCH, tag.unwrap_or_default());
        let response = self.send(request, &[], None).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(None),
            _ => read(&response).map(Some),
        }
    }

    async fn ask(&self, body: &[u8], proof: Proof<'_>) -> Result<Response<Bytes>, String> {
        let request = Request::post("/v1/certificates").header(CONTENT_TYPE, "application/json");
        match proof {
            Proof::Certificate(own) => self.send(request, body, Some(own)).await.and_then(accepted),
            Proof::Token(token) => {
                let request = request.header(AUTHORIZATION, format!("Bearer {token}"));
                self.send(request, body, None).await.and_then(accepted)
            }
        }
    }

    /// Sends a request to the first address that answers.
    async fn send(
        &self,
        request: http::request::Builder,
        body: &[u8],
        own: Option<&Credentials>,
    ) -> Result<Response<Bytes>, String> {
        let trust = Arc::new(self.trust()?);
        let request = request.body(Full::new(Bytes::copy_from_slice(body)));
        let request = request.map_err(|error| format!("the token is no token: {error}"))?;
        let mut failure = "there is no address of the authority".to_owned();
        for address in &self.ca.addresses {
            let whom = (*address, &self.authority);
            match client::ask(&self.world, whom, trust.clone(), own, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(why) => failure = format!("{address}: {why}"),
            }
        }
        Err(failure)
    }

    /// By what the authority is judged: the roots in the file, and those that it has told of since.
    /// An operator who replaces the authority changes the file.
    fn trust(&self) -> Result<TrustBundle, String> {
        let (file, known) = (pem::read(&*self.world.files, &self.ca.roots), self.bundle.as_ref());
        let known = known.map_or("", |bundle| &bundle.roots);
        let text = match file {
            Ok(text) => text + "\n" + known,
            Err(_) if !known.is_empty() => known.to_owned(),
            Err(error) => return Err(error.to_string()),
        };
        let file = PemFile { path: &self.ca.roots, text: &text };
        let algorithms = self.world.crypto.signature_verification_algorithms;
        let trust = TrustBundle::of_pem(&file, None, algorithms);
        let trust = trust.and_then(|trust| {
            trust.without_expired(self.world.wall.now()).map_err(|why| file.error(1, why.into()))
        });
        trust.map_err(|error| error.to_string())
    }
}

/// What a workload shows.
#[derive(Clone, Copy)]
enum Proof<'a> {
    Certificate(&'a Credentials),
    Token(&'a str),
}

fn accepted(response: Response<Bytes>) -> Result<Response<Bytes>, String> {
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let why = serde_json::from_slice(response.body()).map(|problem: Problem| problem.error);
    let why = why.unwrap_or_else(|_| "it does not say why".into());
    Err(format!("the authority refuses ({}): {why}", response.status().as_u16()))
}

fn read<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> Result<T, String> {
    let text = response.body();
    serde_json::from_slice(text).map_err(|error| {
        let words: String = String::from_utf8_lossy(text).chars().take(60).collect();
        format!("the authority's answer makes no sense: {error} (`{words}`)")
    })
}
