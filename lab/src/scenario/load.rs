//! Load generators: what each of them calls, from where, and how often.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_spanned::Spanned;

use super::condition::FABRIC;
use super::context::Context;
use super::{Load, Service, model};
use crate::plan::{AppKind, Part, Target};
use crate::syntax::diagnose::{Mistake, closest, inside};
use crate::syntax::units::Span;

/// Requests a second that one generator is allowed to be asked for; far more than one machine
/// carries.
const MOST_RATE: f64 = 1e6;
/// HTTP methods that a generator sends.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Resolves a load generator.
pub(super) fn load(
    name: &Spanned<String>,
    load: &model::Load,
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
    let timeout = load.timeout.as_ref().map_or(model::LOAD_TIMEOUT, |t| t.get_ref().0);
    if let Some(zero) = load.timeout.as_ref().filter(|_| timeout.is_zero()) {
        let mistake = Mistake::new(zero.span(), "every request would time out at once", "this long");
        mistakes.push(mistake.help("write a time-out such as \"1s\", which is the default"));
    }
    let from = if load.from.get_ref().contains(['*', '/']) {
        let mistake =
            Mistake::new(load.from.span(), "a load runs in one instance", "not the name of an instance");
        mistakes.push(mistake.help("name an instance, such as \"web\" or \"orders-0\""));
        None
    } else {
        context.names.instances(&load.from, mistakes).first().copied()
    };
    let target = target(load, services, context, mistakes);
    let of_http = matches!(target, None | Some(Target::Http { grpc: false, .. }));
    let of_grpc = matches!(target, None | Some(Target::Http { grpc: true, .. }));
    let mut delay = |delay: &Option<Spanned<Span>>, may_be: bool, message: &str, help: &str| {
        let Some(delay) = delay else { return Duration::ZERO };
        if !may_be {
            mistakes.push(Mistake::new(delay.span(), message, "such a delay").help(help));
        }
        delay.get_ref().0
    };
    let message = "this load cannot wait before it reads";
    let read_delay = delay(&load.read_delay, of_http, message, "only a load on `http://...` can");
    let message = "this load cannot leave a call open";
    let end_delay = delay(&load.end_delay, of_grpc, message, "only a load on `grpc://...` can");
    let part = part(load, context, mistakes);
    let name = word.to_owned();
    Some(Load { name, from: from?, target: target?, rate, timeout, read_delay, end_delay, part })
}

