//! Identity: who the workloads are, `[ca.NAME]` who signs for them, and `[cert.NAME]` what some of
//! them have instead.

use proxy::ca::authority::ROOT_TO_CERTIFICATE;
use proxy::config::defaults::{CERTIFICATE_LIFETIME, ROOT_LIFETIME};
use proxy::identity::{SpiffeId, check_trust_domain};
use serde_spanned::Spanned;
use std::time::Duration;

use super::model::{self, File};
use crate::plan::{Certificate, Identity, IdentitySource, TlsMode};
use crate::syntax::diagnose::Mistake;
use crate::syntax::units::Span;

/// The trust domain of an authority that says nothing, as everywhere else.
const TRUST_DOMAIN: &str = "cluster.local";
/// The namespace of a service that says nothing, as in Kubernetes.
const NAMESPACE: &str = "default";
/// Certificates count whole seconds.
const LEAST_LIFETIME: Duration = Duration::from_secs(1);

/// An authority, checked. Its instance is not known yet.
#[derive(Debug, Clone)]
pub(super) struct Authority {
    pub name: String,
    pub trust_domain: String,
    pub certificate_lifetime: Duration,
    pub root_lifetime: Duration,
}

/// How a service takes part in mutual TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceTls {
    /// Whom its callers expect.
    pub expected: Option<String>,
    /// Who it is.
    pub identity: Option<Identity>,
    pub mode: Option<TlsMode>,
}

/// Resolves the authorities.
pub(super) fn authorities(file: &File, mistakes: &mut Vec<Mistake>) -> Vec<Authority> {
    let resolve = |(name, ca): (&Spanned<String>, &model::Authority)| {
        if let Some((other, _)) = file.service.iter().find(|(other, _)| other.get_ref() == name.get_ref()) {
            let message = format!("`{name}` is the name of a service and of an authority");
            let mistake = Mistake::new(name.span(), message, "this one").also(other.span(), "and this one");
            mistakes.push(mistake.help("each is an instance: rename one of them"));
        }
        let mut trust_domain = ca.trust_domain.as_ref().map_or(TRUST_DOMAIN, |word| word.get_ref());
        if let (Err(error), Some(word)) = (check_trust_domain(trust_domain), &ca.trust_domain) {
            let mistake = Mistake::new(word.span(), error.to_string(), "this trust domain");
            mistakes.push(mistake.help("write one such as \"cluster.local\", which is the default"));
            trust_domain = TRUST_DOMAIN;
        }
        let certificate_lifetime = lifetime(ca.certificate_lifetime.as_ref(), mistakes);
        let least = certificate_lifetime.saturating_mul(ROOT_TO_CERTIFICATE);
        let root_lifetime =
            ca.root_lifetime.as_ref().map_or(ROOT_LIFETIME.max(least), |root| root.get_ref().0);
        if let Some(short) = ca.root_lifetime.as_ref().filter(|_| root_lifetime < least) {
            let message = "its roots would end before all could trust the next one";
            let mistake = Mistake::new(short.span(), message, "this long");
            let mistake = match &ca.certificate_lifetime {
                Some(certificate) => mistake.also(certificate.span(), "certificates"),
                None => mistake,
            };
            mistakes.push(mistake.help(format!(
                "at least {ROOT_TO_CERTIFICATE} times the life of a certificate: \"{}\"",
                Span(least)
            )));
        }
        Authority {
            name: name.get_ref().clone(),
            trust_domain: trust_domain.to_owned(),
            certificate_lifetime,
            root_lifetime,
        }
    };
    file.ca.iter().map(resolve).collect()
}

/// How long a certificate is valid.
fn lifetime(given: Option<&Spanned<Span>>, mistakes: &mut Vec<Mistake>) -> Duration {
    let lifetime = given.map_or(CERTIFICATE_LIFETIME, |given| given.get_ref().0);
    if let Some(short) = given.filter(|_| lifetime < LEAST_LIFETIME) {
        let mistake = Mistake::new(short.span(), "a certificate cannot live so shortly", "this long");
        mistakes.push(mistake.help("at least \"1s\": certificates count whole seconds"));
    }
    lifetime
}

/// Resolves the certificates that the lab makes.
pub(super) fn certificates(file: &File, mistakes: &mut Vec<Mistake>) -> Vec<Certificate> {
    let resolve = |(name, cert): (&Spanned<String>, &model::Certificate)| {
        let authority = match &cert.ca {
            Some(word) => authority(file, word, mistakes),
            None => the_only_one(file, name, ("signs it", "ca = \"..\""), mistakes),
        };
        let authority = authority.unwrap_or_default();
        let trusts = cert.trusts.as_ref().map(|words| {
            words.iter().filter_map(|word| self::authority(file, word, mistakes)).collect::<Vec<_>>()
        });
        if cert.trusts.as_ref().is_some_and(Vec::is_empty) {
            let message = format!("who has `{name}` would trust nobody");
            let mistake = Mistake::new(name.span(), message, "`trusts` is empty");
            mistakes.push(mistake.help("name an authority, or leave `trusts` out"));
        }
        if let Some(word) = &cert.id {
            workload(word, mistakes);
        }
        Certificate {
            name: name.get_ref().clone(),
            authority,
            id: cert.id.as_ref().map(|id| id.get_ref().clone()),
            lifetime: lifetime(cert.lifetime.as_ref(), mistakes),
            trusts: trusts.unwrap_or_else(|| vec![authority]),
        }
    };
    file.cert.iter().map(resolve).collect()
}

