//! What the world shows of itself while it runs: the metrics of its processes, its own counters,
//! and its loads.

use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::bring_up::{Start, failed, local};
use super::capture::Capture;
use super::process::{Output, Process};
use super::{KernelWorld, intercept, probe};
use crate::app::APP_METRICS_PORT;
use crate::load::{Load, LoadTimes, Record, RecordSink};
use crate::mesh::{ProcessId, Role};
use crate::metrics::{self, CPU_SECONDS, FABRIC, RESIDENT_BYTES, Sample, Scrape};
use crate::plan::APP_UID;
use crate::sidecar;
use crate::world::Error;

/// How long a process may take to show its metrics; a busy one must not hold up the sampling of the
/// others.
const SCRAPE_WITHIN: Duration = Duration::from_millis(500);
/// How long a load generator may outlive its last request's timeout.
const LOAD_GRACE: Duration = Duration::from_secs(10);

/// Kills a load generator whose future is dropped half-way; `down` reaps it.
struct KillOnDrop(Rc<Process>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::SIGKILL);
    }
}

impl KernelWorld {
    /// Every process's metrics and the world's own. The rules' counters are read from one instance
    /// in turn each time, because reading starts two processes; the others' are those of their last
    /// turn.
    pub(super) async fn sample(&self) -> Vec<Scrape> {
        self.note_exits();
        let asked = Instant::now();
        let mut scrapes = Vec::new();
        for id in self.plan.processes() {
            let Some(port) = self.metrics_port(id) else { continue };
            // A paused process would accept and never answer.
            let runs =
                self.process(id).is_some_and(|p| p.is_running()) && !self.paused.borrow().contains(&id);
            let node = self.node(id.instance).filter(|_| runs);
            let name = self.plan.process_name(id);
            scrapes.push(async move {
                let ask = move || probe::get(local(port), "/metrics", SCRAPE_WITHIN);
                let answer = match node {
                    Some(node) => node.probe(ask).await.and_then(|r| r).ok(),
                    None => None,
                };
                let samples = match answer {
                    Some((200, text)) => metrics::parse(&name, &text),
                    // A process that is busy dying has no metrics; the report shows the gap.
                    _ => Vec::new(),
                };
                Scrape { process: name.into(), asked, answered: Instant::now(), samples }
            });
        }
        let (mut scraped, ()) = tokio::join!(join_all(scrapes), self.read_next_counters());
        let asked = Instant::now();
        let mut samples = Vec::new();
        self.usage(&mut samples);
        self.limited_usage(&mut samples);
        self.own_samples(&mut samples).await;
        scraped.push(Scrape { process: FABRIC.into(), asked, answered: Instant::now(), samples });
        scraped
    }

    /// What each process uses of the machine, loads too. The world's own samples, because a process
    /// that does not answer uses something all the same.
    fn usage(&self, samples: &mut Vec<Sample>) {
        let of_plan = self.plan.processes().filter_map(|id| self.process(id));
        for process in of_plan.chain(self.loads.borrow().iter().cloned()) {
            let Some(usage) = process.usage() else { continue };
            for (name, value) in [(CPU_SECONDS, usage.cpu_seconds), (RESIDENT_BYTES, usage.resident_bytes)] {
                let labels = [("process", process.name())].into_iter().collect();
                samples.push(Sample { process: FABRIC.into(), name: name.into(), labels, value });
            }
        }
    }

    /// What came of limits. The world's own samples, because they outlive the process that has
    /// them.
    fn limited_usage(&self, samples: &mut Vec<Sample>) {
        for (&id, limited) in &*self.limited.borrow() {
            let usage = limited.usage();
            for (name, value) in [
                ("cgroup_throttled_total", usage.throttled),
                ("cgroup_memory_peak_bytes", usage.peak),
                ("cgroup_oom_kills_total", usage.oom_kills),
            ] {
                let Some(value) = value else { continue };
                let labels = [("process", self.plan.process_name(id))].into_iter().collect();
                samples.push(Sample { process: FABRIC.into(), name: name.into(), labels, value });
            }
        }
    }

    fn metrics_port(&self, id: ProcessId) -> Option<u16> {
        match (id.role, &self.plan.instances[id.instance].app) {
            (Role::Sidecar, _) => sidecar::program(self.plan.sidecar).map(|program| program.metrics().port),
            (Role::App, Some(app)) if app.kind.foreign().is_none() => Some(APP_METRICS_PORT),
            (Role::App, _) => None,
        }
    }

    pub(super) async fn read_next_counters(&self) {
        let instance = self.next_read.get();
        let Some(node) = self.node(instance) else { return };
        self.next_read.set((instance + 1) % self.plan.instances.len());
        if let Ok(Ok(counters)) = node.call(intercept::counters).await {
            self.redirected.borrow_mut()[instance] = counters;
        }
    }

