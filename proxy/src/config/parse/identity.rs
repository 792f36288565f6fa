//! `[identity]` and `[tls]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::one_of;
use crate::config::model::{self, File};
use crate::config::{Identity, IdentitySource, Tls, TlsMode, defaults};
use crate::spiffe_id::SpiffeId;

impl Check<'_> {
    pub(super) fn identity(&mut self, given: &model::Identity) -> Option<Identity> {
        let id = self.spiffe_id("id", &given.id);
        let source = match &given.files {
            Some(folder) => IdentitySource::Files(PathBuf::from(self.name("files", folder))),
            None => {
                self.diagnostics
                    .add(
                        "nothing says where the certificate comes from",
                        given.id.span(),
                        "whose certificate",
                    )
                    .help("write `files = \"/path/to/a/folder\"` with tls.crt, tls.key and ca.crt in it");
                return None;
            }
        };
        Some(Identity { id: id?, source })
    }

    /// The name of a workload.
    pub(super) fn spiffe_id(&mut self, key: &str, given: &Spanned<String>) -> Option<SpiffeId> {
        match given.get_ref().parse() {
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
        let handshake = self.duration("handshake", given.handshake.as_ref(), defaults::HANDSHAKE).value;
        let handshakes = given.handshakes.as_ref().map_or(defaults::HANDSHAKES, |most| {
            if *most.get_ref() == 0 {
                self.diagnostics
                    .add("`handshakes` of 0 would refuse every sidecar", most.span(), "must be at least 1")
                    .help("to switch TLS off, write `mode = \"disabled\"`");
            }
            *most.get_ref()
        });
        Tls { mode, handshake, handshakes }
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
