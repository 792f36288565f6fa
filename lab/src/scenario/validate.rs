//! A file's meaning: header, services and load generators; the other tables have modules of their
//! own.
//!
//! Nothing stops at the first mistake. Where a value is wrong, a harmless one takes its place, so
//! that one mistake does not breed others.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_spanned::Spanned;

use super::condition::{FABRIC, closest};
use super::diagnose::{Mistake, inside};
use super::model::{self, File};
use super::names::{Names, instance_name};
use super::settings::{self, Settings};
use super::units::Span;
use super::{Load, Scenario, Service, expect, faults, links};
use crate::plan::{
    APP_METRICS_PORT, AppKind, Behaviour, HttpEcho, Link, Part, Protocol, ResourceLimits, ServiceLimits,
    SidecarKind, Target, unavailable,
};

/// Instances of one service, and services: the address plan numbers them in one byte each.
const MOST: usize = 250;
/// Requests a second that one generator is allowed to be asked for; far more than one machine
/// carries.
const MOST_RATE: f64 = 1e6;
/// Ports that belong to sidecars.
const SIDECAR_PORTS: std::ops::RangeInclusive<u16> = 15000..=15099;
/// HTTP methods that a generator sends.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Everything that `validate` and its helpers need to know of the rest of the file.
pub(super) struct Context<'a> {
    pub text: &'a str,
    pub names: Names,
    pub duration: Duration,
    pub has_sidecars: bool,
}

/// Resolves a file, or tells everything that is wrong with it.
pub(super) fn validate(file: &File, text: &str) -> Result<Scenario, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let m = &mut mistakes;
    let header = &file.scenario;
    if header.name.get_ref().trim().is_empty() {
        m.push(
            Mistake::new(header.name.span(), "the scenario has no name", "empty")
                .help("say what it is about"),
        );
    }
    let duration = header.duration.get_ref().0;
    if duration.is_zero() {
        let mistake =
            Mistake::new(header.duration.span(), "a run of no length measures nothing", "this long");
        m.push(mistake.help("a few seconds, such as \"5s\", are enough for most questions"));
    }
    let sidecars = sidecars(header, m);
    let (services, names) = services(file, m);
    let context = Context { text, names, duration, has_sidecars: sidecars.contains(&SidecarKind::Ours) };
    let base = links::base(&file.link, &context.names, m);
    let loads: Vec<Load> =
        file.load.iter().filter_map(|(name, l)| load(name, l, &services, &context, m)).collect();
    let timeline = faults::timeline(&file.timeline, &base, &context, m);
    let expectations = expect::expectations(file, &timeline, &context, m);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Scenario {
        name: header.name.get_ref().trim().to_owned(),
        seed: header.seed.unwrap_or(1),
        warmup: header.warmup.as_ref().map_or(model::WARMUP, |w| w.get_ref().0),
        duration,
        sidecars,
        services,
        links: base.into_iter().map(|((from, to), profile)| Link { from, to, profile }).collect(),
        loads,
        timeline,
        expectations,
    })
}

fn sidecars(header: &model::Header, mistakes: &mut Vec<Mistake>) -> Vec<SidecarKind> {
    let Some(asked) = &header.sidecar else { return vec![SidecarKind::Ours] };
    let words = asked.get_ref().words(asked.span());
    if words.is_empty() {
        let mistake = Mistake::new(asked.span(), "no sidecar is named, so nothing would run", "empty");
        mistakes.push(mistake.help("known: ours, none; without this line it is \"ours\""));
    }
    let mut kinds = Vec::new();
    for word in &words {
        let Some(kind) = sidecar_kind(word, mistakes) else { continue };
        if kinds.contains(&kind) {
            let mistake = Mistake::new(word.span(), format!("sidecar `{word}` is named twice"), "again");
            mistakes.push(mistake.help("each is run once; leave one out"));
        } else {
            kinds.push(kind);
        }
    }
    kinds
}

