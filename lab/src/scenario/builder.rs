//! A scenario made by a program: the tables of the file as values with typed setters.
//!
//! What is built is the text of a file ([`ScenarioBuilder::to_toml`]), and
//! [`ScenarioBuilder::build`] reads it as any other. So the same mistakes are found, with the same
//! words, and a scenario that fails can be written to disk and run by the command line.
//!
//! Keys without a setter are set by name (`set`). They are those of `docs/scenario.md`.

use std::fmt::Write;
use std::time::Duration;

use toml::{Table, Value};

use super::{Scenario, parse};
use crate::plan::SidecarKind;
use crate::readable;
use crate::syntax::diagnose::ScenarioErrors;

/// Builds a [`Scenario`]. See the example at the top of the crate.
#[derive(Debug, Clone)]
pub struct ScenarioBuilder {
    name: String,
    header: Table,
    /// All other tables, each already as text: a name that is used twice must come to light.
    tables: String,
}

impl Scenario {
    /// Begins a scenario of this name. It needs a duration, and at least one service.
    pub fn builder(name: impl Into<String>) -> ScenarioBuilder {
        let name = name.into();
        let header = Table::from_iter([("name".to_owned(), Value::from(name.clone()))]);
        ScenarioBuilder { name, header, tables: String::new() }
    }
}

impl ScenarioBuilder {
    /// The length of the measured part.
    #[must_use]
    pub fn duration(self, duration: Duration) -> Self {
        self.set("duration", readable::text(duration))
    }

    /// How long load runs before anything is judged. Default 1 s.
    #[must_use]
    pub fn warmup(self, warmup: Duration) -> Self {
        self.set("warmup", readable::text(warmup))
    }

    /// Seed of every random choice, where the run is not given another one. Default 1.
    #[must_use]
    pub fn seed(self, seed: u32) -> Self {
        self.set("seed", i64::from(seed))
    }

    /// What stands in the sidecar's place. Default: the sidecar of this workspace.
    #[must_use]
    pub fn sidecar(self, kind: SidecarKind) -> Self {
        self.set("sidecar", kind.name())
    }

    /// Adds a service.
    #[must_use]
    pub fn service(self, service: ServiceSpec) -> Self {
        self.named("service", service.name, service.table)
    }

    /// Adds a load generator.
    #[must_use]
    pub fn load(self, load: LoadSpec) -> Self {
        self.named("load", load.name, load.table)
    }

    /// Sets the base profile of links.
    #[must_use]
    pub fn link(self, link: LinkSpec) -> Self {
        self.listed("link", link.table)
    }

    /// Adds an entry of the timeline.
    #[must_use]
    pub fn fault(self, fault: FaultSpec) -> Self {
        let FaultSpec { mut entry, kind, action } = fault;
        entry.insert(kind.to_owned(), action.into());
        self.listed("timeline", entry)
    }

    /// Adds an expectation.
    #[must_use]
    pub fn expect(self, expectation: ExpectSpec) -> Self {
        self.listed("expect", expectation.table)
    }

    /// The scenario as a file.
    pub fn to_toml(&self) -> String {
        format!("{}{}", table("scenario", self.header.clone().into()), self.tables)
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// Everything that is wrong with it, as [`parse`] says it of a file.
    pub fn build(&self) -> Result<Scenario, ScenarioErrors> {
        parse(&self.name, &self.to_toml())
    }

    fn named(mut self, kind: &str, name: String, content: Table) -> Self {
        self.tables += &table(kind, Table::from_iter([(name, Value::from(content))]).into());
        self
    }

    fn listed(mut self, kind: &str, content: Table) -> Self {
        self.tables += &table(kind, vec![content].into());
        self
    }
}

/// Setters by name.
macro_rules! any_key {
    ($($spec:ident.$table:ident)+) => {$(
        impl $spec {
            /// Sets any key of the table.
            #[must_use]
            pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
                self.$table.insert(key.to_owned(), value.into());
                self
            }
        }
    )+};
}

any_key! {
    ScenarioBuilder.header
    ServiceSpec.table
    HttpSpec.table
    LoadSpec.table
    LinkSpec.table
    FaultSpec.action
    ExpectSpec.table
}

/// One table of a file as text.
fn table(kind: &str, content: Value) -> String {
    let mut text = Table::from_iter([(kind.to_owned(), content)]).to_string();
    let _ = writeln!(text);
    text
}

/// A share, `0.25` for a quarter, as the file writes it.
fn percent(share: f64) -> String {
    format!("{}%", share * 100.0)
}

fn list(words: &[&str]) -> Value {
    words.iter().copied().map(Value::from).collect::<Vec<_>>().into()
}

/// `[service.NAME]`
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    name: String,
    table: Table,
}

impl ServiceSpec {
    /// One instance, without an app: it only sends load.
    pub fn new(name: impl Into<String>) -> Self {
        ServiceSpec { name: name.into(), table: Table::new() }
    }

    /// How many instances. Default 1.
    #[must_use]
    pub fn replicas(self, replicas: u32) -> Self {
        self.set("replicas", i64::from(replicas))
    }

