//! `[[cluster.route]]`: what its words mean, which contradict each other, and which can never
//! count.
//!
//! Read after all clusters, because routes lead from one to another and take over what those say of
//! retries and limits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use http::StatusCode;
use http::header::HeaderValue;
use http::uri::{Authority, Scheme};
use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::did_you_mean;
use crate::config::route::{
    Action, Fault, Forward, HeaderEdits, Match, Mirror, PathMatch, PathRewrite, Redirect, Respond, Rewrite,
    Route, Target,
};
use crate::config::{Cluster, Protocol, defaults, model};

/// Headers that say how a message is framed, who a connection belongs to, or what sidecars tell
/// each other.
const NOT_FOR_EDITING: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "proxy-status",
    "sidelab-orig-proto",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "grpc-status",
];

/// The names of the clusters that routes lead to, right or wrong. A route that names none leads to
/// its own.
pub(super) fn led_to(clusters: &[model::Cluster]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for cluster in clusters {
        let own = cluster.name.get_ref();
        for route in cluster.route.iter().map(Spanned::get_ref) {
            let name = |given: &Option<Spanned<String>>| given.as_ref().map_or(own, Spanned::get_ref).clone();
            match &route.to {
                Some(to) => names.extend(to.get_ref().iter().map(|target| name(&target.cluster))),
                None if route.redirect.is_none() && route.respond.is_none() => {
                    names.insert(own.clone());
                }
                None => {}
            }
            names.extend(route.mirror.iter().map(|mirror| name(&mirror.get_ref().cluster)));
        }
    }
    names
}

