//! Keeps the key sets of tokens' issuers fresh, on the control thread.
//!
//! A file is followed as the configuration is: its directory is watched, and what the file says
//! decides. A URL is fetched at its interval, and sooner if a token names a key that is not known
//! ([`Schedule`] says when). Whatever cannot be had or read changes nothing: the keys in force
//! stay, a metric counts it, the log says why, and so does `/ready`.
//!
//! A server that speaks TLS proves by a certificate of the web's kind that it has the name in the
//! URL. Its roots are read anew for each fetch: they are few, and somebody may replace them.
//!
//! What it leaves out: proxies, and redirects, which a key set has no need of.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::authz::jwks::{IssuerKeys, Schedule};
use crate::balance::Table;
use crate::config::defaults::JWKS_BYTES;
use crate::config::watch::{FileWatch, Watch, changed};
use crate::config::{JwksSource, JwksUrl, read};
use crate::connect::no_answer_within;
use crate::discovery::dns;
use crate::http::fetch;
use crate::jwk_set::KeySet;
use crate::telemetry::{FetchOutcome, KeySetMetrics, Metrics, unix_seconds};
use crate::tls::{self, pem::PemFile};
use crate::world::{Net, Wall, World};

/// Who asks.
const AGENT: &str = "sidelab-jwks";

/// How often it is looked whether a key set is still wanted.
const WANTED: Duration = Duration::from_secs(60);

/// Keeps the key sets of all issuers in force fresh, for ever.
pub async fn run<N: Net>(world: World<N>, table: Arc<ArcSwap<Table>>, metrics: Arc<Metrics>) {
    let mut changes = table.load().authorization.watch();
    let mut begun = 0;
    loop {
        let authorization = table.load().authorization.clone();
        for issuer in authorization.issuers.iter() {
            let (name, keys) = (&issuer.config.name, &issuer.keys);
            let mut follower = Follower {
                name: name.clone(),
                keys: keys.clone(),
                metrics: metrics.key_set(name),
                wall: world.wall.clone(),
            };
            if !keys.follow() {
                continue;
            }
            begun += 1;
            match issuer.config.jwks.clone() {
                JwksSource::Inline(_) => {
                    follower.measure();
                    if let Some(left_out) = keys.set().as_ref().and_then(|set| set.left_out()) {
                        tracing::warn!(issuer = %name, left_out, "keys of the configuration are not used");
                    }
                }
                JwksSource::File(path) => {
                    world.net.spawn_essential("key set", async move { follower.file(path).await });
                }
                JwksSource::Url(url) => {
                    let (world, rng) = (world.clone(), world.rng.child("key set", begun).rng());
                    let net = world.net.clone();
                    net.spawn_essential("key set", async move { follower.url(world, url, rng).await });
                }
            }
        }
        drop(authorization);
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps the keys of one issuer.
struct Follower {
    name: Arc<str>,
    keys: Arc<IssuerKeys>,
    metrics: KeySetMetrics,
    wall: Arc<dyn Wall>,
}

impl Follower {
    /// Whether a configuration in force, or a request under way, still has these keys.
    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.keys) > 1
    }

    /// Tells how many keys there are.
    fn measure(&self) {
        let keys = self.keys.set().map_or(0, |set| set.len());
        self.metrics.keys.set(keys as i64);
        self.metrics.fetched.set(unix_seconds(self.wall.now()));
    }

    /// Puts a key set in force, or says why not. Whether it did.
    fn heard(&self, from: &str, text: Result<String, String>) -> bool {
        let fetched = text.map_err(|why| (FetchOutcome::Failed, why));
        let set = fetched.and_then(|text| {
            KeySet::read(&text).map_err(|why| (FetchOutcome::Rejected, format!("it is not a key set: {why}")))
        });
        match set {
            Ok(set) => {
                self.metrics.looked(FetchOutcome::Applied);
                let left_out = set.left_out();
                tracing::info!(issuer = %self.name, from, keys = set.len(), left_out, "key set in force");
                self.keys.put(Some(set));
                self.measure();
                true
            }
            Err((outcome, why)) => {
                self.metrics.looked(outcome);
                let kept = self.keys.set().is_some();
                tracing::warn!(issuer = %self.name, from, why, kept, "no new key set");
                self.keys.trouble(format!("{from}: {why}"));
                false
            }
        }
    }

    async fn file(&mut self, path: PathBuf) {
        let look = Arc::new(Notify::new());
        let mut watch = FileWatch::new(look.clone());
        let name = path.display().to_string();
        let mut last = None;
        while self.is_wanted() {
            // A link may lead elsewhere now.
            if let Err(error) = watch.cover(slice::from_ref(&path)) {
                tracing::warn!(%error, "cannot watch {name}; its changes are noticed later");
            }
            let text = read(&path).map_err(|error| error.to_string());
            if last.as_ref() != Some(&text) {
                self.heard(&name, text.clone());
                last = Some(text);
            }
            tokio::select! {
                () = changed(&watch, &look) => {}
                () = sleep(WANTED) => {}
            }
        }
    }

    async fn url<N: Net>(&mut self, world: World<N>, url: JwksUrl, mut rng: StdRng) {
        let mut schedule = Schedule::new(url.refresh, url.stale_after, Instant::now());
        while self.is_wanted() {
            let stale = schedule.stale().filter(|_| self.keys.set().is_some());
            tokio::select! {
                biased;
                () = sleep_until(schedule.due()) => {
                    let fetched = timeout(url.timeout, fetch(&world, &url, &mut rng)).await;
                    let text = fetched.unwrap_or_else(|_| Err(no_answer_within(url.timeout)));
                    match self.heard(&url.url, text) {
                        true => schedule.fetched(Instant::now(), &mut rng),
                        false => schedule.failed(Instant::now(), &mut rng),
                    }
                }
                () = self.keys.missed() => schedule.missed(Instant::now()),
                () = sleep_until(stale.unwrap_or_else(Instant::now)), if stale.is_some() => {
                    tracing::warn!(issuer = %self.name, "its keys are too old to be used");
                    self.keys.put(None);
                    self.keys.trouble(format!("{}: its keys are too old to be used", url.url));
                    self.metrics.keys.set(0);
                }
                () = sleep(WANTED) => {}
            }
        }
    }
}