/// Refuses what a sidecar cannot be called: it would not start.
fn workload(word: &Spanned<String>, mistakes: &mut Vec<Mistake>) {
    let message = match word.get_ref().parse::<SpiffeId>() {
        Ok(id) if id.path().is_empty() => "this names a trust domain and no workload".to_owned(),
        Ok(id) if id == SpiffeId::of_authority(id.trust_domain()) => {
            "this names an authority and no workload".to_owned()
        }
        Ok(_) => return,
        Err(error) => error.to_string(),
    };
    let mistake = Mistake::new(word.span(), message, "this id");
    mistakes.push(mistake.help("write one such as \"spiffe://cluster.local/ns/default/sa/web\""));
}

/// The position of an authority.
fn authority(file: &File, word: &Spanned<String>, mistakes: &mut Vec<Mistake>) -> Option<usize> {
    let found = file.ca.keys().position(|name| name.get_ref() == word.get_ref());
    if found.is_none() {
        let known = file.ca.keys().map(|name| name.get_ref().as_str());
        mistakes.push(Mistake::unknown("authority", word, known));
    }
    found
}

/// The position of the authority of something that names none.
fn the_only_one(
    file: &File,
    of: &Spanned<String>,
    (what, key): (&str, &str),
    mistakes: &mut Vec<Mistake>,
) -> Option<usize> {
    let names: Vec<&str> = file.ca.keys().map(|name| name.get_ref().as_str()).collect();
    let (message, help) = match names.len() {
        1 => return Some(0),
        0 => (format!("there is no authority that {what}"), "add one: [ca.mesh]".to_owned()),
        _ => {
            let message = format!("there are several authorities, and none is named that {what}");
            (message, format!("add {key}; known: {}", names.join(", ")))
        }
    };
    mistakes.push(Mistake::new(of.span(), message, "this one").help(help));
    None
}

/// How a service takes part in mutual TLS. Where there is an authority all do, unless they say
/// otherwise.
pub(super) fn tls(
    file: &File,
    name: &Spanned<String>,
    service: &model::Service,
    (authorities, certificates): (&[Authority], &[Certificate]),
    mistakes: &mut Vec<Mistake>,
) -> ServiceTls {
    let nothing = model::Tls::default();
    let given = service.tls.as_ref().map_or(&nothing, Spanned::get_ref);
    let mode = match mode(given, mistakes) {
        Ok(mode) => mode,
        Err(Disabled) => {
            spare_namespace(service, "leave out `mode` or the namespace", mistakes);
            return ServiceTls::default();
        }
    };
    if authorities.is_empty() && service.tls.is_none() {
        spare_namespace(service, "add an authority, [ca.mesh], or leave it out", mistakes);
        return ServiceTls::default();
    }
    let position = match &given.ca {
        Some(word) => authority(file, word, mistakes),
        None => the_only_one(file, name, ("gives it certificates", "tls = { ca = \"..\" }"), mistakes),
    };
    let certificate = given.cert.as_ref().and_then(|word| certificate(file, word, mistakes));
    let Some(position) = position else { return ServiceTls::default() };
    let namespace = service.namespace.as_ref().map_or(NAMESPACE, |word| word.get_ref());
    let domain = &authorities[position].trust_domain;
    let expected = format!("spiffe://{domain}/ns/{namespace}/sa/{}", name.get_ref());
    let account = SpiffeId::of_service_account(domain, namespace, name.get_ref());
    if let (Some(word), Err(error)) = (&service.namespace, account) {
        let mistake = Mistake::new(word.span(), error.to_string(), "this namespace");
        mistakes.push(mistake.help("a plain word, such as \"shop\""));
    }
    let identity = match certificate {
        Some(certificate) => Identity {
            id: certificates[certificate].id.clone().unwrap_or_else(|| expected.clone()),
            source: IdentitySource::Certificate(certificate),
        },
        None => Identity { id: expected.clone(), source: IdentitySource::Authority(position) },
    };
    ServiceTls { expected: Some(expected), identity: Some(identity), mode }
}

/// Refuses the namespace of a service without an identity.
fn spare_namespace(service: &model::Service, help: &str, mistakes: &mut Vec<Mistake>) {
    if let Some(word) = &service.namespace {
        let mistake =
            Mistake::new(word.span(), "a namespace is part of an identity", "this service has none");
        mistakes.push(mistake.help(help));
    }
}

/// The service has no identity.
struct Disabled;

fn mode(given: &model::Tls, mistakes: &mut Vec<Mistake>) -> Result<Option<TlsMode>, Disabled> {
    let Some(word) = &given.mode else { return Ok(None) };
    match &word.get_ref()[..] {
        "strict" => Ok(Some(TlsMode::Strict)),
        "permissive" => Ok(Some(TlsMode::Permissive)),
        "disabled" => {
            if let Some(spare) = given.ca.as_ref().or(given.cert.as_ref()) {
                let message = "a service without TLS has no certificate";
                let mistake = Mistake::new(spare.span(), message, "what for?");
                mistakes.push(mistake.also(word.span(), "no TLS").help("leave one of them out"));
            }
            Err(Disabled)
        }
        _ => {
            let known = ["strict", "permissive", "disabled"];
            mistakes.push(Mistake::unknown("mode", word, known));
            Ok(None)
        }
    }
}

/// The position of a certificate.
fn certificate(file: &File, word: &Spanned<String>, mistakes: &mut Vec<Mistake>) -> Option<usize> {
    let found = file.cert.keys().position(|name| name.get_ref() == word.get_ref());
    if found.is_none() {
        let known = file.cert.keys().map(|name| name.get_ref().as_str());
        mistakes.push(Mistake::unknown("certificate", word, known));
    }
    found
}
