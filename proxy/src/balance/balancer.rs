//! Which member gets a request: first its priority and zone, then one of their members.
//!
//! How requests are shared out ([`level`]) and which members may be drawn follow from which are
//! available. Both are computed when that has changed and kept until it changes again
//! ([`Outlook`]): a pick looks at one counter and one moment, not at a thousand members. So a pick
//! allocates nothing, except for the one that first notices a change, which takes some microseconds
//! for a thousand members.
//!
//! A request that was already tried on all available members of its priority and zone goes to
//! another zone or priority. One that was tried on all available members is in panic too: it goes
//! to a member that is not available, and only then once more to one that it was tried on. With
//! panic switched off it goes to available members only, and nowhere if there is none.
//!
//! Chance: one draw for priority and zone if there are several, none under a hash; then those of
//! the algorithm.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::group::{Group, Member, View};
use super::level::{self, Count};
use super::{Attempted, Shares, hash};
use crate::config::{self, Balance};
use crate::endpoint::{Changes, Endpoint};
use crate::mutant::Mutant;

/// The members of a cluster, or of a subset of it, ready to be picked.
#[derive(Debug)]
pub struct Balancer {
    config: Arc<Balance>,
    /// By position in the cluster, relative to the average of the group.
    weights: Box<[f64]>,
    /// By priority, the own zone first. None is empty.
    groups: Box<[Group]>,
    /// What each group is.
    localities: Box<[Locality]>,
    changes: Changes,
    outlook: ArcSwap<Outlook>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Locality {
    priority: u8,
    /// Not the sidecar's own zone, although one is preferred. `false` if none is.
    elsewhere: bool,
}

/// What follows from who is available.
#[derive(Debug)]
struct Outlook {
    /// For which count of changes it holds.
    changes: u64,
    /// And until when.
    until: Option<Instant>,
    /// One for each group.
    groups: Box<[Open]>,
}

#[derive(Debug)]
struct Open {
    /// The first ticket that is not this group's.
    tickets: u32,
    panic: bool,
    members: Shares,
}

/// Tickets of the lottery that priorities and zones take part in.
const TICKETS: u32 = 10_000;

/// Who was picked, and why it is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Where in the cluster.
    pub position: usize,
    /// So few members are available, or none for this request, that all were asked.
    pub panic: bool,
    /// It is not of the first priority.
    pub failover: bool,
    /// It is not in the sidecar's zone, although the priority has members there.
    pub other_zone: bool,
    /// It was unpicked for so long that it was picked to find out how it does now.
    pub explored: bool,
}

impl Balancer {
    /// For those of `members` that `chosen` takes, which are those of a cluster in its order.
    /// `zone` is the sidecar's.
    pub fn new(
        config: &Arc<Balance>,
        members: &[config::Endpoint],
        chosen: impl Fn(&config::Endpoint) -> bool,
        zone: Option<&str>,
        changes: Changes,
    ) -> Self {
        let zone = zone.filter(|_| config.zone_aware);
        let locality = |member: &config::Endpoint| Locality {
            priority: member.priority,
            elsewhere: zone.is_some_and(|own| member.zone.as_deref() != Some(own)),
        };
        let mut placed: Vec<(Locality, Member)> = (0..)
            .zip(members)
            .filter(|(_, member)| chosen(member))
            .map(|(position, m)| (locality(m), Member { position, address: m.address, weight: m.weight }))
            .collect();
        placed.sort_by_key(|(locality, _)| *locality);
        let mut weights = vec![1.0; members.len()].into_boxed_slice();
        let (mut groups, mut localities) = (Vec::new(), Vec::new());
        for group in placed.chunk_by(|a, b| a.0 == b.0) {
            let average = group.iter().map(|(_, m)| f64::from(m.weight)).sum::<f64>() / group.len() as f64;
            for (_, member) in group {
                weights[member.position as usize] = f64::from(member.weight) / average;
            }
            localities.push(group[0].0);
            groups.push(Group::new(&config.policy, group.iter().map(|(_, m)| *m).collect()));
        }
        // No count of changes is the largest number, so the first pick looks around.
        let nothing = Outlook { changes: u64::MAX, until: None, groups: Box::default() };
        Balancer {
            config: config.clone(),
            weights,
            groups: groups.into(),
            localities: localities.into(),
            changes,
            outlook: ArcSwap::from_pointee(nothing),
        }
    }

