//! What a protocol of load is: [`LoadProtocol`] says what a scenario may write and what becomes of
//! it, a [`Caller`] makes the calls.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use proxy::world::Net;
use serde_spanned::Spanned;

use super::id::Id;
use super::record::Outcome;
use super::table::LoadTable;
use crate::syntax::diagnose::Mistake;

/// A protocol of load, resolved: what each call of a load is.
pub trait LoadProtocol: Sized {
    /// What makes the calls.
    type Caller<N: Net>: Caller;

    /// The keys of a load's table that it takes, of those that only some protocols take.
    const KEYS: &'static [&'static str] = &[];

    /// Resolves a load's table. Where that is wrong, notes the mistakes and returns something
    /// harmless.
    fn resolve(table: &LoadTable, url: &LoadUrl<'_>, mistakes: &mut Vec<Mistake>) -> Self;

    /// What calls `callee`.
    ///
    /// # Errors
    /// If the protocol cannot carry such calls.
    fn caller<N: Net>(&self, net: N, callee: Callee<'_>) -> io::Result<Self::Caller<N>>;
}

/// Makes the calls of one load.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait Caller {
    /// Makes one call and reads its answer to the end. Who asks for it bounds the time.
    async fn call(&self, id: Id<'_>) -> Outcome;
}

/// The URL of a load, of which the service and its port are resolved.
pub struct LoadUrl<'a> {
    /// As the file has it.
    pub whole: &'a Spanned<String>,
    /// `orders:8080`
    pub authority: &'a str,
    /// What follows, with its stroke.
    pub path: &'a str,
}

impl LoadUrl<'_> {
    /// The path of each request, with its query.
    pub(super) fn path(&self, mistakes: &mut Vec<Mistake>) -> String {
        let path = self.path;
        if let Some(error) = path.parse::<PathAndQuery>().err().filter(|_| !path.is_empty()) {
            let message = format!("`{path}` is not a path: {error}");
            let mistake = Mistake::new(self.whole.span(), message, "in this URL");
            mistakes.push(mistake.help("other characters are written in percent form, such as %20"));
        }
        if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
    }
}

/// Who is called.
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a> {
    /// Its address.
    pub address: SocketAddr,
    /// Its name.
    pub host: &'a str,
    /// Its port, as callers write it.
    pub port: u16,
    /// When a call counts as failed.
    pub timeout: Duration,
}

/// What cannot be called so.
pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Adds the headers of a scenario.
pub(super) fn add_headers(headers: &mut HeaderMap, more: &BTreeMap<String, String>) -> io::Result<()> {
    for (name, value) in more {
        let words = || invalid(format!("`{name}: {value}` is not a header"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| words())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| words())?);
    }
    Ok(())
}
