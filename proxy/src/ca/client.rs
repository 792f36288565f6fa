//! How the authority is asked, by workloads and by its operator.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::timeout;

use crate::config::defaults::{CA_ANSWER, CA_TIMEOUT};
use crate::connect::no_answer_within;
use crate::error::BoxError;
use crate::http::fetch::fetch;
use crate::spiffe_id::SpiffeId;
use crate::tls::trust::TrustBundle;
use crate::tls::{self, Credentials};
use crate::world::{Net, World};

/// Sends a request to the authority `expected` at `address`, which is judged by `trust`; `own` is
/// shown, if there is a certificate yet.
///
/// # Errors
/// Why there is no answer.
pub async fn ask<N: Net>(
    world: &World<N>,
    (address, expected): (SocketAddr, &SpiffeId),
    trust: Arc<TrustBundle>,
    own: Option<&Credentials>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, BoxError> {
    request.headers_mut().insert(HOST, address.to_string().try_into()?);
    let asking = async {
        let io = world.net.connect(address, None).await?;
        let io = tls::connect_to_authority(world, io, (address, expected), trust, own).await?;
        fetch(io, request, CA_ANSWER).await
    };
    timeout(CA_TIMEOUT, asking).await.unwrap_or_else(|_| Err(no_answer_within(CA_TIMEOUT).into()))
}
