//! A scenario to a plan: addresses, seeds and sidecar configurations, none of which is anybody's
//! choice.
//!
//! Everything follows from names and positions, so two runs of one file give the same plan, and
//! logs of different runs can be laid side by side. Random seeds hang on names, not on positions:
//! adding a replica does not change the choices of the others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proxy::world::RngTree;
use toml::Table;

use super::Scenario;
use crate::app::AppSpec;
use crate::fault::{Action, Certificate, Configure, Entry};
use crate::glob::glob;
use crate::load::Load;
use crate::mesh::Role;
use crate::metrics::{CAPTURED, FABRIC};
use crate::plan::{
    Authority, Expectation, Instance, Plan, Protocol, Service, ServiceLimits, SidecarKind, Subject, Window,
};
use crate::sidecar;
use crate::syntax::names::instance_name;
use crate::syntax::settings;

impl Scenario {
    /// The plan with this in the sidecar's place.
    ///
    /// Without sidecars, kills and pauses of sidecars are left out, and so is every condition that
    /// only a sidecar can meet: over a sidecar's metrics, or over the evidence of a fault that
    /// touched one.
    pub fn plan(&self, sidecar: SidecarKind) -> Plan {
        let (mut services, mut instances) = self.instances();
        let authorities = self.authorities(&mut services, &mut instances);
        let mut plan = Plan {
            name: self.name.clone(),
            seed: self.seed,
            warmup: self.warmup,
            duration: self.duration,
            sidecar,
            services,
            authorities,
            certificates: self.certificates.clone(),
            instances,
            captures: self.captures.clone(),
            links: self.links.clone(),
            loads: self.loads(),
            timeline: self.timeline.clone(),
            expectations: self.expectations.clone(),
            left_out: 0,
        };
        let conditions = |plan: &Plan| plan.expectations.iter().map(|e| e.conditions.len()).sum::<usize>();
        let all = conditions(&plan);
        plan.expectations.retain(|e| e.sidecar.is_none_or(|kind| kind == sidecar));
        match sidecar::program(sidecar) {
            Some(program) => {
                let seeds = RngTree::new(self.seed).child("sidecar", 0);
                let configs = |plan: &Plan| -> Vec<String> {
                    let seed = |i: usize| seeds.child(&plan.instances[i].name, 0).seed();
                    let in_mesh = (0..plan.instances.len()).filter(|i| plan.authority(*i).is_none());
                    in_mesh.map(|i| program.config(plan, i, seed(i))).collect()
                };
                let own = configs(&plan);
                for position in 0..plan.timeline.len() {
                    let changed = otherwise(&plan, position).map(|other| configs(&other));
                    match (&mut plan.timeline[position].action, changed) {
                        (Action::Configure(Configure { configs, .. }), Some(changed))
                        | (Action::Certificate(Certificate { configs, .. }), Some(changed)) => {
                            *configs = changed;
                        }
                        _ => {}
                    }
                }
                for (instance, config) in plan.instances.iter_mut().zip(own) {
                    instance.sidecar = Some(config);
                }
            }
            None => without_sidecars(&mut plan, self),
        }
        plan.left_out = all - conditions(&plan);
        plan
    }

    /// Which conditions of an expectation, by position, no run without sidecars can judge.
    pub(super) fn only_with_sidecars(&self, expectation: &Expectation) -> Vec<usize> {
        let bare = Bare::new(self, &self.plan(SidecarKind::None));
        let of_sidecar = bare.is_evidence_of_sidecar(expectation);
        let conditions = expectation.conditions.iter().enumerate();
        let lost = conditions.filter(|(_, c)| !measurable(&c.subject, &bare.there, of_sidecar));
        lost.map(|(position, _)| position).collect()
    }

    fn instances(&self) -> (Vec<Service>, Vec<Instance>) {
        let mut services = Vec::new();
        let mut instances: Vec<Instance> = Vec::new();
        for (position, service) in self.services.iter().enumerate() {
            // Validation keeps both numbers below a byte.
            let s = position as u8 + 1;
            let first = instances.len();
            for index in 0..service.replicas {
                let i = index as u8 + 1;
                let name = instance_name(&service.name, index, service.replicas);
                let app = service.app.clone().zip(service.port);
                let app = app.map(|(kind, port)| AppSpec { instance: name.clone(), port, kind });
                instances.push(Instance {
                    name,
                    service: position,
                    v4: v4(s, i),
                    v6: v6(s, i),
                    mac: mac(s, i),
                    zone: turn(&service.zones, index).cloned(),
                    weight: turn(&service.weights, index).copied(),
                    labels: turn(&service.labels, index).cloned().unwrap_or_default(),
                    identity: service.tls.identity.clone(),
                    app,
                    sidecar: None,
                });
            }
            services.push(Service {
                name: service.name.clone(),
                vip4: vip4(s),
                vip6: vip6(s),
                port: service.port,
                protocol: service.protocol,
                bridge: service.bridge,
                registry: service.registry,
                policy: service.policy.clone(),
                settings: service.settings.clone(),
                authorization: service.authorization.clone(),
                identity: service.tls.expected.clone(),
                tls: service.tls.mode,
                limits: service.limits,
                instances: (first..instances.len()).collect(),
            });
        }
        (services, instances)
    }

