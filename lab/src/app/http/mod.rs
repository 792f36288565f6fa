//! `app = { http = { .. } }`: the HTTP echo. Every request is answered with a body of fixed size
//! and the name of the instance that answered.
//!
//! One port takes HTTP/1 ([`http1`]) and gRPC over HTTP/2 ([`grpc`]), which are told apart by how a
//! connection begins. What both share, and what a timeline entry changes, is in [`echo`].

use std::io;
use std::rc::Rc;

use bytes::BytesMut;
use proxy::detect::Prefixed;
use proxy::world::Net;
use serde_spanned::Spanned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

pub mod behaviour;
pub mod body;
pub mod echo;
pub mod grpc;
pub mod http1;
pub mod malformed;
mod table;

use super::kind::{App, Server, Start};
use crate::syntax::diagnose::Mistake;
use echo::Echo;
pub use table::{HttpEcho, HttpTable};

/// How an HTTP/2 connection begins (RFC 9113 section 3.4), and no HTTP/1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2";

impl App for HttpEcho {
    type Table = HttpTable;
    type Server = Echo;

    const EXAMPLE: &'static str = "{ http = {} }";
    const SPEAKS: &'static [&'static str] = &["http", "grpc"];
    const IS_CONTROLLED: bool = true;

    fn resolve(table: &Spanned<HttpTable>, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        Some(table.get_ref().resolve(mistakes))
    }

    fn server<N: Net>(&self, start: Start<'_, N>) -> io::Result<Echo> {
        let net = start.world.net.clone();
        let spawn = move |work| net.spawn("app-work", work);
        Echo::new(start.instance, self, &start.world.rng, spawn, start.counters)
    }
}

impl Server for Echo {
    const TASK: &'static str = "app-http";

    async fn connection<I: AsyncRead + AsyncWrite + Unpin + 'static>(self: Rc<Self>, io: I) {
        match is_http2(io).await {
            Some((io, true)) => grpc::connection(self, io).await,
            Some((io, false)) => http1::connection(self, io).await,
            None => {}
        }
    }

    fn control(&self, query: &str) -> Option<Result<(), String>> {
        Some(self.behave(query))
    }
}

/// A connection, and whether it is an HTTP/2 one; `None` if it ended before that could be told.
async fn is_http2<I: AsyncRead + Unpin>(mut io: I) -> Option<(Prefixed<I>, bool)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        if (&mut io).take((PREFACE.len() - first.len()) as u64).read_buf(&mut first).await.ok()? == 0 {
            break;
        }
    }
    let is_http2 = first == PREFACE;
    (!first.is_empty()).then(|| (Prefixed::new(first.freeze(), io), is_http2))
}
