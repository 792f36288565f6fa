//! Where a sidecar stands: what every kind of sidecar is told about its place, each in its own
//! configuration.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path as File, PathBuf};

use lab::plan::{INBOUND_PORT, OUTBOUND_PORT};
use proxy::world::{SystemWall, Wall};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::APP_PORT;
use crate::options::{Path, Protocol};

/// Address of the client's machine.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// Address of the app's machine.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 2);
/// Where the service is for clients with a sidecar: a virtual address that no machine has.
pub const VIRTUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 90, 9, 9)), APP_PORT);
/// Where the app is, and where clients without a sidecar find it.
pub const APP: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER), APP_PORT);
/// How long certificates are valid.
const LIFE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// The side of the client or of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `a`: beside the client.
    Client,
    /// `b`: beside the app.
    App,
}

impl Side {
    /// The label of what is measured there.
    pub fn label(self) -> &'static str {
        match self {
            Side::Client => "a",
            Side::App => "b",
        }
    }

    /// The SPIFFE id of the workload there.
    pub fn identity(self) -> &'static str {
        match self {
            Side::Client => "spiffe://cluster.local/ns/bench/sa/client",
            Side::App => "spiffe://cluster.local/ns/bench/sa/app",
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Client => Side::App,
            Side::App => Side::Client,
        }
    }
}

/// The place of a sidecar.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// On which path.
    pub path: Path,
    /// What is spoken.
    pub protocol: Protocol,
    /// On which side.
    pub side: Side,
    /// What [`write_certificates`] has written, and room for what a sidecar writes.
    pub folder: &'a File,
}

impl Place<'_> {
    /// Where it takes connections that the rules redirect.
    pub fn port(&self) -> u16 {
        match self.side {
            Side::Client => OUTBOUND_PORT,
            Side::App => INBOUND_PORT,
        }
    }

    /// Where connections go from there.
    pub fn next(&self) -> SocketAddr {
        match self.side {
            Side::Client => APP,
            // An app is spared by the rules at 127.0.0.1, so no source address is needed.
            Side::App => (Ipv4Addr::LOCALHOST, APP_PORT).into(),
        }
    }

    /// Who must be on the other end of mutual TLS.
    pub fn expected(&self) -> &'static str {
        self.side.other().identity()
    }

    /// The folder with its certificates.
    pub fn certificates(&self) -> PathBuf {
        self.folder.join(self.side.label())
    }

    /// Whether what is spoken is HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 | Protocol::Grpc)
    }
}

/// Writes certificates for both sides below `folder`: `a` and `b`, with cert-manager's names, and
/// `both.pem` for who wants certificate and key in one file.
///
/// # Errors
/// If they cannot be made or written.
pub fn write_certificates(folder: &File) -> io::Result<()> {
    let now = SystemWall.now();
    let root_key = KeyPair::generate().map_err(io::Error::other)?;
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "bench");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_text = root.self_signed(&root_key).map_err(io::Error::other)?.pem();
    let issuer = Issuer::new(root, root_key);
    for side in [Side::Client, Side::App] {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(side.identity().try_into().map_err(io::Error::other)?)];
        (params.not_before, params.not_after) = ((now - LIFE).into(), (now + LIFE).into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?.pem();
        let key = key.serialize_pem();
        let own = folder.join(side.label());
        std::fs::create_dir(&own)?;
        for (name, text) in [
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("ca.crt", &root_text),
            ("both.pem", &format!("{certificate}{key}")),
        ] {
            std::fs::write(own.join(name), text)?;
        }
    }
    Ok(())
}
