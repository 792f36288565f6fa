//! Load generators: what each of them calls, from where, and how often.

use std::ops::Range;
use std::time::Duration;

use serde_spanned::Spanned;

use super::context::Context;
use super::{Load, Service};
use crate::load::{CallKind, LoadTable, LoadUrl, Part, SCHEMES, TIMEOUT, Target};
use crate::metrics::FABRIC;
use crate::syntax::diagnose::{Mistake, closest, inside};
use crate::syntax::names::Names;
use crate::syntax::units::Span;

/// Requests a second that one generator is allowed to be asked for; far more than one machine
/// carries.
const MOST_RATE: f64 = 1e6;

/// Resolves a load generator.
pub(super) fn load(
    name: &Spanned<String>,
    load: &LoadTable,
    services: &[Service],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Load> {
    let word = &name.get_ref()[..];
    if word == FABRIC
        || word.is_empty()
        || !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    {
        let mistake = Mistake::new(
            name.span(),
            format!("`{word}` cannot be the name of a load"),
            "conditions could not say it",
        );
        mistakes.push(mistake.help("letters, digits, `-` and `_`; `fabric` is taken"));
    }
    let rate = load.rate.get_ref().0;
    if rate <= 0.0 || rate > MOST_RATE {
        let message =
            if rate <= 0.0 { "a load of nothing measures nothing" } else { "no machine carries this load" };
        let mistake = Mistake::new(load.rate.span(), message, "this rate");
        mistakes.push(mistake.help(format!("more than 0/s and at most {MOST_RATE}/s, such as \"200/s\"")));
    }
    let timeout = load.timeout.as_ref().map_or(TIMEOUT, |t| t.get_ref().0);
    if let Some(zero) = load.timeout.as_ref().filter(|_| timeout.is_zero()) {
        let mistake = Mistake::new(zero.span(), "every request would time out at once", "this long");
        mistakes.push(mistake.help("write a timeout such as \"1s\", which is the default"));
    }
    let from = if load.from.get_ref().contains(['*', '/']) {
        let mistake =
            Mistake::new(load.from.span(), "a load runs in one instance", "not the name of an instance");
        mistakes.push(mistake.help("name an instance, such as \"web\" or \"orders-0\""));
        None
    } else {
        context.names.instances(&load.from, mistakes).first().copied()
    };
    if from.is_some_and(|from| context.names.is_authority(from)) {
        let message = format!("`{}` is an authority", load.from);
        mistakes.push(
            Mistake::new(load.from.span(), message, "calls nobody").help("name an instance of a service"),
        );
    }
    let target = target(load, services, context, mistakes);
    let part = part(load, context, mistakes);
    let name = word.to_owned();
    Some(Load { name, from: from?, target: target?, rate, timeout, part })
}

/// The part of the run in which a load sends, if it is not all of it.
fn part(load: &LoadTable, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Option<Part> {
    if load.at.is_none() && load.lasts.is_none() {
        return None;
    }
    let run = Span(context.duration);
    let from = load.at.as_ref().map_or(Duration::ZERO, |at| at.get_ref().0);
    if let Some(at) = load.at.as_ref().filter(|_| from >= context.duration) {
        let message = format!("this load would begin after the run is over: {} of {run}", Span(from));
        mistakes.push(Mistake::new(at.span(), message, "too late").help(format!("begin before {run}")));
        return None;
    }
    let to = load.lasts.as_ref().map_or(context.duration, |lasts| from.saturating_add(lasts.get_ref().0));
    if let Some(lasts) = load.lasts.as_ref().filter(|_| to > context.duration || to == from) {
        let longest = Span(context.duration.saturating_sub(from));
        let (message, label) = match to == from {
            true => ("this load lasts no time".to_owned(), "this long"),
            false => {
                (format!("this load would end after the run is over: {} of {run}", Span(to)), "too long")
            }
        };
        let help = format!("at most \"{longest}\", or leave `for` out: then it lasts to the end");
        mistakes.push(Mistake::new(lasts.span(), message, label).help(help));
        return None;
    }
    Some(Part { from, to })
}

/// What a load calls.
fn target(
    load: &LoadTable,
    services: &[Service],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Target> {
    let url = Url::split(&load.url, context.text, mistakes)?;
    let service = url.service(services, &context.names, mistakes)?;
    let defined = context.names.services.iter().find(|s| s.name == service.name).map(|s| s.at.clone());
    let defined = defined.unwrap_or(load.url.span());
    let port = url.port(service, &defined, mistakes)?;
    url.is_spoken(service, defined, mistakes).then_some(())?;
    let whole = LoadUrl { whole: url.whole, authority: url.authority, path: url.path };
    let call = CallKind::resolve(url.scheme, load, &whole, mistakes)?;
    Some(Target { host: service.name.clone(), port, call })
}

/// The URL of a load, in parts.
struct Url<'a> {
    whole: &'a Spanned<String>,
    /// The text of the file.
    text: &'a str,
    scheme: &'a str,
    authority: &'a str,
    host: &'a str,
    port: Option<&'a str>,
    /// And query; with its stroke.
    path: &'a str,
}

impl<'a> Url<'a> {
    fn split(url: &'a Spanned<String>, text: &'a str, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        let word = &url.get_ref()[..];
        let Some((scheme, rest)) = word.split_once("://") else {
            let mistake = Mistake::new(url.span(), format!("`{word}` is not a URL"), "no `://` in it");
            let (first, others) = SCHEMES.split_first().expect("there are protocols");
            let others: Vec<String> = others.iter().map(|scheme| format!("\"{scheme}://\"")).collect();
            let form = format!("write \"{first}://SERVICE:PORT/path\", or with {}", others.join(" or "));
            mistakes.push(mistake.help(form));
            return None;
        };
        if !SCHEMES.contains(&scheme) {
            let near = closest(scheme, SCHEMES.iter().copied()).filter(|_| scheme != "https");
            let hint = near.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
            let why = if scheme == "https" { "generators and apps speak plaintext; " } else { "" };
            let at = inside(url, 0..scheme.len(), text);
            let mistake = Mistake::new(at, format!("a load cannot speak `{scheme}`"), "this scheme");
            mistakes.push(mistake.help(format!("{why}{hint}known: {}", SCHEMES.join(", "))));
            return None;
        }
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
        Some(Url { whole: url, text, scheme, authority, host, port, path })
    }

    /// Where the first bytes of its authority stand in the file.
    fn at(&self, length: usize) -> Range<usize> {
        let start = self.scheme.len() + "://".len();
        inside(self.whole, start..start + length, self.text)
    }

    /// The service that its host means.
    fn service<'s>(
        &self,
        services: &'s [Service],
        names: &Names,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<&'s Service> {
        let name = self.host.strip_suffix(".lab").unwrap_or(self.host);
        let found = services.iter().find(|service| service.name == name);
        if found.is_none() {
            let at = self.at(self.host.len());
            let instance = names.instances.iter().find(|instance| instance.name == name);
            mistakes.push(match instance.map(|instance| services.get(instance.service)) {
                Some(None) => {
                    let message = format!("`{}` is an authority", self.host);
                    Mistake::new(at, message, "only sidecars call it").help("call a service")
                }
                Some(Some(Service { name: service, .. })) => {
                    let message = format!("`{}` is an instance", self.host);
                    let right = self.whole.get_ref().replacen(self.host, service, 1);
                    Mistake::new(at, message, "callers dial services").help(format!("write \"{right}\""))
                }
                None => {
                    let callable = services.iter().filter(|s| s.port.is_some()).map(|s| &s.name[..]);
                    Mistake::unknown("service", &Spanned::new(at, name.to_owned()), callable)
                }
            });
        }
        found
    }

    /// The service's port, if it has one and the URL says so.
    fn port(&self, service: &Service, defined: &Range<usize>, mistakes: &mut Vec<Mistake>) -> Option<u16> {
        let Url { scheme, authority, host, path, .. } = self;
        let name = &service.name;
        let Some(open) = service.port else {
            let message = format!("service `{name}` cannot be called: it has no port");
            let mistake = Mistake::new(self.at(host.len()), message, "calls it");
            let mistake = mistake.also(defined.clone(), "no app and no port here");
            mistakes.push(mistake.help("give it an app and a port, or call another service"));
            return None;
        };
        if self.port.and_then(|port| port.parse().ok()) != Some(open) {
            let message = match self.port {
                Some(port) => format!("`{name}` does not listen on port {port}"),
                None => "the URL has no port".to_owned(),
            };
            let mistake = Mistake::new(self.at(authority.len()), message, "this address");
            let mistake = mistake.also(defined.clone(), format!("has port {open}"));
            mistakes.push(mistake.help(format!("write \"{scheme}://{host}:{open}{path}\"")));
            return None;
        }
        Some(open)
    }

    /// Whether the service's app speaks its protocol, as far as the lab knows.
    fn is_spoken(&self, service: &Service, defined: Range<usize>, mistakes: &mut Vec<Mistake>) -> bool {
        let Url { scheme, authority, path, .. } = self;
        let Some(app) = &service.app else { return true };
        let Some(other) = app.speaks().first().filter(|_| !app.speaks().contains(scheme)) else {
            return true;
        };
        let message = format!("`{}` does not speak {scheme}", service.name);
        let mistake = Mistake::new(self.whole.span(), message, format!("calls it by {scheme}"));
        let mistake = mistake.also(defined, format!("runs the {} app", app.key()));
        mistakes.push(mistake.help(format!("write \"{other}://{authority}{path}\"")));
        false
    }
}