    /// Picks a member for a request of this hash that was already tried on `attempted`. `endpoints`
    /// are the cluster's.
    pub fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        now: Instant,
        rng: &mut impl Rng,
        hash: Option<u64>,
        attempted: Attempted,
    ) -> Option<Picked> {
        let outlook = self.outlook(endpoints, now);
        if Mutant::AlwaysTheFirst.is_planted() && attempted.is_empty() && endpoints[0].is_available(now) {
            return Some(self.picked(0, 0, false, false));
        }
        let first = match &outlook.groups[..] {
            [] => return None,
            [_] => 0,
            groups => {
                // Other bits than those that choose the member, or some members would never meet
                // some keys.
                let ticket = match hash {
                    Some(hash) => (hash::mix(!hash) % u64::from(TICKETS)) as u32,
                    None => rng.random_range(0..TICKETS),
                };
                groups.iter().position(|group| ticket < group.tickets)?
            }
        };
        let view = View {
            endpoints,
            weights: &self.weights,
            slow_start: self.config.slow_start.as_ref(),
            now,
            attempted,
            panic: false,
        };
        let mut pick = |index: usize, attempted| {
            let open = &outlook.groups[index];
            let view = View { panic: open.panic, attempted, ..view };
            let (position, explored) = self.groups[index].pick(&open.members, &view, hash, rng)?;
            Some(self.picked(index, position, open.panic, explored))
        };
        let all = || std::iter::once(first).chain((0..outlook.groups.len()).filter(|other| *other != first));
        let untried = all().find_map(|group| pick(group, attempted));
        if attempted.is_empty() {
            return untried;
        }
        let tried_on_all = || {
            let last = all().filter(|_| self.config.panic > 0.0).find_map(|group| {
                let members = &self.groups[group].members;
                let untried =
                    members.iter().map(|m| m.position as usize).find(|p| !attempted.contains(*p))?;
                Some(self.picked(group, untried, true, false))
            });
            last.or_else(|| all().find_map(|group| pick(group, Attempted::default())))
        };
        untried.or_else(tried_on_all)
    }

    fn picked(&self, group: usize, position: usize, panic: bool, explored: bool) -> Picked {
        let locality = self.localities[group];
        let local = Locality { elsewhere: false, ..locality };
        Picked {
            position,
            panic,
            failover: locality.priority > self.localities[0].priority,
            other_zone: locality.elsewhere && self.localities.contains(&local),
            explored,
        }
    }

    fn outlook(&self, endpoints: &[Arc<Endpoint>], now: Instant) -> Guard<Arc<Outlook>> {
        let outlook = self.outlook.load();
        if outlook.changes == self.changes.count() && outlook.until.is_none_or(|until| now < until) {
            return outlook;
        }
        let fresh = Arc::new(self.look(endpoints, now));
        self.outlook.store(fresh.clone());
        Guard::from_inner(fresh)
    }

    /// Looks at every member.
    fn look(&self, endpoints: &[Arc<Endpoint>], now: Instant) -> Outlook {
        // What changes while this looks will be looked at again.
        let changes = self.changes.count();
        let at = |member: &Member| &endpoints[member.position as usize];
        let counts: Vec<_> = self
            .groups
            .iter()
            .map(|group| Count {
                all: group.members.len() as u32,
                open: group.members.iter().filter(|m| at(m).is_available(now)).count() as u32,
            })
            .collect();
        let mut by_level: Vec<[Count; 2]> = Vec::new();
        let mut level_of = Vec::with_capacity(self.localities.len());
        for (index, (locality, count)) in self.localities.iter().zip(&counts).enumerate() {
            if index == 0 || self.localities[index - 1].priority != locality.priority {
                by_level.push([Count::default(); 2]);
            }
            level_of.push(by_level.len() - 1);
            by_level.last_mut().expect("it was just pushed")[usize::from(locality.elsewhere)] = *count;
        }
        let levels = level::levels(&by_level, self.config.overprovisioning, self.config.panic);
        let mut sold = 0.0;
        let open = |(index, group): (usize, &Group)| {
            let level = levels[level_of[index]];
            sold += if self.localities[index].elsewhere { level.rest } else { level.local };
            let members = group.members.iter().filter(|m| level.panic || at(m).is_available(now));
            Open {
                tickets: (sold * f64::from(TICKETS)).round() as u32,
                panic: level.panic,
                members: Shares::new(members.map(|m| (m.position, m.weight))),
            }
        };
        let groups = self.groups.iter().enumerate().map(open).collect();
        let members = self.groups.iter().flat_map(|group| &group.members);
        let until = members.filter_map(|m| at(m).available_at(now)).min();
        Outlook { changes, until, groups }
    }
}