/// What a word for the sidecar's place means.
pub(super) fn sidecar_kind(word: &Spanned<String>, mistakes: &mut Vec<Mistake>) -> Option<SidecarKind> {
    match &word.get_ref()[..] {
        "ours" => Some(SidecarKind::Ours),
        "none" => Some(SidecarKind::None),
        _ => {
            mistakes.push(Mistake::unknown("sidecar", word, ["ours", "none"]));
            None
        }
    }
}

fn services(file: &File, mistakes: &mut Vec<Mistake>) -> (Vec<Service>, Names) {
    let mut services = Vec::new();
    let mut names = Names::default();
    let mut owner: BTreeMap<String, std::ops::Range<usize>> = BTreeMap::new();
    for (name, service) in &file.service {
        service_name(name, mistakes);
        let replicas = service.replicas.as_ref().map_or(1, |r| *r.get_ref());
        let replicas = if (1..=MOST as u32).contains(&replicas) {
            replicas
        } else {
            let at = service.replicas.as_ref().map_or(name.span(), Spanned::span);
            let message = format!("a service cannot have {replicas} replicas");
            let help = format!(
                "between 1 and {MOST}; to take a replica away for a while use a `kill` in the timeline"
            );
            mistakes.push(Mistake::new(at, message, "this many").help(help));
            1
        };
        for index in 0..replicas {
            let instance = instance_name(name.get_ref(), index, replicas);
            if let Some(other) = owner.insert(instance.clone(), name.span()) {
                let message = format!("two services have an instance `{instance}`");
                let mistake = Mistake::new(name.span(), message, "this one").also(other, "and this one");
                mistakes
                    .push(mistake.help("replicas are named SERVICE-0, SERVICE-1, ...: rename one service"));
            }
        }
        names.add(name, replicas, service.app.as_ref().map(Spanned::get_ref));
        settings::reserved(service, mistakes);
        let plain =
            |keys: &Option<Spanned<Settings>>| keys.as_ref().map(|k| k.get_ref().plain()).unwrap_or_default();
        services.push(Service {
            name: name.get_ref().clone(),
            replicas,
            port: port(name, service, mistakes),
            protocol: protocol(service, mistakes),
            bridge: bridge(service, mistakes),
            registry: registry(file, name, service, mistakes),
            policy: plain(&service.policy),
            settings: plain(&service.sidecar),
            limits: limits(service, mistakes),
            zones: dealt("zones", &service.zones, replicas, mistakes),
            weights: weights(service, replicas, mistakes),
            labels: dealt("labels", &service.labels, replicas, mistakes),
            app: service.app.as_ref().and_then(|a| app(a, mistakes)),
        });
    }
    if services.len() > MOST {
        let (name, _) = file.service.iter().nth(MOST).expect("there are more");
        let message = format!(
            "there are {} services, and a network of one machine has room for {MOST}",
            services.len()
        );
        mistakes.push(Mistake::new(name.span(), message, "one too many"));
    }
    (services, names)
}

fn service_name(name: &Spanned<String>, mistakes: &mut Vec<Mistake>) {
    let word = &name.get_ref()[..];
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = word.len() <= 40
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.ends_with(letter)
        && word.chars().all(|c| letter(c) || c == '-');
    if !fits {
        let mistake =
            Mistake::new(name.span(), format!("`{word}` cannot be the name of a service"), "not a host name");
        mistakes.push(mistake.help(
            "callers dial it, so it is a host name: lower-case letters, digits and hyphens, a letter first, at most 40",
        ));
    } else if word == FABRIC || word == "localhost" {
        let message = format!("`{word}` is taken, so a service cannot be called so");
        mistakes.push(Mistake::new(name.span(), message, "a reserved name").help("choose another name"));
    }
}

