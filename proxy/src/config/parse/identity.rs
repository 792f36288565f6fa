//! `[identity]` and `[tls]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::one_of;
use crate::config::model::{self, File};
use crate::config::{AgentSocket, CaClient, Identity, IdentitySource, Tls, TlsMode, defaults};
use crate::spiffe_id::SpiffeId;

impl Check<'_> {
    pub(super) fn identity(&mut self, given: &model::Identity) -> Option<Identity> {
        let id = self.workload("id", &given.id);
        let source = self.identity_source(given)?;
        Some(Identity { id: id?, source })
    }

    fn identity_source(&mut self, given: &model::Identity) -> Option<IdentitySource> {
        let sources = [
            ("files", given.files.as_ref().map(Spanned::span)),
            ("ca", given.ca.as_ref().map(Spanned::span)),
            ("workload_api", given.workload_api.as_ref().map(Spanned::span)),
        ];
        let mut sources = sources.into_iter().filter_map(|(name, span)| Some((name, span?)));
        if let (Some((one, first)), Some((other, second))) = (sources.next(), sources.next()) {
            self.diagnostics
                .add(
                    format!("`{one}` and `{other}` are two sources of the certificate"),
                    second,
                    "the second",
                )
                .also(first, "the first")
                .help("keep one of the two");
            return None;
        }
        if let Some(folder) = &given.files {
            return Some(IdentitySource::Files(self.place_of("files", folder)));
        }
        if let Some(ca) = &given.ca {
            return Some(IdentitySource::Ca(self.ca_client(ca)));
        }
        if let Some(agent) = &given.workload_api {
            let socket = agent.get_ref().socket.as_ref().and_then(|socket| self.agent_socket(socket));
            return Some(IdentitySource::WorkloadApi(socket));
        }
        self.diagnostics
            .add("nothing says where the certificate comes from", given.id.span(), "whose certificate")
            .help(
                "write `files = \"/path/to/a/folder\"` with tls.crt, tls.key and ca.crt in it, or ask an \
                 authority: [identity.ca], or an agent: [identity.workload_api]",
            );
        None
    }

    fn agent_socket(&mut self, given: &Spanned<String>) -> Option<AgentSocket> {
        let socket = given.get_ref().parse();
        if let Err(error) = &socket {
            self.diagnostics
                .add(format!("`socket` is not where an agent listens: {error}"), given.span(), "no socket")
                .help("such as socket = \"unix:///run/spire/agent.sock\"");
        }
        socket.ok()
    }

    fn ca_client(&mut self, given: &Spanned<model::CaClient>) -> CaClient {
        let span = given.span();
        let given = given.get_ref();
        if given.addresses.is_empty() {
            self.diagnostics
                .add("this authority has no address", span, "nobody to ask")
                .help("such as addresses = [\"10.0.0.5:15012\"]");
        }
        let addresses =
            given.addresses.iter().filter_map(|address| self.address_at(address, defaults::CA_PORT));
        let addresses = addresses.collect();
        let refresh = self.duration("refresh", given.refresh.as_ref(), defaults::BUNDLE_REFRESH);
        if let Some(key) = given.refresh.as_ref().filter(|_| refresh.value < defaults::BUNDLE_REFRESH_LEAST) {
            self.diagnostics
                .add("`refresh` would ask almost without a pause", key.span(), "must be at least 100ms")
                .help("such as refresh = \"10s\"");
        }
        CaClient {
            addresses,
            roots: self.place_of("roots", &given.roots),
            token: self.place_of("token", &given.token),
            refresh: refresh.value,
        }
    }

    /// The path of a file or a directory.
    pub(super) fn place_of(&mut self, key: &str, given: &Spanned<String>) -> PathBuf {
        if given.get_ref().is_empty() {
            self.diagnostics
                .add(format!("`{key}` is empty"), given.span(), "a path is needed")
                .help("write it with a `/` at its beginning, or where the sidecar is started decides");
        }
        PathBuf::from(given.get_ref())
    }

    /// The name of a workload.
    pub(super) fn workload(&mut self, key: &str, given: &Spanned<String>) -> Option<SpiffeId> {
        match given.get_ref().parse::<SpiffeId>() {
            Ok(id) if id.path().is_empty() || id == SpiffeId::of_authority(id.trust_domain()) => {
                self.diagnostics
                    .add(
                        format!("`{key}` is not the name of a workload"),
                        given.span(),
                        "names another thing",
                    )
                    .help("write \"spiffe://cluster.local/ns/shop/sa/web\"");
                None
            }
            Ok(id) => Some(id),
            Err(error) => {
                self.diagnostics
                    .add(format!("`{key}` is not a SPIFFE id"), given.span(), "not the name of a workload")
                    .help(format!("{error}; write \"spiffe://cluster.local/ns/shop/sa/web\""));
                None
            }
        }
    }

    pub(super) fn tls(&mut self, file: &File) -> Tls {
        let given = &file.tls;
        let default = if file.identity.is_some() { TlsMode::Permissive } else { TlsMode::Disabled };
        let mode = given.mode.as_ref().map_or(default, |mode| self.tls_mode("mode", mode, file));
        let handshake = self.duration("handshake", given.handshake.as_ref(), defaults::HANDSHAKE);
        if let Some(span) = handshake.span.clone().filter(|_| handshake.value.is_zero()) {
            self.diagnostics
                .add("a `handshake` of 0 would refuse every sidecar", span, "must be more")
                .help("to switch TLS off, write `mode = \"disabled\"`");
        }
        let handshakes = given.handshakes.as_ref().map_or(defaults::HANDSHAKES, |most| {
            if *most.get_ref() == 0 {
                self.diagnostics
                    .add("`handshakes` of 0 would refuse every sidecar", most.span(), "must be at least 1")
                    .help("to switch TLS off, write `mode = \"disabled\"`");
            }
            *most.get_ref()
        });
        Tls { mode, handshake: handshake.value, handshakes }
    }

    /// The ports of the app with a mode of their own.
    pub(super) fn inbound_port_tls(&mut self, file: &File) -> BTreeMap<u16, TlsMode> {
        let differing = file.inbound.iter().filter_map(|entry| Some((entry, entry.tls.as_ref()?)));
        differing.map(|(entry, mode)| (*entry.port.get_ref(), self.tls_mode("tls", mode, file))).collect()
    }

    fn tls_mode(&mut self, key: &str, given: &Spanned<String>, file: &File) -> TlsMode {
        let known = TlsMode::ALL.iter().find(|(word, _)| word == given.get_ref());
        let Some((_, mode)) = known else {
            let words = TlsMode::ALL.map(|(word, _)| word);
            self.diagnostics
                .add(format!("`{key}` is none of the modes"), given.span(), "not a mode")
                .help(format!("it is one of {}", one_of(&words, '"')));
            return TlsMode::Disabled;
        };
        if *mode != TlsMode::Disabled && file.identity.is_none() {
            self.diagnostics
                .add(format!("`{key}` takes an identity"), given.span(), "without one there is no TLS")
                .help("say who this workload is: [identity] with `id` and `files`");
        }
        *mode
    }
}
