//! The services and instances of a scenario by name, and the patterns that select them.
//!
//! Instances are numbered by service name and replica, the same numbers that the plan uses. A
//! pattern is an instance (`orders-1`), a service (`orders`: all its instances) or a glob
//! (`orders-*`, `*`).

use std::ops::Range;

use serde_spanned::Spanned;

use super::diagnose::{Mistake, closest};
use super::one_or_many::OneOrMany;
use crate::glob::glob;
use crate::mesh::{ProcessId, Role};

/// A service, as far as names go.
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where its table begins.
    pub at: Range<usize>,
    /// Positions of its instances.
    pub instances: Range<usize>,
    /// Whether it has an app.
    pub has_app: bool,
    /// Whether it is a certificate authority, which has no sidecar.
    pub is_authority: bool,
    /// Whether the timeline can change how that answers.
    pub is_controlled: bool,
}

/// An instance, as far as names go.
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Position of its service.
    pub service: usize,
}

/// All services and instances.
#[derive(Default)]
pub struct Names {
    /// By name.
    pub services: Vec<Service>,
    /// By service and replica.
    pub instances: Vec<Instance>,
}

impl Names {
    /// Adds a service and its instances. Services must come in the order of their names.
    pub fn add(&mut self, name: &Spanned<String>, replicas: u32, (has_app, is_controlled): (bool, bool)) {
        let first = self.instances.len();
        let service = self.services.len();
        let names = (0..replicas).map(|index| instance_name(name.get_ref(), index, replicas));
        self.instances.extend(names.map(|name| Instance { name, service }));
        self.services.push(Service {
            name: name.get_ref().clone(),
            at: name.span(),
            instances: first..self.instances.len(),
            has_app,
            is_authority: false,
            is_controlled,
        });
    }

    /// Adds a certificate authority. They come after the services.
    pub fn add_authority(&mut self, name: &Spanned<String>) {
        self.add(name, 1, (false, false));
        self.services.last_mut().expect("one was added").is_authority = true;
    }

    /// Whether an instance is a certificate authority.
    pub fn is_authority(&self, instance: usize) -> bool {
        self.services[self.instances[instance].service].is_authority
    }

    /// Whether an instance has a process beside its sidecar.
    pub fn has_program(&self, instance: usize) -> bool {
        self.is_authority(instance) || self.services[self.instances[instance].service].has_app
    }

    /// The instances that a pattern means; none, and a mistake, if there are none.
    pub fn instances(&self, pattern: &Spanned<String>, mistakes: &mut Vec<Mistake>) -> Vec<usize> {
        let found = self.lookup(pattern.get_ref());
        if found.is_empty() {
            mistakes.push(self.unknown("instance", pattern, pattern.get_ref()));
        }
        found
    }