fn port(name: &Spanned<String>, service: &model::Service, mistakes: &mut Vec<Mistake>) -> Option<u16> {
    match (&service.port, &service.app) {
        (None, Some(app)) => {
            let message = format!("service `{name}` has an app but no port");
            let mistake =
                Mistake::new(name.span(), message, "this service").also(app.span(), "this app must listen");
            mistakes.push(mistake.help("add a line such as port = 8080"));
            None
        }
        (Some(port), None) => {
            let message = format!("service `{name}` has a port but no app");
            let mistake = Mistake::new(port.span(), message, "nobody would listen here");
            mistakes.push(mistake.help("add an app, such as app = { http = {} }, or leave the port out"));
            None
        }
        (Some(port), Some(_)) => {
            let number = *port.get_ref();
            let taken = match number {
                0 => Some("the operating system would choose a port for 0, and callers could not know it"),
                _ if SIDECAR_PORTS.contains(&number) => Some("ports 15000 to 15099 belong to the sidecar"),
                APP_METRICS_PORT => Some("port 9100 belongs to the metrics of the built-in apps"),
                _ => None,
            };
            if let Some(why) = taken {
                let message = format!("an app cannot listen on port {number}");
                mistakes.push(
                    Mistake::new(port.span(), message, "this port")
                        .help(format!("{why}; take another, such as 8080")),
                );
            }
            Some(number)
        }
        (None, None) => None,
    }
}

fn protocol(service: &model::Service, mistakes: &mut Vec<Mistake>) -> Protocol {
    let Some(word) = &service.protocol else { return Protocol::Detect };
    let protocol = match &word.get_ref()[..] {
        "http" => Protocol::Http,
        "tcp" => Protocol::Tcp,
        "detect" => Protocol::Detect,
        _ => {
            mistakes.push(Mistake::unknown("protocol", word, ["http", "tcp", "detect"]));
            return Protocol::Detect;
        }
    };
    let greets = service.app.as_ref().and_then(|a| a.get_ref().tcp.as_ref());
    if let (Protocol::Http, Some(app)) = (protocol, greets) {
        let message = "the tcp app does not speak HTTP";
        let mistake = Mistake::new(word.span(), message, "the sidecar is told to expect HTTP");
        mistakes.push(mistake.also(app.span(), "but this app greets first").help("write protocol = \"tcp\""));
    }
    protocol
}

fn bridge(service: &model::Service, mistakes: &mut Vec<Mistake>) -> bool {
    let Some(bridge) = service.bridge.as_ref().filter(|bridge| *bridge.get_ref()) else { return false };
    if let Some(word) = service.protocol.as_ref().filter(|word| word.get_ref() == "tcp") {
        let mistake = Mistake::new(bridge.span(), "only HTTP can be bridged", "carries HTTP/1 over HTTP/2");
        mistakes.push(mistake.also(word.span(), "opaque bytes").help("leave `bridge` out"));
    }
    true
}

/// The least that a process can live in: the lab's own executable is some megabytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// What the processes of a service may take.
fn limits(service: &model::Service, mistakes: &mut Vec<Mistake>) -> ServiceLimits {
    let mut of = |given: &model::ResourceLimits| {
        if let Some(none) = given.cpu.as_ref().filter(|cpu| cpu.get_ref().0 < 0.01) {
            let mistake = Mistake::new(none.span(), "a process cannot live on so little CPU", "this much");
            mistakes.push(mistake.help("at least \"10m\", a hundredth of a CPU"));
        }
        if let Some(little) = given.memory.as_ref().filter(|size| size.get_ref().0 < LEAST_MEMORY) {
            let mistake =
                Mistake::new(little.span(), "a process cannot live in so little memory", "this much");
            mistakes.push(mistake.help("at least \"16MiB\""));
        }
        ResourceLimits {
            cpu: given.cpu.as_ref().map(|cpu| cpu.get_ref().0),
            memory: given.memory.as_ref().map(|size| size.get_ref().0),
        }
    };
    let given = service.limits.as_ref();
    given.map_or_else(ServiceLimits::default, |given| ServiceLimits {
        sidecar: of(&given.sidecar),
        app: of(&given.app),
    })
}

