//! `proxy ca`: a certificate authority, and what its operator does with it.

use std::fmt;
use std::fs::Permissions;
use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Request;
use http::header::AUTHORIZATION;
use http_body_util::Full;
use nix::unistd::geteuid;
use serde_json::Value;

use super::INVALID;
use crate::app::FAILED;
use crate::ca::authority::{self, Authority, AuthorityError, ROOT_TO_CERTIFICATE, Settings};
use crate::ca::roots::Lifetimes;
use crate::ca::token::Bearer;
use crate::ca::wire::Revocation;
use crate::ca::{client, serve, store};
use crate::config::{defaults, units};
use crate::spiffe_id::{SpiffeId, check_trust_domain};
use crate::world::disk::lock_directory;
use crate::world::{KernelDisk, KernelNet, Net, RngTree, SystemWall, World};
use crate::{errln, out, outln};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Run the authority of a trust domain until SIGTERM. Its roots are made at the first start.
    Run(RunArgs),
    /// Print a bootstrap token, which a workload shows as long as it has no certificate. The
    /// authority need not run.
    Token(TokenArgs),
    /// Print the roots, PEM: what workloads are given to know the authority by.
    Roots(Running),
    /// Announce a new root. It signs once every workload trusts it, and the old one goes once
    /// nothing that it has signed is valid.
    Rotate(Running),
    /// Revoke the certificates of a workload and its bootstrap tokens, or one certificate.
    Revoke(RevokeArgs),
    /// Print the certificates that are valid, JSON.
    Issued(Running),
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    state: State,
    /// The trust domain, such as "cluster.local".
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: String,
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, defaults::CA_PORT)))]
    listen: SocketAddr,
    /// How long certificates of workloads are valid: a number and s, m, h or d.
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(defaults::CERTIFICATE_LIFETIME))]
    certificate_lifetime: Lifetime,
    /// How long roots are. The next one is announced after half of it.
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(defaults::ROOT_LIFETIME))]
    root_lifetime: Lifetime,
    /// How many certificates a workload may have that are valid, all of its replicas together.
    #[arg(long, value_name = "NUMBER", default_value_t = defaults::CA_PER_WORKLOAD as u64,
        value_parser = clap::value_parser!(u64).range(1..=defaults::CA_CERTIFICATES as u64))]
    certificates_per_workload: u64,
    /// Become this user, and its group unless --gid says another. Takes root. The state must be
    /// that user's.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// The group that it takes then.
    #[arg(long, value_name = "GID", requires = "uid")]
    gid: Option<u32>,
}

#[derive(Debug, Args)]
struct State {
    /// The directory with the authority's state. Who may read it is the authority.
    #[arg(long, value_name = "DIRECTORY")]
    state: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(flatten)]
    state: State,
    /// The workload.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// How long it counts: a number and s, m, h or d, at most 7d.
    #[arg(long, value_name = "TIME", default_value_t = Lifetime(defaults::TOKEN_LIFETIME), value_parser = token_lifetime)]
    lifetime: Lifetime,
}