    /// The processes that `orders-2/app`, `orders-2/sidecar` or `orders-2` means. A whole instance
    /// counts with its sidecar; a plan without sidecars leaves it out.
    pub fn processes(
        &self,
        pattern: &Spanned<String>,
        has_sidecars: bool,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<ProcessId> {
        let (node, role) = match pattern.get_ref().split_once('/') {
            Some((node, role)) => (node, Some(role)),
            None => (&pattern.get_ref()[..], None),
        };
        let instances = self.lookup(node);
        if instances.is_empty() {
            mistakes.push(self.unknown("instance", pattern, node));
            return Vec::new();
        }
        let program = |i: &usize| ProcessId { instance: *i, role: Role::App };
        let apps = || instances.iter().filter(|i| self.has_program(**i)).map(program);
        let of_mesh = || instances.iter().filter(|i| !self.is_authority(**i));
        let sidecars = || of_mesh().map(|i| ProcessId { instance: *i, role: Role::Sidecar });
        if let ([authority], Some("app" | "sidecar")) = (&instances[..], role)
            && self.is_authority(*authority)
        {
            let message = format!("`{pattern}` does not exist: `{node}` is an authority");
            let mistake = Mistake::new(pattern.span(), message, "there is no such process");
            mistakes.push(mistake.help(format!("its one process is `{node}/ca`")));
            return Vec::new();
        }
        let found: Vec<ProcessId> = match role {
            Some("app") => of_mesh().filter(|i| self.has_program(**i)).map(program).collect(),
            Some("ca") if instances.iter().any(|i| self.is_authority(*i)) => {
                instances.iter().filter(|i| self.is_authority(**i)).map(program).collect()
            }
            Some("sidecar") if has_sidecars => sidecars().collect(),
            Some("sidecar") => {
                let message = format!("`{pattern}` does not exist: the scenario runs without sidecars");
                let mistake = Mistake::new(pattern.span(), message, "there is no such process");
                mistakes.push(mistake.help("add \"ours\" to `sidecar` in [scenario], or name the app"));
                return Vec::new();
            }
            Some(role) => {
                let message = format!("an instance has no process `{role}`");
                let help =
                    format!("its processes are `{node}/app` and `{node}/sidecar`; `{node}` alone means both");
                mistakes.push(Mistake::new(pattern.span(), message, "there is no such process").help(help));
                return Vec::new();
            }
            None if has_sidecars || apps().next().is_some() => apps().chain(sidecars()).collect(),
            None => Vec::new(),
        };
        if found.is_empty() {
            let service = &self.services[self.instances[instances[0]].service];
            let message = format!("`{pattern}` does not exist: service `{}` has no app", service.name);
            let mistake = Mistake::new(pattern.span(), message, "there is no such process");
            let help = match has_sidecars {
                true => format!("did you mean `{node}/sidecar`? or give the service an app"),
                false => "give the service an app".to_owned(),
            };
            mistakes.push(mistake.also(service.at.clone(), "a service without an app").help(help));
        }
        found
    }

    /// The same for several, each process once.
    pub fn all_processes(
        &self,
        patterns: &Spanned<OneOrMany>,
        has_sidecars: bool,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<ProcessId> {
        let mut found = Vec::new();
        for pattern in patterns.get_ref().words(patterns.span()) {
            found.extend(self.processes(&pattern, has_sidecars, mistakes));
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() && matches!(patterns.get_ref(), OneOrMany::Many(words) if words.is_empty()) {
            let mistake = Mistake::new(patterns.span(), "no process is named", "empty");
            mistakes.push(mistake.help("name one, such as \"orders-1\""));
        }
        found
    }

    /// Every process that can be there, as conditions name them.
    pub fn process_names(&self, has_sidecars: bool) -> Vec<String> {
        // An authority has no metrics.
        let in_mesh = self.instances.iter().filter(|i| !self.services[i.service].is_authority);
        let of = |i: &Instance| {
            let app = self.services[i.service].has_app.then(|| format!("{}/app", i.name));
            app.into_iter().chain(has_sidecars.then(|| format!("{}/sidecar", i.name)))
        };
        in_mesh.flat_map(of).collect()
    }

    fn lookup(&self, pattern: &str) -> Vec<usize> {
        if let Some(service) = self.services.iter().find(|s| s.name == pattern) {
            return service.instances.clone().collect();
        }
        let named = self.instances.iter().enumerate().filter(|(_, i)| glob(pattern, &i.name));
        named.map(|(position, _)| position).collect()
    }

    /// A mistake that shows where the likely one is defined.
    fn unknown(&self, what: &str, word: &Spanned<String>, node: &str) -> Mistake {
        let known: Vec<&str> = self.instances.iter().map(|i| &i.name[..]).collect();
        let label = format!("there is no such {what}");
        let mistake = Mistake::new(word.span(), format!("unknown {what} `{node}`"), label);
        if known.is_empty() {
            return mistake.help("the file has no service: add [service.NAME]");
        }
        // `orders-3` of three replicas, or `web-0` of one: the service is right and the number is
        // not.
        let numbered = node.rsplit_once('-').filter(|(_, n)| n.parse::<u32>().is_ok());
        let of = numbered.and_then(|(name, _)| self.services.iter().find(|s| s.name == name));
        if let Some(service) = of {
            let help = match service.instances.len() {
                1 => format!("`{0}` has one replica, which is called `{0}`", service.name),
                n => format!("`{}` has {n} replicas, counted from 0", service.name),
            };
            return mistake.help(help).also(service.at.clone(), self.defines(service));
        }
        let globs: Vec<String> = self.services.iter().map(|s| format!("{}-*", s.name)).collect();
        let near = match node.contains('*') {
            true => closest(node, globs.iter().map(String::as_str)),
            false => closest(node, known.iter().copied().chain(self.services.iter().map(|s| &s.name[..]))),
        };
        let hint = near.map(|n| format!("did you mean `{}`? ", word.get_ref().replacen(node, n, 1)));
        let mistake = mistake.help(format!("{}known: {}", hint.unwrap_or_default(), known.join(", ")));
        let service = near.and_then(|n| {
            let of_instance = self.instances.iter().find(|i| glob(n, &i.name)).map(|i| i.service);
            of_instance.or_else(|| self.services.iter().position(|s| s.name == n))
        });
        match service.map(|s| &self.services[s]) {
            Some(service) => mistake.also(service.at.clone(), self.defines(service)),
            None => mistake,
        }
    }

    /// Which instances a service's table defines.
    fn defines(&self, service: &Service) -> String {
        match &self.instances[service.instances.clone()] {
            [first, .., last] => format!("`{}` to `{}` are defined here", first.name, last.name),
            _ => format!("`{}` is defined here", service.name),
        }
    }
}

/// `orders-1`, or the service's name if it is the only replica.
pub fn instance_name(service: &str, index: u32, replicas: u32) -> String {
    if replicas == 1 { service.to_owned() } else { format!("{service}-{index}") }
}