impl Check<'_> {
    /// Reads the routes of `given`, which is `own` among `clusters`.
    pub(super) fn routes(&mut self, given: &model::Cluster, own: usize, clusters: &[Cluster]) -> Vec<Route> {
        let owner = &clusters[own];
        if let (Some(first), Protocol::Tcp) = (given.route.first(), owner.protocol) {
            self.diagnostics
                .add(
                    format!("cluster {:?} has routes, but carries opaque bytes", owner.name),
                    first.span(),
                    "only HTTP has routes",
                )
                .help("say protocol = \"http\", or leave the routes out");
        }
        let mut names: BTreeMap<String, Range<usize>> = BTreeMap::new();
        let mut routes: Vec<Route> = Vec::with_capacity(given.route.len());
        for (position, entry) in given.route.iter().enumerate() {
            let mut route = self.route(entry, owner, clusters);
            let span = entry.get_ref().name.as_ref().map_or_else(|| entry.span(), Spanned::span);
            if route.name.is_empty() {
                route.name = (position + 1).to_string();
            }
            if let Some(first) = names.insert(route.name.clone(), span.clone()) {
                self.diagnostics
                    .add(format!("two routes of a cluster are called {:?}", route.name), span, "the second")
                    .also(first, "the first")
                    .help("metrics tell routes apart by name: rename one");
            } else if let Some(first) =
                routes.iter().position(|earlier| earlier.matches.covers(&route.matches))
            {
                self.diagnostics
                    .add(
                        format!("no request ever reaches route {:?}", route.name),
                        place(entry),
                        "it is not reached",
                    )
                    .also(
                        place(&given.route[first]),
                        format!("{:?} matches all that it would", routes[first].name),
                    )
                    .help("the first route that matches counts: move this one up, or remove it");
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, entry: &Spanned<model::Route>, owner: &Cluster, clusters: &[Cluster]) -> Route {
        let given = entry.get_ref();
        let name = given.name.as_ref().map_or_else(String::new, |name| self.name("name", name));
        let matches = self.matches(&given.matches);
        let answers = [
            given.redirect.as_ref().map(|redirect| ("redirect", redirect.span())),
            given.respond.as_ref().map(|respond| ("respond", respond.span())),
        ];
        let forwards = [
            given.to.as_ref().map(|to| ("to", to.span())),
            given.rewrite.as_ref().map(|rewrite| ("rewrite", rewrite.span())),
            given.mirror.as_ref().map(|mirror| ("mirror", mirror.span())),
            given.fault.as_ref().map(|fault| ("fault", fault.span())),
        ];
        let mut said = answers.into_iter().flatten();
        let answer = said.next();
        let other = said.next().or_else(|| forwards.into_iter().flatten().next());
        if let (Some((answer, first)), Some((other, second))) = (answer, other) {
            self.diagnostics
                .add(format!("`{answer}` and `{other}` exclude each other"), second, format!("`{other}`"))
                .also(first, format!("`{answer}`: the request goes nowhere"))
                .help("a route forwards, redirects or responds: make two routes of it");
        }
        let action = if let Some(redirect) = &given.redirect {
            Action::Redirect(self.redirect(redirect, &matches))
        } else if let Some(respond) = &given.respond {
            Action::Respond(self.respond(respond))
        } else {
            let rewrite = given.rewrite.as_ref();
            Action::Forward(Box::new(Forward {
                to: self.targets(given, owner, clusters),
                rewrite: rewrite.map_or_else(Rewrite::default, |rewrite| self.rewrite(rewrite, &matches)),
                mirror: given.mirror.as_ref().and_then(|mirror| self.mirror(mirror, owner, clusters)),
                fault: given.fault.as_ref().map_or_else(Fault::default, |fault| self.fault(fault)),
            }))
        };
        Route {
            name,
            matches,
            action,
            request_headers: self.header_edits(&given.request_headers),
            response_headers: self.header_edits(&given.response_headers),
        }
    }

    fn targets(&mut self, given: &model::Route, owner: &Cluster, clusters: &[Cluster]) -> Vec<Target> {
        let own = [model::Target { cluster: None, weight: None }];
        let entries = given.to.as_ref().map_or(&own[..], |to| to.get_ref());
        let mut targets: Vec<Target> = Vec::with_capacity(entries.len());
        let mut total = 0_u32;
        for entry in entries {
            let weight = entry.weight.as_ref();
            let weight =
                weight.map_or(1, |w| self.ranged("weight", Some(w), 1, 0..=defaults::MAX_WEIGHT) as u32);
            total += weight;
            let Some(to) = self.led_to(entry.cluster.as_ref(), owner, clusters) else { continue };
            let timeouts = &given.timeouts;
            let target = Target {
                cluster: to.name.clone(),
                weight,
                timeouts: self.request_timeouts(
                    [timeouts.request.as_ref(), timeouts.per_try.as_ref(), timeouts.response.as_ref()],
                    to.timeouts,
                ),
                retry: self.retry(given.retry.as_ref(), Some(&to.retry)),
            };
            if targets.iter().any(|earlier| earlier.cluster == target.cluster) {
                let all = given.to.as_ref().map_or(0..0, Spanned::span);
                let span = entry.cluster.as_ref().map_or(all, Spanned::span);
                self.diagnostics
                    .add(format!("a route leads to {:?} twice", target.cluster), span, "again")
                    .help("add the weights up");
            }
            targets.push(target);
        }
        if let (Some(to), 0) = (&given.to, total) {
            let label = if entries.is_empty() { "an empty list" } else { "all weights are 0" };
            self.diagnostics
                .add("a route leads nowhere", to.span(), label)
                .help("give a cluster a weight, or let the sidecar answer: respond = { status = 503 }");
        }
        targets
    }

    /// The cluster that a route leads to, which is its owner if it names none.
    fn led_to<'c>(
        &mut self,
        name: Option<&Spanned<String>>,
        owner: &'c Cluster,
        clusters: &'c [Cluster],
    ) -> Option<&'c Cluster> {
        let Some(name) = name else { return Some(owner) };
        let Some(found) = clusters.iter().find(|cluster| cluster.name == *name.get_ref()) else {
            let known = || clusters.iter().map(|cluster| cluster.name.as_str());
            let help = match did_you_mean(name.get_ref(), known()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("the clusters are {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.diagnostics
                .add(format!("there is no cluster {:?}", name.get_ref()), name.span(), "not a cluster")
                .help(help);
            return None;
        };
        if found.protocol == Protocol::Tcp {
            self.diagnostics
                .add(
                    format!("cluster {:?} does not speak HTTP", found.name),
                    name.span(),
                    "carries opaque bytes",
                )
                .help("say protocol = \"http\" there, or lead requests elsewhere");
        }
        Some(found)
    }

    fn path_rewrite(
        &mut self,
        whole: Option<&Spanned<String>>,
        prefix: Option<&Spanned<String>>,
        matches: &Match,
    ) -> Option<PathRewrite> {
        if let (Some(whole), Some(prefix)) = (whole, prefix) {
            self.diagnostics
                .add("`path` and `prefix` both say what the path becomes", prefix.span(), "a part of it")
                .also(whole.span(), "all of it")
                .help("keep one of the two");
        }
        if let Some(whole) = whole {
            self.path("path", whole);
            return Some(PathRewrite::Whole(whole.get_ref().clone()));
        }
        let prefix = prefix?;
        self.path("prefix", prefix);
        let PathMatch::Prefix(matched) = &matches.path else {
            self.diagnostics
                .add("there is no prefix to replace", prefix.span(), "instead of which?")
                .help("match by `prefix` too, or write the whole new path: path = \"/...\"");
            return None;
        };
        let to = prefix.get_ref().trim_end_matches('/').to_owned();
        Some(PathRewrite::Prefix { matched: matched.len(), to })
    }

    fn rewrite(&mut self, given: &Spanned<model::Rewrite>, matches: &Match) -> Rewrite {
        let rewrite = given.get_ref();
        if rewrite.path.is_none() && rewrite.prefix.is_none() && rewrite.authority.is_none() {
            self.diagnostics
                .add("`rewrite` changes nothing", given.span(), "empty")
                .help(r#"such as rewrite = { prefix = "/" }, or leave it out"#);
        }
        let authority = rewrite.authority.as_ref().and_then(|text| self.authority(text));
        Rewrite {
            path: self.path_rewrite(rewrite.path.as_ref(), rewrite.prefix.as_ref(), matches),
            authority: authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()),
        }
    }

    fn authority(&mut self, text: &Spanned<String>) -> Option<Authority> {
        let words = text.get_ref().as_str();
        let authority = Authority::try_from(words).ok();
        let authority =
            authority.filter(|a| !words.contains('@') && (a.port_u16().is_some() || a.port().is_none()));
        if authority.is_none() {
            self.diagnostics
                .add(format!("{words:?} is not a host"), text.span(), "not a host")
                .help(r#"write a name, and a port if it is another one: "orders.example:8080""#);
        }
        authority
    }

    fn redirect(&mut self, given: &Spanned<model::Redirect>, matches: &Match) -> Redirect {
        let redirect = given.get_ref();
        if redirect.scheme.is_none()
            && redirect.authority.is_none()
            && redirect.path.is_none()
            && redirect.prefix.is_none()
        {
            self.diagnostics
                .add("this redirect leads back to where it came from", given.span(), "names no place")
                .help(r#"such as redirect = { authority = "new.example" }"#);
        }
        let scheme = redirect.scheme.as_ref().and_then(|text| match text.get_ref().as_str() {
            "http" => Some(Scheme::HTTP),
            "https" => Some(Scheme::HTTPS),
            other => {
                self.diagnostics
                    .add(format!("a redirect cannot lead to {other:?}"), text.span(), "not a scheme of HTTP")
                    .help(r#"it is "http" or "https""#);
                None
            }
        });
        let status = redirect.status.as_ref().map_or(302, |status| *status.get_ref());
        if let (Some(given), false) = (&redirect.status, [301, 302, 303, 307, 308].contains(&status)) {
            self.diagnostics
                .add(format!("{status} does not redirect"), given.span(), "not a redirect")
                .help("it is 301 or 308 (for good), 302 or 307 (for now), or 303 (see other)");
        }
        Redirect {
            scheme,
            authority: redirect.authority.as_ref().and_then(|text| self.authority(text)),
            path: self.path_rewrite(redirect.path.as_ref(), redirect.prefix.as_ref(), matches),
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
        }
    }

    fn respond(&mut self, given: &Spanned<model::Respond>) -> Respond {
        let status = self.status("status", given.get_ref().status.as_ref(), 200..=599, given.span());
        let body = given.get_ref().body.as_ref();
        if let (Some(body), 204 | 304) = (body, status.as_u16()) {
            self.diagnostics
                .add(
                    format!("an answer of {} has no body", status.as_u16()),
                    body.span(),
                    "would not be sent",
                )
                .help("leave `body` out");
        }
        if let Some(body) = body.filter(|body| body.get_ref().len() > defaults::RESPOND_BYTES) {
            self.diagnostics
                .add("`body` is too long", body.span(), format!("{} bytes", body.get_ref().len()))
                .help(format!("at most {} bytes; let an app serve larger ones", defaults::RESPOND_BYTES));
        }
        Respond { status, body: body.map_or_else(String::new, |body| body.get_ref().clone()) }
    }

    fn status(
        &mut self,
        key: &str,
        given: Option<&Spanned<u16>>,
        range: std::ops::RangeInclusive<u16>,
        around: Range<usize>,
    ) -> StatusCode {
        let Some(status) = given else {
            self.diagnostics
                .add(format!("`{key}` is missing"), around, "answers with which status?")
                .help(format!("add for example {key} = 503"));
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        if !range.contains(status.get_ref()) {
            self.diagnostics
                .add(format!("`{key}` cannot be {}", status.get_ref()), status.span(), "out of range")
                .help(format!("it goes from {} to {}", range.start(), range.end()));
        }
        StatusCode::from_u16(*status.get_ref()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }

    fn header_edits(&mut self, given: &model::HeaderEdits) -> HeaderEdits {
        let mut seen: BTreeMap<String, Range<usize>> = BTreeMap::new();
        let mut name = |check: &mut Self, text: &Spanned<String>| {
            let name = check.header_name(text)?;
            if NOT_FOR_EDITING.contains(&name.as_str()) {
                let help = match name.as_str() {
                    "host" => "write rewrite = { authority = \"...\" }",
                    _ => "the sidecar sets it as the connection or the message needs it",
                };
                check
                    .diagnostics
                    .add(format!("`{name}` cannot be edited"), text.span(), "not an app's header")
                    .help(help);
            }
            if let Some(first) = seen.insert(name.as_str().to_owned(), text.span()) {
                check
                    .diagnostics
                    .add(format!("`{name}` is edited twice"), text.span(), "again")
                    .also(first, "first")
                    .help("a header stands in one of `set`, `add` and `remove`");
            }
            Some(name)
        };
        let mut pairs = |check: &mut Self, given: &BTreeMap<Spanned<String>, Spanned<String>>| {
            let mut pairs = Vec::with_capacity(given.len());
            for (key, text) in given {
                let name = name(check, key);
                let value = HeaderValue::from_str(text.get_ref()).ok();
                // The next hop would refuse it.
                let value = value.filter(|_| text.get_ref().trim_matches([' ', '\t']) == text.get_ref());
                if value.is_none() {
                    check
                        .diagnostics
                        .add(
                            "this is not the value of a header",
                            text.span(),
                            "a character that no header has, or a blank at an end",
                        )
                        .help("use printable ASCII, without blanks around it");
                }
                pairs.extend(name.zip(value));
            }
            pairs
        };
        let (set, add) = (pairs(self, &given.set), pairs(self, &given.add));
        let remove = given.remove.iter().filter_map(|text| name(self, text)).collect();
        HeaderEdits { set, add, remove }
    }

    fn mirror(
        &mut self,
        given: &Spanned<model::Mirror>,
        owner: &Cluster,
        clusters: &[Cluster],
    ) -> Option<Mirror> {
        let mirror = given.get_ref();
        let Some(name) = &mirror.cluster else {
            self.diagnostics
                .add("`mirror` names no cluster", given.span(), "who gets the copies?")
                .help("add for example cluster = \"orders-next\"");
            return None;
        };
        let cluster = self.led_to(Some(name), owner, clusters)?.name.clone();
        let share = self.share("`share` is not a share of the requests", mirror.share.as_ref(), 1.0);
        (share > 0.0).then_some(Mirror { cluster, share })
    }

    fn fault(&mut self, given: &Spanned<model::Fault>) -> Fault {
        let fault = given.get_ref();
        for (key, of, alone) in [
            ("delay_share", "delay", fault.delay_share.as_ref().filter(|_| fault.delay.is_none())),
            ("abort_share", "abort", fault.abort_share.as_ref().filter(|_| fault.abort.is_none())),
        ] {
            if let Some(share) = alone {
                self.diagnostics
                    .add(
                        format!("`{key}` is a share of nothing"),
                        share.span(),
                        format!("there is no `{of}`"),
                    )
                    .help(format!("add `{of}`, or leave `{key}` out"));
            }
        }
        if fault.delay.is_none() && fault.abort.is_none() {
            self.diagnostics
                .add("`fault` does nothing", given.span(), "neither delays nor aborts")
                .help(r#"such as fault = { abort = 503, abort_share = "1%" }"#);
        }
        let delay = fault
            .delay
            .as_ref()
            .map(|_| self.duration("delay", fault.delay.as_ref(), Default::default()).value);
        let delay = delay.map(|delay| {
            (
                delay,
                self.share("`delay_share` is not a share of the requests", fault.delay_share.as_ref(), 1.0),
            )
        });
        let abort =
            fault.abort.as_ref().map(|abort| self.status("abort", Some(abort), 400..=599, given.span()));
        let abort = abort.map(|status| {
            (
                status,
                self.share("`abort_share` is not a share of the requests", fault.abort_share.as_ref(), 1.0),
            )
        });
        Fault {
            delay: delay.filter(|(time, share)| !time.is_zero() && *share > 0.0),
            abort: abort.filter(|(_, share)| *share > 0.0),
        }
    }
}

/// What shows a route: its name, or else where it begins.
fn place(entry: &Spanned<model::Route>) -> Range<usize> {
    entry.get_ref().name.as_ref().map_or_else(|| entry.span(), Spanned::span)
}