    /// The built-in HTTP app on a port, which is declared as HTTP.
    #[must_use]
    pub fn http(self, port: u16, app: HttpSpec) -> Self {
        self.app(port, "http", app.table).set("protocol", "http")
    }

    /// The built-in app that greets first, on a port. What it speaks is not declared.
    #[must_use]
    pub fn tcp(self, port: u16, greeting: &str) -> Self {
        let app = Table::from_iter([("greeting".to_owned(), Value::from(greeting))]);
        self.app(port, "tcp", app)
    }

    /// The built-in registry, on a port.
    #[must_use]
    pub fn registry(self, port: u16) -> Self {
        self.app(port, "registry", Table::new()).set("protocol", "tcp")
    }

    /// Keys of its `[[cluster]]`: how it is called.
    #[must_use]
    pub fn policy(self, policy: Table) -> Self {
        self.set("policy", policy)
    }

    fn app(self, port: u16, kind: &str, app: Table) -> Self {
        let app = Table::from_iter([(kind.to_owned(), Value::from(app))]);
        self.set("port", i64::from(port)).set("app", app)
    }
}

/// `app = { http = { .. } }`
#[derive(Debug, Clone, Default)]
pub struct HttpSpec {
    table: Table,
}

impl HttpSpec {
    /// How long it works on a request. Default: no time.
    #[must_use]
    pub fn work(self, work: Duration) -> Self {
        self.set("work", readable::text(work))
    }

    /// The share of requests that it fails, `0.25` for a quarter. Default: none.
    #[must_use]
    pub fn fail(self, share: f64) -> Self {
        self.set("fail", percent(share))
    }
}

/// `[load.NAME]`
#[derive(Debug, Clone)]
pub struct LoadSpec {
    name: String,
    table: Table,
}

impl LoadSpec {
    /// Calls `url` from an instance or a service, so often each second.
    pub fn new(name: impl Into<String>, from: &str, url: &str, per_second: u32) -> Self {
        let load = LoadSpec { name: name.into(), table: Table::new() };
        load.set("from", from).set("url", url).set("rate", format!("{per_second}/s"))
    }

    /// The HTTP method. Default `GET`.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.set("method", method)
    }

    /// Bytes in each request's body. Default 0.
    #[must_use]
    pub fn body(self, bytes: u32) -> Self {
        self.set("body", i64::from(bytes))
    }

    /// When a request counts as failed. Default 1 s.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set("timeout", readable::text(timeout))
    }
}

/// `[[link]]`, and the `link` action of a fault.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    table: Table,
}

impl LinkSpec {
    /// Both directions between these instances.
    pub fn between(instances: &[&str]) -> Self {
        LinkSpec { table: Table::new() }.set("between", list(instances))
    }

    /// The direction from some to others.
    pub fn from_to(from: &[&str], to: &[&str]) -> Self {
        LinkSpec { table: Table::new() }.set("from", list(from)).set("to", list(to))
    }

    /// One-way delay.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.set("delay", readable::text(delay))
    }

    /// The share of packets that is lost, `0.01` for one in a hundred.
    #[must_use]
    pub fn loss(self, share: f64) -> Self {
        self.set("loss", percent(share))
    }
}

/// `[[timeline]]`
#[derive(Debug, Clone)]
pub struct FaultSpec {
    entry: Table,
    kind: &'static str,
    action: Table,
}

impl FaultSpec {
    /// Ends processes with SIGKILL. They stay away unless they [`FaultSpec::restart`].
    pub fn kill(process: &str) -> Self {
        FaultSpec::of("kill", "process", process)
    }

    /// Machines lose power. They stay away unless they [`FaultSpec::restart`].
    pub fn crash(instance: &str) -> Self {
        FaultSpec::of("crash", "instance", instance)
    }

    /// Stops processes for a while with SIGSTOP.
    pub fn pause(process: &str) -> Self {
        FaultSpec::of("pause", "process", process)
    }

    /// Refuses new connections to processes.
    pub fn refuse(process: &str) -> Self {
        FaultSpec::of("refuse", "process", process)
    }

    /// Every packet between these instances vanishes.
    pub fn partition(instances: &[&str]) -> Self {
        FaultSpec::of("partition", "between", list(instances))
    }

    /// Changes links.
    pub fn link(link: LinkSpec) -> Self {
        FaultSpec { entry: Table::new(), kind: "link", action: link.table }
    }

    /// Changes how a built-in HTTP app answers, from now on as `app` says.
    pub fn app(process: &str, app: HttpSpec) -> Self {
        let fault = FaultSpec { entry: Table::new(), kind: "app", action: app.table };
        fault.set("process", process)
    }

    /// Adds keys to the policy of a service while sidecars run.
    pub fn configure(service: &str, policy: Table) -> Self {
        FaultSpec::of("configure", "service", service).set("policy", policy)
    }

