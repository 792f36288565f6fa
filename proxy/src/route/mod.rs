//! What becomes of the requests to a cluster's addresses: which cluster gets them, what they ask
//! for there, who gets a copy, what fails on purpose.
//!
//! The first route of the file that matches counts, as in Envoy; [`Index`] finds it without looking
//! at all. What a route says is immutable and stands in [`crate::config::route`]; here is what is
//! prepared for it when a snapshot is ([`Routes`]) and the pure steps that a request takes:
//! [`matcher`], [`Split`], [`rewrite`], [`answer`], [`headers`], [`fault`], [`mirror`]. `outbound`
//! takes them in that order.
//!
//! gRPC has no routes of its own: a method is the path `/package.Service/Method`, a service the
//! prefix `/package.Service`.

pub mod answer;
pub mod fault;
pub mod headers;
mod index;
pub mod matcher;
pub mod mirror;
pub mod rewrite;
mod split;

use http::Request;

pub use index::Index;
pub use matcher::MatchInput;
pub use split::Split;

use crate::config::route::{Action, Forward, Target};
use crate::config::{self, route};
use crate::telemetry::RouteMetrics;

/// The routes of one cluster, ready for requests.
#[derive(Debug)]
pub struct Routes {
    all: Vec<Route>,
    index: Index,
}

/// One route, with what was prepared for it.
#[derive(Debug)]
pub struct Route {
    /// What it says.
    pub config: route::Route,
    /// What it counts.
    pub metrics: RouteMetrics,
    split: Split,
    /// Positions of its targets' clusters, in the order of its targets.
    targets: Vec<usize>,
    /// Position of the cluster that gets copies.
    mirror: Option<usize>,
}

impl Routes {
    /// Prepares the routes of a cluster; `None` if it has none. `position` finds a cluster by name.
    pub fn new(
        cluster: &config::Cluster,
        position: impl Fn(&str) -> Option<usize>,
        metrics: impl Fn(&str) -> RouteMetrics,
    ) -> Option<Routes> {
        let prepare = |route: &route::Route| {
            let forward = match &route.action {
                Action::Forward(forward) => Some(&**forward),
                Action::Redirect(_) | Action::Respond(_) => None,
            };
            let targets = forward.map_or(&[][..], |forward| &forward.to);
            Route {
                metrics: metrics(&route.name),
                split: Split::new(targets.iter().map(|target| target.weight)),
                // A snapshot names only clusters that it has.
                targets: targets.iter().map(|target| position(&target.cluster).unwrap_or_default()).collect(),
                mirror: forward.and_then(|f| f.mirror.as_ref()).and_then(|mirror| position(&mirror.cluster)),
                config: route.clone(),
            }
        };
        if cluster.routes.is_empty() {
            return None;
        }
        let all: Vec<_> = cluster.routes.iter().map(prepare).collect();
        let index = Index::new(all.iter().map(|route| &route.config.matches));
        Some(Routes { all, index })
    }

    /// The first one that matches.
    pub fn find<B>(&self, request: &Request<B>) -> Option<&Route> {
        let position =
            self.index.first(MatchInput::of(request), |position| &self.all[position].config.matches)?;
        Some(&self.all[position])
    }
}

impl Route {
    /// How it sends requests on, if it does.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.config.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }

    /// Chooses one of its targets: the position of its cluster, and how requests go there.
    pub fn choose(&self, rng: &mut impl rand::Rng) -> Option<(usize, &Target)> {
        let forward = self.forward()?;
        let chosen = self.split.pick(rng);
        Some((self.targets[chosen], &forward.to[chosen]))
    }

    /// The position of the cluster that gets a copy of a request, if this one is to be copied.
    pub fn mirror(&self, rng: &mut impl rand::Rng) -> Option<usize> {
        let share = self.forward()?.mirror.as_ref()?.share;
        self.mirror.filter(|_| fault::strikes(share, rng))
    }
}