/// The replicas' shares of the load.
fn weights(service: &model::Service, replicas: u32, mistakes: &mut Vec<Mistake>) -> Vec<u32> {
    let most = proxy::config::defaults::MAX_WEIGHT;
    for wrong in service.weights.iter().flatten().filter(|weight| !(1..=most).contains(weight.get_ref())) {
        let message = format!("a replica cannot have the weight {wrong}");
        let mistake = Mistake::new(wrong.span(), message, "this share of the load");
        mistakes.push(mistake.help(format!("from 1 to {most}; to keep load away from a replica, `kill` it")));
    }
    dealt("weights", &service.weights, replicas, mistakes)
}

/// Values for replicas in turn.
fn dealt<T: Clone>(
    key: &str,
    values: &Option<Vec<Spanned<T>>>,
    replicas: u32,
    mistakes: &mut Vec<Mistake>,
) -> Vec<T> {
    let values = values.as_deref().unwrap_or_default();
    if let Some(spare) = values.get(replicas as usize) {
        let message = format!("`{key}` has {} values for {replicas} replicas", values.len());
        let mistake = Mistake::new(spare.span(), message, "no replica gets this one");
        mistakes.push(mistake.help("leave it out, or raise `replicas`"));
    }
    values.iter().map(|value| value.get_ref().clone()).collect()
}

/// The status of requests that an app is to fail.
pub(super) fn status(word: &Spanned<u16>, mistakes: &mut Vec<Mistake>) -> u16 {
    if !(200..=599).contains(word.get_ref()) {
        let mistake = Mistake::new(word.span(), format!("{word} is no final HTTP status"), "this status");
        mistakes.push(mistake.help("from 200 to 599, such as 503, which is the default"));
    }
    *word.get_ref()
}

/// The position of the service that this one registers with.
fn registry(
    file: &File,
    name: &Spanned<String>,
    service: &model::Service,
    mistakes: &mut Vec<Mistake>,
) -> Option<usize> {
    let word = service.registry.as_ref()?;
    let is_registry =
        |service: &model::Service| service.app.as_ref().is_some_and(|app| app.get_ref().registry.is_some());
    if service.app.is_none() || is_registry(service) {
        let mistake = Mistake::new(word.span(), format!("`{name}` has nothing to register"), "with whom");
        mistakes
            .push(mistake.help("a service with an app of its own registers; callers learn it from there"));
        return None;
    }
    let found = file.service.iter().position(|(name, _)| name.get_ref() == word.get_ref());
    let Some(position) = found else {
        let known = file.service.iter().filter(|(_, service)| is_registry(service));
        mistakes.push(Mistake::unknown("registry", word, known.map(|(name, _)| name.get_ref().as_str())));
        return None;
    };
    let (at, other) = file.service.iter().nth(position)?;
    if !is_registry(other) {
        let mistake = Mistake::new(word.span(), format!("service `{word}` is no registry"), "registers here");
        mistakes.push(mistake.also(at.span(), "this service").help("give it app = { registry = {} }"));
    } else if other.replicas.as_ref().is_some_and(|replicas| *replicas.get_ref() > 1) {
        let mistake = Mistake::new(at.span(), "a registry has one instance", "has several");
        mistakes.push(mistake.help("leave `replicas` out: its members would not know each other"));
    }
    Some(position)
}

/// How long an app keeps an idle connection at most.
fn close_idle(limit: &Spanned<Span>, mistakes: &mut Vec<Mistake>) -> Duration {
    let limit_value = limit.get_ref().0;
    if limit_value.is_zero() {
        let message = "an app that keeps no idle connection at all closes before the second request";
        let mistake = Mistake::new(limit.span(), message, "this long");
        mistakes.push(
            mistake.help("a few milliseconds, such as \"20ms\"; leave the key out to keep them for ever"),
        );
    }
    limit_value
}