    async fn own_samples(&self, samples: &mut Vec<Sample>) {
        let pairs = self.pairs().await;
        let mut own = |name: &str, labels: &[(&str, &str)], value: f64| {
            let labels = labels.iter().copied().collect();
            samples.push(Sample { process: FABRIC.into(), name: name.into(), labels, value });
        };
        for (instance, redirected) in self.plan.instances.iter().zip(&*self.redirected.borrow()) {
            for (direction, count) in [("outbound", redirected.outbound), ("inbound", redirected.inbound)] {
                let labels = [("instance", instance.name.as_str()), ("direction", direction)];
                own("iptables_redirected_total", &labels, count as f64);
            }
        }
        for (&id, &starts) in &*self.starts.borrow() {
            own("process_starts_total", &[("process", &self.plan.process_name(id))], starts as f64);
        }
        let found = self.capture.borrow().as_ref().map(Capture::found).unwrap_or_default();
        for ((from, to), counts) in found {
            let instance = |i: usize| self.plan.instances[i].name.as_str();
            let service = |i: usize| self.plan.services[self.plan.instances[i].service].name.as_str();
            let labels = [
                ("from", instance(from)),
                ("to", instance(to)),
                ("from_service", service(from)),
                ("to_service", service(to)),
            ];
            for (name, count) in [
                ("capture_segments", counts.segments),
                ("capture_tls_records", counts.records),
                ("capture_plaintext_segments", counts.plaintext),
                ("capture_marked_requests", counts.marked),
                ("capture_unread_segments", counts.unread),
            ] {
                own(name, &labels, count as f64);
            }
        }
        for pair in pairs {
            let name = |i: usize| self.plan.instances[i].name.as_str();
            let labels = [("from", name(pair.from)), ("to", name(pair.to))];
            own("link_packets_total", &labels, pair.packets as f64);
            own("link_lost_packets_total", &labels, pair.lost as f64);
            own("link_delayed_packets_total", &labels, pair.delayed as f64);
        }
    }

    pub(super) async fn run_load(
        &self,
        load: &Load,
        times: LoadTimes,
        sink: RecordSink,
    ) -> Result<(), Error> {
        let run = self.registration.borrow().as_ref().map(|r| r.path().to_owned());
        let run = run.ok_or_else(|| Error::Failed("the world is not up".into()))?;
        let spec = serde_json::to_string(load).expect("a load's description is plain data");
        let clock = SharedClock::read()?;
        let argv: Vec<OsString> = vec![
            run.join("exe").into(),
            "__load".into(),
            "--spec".into(),
            spec.into(),
            "--start".into(),
            clock.ns(times.t0).to_string().into(),
            "--until".into(),
            clock.ns(times.end).to_string().into(),
        ];
        let (lines, mut printed) = mpsc::unbounded_channel();
        let name = format!("load {}", load.name);
        let role = format!("load-{}", load.name.replace('/', "_"));
        let output = Output::Lines(lines);
        let directory = Path::new("/");
        let (role, env, limits) = (&*role, Vec::new(), Vec::new());
        let start = Start { role, argv, env, directory, uid: APP_UID, limits, output };
        let process = self.launch(load.from, name, start)?;
        self.options.events.note("start", process.name(), format!("process {}", process.pid()));
        self.loads.borrow_mut().push(process.clone());
        let process = KillOnDrop(process);

        let deadline = times.end + load.timeout + LOAD_GRACE;
        let mut complaint = None;
        let ran = timeout_at(deadline, async {
            while let Some(line) = printed.recv().await {
                match Record::from_line(&line) {
                    Some(record) => sink(record),
                    None => complaint = Some(format!("cannot read its line {line:?}")),
                }
            }
            process.0.ended().await
        });
        let exit = ran.await;
        self.note_exits();
        let failed =
            |why: String| Error::Failed(format!("{}: {why}{}", process.0.name(), process.0.log().log_tail()));
        match (exit, complaint) {
            (Err(_), _) => Err(failed(format!("still ran {} s after its end", LOAD_GRACE.as_secs()))),
            (Ok(_), Some(complaint)) => Err(failed(complaint)),
            (Ok(exit), None) if !exit.status.success() => Err(failed(exit.status.to_string())),
            (Ok(_), None) => Ok(()),
        }
    }
}

/// CLOCK_MONOTONIC, the one clock that processes of a machine share, beside our own.
#[derive(Debug, Clone, Copy)]
struct SharedClock {
    at: Instant,
    /// Nanoseconds at that instant.
    shows: i128,
}

impl SharedClock {
    /// Reads both clocks a few times and keeps the reading that was interrupted least.
    fn read() -> Result<SharedClock, Error> {
        let mut best: Option<(Duration, SharedClock)> = None;
        for _ in 0..5 {
            let before = Instant::now();
            let shows = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(failed("CLOCK_MONOTONIC"))?;
            let took = before.elapsed();
            if best.is_none_or(|(least, _)| took < least) {
                let shows = Duration::from(shows).as_nanos() as i128;
                best = Some((took, SharedClock { at: before + took / 2, shows }));
            }
        }
        best.map(|(_, clock)| clock).ok_or_else(|| Error::Failed("CLOCK_MONOTONIC was not read".into()))
    }

    /// What it shows at `at`, nanoseconds.
    fn ns(self, at: Instant) -> i128 {
        let ahead = at.saturating_duration_since(self.at).as_nanos() as i128;
        let behind = self.at.saturating_duration_since(at).as_nanos() as i128;
        self.shows + ahead - behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_keep_their_distance_on_the_shared_clock_before_and_after_the_reading() {
        let earlier = Instant::now();
        let raw = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as i128;
        let before = raw();
        let clock = SharedClock::read().unwrap();
        let after = raw();
        assert!((before..=after).contains(&clock.shows));
        let later = earlier + Duration::from_secs(5);
        assert_eq!(clock.ns(later) - clock.ns(earlier), 5_000_000_000);
        assert!(clock.ns(earlier) <= clock.shows);
    }
}
