//! HTTP/2 with prior knowledge, frame by frame as far as the h2 crate lets one see it: clients and
//! apps of tests.

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderMap, Request, Response};
use proxy::world::{KernelNet, Listener, Net};

/// A response as it came.
#[derive(Debug)]
pub struct Answer {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header of the head.
    pub fn header(&self, name: &str) -> &str {
        self.head.headers()[name].to_str().unwrap()
    }
}

/// Opens a connection; a task of the test drives it.
pub async fn connect(to: SocketAddr) -> client::SendRequest<Bytes> {
    connect_from(to, None).await
}

/// Opens one from an address of this machine.
pub async fn connect_from(to: SocketAddr, from: Option<IpAddr>) -> client::SendRequest<Bytes> {
    let io = KernelNet::default().connect(to, from).await.unwrap();
    let (send, connection) = client::handshake(io).await.unwrap();
    super::spawn(async move {
        let _ = connection.await;
    });
    send.ready().await.unwrap()
}

/// A request to a path of the service.
pub fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://orders{path}"))
}

/// A gRPC call.
pub fn call(path: &str) -> http::request::Builder {
    request("POST", path).header("content-type", "application/grpc").header("te", "trailers")
}

/// Sends a request with a body, and with trailers if there are any, and reads the whole response.
///
/// # Errors
/// What the connection or the stream died of.
pub async fn ask(
    client: &client::SendRequest<Bytes>,
    request: Request<()>,
    body: &'static str,
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut send) = client.send_request(request, body.is_empty() && trailers.is_none())?;
    if !body.is_empty() {
        send.send_data(Bytes::from_static(body.as_bytes()), trailers.is_none())?;
    }
    if let Some(trailers) = trailers {
        send.send_trailers(trailers)?;
    }
    answer(response.await?).await
}

/// Reads a response to its end.
///
/// # Errors
/// What the stream died of.
pub async fn answer(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, body) = response.into_parts();
    let (body, trailers) = read(body).await?;
    Ok(Answer { head: Response::from_parts(head, ()), body, trailers })
}

/// Reads a body and its trailers.
///
/// # Errors
/// What the stream died of.
pub async fn read(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((bytes, trailers))
}

/// An app that runs `serve` for each request and allows `streams` at once on a connection; its
/// address, and how many connections it got.
pub async fn app<F: Future<Output = ()> + 'static>(
    streams: u32,
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
) -> (SocketAddr, Rc<Cell<usize>>) {
    let mut listener = KernelNet::default().bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let connections = Rc::new(Cell::new(0));
    let count = connections.clone();
    super::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            let serve = serve.clone();
            super::spawn(async move {
                let mut builder = server::Builder::new();
                builder.max_concurrent_streams(streams);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    super::spawn(serve(request, respond));
                }
            });
        }
    });
    (at, connections)
}

/// An app that sends everything back: the body, the trailers, and the request's headers with `saw-`
/// in front.
pub async fn echo(streams: u32) -> (SocketAddr, Rc<Cell<usize>>) {
    app(streams, |request, mut respond| async move {
        let (head, body) = request.into_parts();
        let Ok((bytes, trailers)) = read(body).await else { return };
        let mut response = Response::builder()
            .header("saw-method", head.method.as_str())
            .header("saw-uri", head.uri.to_string());
        for (name, value) in &head.headers {
            response = response.header(format!("saw-{name}"), value);
        }
        let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
        send.send_data(bytes.into(), false).unwrap();
        let _ = send.send_trailers(trailers);
    })
    .await
}