#[derive(Debug, Args)]
pub(super) struct Running {
    #[command(flatten)]
    state: State,
    /// Where the authority listens.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], defaults::CA_PORT)))]
    address: SocketAddr,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    what: Revoked,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Revoked {
    /// The workload.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<SpiffeId>,
    /// The serial number, hexadecimal, as `proxy ca issued` prints it.
    #[arg(long, value_name = "NUMBER")]
    serial: Option<String>,
}

fn trust_domain(text: &str) -> Result<String, String> {
    check_trust_domain(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// How long something is valid.
#[derive(Debug, Clone, Copy)]
struct Lifetime(Duration);

const DAY: Duration = Duration::from_secs(24 * 3600);

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match units::lifetime(text)? {
            time if time < Duration::from_secs(1) => Err("at least 1s".into()),
            time => Ok(Lifetime(time)),
        }
    }
}

fn token_lifetime(text: &str) -> Result<Lifetime, String> {
    match text.parse()? {
        Lifetime(time) if time > defaults::TOKEN_LIFETIME_MOST => {
            Err("a token counts for seven days at most, 7d: make another one then".into())
        }
        lifetime => Ok(lifetime),
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.as_secs() / DAY.as_secs();
        match days > 1 && DAY * days as u32 == self.0 {
            true => write!(f, "{days}d"),
            false => f.write_str(&units::show(self.0)),
        }
    }
}

/// Why a command of the authority failed, and its exit code.
struct Failure(u8, String);

impl Failure {
    /// Why the authority whose state is in `directory` cannot do it.
    fn of(directory: &Path, error: &AuthorityError) -> Self {
        match error {
            AuthorityError::Forbidden(_) | AuthorityError::Malformed(_) => {
                Failure(INVALID, error.to_string())
            }
            _ => Failure(FAILED, format!("{}: {error}", directory.display())),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure(FAILED, error.to_string())
    }
}

impl CaCommand {
    pub(super) fn perform(self) -> ExitCode {
        let done = match self {
            CaCommand::Run(args) => run(args),
            CaCommand::Token(args) => on_state(&args.state, async |world| {
                let token = authority::token(&world, Bearer::Workload(args.id), args.lifetime.0).await;
                let token = token.map_err(|error| Failure::of(&args.state.state, &error))?;
                outln!("{token}");
                Ok(())
            }),
            CaCommand::Roots(running) => on_state(&running.state, async |world| {
                let bundle = ask(&world, &running, Request::get("/v1/bundle"), None).await?;
                out!("{}", bundle["roots"].as_str().unwrap_or_default());
                Ok(())
            }),
            CaCommand::Rotate(running) => on_state(&running.state, async |world| {
                ask(&world, &running, Request::post("/v1/roots"), None).await?;
                outln!("a new root is announced");
                Ok(())
            }),
            CaCommand::Revoke(RevokeArgs { running, what: Revoked { id, serial } }) => {
                on_state(&running.state, async |world| {
                    let what = Revocation { id, serial };
                    let answer = ask(&world, &running, Request::post("/v1/revocations"), Some(what)).await?;
                    outln!("certificates revoked: {}", answer["revoked"]);
                    Ok(())
                })
            }
            CaCommand::Issued(running) => on_state(&running.state, async |world| {
                let mut issued = issued(&world, &running).await?;
                issued.sort_by_key(|certificate| certificate["expires"].as_u64());
                outln!("{:#}", Value::Array(issued));
                Ok(())
            }),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(code, why)) => {
                errln!("error: {why}");
                ExitCode::from(code)
            }
        }
    }
}

/// The world of an authority whose state is in `directory`.
fn world_of(directory: &Path) -> Result<World<KernelNet>, Failure> {
    let shown = directory.display();
    if directory.exists() && !directory.is_dir() {
        return Err(Failure(INVALID, format!("{shown} is no directory")));
    }
    // Keys are nobody else's.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let disk = KernelDisk::open(directory).map_err(|error| {
        Failure(FAILED, format!("cannot make the directory {shown}: {error}; make it, or name another"))
    })?;
    Ok(World::new(KernelNet::with_mark(None)?, SystemWall, RngTree::from_os()).with_disk(disk))
}

fn on_state<F: Future<Output = Result<(), Failure>>>(
    State { state }: &State,
    then: impl FnOnce(World<KernelNet>) -> F,
) -> Result<(), Failure> {
    if !state.is_dir() {
        return Err(Failure(INVALID, format!("{} is no directory", state.display())));
    }
    crate::app::local_runtime()?.block_on(then(world_of(state)?))
}

fn run(args: RunArgs) -> Result<(), Failure> {
    crate::app::start_logging();
    crate::app::become_authority(args.uid, args.gid, args.listen.port())?;
    let lifetimes = Lifetimes { workload: args.certificate_lifetime.0, root: args.root_lifetime.0 };
    if lifetimes.root < ROOT_TO_CERTIFICATE * lifetimes.workload {
        let message =
            "a root must live at least four times as long as a certificate, or there is no time to follow it";
        return Err(Failure(INVALID, message.into()));
    }
    let per_workload = args.certificates_per_workload as usize;
    let settings = Settings { trust_domain: args.trust_domain, lifetimes, per_workload };
    let directory = &args.state.state;
    let world = world_of(directory)?;
    check_owner(directory)?;
    let _lock = lock(directory)?;
    keep_private(directory)?;
    crate::app::local_runtime()?.block_on(async {
        // First, so that no root is made where nobody could be answered.
        let listener = world.net.bind_exclusive(args.listen).await;
        let listener = listener
            .map_err(|error| Failure(FAILED, format!("cannot listen on {}: {error}", args.listen)))?;
        // While there is one thread: the disk has others.
        crate::app::drop_capabilities()?;
        let authority = Authority::open(&world, settings).await;
        let authority = authority.map_err(|error| Failure::of(directory, &error))?;
        tracing::info!(listen = %args.listen, "authority started");
        tokio::select! {
            biased;
            told = crate::app::told_to_end() => told?,
            () = serve::run(world.net, listener, authority) => {}
        }
        Ok(())
    })
}