    /// Adds each authority as a service of one instance.
    fn authorities(&self, services: &mut Vec<Service>, instances: &mut Vec<Instance>) -> Vec<Authority> {
        let mut all = Vec::new();
        for authority in &self.authorities {
            let (service, instance) = (services.len(), instances.len());
            // As above.
            let s = service as u8 + 1;
            let super::identity::Authority { name, trust_domain, certificate_lifetime, root_lifetime } =
                authority.clone();
            instances.push(Instance {
                name: name.clone(),
                service,
                v4: v4(s, 1),
                v6: v6(s, 1),
                mac: mac(s, 1),
                zone: None,
                weight: None,
                labels: BTreeMap::new(),
                identity: None,
                app: None,
                sidecar: None,
            });
            services.push(Service {
                name: name.clone(),
                vip4: vip4(s),
                vip6: vip6(s),
                port: None,
                protocol: Protocol::Detect,
                bridge: false,
                registry: None,
                policy: Table::new(),
                settings: Table::new(),
                authorization: Table::new(),
                identity: None,
                tls: None,
                limits: ServiceLimits::default(),
                instances: vec![instance],
            });
            all.push(Authority { name, instance, trust_domain, certificate_lifetime, root_lifetime });
        }
        all
    }

    fn loads(&self) -> Vec<Load> {
        let seeds = RngTree::new(self.seed).child("load", 0);
        let load = |l: &super::Load| Load {
            name: l.name.clone(),
            from: l.from,
            target: l.target.clone(),
            rate: l.rate,
            timeout: l.timeout,
            part: l.part,
            seed: seeds.child(&l.name, 0).seed(),
        };
        self.loads.iter().map(load).collect()
    }
}

/// The address of the instance `i` of service `s`, both counted from 1.
fn v4(s: u8, i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, s, i)
}

fn v6(s: u8, i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, s.into(), i.into())
}

fn mac(s: u8, i: u8) -> [u8; 6] {
    [0x02, 0x4d, 0, 0, s, i]
}

/// The virtual address of service `s`.
fn vip4(s: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, s, 1)
}

fn vip6(s: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, s.into(), 1)
}

/// What the replica at `index` is dealt.
fn turn<T>(values: &[T], index: u32) -> Option<&T> {
    values.get(index as usize % values.len().max(1))
}

/// The plan as it would be if what a timeline entry changes in the sidecars' configurations had
/// been so from the beginning; `None` if it changes nothing there.
fn otherwise(plan: &Plan, entry: usize) -> Option<Plan> {
    let mut other = plan.clone();
    match &plan.timeline[entry].action {
        Action::Configure(configure) => {
            settings::merge(&mut other.services[configure.service].policy, configure.policy.clone());
        }
        Action::Certificate(fault) => {
            for process in &fault.processes {
                let identity = plan.identity_with(process.instance, fault.certificate);
                other.instances[process.instance].identity = identity;
            }
        }
        _ => return None,
    }
    Some(other)
}

fn without_sidecars(plan: &mut Plan, scenario: &Scenario) {
    for entry in &mut plan.timeline {
        entry.action.retain_processes(|process| process.role != Role::Sidecar);
    }
    let bare = Bare::new(scenario, plan);
    for expectation in &mut plan.expectations {
        let of_sidecar = bare.is_evidence_of_sidecar(expectation);
        expectation.conditions.retain(|condition| measurable(&condition.subject, &bare.there, of_sidecar));
    }
    plan.expectations.retain(|e: &Expectation| !e.conditions.is_empty());
}

/// A plan without sidecars: what can be measured there.
struct Bare {
    there: Vec<String>,
    /// Whether each entry touches sidecars, and whether it touches nothing else.
    touches: Vec<(bool, bool)>,
    /// Whether the file asks for no run with sidecars.
    is_all: bool,
}

impl Bare {
    /// `plan` has none, nor has its timeline.
    fn new(scenario: &Scenario, plan: &Plan) -> Self {
        let touches = scenario.timeline.iter().zip(&plan.timeline).map(|(with, without)| {
            let touches = touches_sidecar(with);
            (touches, touches && without.action.processes().is_empty())
        });
        Bare {
            there: plan.processes().map(|p| plan.process_name(p)).collect(),
            touches: touches.collect(),
            is_all: scenario.sidecars.iter().all(|kind| *kind == SidecarKind::None),
        }
    }

    /// Whether an expectation is about the evidence of a fault that only sidecars can meet.
    fn is_evidence_of_sidecar(&self, expectation: &Expectation) -> bool {
        // Evidence counts the sidecars that are touched. Where it is asked for a run without them,
        // it counts the others, if there are any.
        let is_for_none = self.is_all || expectation.sidecar == Some(SidecarKind::None);
        match expectation.window {
            Window::Evidence { entry } => {
                let (touches, only) = self.touches[entry];
                if is_for_none { only } else { touches }
            }
            _ => false,
        }
    }
}

/// Whether a subject can be measured where only these processes are.
fn measurable(subject: &Subject, there: &[String], evidence_of_sidecar: bool) -> bool {
    match subject {
        // Without sidecars there is no TLS to be seen.
        Subject::Metric { process, name, .. } if process == FABRIC => !name.starts_with(CAPTURED),
        Subject::Metric { process, .. } => there.iter().any(|p| glob(process, p)),
        Subject::Ratio { of, to } => {
            measurable(of, there, evidence_of_sidecar) && measurable(to, there, evidence_of_sidecar)
        }
        Subject::Evidence { .. } => !evidence_of_sidecar,
        Subject::Load { .. } => true,
    }
}

fn touches_sidecar(entry: &Entry) -> bool {
    matches!(entry.action, Action::Configure(_))
        || entry.action.processes().iter().any(|p| p.role == Role::Sidecar)
}