fn app(app: &Spanned<model::App>, mistakes: &mut Vec<Mistake>) -> Option<AppKind> {
    let kinds = app.get_ref();
    let help = "exactly one: { http = {} }, { tcp = {} }, { registry = {} } or { cmd = [\"program\", \"argument\"] }";
    match (&kinds.http, &kinds.tcp, &kinds.cmd, &kinds.registry) {
        (Some(http), None, None, None) => {
            let http = http.get_ref();
            for none in [&http.concurrency, &http.max_concurrent_streams]
                .into_iter()
                .flatten()
                .filter(|most| *most.get_ref() == 0)
            {
                let message = "an app that works on no request answers none";
                let mistake = Mistake::new(none.span(), message, "must be at least 1");
                mistakes.push(mistake.help("leave the key out to let it work on all that come"));
            }
            Some(AppKind::Http(HttpEcho {
                behaviour: Behaviour {
                    work: http.work.as_ref().map_or(Duration::ZERO, |w| w.get_ref().0),
                    fail: http.fail.as_ref().map_or(0.0, |f| f.get_ref().0),
                    status: http.status.as_ref().map_or(unavailable(), |s| status(s, mistakes)),
                    malformed: http.malformed.as_ref().map_or(0.0, |m| m.get_ref().0),
                    unhealthy: http.unhealthy.as_ref().map_or(0.0, |u| u.get_ref().0),
                    refuse_streams: http.refuse_streams.as_ref().map_or(0.0, |r| r.get_ref().0),
                    goaway: http.goaway.as_ref().map_or(0.0, |g| g.get_ref().0),
                    reset_streams: http.reset_streams.as_ref().map_or(0.0, |r| r.get_ref().0),
                },
                size: http.size.as_ref().map_or(128, |s| *s.get_ref()),
                chunked: http.chunked,
                concurrency: http.concurrency.as_ref().map_or(0, |c| *c.get_ref()),
                max_concurrent_streams: http.max_concurrent_streams.as_ref().map_or(0, |s| *s.get_ref()),
                finish_abandoned: http.finish_abandoned,
                ready_after: http.ready_after.as_ref().map_or(Duration::ZERO, |r| r.get_ref().0),
                close_idle: http
                    .close_idle
                    .as_ref()
                    .map_or(Duration::ZERO, |limit| close_idle(limit, mistakes)),
            }))
        }
        (None, Some(tcp), None, None) => {
            let greeting = tcp.get_ref().greeting.as_ref();
            if let Some(text) =
                greeting.filter(|g| g.get_ref().is_empty() || g.get_ref().contains(['\n', '\r']))
            {
                let mistake = Mistake::new(text.span(), "a greeting is one line of text", "not one line");
                mistakes.push(mistake.help("leave the line end out; the app adds it"));
            }
            Some(AppKind::Tcp { greeting: greeting.map_or("hello".into(), |g| g.get_ref().clone()) })
        }
        (None, None, Some(cmd), None) if cmd.get_ref().is_empty() => {
            mistakes.push(Mistake::new(cmd.span(), "the command names no program", "empty").help(help));
            None
        }
        (None, None, Some(cmd), None) => Some(AppKind::Command(cmd.get_ref().clone())),
        (None, None, None, Some(_)) => Some(AppKind::Registry),
        (None, None, None, None) => {
            mistakes.push(Mistake::new(app.span(), "this app is of no kind", "which app?").help(help));
            None
        }
        (http, tcp, cmd, registry) => {
            let kinds = [
                http.as_ref().map(Spanned::span),
                tcp.as_ref().map(Spanned::span),
                cmd.as_ref().map(Spanned::span),
                registry.as_ref().map(Spanned::span),
            ];
            let mut places = kinds.into_iter().flatten();
            let first = places.next().expect("two at least");
            let mistake = Mistake::new(first, "this app is of several kinds at once", "one kind");
            mistakes.push(places.fold(mistake, |m, at| m.also(at, "another")).help(help));
            None
        }
    }
}

fn load(
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