/// The part of the run in which a load sends, if it is not all of it.
fn part(load: &model::Load, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Option<Part> {
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

/// Headers that a load sends.
fn headers(load: &model::Load, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in &load.headers {
        if http::HeaderName::from_bytes(name.get_ref().as_bytes()).is_err() {
            let message = format!("`{name}` cannot be the name of a header");
            let mistake = Mistake::new(name.span(), message, "not a header's name");
            mistakes.push(mistake.help("letters, digits and hyphens, such as x-user"));
        }
        if http::HeaderValue::from_str(value.get_ref()).is_err() {
            let message = format!("`{value}` cannot be the value of a header");
            let mistake = Mistake::new(value.span(), message, "not a header's value");
            mistakes.push(mistake.help("printable characters, on one line"));
        }
        headers.insert(name.get_ref().to_ascii_lowercase(), value.get_ref().clone());
    }
    headers
}

/// What loads speak.
const SCHEMES: [&str; 3] = ["http", "grpc", "tcp"];

fn target(
    load: &model::Load,
    services: &[Service],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Target> {
    let url = &load.url;
    let text = &url.get_ref()[..];
    let form = "write \"http://SERVICE:PORT/path\", or with \"grpc://\" or \"tcp://\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        mistakes
            .push(Mistake::new(url.span(), format!("`{text}` is not a URL"), "no `://` in it").help(form));
        return None;
    };
    if !SCHEMES.contains(&scheme) {
        let near = closest(scheme, SCHEMES).filter(|_| scheme != "https");
        let hint = near.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        let why = if scheme == "https" { "generators and apps speak plaintext; " } else { "" };
        let message = format!("a load cannot speak `{scheme}`");
        let at = inside(url, 0..scheme.len(), context.text);
        mistakes.push(
            Mistake::new(at, message, "this scheme").help(format!("{why}{hint}known: http, grpc, tcp")),
        );
        return None;
    }
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
    let host_at = scheme.len() + 3..scheme.len() + 3 + host.len();
    let host_span = inside(url, host_at.clone(), context.text);
    let service_name = host.strip_suffix(".lab").unwrap_or(host);
    let Some(service) = services.iter().find(|s| s.name == service_name) else {
        let word = Spanned::new(host_span.clone(), service_name.to_owned());
        let callable = services.iter().filter(|s| s.port.is_some()).map(|s| &s.name[..]);
        let of = context
            .names
            .instances
            .iter()
            .find(|i| i.name == service_name)
            .map(|i| &services[i.service].name);
        mistakes.push(match of {
            Some(service) => {
                Mistake::new(host_span, format!("`{host}` is an instance"), "callers dial services")
                    .help(format!("write \"{}\"", text.replacen(host, service, 1)))
            }
            None => Mistake::unknown("service", &word, callable),
        });
        return None;
    };
    let defined = context.names.services.iter().find(|s| s.name == service.name).map(|s| s.at.clone());
    let defined = defined.unwrap_or(url.span());
    let Some(open) = service.port else {
        let message = format!("service `{service_name}` cannot be called: it has no port");
        let mistake = Mistake::new(host_span, message, "calls it").also(defined, "no app and no port here");
        mistakes.push(mistake.help("give it an app and a port, or call another service"));
        return None;
    };
    if port.and_then(|p| p.parse().ok()) != Some(open) {
        let message = match port {
            Some(port) => format!("`{service_name}` does not listen on port {port}"),
            None => "the URL has no port".to_owned(),
        };
        let right = format!("{scheme}://{host}:{open}{path}");
        let at = inside(url, host_at.start..host_at.start + authority.len(), context.text);
        let mistake = Mistake::new(at, message, "this address").also(defined, format!("has port {open}"));
        mistakes.push(mistake.help(format!("write \"{right}\"")));
        return None;
    }
    let host = service.name.clone();
    match (scheme, &service.app) {
        ("http" | "grpc", Some(AppKind::Tcp { .. })) | ("tcp", Some(AppKind::Http(_))) => {
            let (other, app) =
                if scheme == "tcp" { ("http", "the http app") } else { ("tcp", "the tcp app") };
            let message = format!("`{service_name}` does not speak {scheme}");
            let mistake = Mistake::new(url.span(), message, format!("calls it by {scheme}"));
            let help = format!("write \"{other}://{authority}{path}\"");
            mistakes.push(mistake.also(defined, format!("runs {app}")).help(help));
            None
        }
        ("http" | "grpc", _) => {
            let grpc = scheme == "grpc";
            if let Some(method) = load.method.as_ref().filter(|m| grpc && *m.get_ref() != "POST") {
                let mistake = Mistake::new(method.span(), "every gRPC call is a POST", "another method");
                mistakes.push(mistake.help("leave it out"));
            }
            let usual = if grpc { "POST" } else { "GET" };
            let method = load.method.as_ref().map_or(usual, |m| &m.get_ref()[..]);
            if let Some(word) = load.method.as_ref().filter(|m| !METHODS.contains(&&m.get_ref()[..])) {
                mistakes.push(Mistake::unknown("method", word, METHODS));
            }
            if let Some(error) = path.parse::<http::uri::PathAndQuery>().err().filter(|_| !path.is_empty()) {
                let mistake =
                    Mistake::new(url.span(), format!("`{path}` is not a path: {error}"), "in this URL");
                mistakes.push(mistake.help("other characters are written in percent form, such as %20"));
            }
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            let body = load.body.as_ref().map_or(0, |b| *b.get_ref());
            let (method, headers) = (method.to_owned(), headers(load, mistakes));
            Some(Target::Http { host, port: open, path, method, body, grpc, headers })
        }
        _ => {
            if !path.is_empty() && path != "/" {
                let mistake = Mistake::new(url.span(), "a TCP connection has no path", format!("`{path}`"));
                mistakes.push(mistake.help(format!("write \"tcp://{authority}\"")));
            }
            let extra = load.method.as_ref().map(Spanned::span).or(load.body.as_ref().map(Spanned::span));
            let extra = extra.or(load.headers.keys().next().map(Spanned::span));
            if let Some(at) = extra {
                let mistake = Mistake::new(
                    at,
                    "`method`, `body` and `headers` are for http:// only",
                    "not for a tcp:// load",
                );
                mistakes.push(mistake.help("leave it out"));
            }
            Some(Target::Tcp { host, port: open })
        }
    }
}