/// Fetches a key set.
async fn fetch<N: Net>(world: &World<N>, url: &JwksUrl, rng: &mut StdRng) -> Result<String, String> {
    let addresses = match url.host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => dns::lookup(world.net.clone(), &url.host, rng).await?,
    };
    let mut failure = format!("{} has no address", url.host);
    for address in addresses {
        match fetch_from(world, SocketAddr::new(address, url.port), url).await {
            Ok(text) => return Ok(text),
            Err(why) => failure = format!("{address}: {why}"),
        }
    }
    Err(failure)
}

async fn fetch_from<N: Net>(world: &World<N>, server: SocketAddr, url: &JwksUrl) -> Result<String, String> {
    let usual = if url.roots.is_some() { 443 } else { 80 };
    let host = if url.port == usual { url.host.clone() } else { format!("{}:{}", url.host, url.port) };
    let request = Request::get(&url.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let io = world.net.connect(server, None).await.map_err(|error| error.to_string())?;
    let response = match &url.roots {
        None => fetch::fetch(io, request, JWKS_BYTES).await,
        Some(path) => {
            let text = tls::pem::read(&*world.files, path).map_err(|error| error.to_string())?;
            let roots = PemFile { path, text: &text };
            let io = tls::connect_to_named(world, io, &url.host, &roots).await?;
            fetch::fetch(io, request, JWKS_BYTES).await
        }
    };
    let response = response.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status().as_u16()));
    }
    String::from_utf8(response.into_body().into()).map_err(|_| "it is not UTF-8".into())
}

#[cfg(test)]
mod tests;