    /// Its name in expectations and reports. Default: made from its kind and its position.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.entry.insert("name".to_owned(), name.into());
        self
    }

    /// When it begins, from the start of the measured part.
    #[must_use]
    pub fn at(mut self, at: Duration) -> Self {
        self.entry.insert("at".to_owned(), readable::text(at).into());
        self
    }

    /// How long it lasts. Default: to the end.
    #[must_use]
    pub fn lasts(mut self, lasts: Duration) -> Self {
        self.entry.insert("for".to_owned(), readable::text(lasts).into());
        self
    }

    /// How long after a kill or a crash everything starts again.
    #[must_use]
    pub fn restart(self, after: Duration) -> Self {
        self.set("restart", readable::text(after))
    }

    fn of(kind: &'static str, key: &str, value: impl Into<Value>) -> Self {
        FaultSpec { entry: Table::new(), kind, action: Table::new() }.set(key, value)
    }
}

/// `[[expect]]`
#[derive(Debug, Clone)]
pub struct ExpectSpec {
    table: Table,
}

impl ExpectSpec {
    /// All of these conditions hold over the whole measured part: `"calls.errors == 0"`.
    pub fn that(conditions: &[&str]) -> Self {
        ExpectSpec { table: Table::new() }.set("that", list(conditions))
    }

    /// They hold in this part of the run.
    #[must_use]
    pub fn during(self, from: Duration, to: Duration) -> Self {
        self.set("during", format!("{}..{}", readable::text(from), readable::text(to)))
    }

    /// They hold while the fault of this name is in force.
    #[must_use]
    pub fn during_fault(self, name: &str) -> Self {
        self.set("during", name)
    }

    /// Within this time from a fault (`"kill-1"`) or its end (`"kill-1.end"`) they come true, and
    /// stay so for `hold`.
    #[must_use]
    pub fn after(self, fault: &str, within: Duration, hold: Duration) -> Self {
        let hold = readable::text(hold);
        self.set("after", fault).set("within", readable::text(within)).set("hold", hold)
    }

    /// They are about the evidence that the fault of this name took effect: `"killed == 2"`.
    #[must_use]
    pub fn evidence_of(self, fault: &str) -> Self {
        self.set("fault", fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn mesh() -> ScenarioBuilder {
        Scenario::builder("a mesh")
            .duration(4 * SECOND)
            .service(ServiceSpec::new("web"))
            .service(
                ServiceSpec::new("orders").replicas(2).http(8080, HttpSpec::default().work(SECOND / 200)),
            )
            .load(LoadSpec::new("calls", "web", "http://orders:8080/", 50).method("POST").body(10))
    }

    #[test]
    fn every_setter_writes_what_the_file_would_say() {
        let retries = toml::toml! { retry.attempts = 1 };
        let scenario = mesh()
            .warmup(Duration::ZERO)
            .seed(7)
            .sidecar(SidecarKind::Ours)
            .service(ServiceSpec::new("chat").tcp(7000, "hello"))
            .service(ServiceSpec::new("registry").registry(2379))
            .service(ServiceSpec::new("pay").http(80, HttpSpec::default().fail(0.25)).policy(retries.clone()))
            .link(LinkSpec::between(&["web", "orders-*"]).delay(SECOND / 1000).loss(0.005))
            .fault(FaultSpec::kill("orders-0/app").name("lose").at(SECOND).restart(SECOND / 2))
            .fault(FaultSpec::crash("orders-1").at(SECOND).restart(SECOND))
            .fault(FaultSpec::pause("pay/app").at(SECOND).lasts(SECOND))
            .fault(FaultSpec::refuse("chat/app").at(SECOND).lasts(SECOND))
            .fault(FaultSpec::partition(&["web", "pay"]).at(SECOND).lasts(SECOND))
            .fault(FaultSpec::link(LinkSpec::from_to(&["web"], &["chat"]).delay(SECOND)).at(3 * SECOND))
            .fault(FaultSpec::app("orders-0/app", HttpSpec::default().fail(1.0)).at(3 * SECOND))
            .fault(FaultSpec::configure("orders", retries).at(2 * SECOND))
            .expect(ExpectSpec::that(&["calls.success > 50%"]))
            .expect(ExpectSpec::that(&["calls.errors >= 0"]).during(SECOND, 2 * SECOND))
            .expect(ExpectSpec::that(&["calls.errors >= 0"]).during_fault("lose"))
            .expect(ExpectSpec::that(&["calls.errors == 0"]).after("lose.end", SECOND, SECOND))
            .expect(ExpectSpec::that(&["killed == 1"]).evidence_of("lose"));
        let plan = scenario.build().unwrap_or_else(|errors| panic!("{errors:#?}")).plan(SidecarKind::Ours);
        assert_eq!((plan.seed, plan.instances.len(), plan.timeline.len()), (7, 6, 8));
        assert_eq!(plan.expectations.len(), 5);
    }

    #[test]
    fn a_mistake_is_found_as_in_a_file() {
        let unknown = mesh().load(LoadSpec::new("more", "nobody", "http://orders:8080/", 1)).build();
        assert!(format!("{:?}", unknown.unwrap_err()).contains("nobody"));
        let twice = mesh().service(ServiceSpec::new("orders")).build();
        assert!(format!("{:?}", twice.unwrap_err()).contains("duplicate"));
        assert!(Scenario::builder("nothing").build().is_err());
    }
}
