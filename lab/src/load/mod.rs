//! Open-loop load: requests leave on time whether or not earlier ones were answered, and latency
//! counts from the intended start, so that a stall is seen by every request that it held up (Tene's
//! "coordinated omission").
//!
//! [`generate()`] keeps the schedule and is generic over the network, so both worlds run the same
//! generator; `pace` waits for the next due time; `process` is the generator as a process of
//! its own inside a network namespace.
//!
//! What a call is belongs to the protocol, one a file: the keys that it takes of a load's table,
//! what can be wrong with them, and how a call is made. To add one, write its file (an
//! implementation of [`LoadProtocol`]) and register it in `protocols!`.

mod generate;
pub(crate) mod grpc;
pub(crate) mod http;
mod id;
#[cfg(test)]
mod memory;
pub(crate) mod pace;
pub(crate) mod process;
mod protocol;
mod record;
mod table;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy::world::Net;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use generate::{MAX_IN_FLIGHT, generate};
pub use id::Id;
pub use protocol::{Callee, Caller, LoadProtocol, LoadUrl};
pub use record::{Outcome, Record, RecordSink};
pub use table::{LoadTable, TIMEOUT};

use crate::syntax::diagnose::Mistake;

/// When a load runs.
#[derive(Debug, Clone, Copy)]
pub struct LoadTimes {
    /// The start of the measured part; requests before it are the warm-up.
    pub t0: Instant,
    /// From then on no request is sent.
    pub end: Instant,
}

/// What a generator has to do.
pub struct LoadJob {
    /// The load.
    pub load: Load,
    /// Where it goes.
    pub address: SocketAddr,
    /// When.
    pub times: LoadTimes,
    /// What gets every record.
    pub sink: RecordSink,
}

/// An open-loop load generator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Its name.
    pub name: String,
    /// Position of the instance that it runs in.
    pub from: usize,
    /// What it calls.
    pub target: Target,
    /// Requests a second.
    pub rate: f64,
    /// When a request counts as failed.
    #[serde(with = "crate::readable")]
    pub timeout: Duration,
    /// The part of the run in which it sends; `None`: all of it, and the warm-up too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Seed of its random choices.
    pub seed: u64,
}

/// A part of the measured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From its start.
    #[serde(with = "crate::readable")]
    pub from: Duration,
    /// First instant after.
    #[serde(with = "crate::readable")]
    pub to: Duration,
}

/// What a load generator calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// Service name, for /etc/hosts and the Host header.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What each call is.
    #[serde(flatten)]
    pub call: CallKind,
}

/// Registers the protocols: the scheme of each in the URL of a load, and its type.
macro_rules! protocols {
    ($($scheme:literal: $kind:ident($module:ident::$call:ident),)*) => {
        $(pub use $module::$call;)*

        /// What each call of a load is.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub enum CallKind {
            $(
                #[doc = concat!("See [`", stringify!($call), "`].")]
                #[serde(rename = $scheme)]
                $kind($call),
            )*
        }

        /// What loads speak.
        pub const SCHEMES: &[&str] = &[$($scheme),*];

        /// The keys of a load that each takes, of those that only some take.
        const KEYS: &[(&str, &[&str])] = &[$(($scheme, <$call as LoadProtocol>::KEYS)),*];

        impl CallKind {
            /// Resolves a load's table; `None` if no protocol has this scheme.
            pub fn resolve(
                scheme: &str,
                table: &LoadTable,
                url: &LoadUrl<'_>,
                mistakes: &mut Vec<Mistake>,
            ) -> Option<Self> {
                foreign_keys(scheme, table, mistakes);
                match scheme {
                    $($scheme => Some(CallKind::$kind(<$call as LoadProtocol>::resolve(table, url, mistakes))),)*
                    _ => None,
                }
            }
        }

        /// Makes the calls of any protocol.
        enum AnyCaller<N: Net> {
            $($kind(Box<<$call as LoadProtocol>::Caller<N>>),)*
        }

        impl<N: Net> AnyCaller<N> {
            fn new(call: &CallKind, net: N, callee: Callee<'_>) -> io::Result<Self> {
                Ok(match call {
                    $(CallKind::$kind(call) => AnyCaller::$kind(Box::new(call.caller(net, callee)?)),)*
                })
            }

            async fn call(&self, id: Id<'_>) -> Outcome {
                match self { $(AnyCaller::$kind(caller) => caller.call(id).await,)* }
            }
        }
    };
}

protocols! {
    "http": Http(http::HttpCall),
    "grpc": Grpc(grpc::GrpcCall),
    "tcp": Tcp(tcp::TcpCall),
}

/// Complains of the keys that mean nothing to a protocol.
fn foreign_keys(scheme: &str, table: &LoadTable, mistakes: &mut Vec<Mistake>) {
    let takes = |scheme: &str, key: &str| KEYS.iter().any(|(s, keys)| *s == scheme && keys.contains(&key));
    for (key, at) in table.own_keys().into_iter().filter(|(key, _)| !takes(scheme, key)) {
        let others = SCHEMES.iter().filter(|scheme| takes(scheme, key));
        let others: Vec<String> = others.map(|scheme| format!("`{scheme}://...`")).collect();
        let mistake = Mistake::new(at, format!("a {scheme}:// load has no `{key}`"), "not for this load");
        mistakes.push(mistake.help(format!("leave it out: only a load on {} has one", others.join(" or "))));
    }
}
