//! One request to a cluster and its answer, whoever sends it: a client, or a mirror.

use std::pin::pin;

use http::{Request, Response};

use super::{Outbound, attempts};
use crate::balance::Cluster;
use crate::endpoint::{Call, ResponseBody};
use crate::error::Error;
use crate::http::RequestBody;
use crate::world::Net;

/// Sends `request` to an endpoint of `cluster`, with the retries and within the time of `call`, and
/// waits for the head of the response. The last failure is the caller's to count.
///
/// # Errors
/// Why there is no response.
pub(super) async fn exchange<N: Net>(
    outbound: &Outbound<N>,
    cluster: &Cluster,
    call: &Call<'_>,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody<N>>, Error> {
    call.answer(pin!(attempts::send(outbound, cluster, call, request))).await
}