/// Makes sure that the directory is of the user that this process is: root without its capabilities
/// may not read what is another's either.
fn check_owner(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    let found = std::fs::metadata(directory);
    let found = found.map_err(|error| Failure(FAILED, format!("cannot look at {shown}: {error}")))?;
    let (owner, user) = (found.uid(), geteuid().as_raw());
    if owner == user {
        return Ok(());
    }
    let message = format!(
        "{shown} is of user {owner}, and this is user {user}: start it with --uid {owner}, or give the \
         directory and its files to user {user} (chown -R {user})"
    );
    Err(Failure(INVALID, message))
}

/// Makes sure that the state has one authority.
fn lock(directory: &Path) -> Result<impl Sized, Failure> {
    lock_directory(directory).map_err(|error| {
        let shown = directory.display();
        let why = match error.kind() {
            std::io::ErrorKind::WouldBlock => format!("another authority runs on {shown}"),
            _ => format!("cannot lock {shown}: {error}"),
        };
        Failure(FAILED, why)
    })
}

/// Makes sure that nobody but their owner may read the directory and the files in it that are the
/// authority's.
fn keep_private(directory: &Path) -> Result<(), Failure> {
    let files = store::FILES.iter().map(|name| (directory.join(name), 0o600));
    for (path, wanted) in std::iter::once((directory.to_owned(), 0o700)).chain(files) {
        let shown = path.display();
        let mode = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode() & 0o777,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure(FAILED, format!("cannot look at {shown}: {error}"))),
        };
        if mode & 0o077 == 0 {
            continue;
        }
        std::fs::set_permissions(&path, Permissions::from_mode(wanted)).map_err(|error| {
            let message =
                format!("others may read {shown}: {error}; give it the mode {wanted:o} as its owner");
            Failure(FAILED, message)
        })?;
        tracing::warn!("others could read {shown}: its mode was {mode:o} and is {wanted:o} now");
    }
    Ok(())
}

/// All certificates that are valid, page by page.
async fn issued(world: &World<KernelNet>, running: &Running) -> Result<Vec<Value>, Failure> {
    let mut issued: Vec<Value> = Vec::new();
    loop {
        let last = issued.last().and_then(|last| last["serial"].as_str()).unwrap_or_default();
        let request = Request::get(format!("/v1/certificates?after={last}"));
        match ask(world, running, request, None).await? {
            Value::Array(page) if page.is_empty() => return Ok(issued),
            Value::Array(page) => issued.extend(page),
            _ => return Err(Failure(FAILED, format!("{}: this is no list", running.address))),
        }
    }
}

/// Asks the authority that runs on this state, as its operator.
async fn ask(
    world: &World<KernelNet>,
    running: &Running,
    request: http::request::Builder,
    body: Option<Revocation>,
) -> Result<Value, Failure> {
    let minute = Duration::from_secs(60);
    let failed = |error: &dyn std::fmt::Display| Failure(FAILED, format!("{}: {error}", running.address));
    let of_state = |error| Failure::of(&running.state.state, &error);
    let token = authority::token(world, Bearer::Operator, minute).await.map_err(of_state)?;
    let (trust, expected) = authority::known_by(world).await.map_err(of_state)?;
    let body = body.map_or_else(Vec::new, |body| serde_json::to_vec(&body).unwrap_or_default());
    let request = request
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(&error))?;
    let whom = (running.address, &expected);
    let response = client::ask(world, whom, trust.into(), None, request).await;
    let response = response.map_err(|error| failed(&error))?;
    let answer: Value = serde_json::from_slice(response.body()).map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&answer["error"].as_str().unwrap_or("it does not say why")));
    }
    Ok(answer)
}
