//! What a scenario becomes, for the scenarios that the repository ships and for the corners of the
//! language.

use std::time::Duration;

use lab::fabric::LinkProfile;
use lab::fault::{Action, Kill, Restart};
use lab::load::CallKind;
use lab::plan::{Plan, SidecarKind, TimePoint, Window};
use lab::scenario::{Scenario, parse};

fn shipped(name: &str) -> Scenario {
    let path = format!("{}/../scenarios/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    parse(name, &text).unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)))
}

fn plan(text: &str) -> Plan {
    parse("test.toml", text)
        .unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)))
        .plan(SidecarKind::Ours)
}

/// A header, a caller and three replicas, with more behind them.
fn mesh(more: &str) -> Plan {
    plan(&format!(
        "[scenario]\nname = \"test\"\nduration = \"10s\"\n\
         [service.web]\n\
         [service.orders]\nreplicas = 3\nport = 8080\napp = {{ http = {{}} }}\n{more}"
    ))
}

fn profile(links: &[lab::mesh::Link], from: usize, to: usize) -> Option<LinkProfile> {
    links.iter().find(|l| (l.from, l.to) == (from, to)).map(|l| l.profile)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_plan_of_hello_has_nothing_left_to_decide() {
    let plan = shipped("hello.toml").plan(SidecarKind::Ours);
    let mut json = serde_json::to_value(&plan).unwrap();
    // The configurations are one line each in JSON; one of them is shown as the text that it is.
    let web = plan.instances.last().unwrap().sidecar.clone().unwrap();
    for instance in json["instances"].as_array_mut().unwrap() {
        instance["sidecar"] = "...".into();
    }
    insta::assert_snapshot!("hello_plan", serde_json::to_string_pretty(&json).unwrap());
    insta::assert_snapshot!("hello_sidecar_of_web", web);
    insta::assert_snapshot!("hello_sidecar_of_orders_0", plan.instances[0].sidecar.clone().unwrap());
    insta::assert_snapshot!("hello_hosts", plan.hosts());
}

#[test]
fn every_shipped_scenario_has_a_plan_with_and_without_sidecars() {
    let folder = format!("{}/../scenarios", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".toml") {
            continue;
        }
        seen += 1;
        let scenario = shipped(&name);
        let ours = scenario.plan(SidecarKind::Ours);
        for instance in &ours.instances {
            let is_authority = ours.authorities.iter().any(|authority| authority.name == instance.name);
            let Some(config) = instance.sidecar.as_ref().filter(|_| !is_authority) else {
                assert!(is_authority, "{name}: {} has no sidecar", instance.name);
                continue;
            };
            let file: proxy::config::model::File =
                toml::from_str(config).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(file.instance.unwrap().get_ref(), &instance.name);
        }
        let none = scenario.plan(SidecarKind::None);
        assert!(none.instances.iter().all(|i| i.sidecar.is_none()), "{name}");
        assert!(!none.expectations.is_empty(), "{name}: a baseline is judged as well");
    }
    assert!(seen >= 4, "only {seen} scenarios found");
}

#[test]
fn without_sidecars_nothing_is_asked_of_them() {
    let scenario = shipped("failover.toml");
    let (ours, none) = (scenario.plan(SidecarKind::Ours), scenario.plan(SidecarKind::None));
    let killed = |plan: &Plan| match &plan.timeline[0].action {
        Action::Kill(kill) => kill.processes.iter().map(|p| plan.process_name(*p)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(killed(&ours), ["orders-1/app", "orders-1/sidecar"]);
    assert_eq!(killed(&none), ["orders-1/app"]);
    let conditions = |plan: &Plan| plan.expectations.iter().map(|e| e.conditions.len()).sum::<usize>();
    assert_eq!((conditions(&ours), conditions(&none)), (7, 4), "retries, killed and restarted are left out");
    assert_eq!((ours.left_out, none.left_out), (0, 3));
}

#[test]
fn what_is_expected_of_runs_without_sidecars_is_judged_there() {
    let expected = |header: &str, more: &str| {
        let text = format!(
            "[scenario]\nname = \"test\"\nduration = \"10s\"\nsidecar = {header}\n\
             [service.orders]\nport = 8080\napp = {{ http = {{}} }}\n\
             [[timeline]]\nat = \"1s\"\nkill = {{ process = \"orders\", restart = \"1s\" }}\n\
             [[expect]]\nfault = \"kill-1\"\nthat = [\"killed == 1\"]\n{more}"
        );
        parse("test.toml", &text).unwrap().plan(SidecarKind::None).expectations.len()
    };
    assert_eq!(expected("\"none\"", ""), 1, "there is no other run that could judge it");
    assert_eq!(expected("[\"ours\", \"none\"]", ""), 0, "with a sidecar two are killed");
    assert_eq!(expected("[\"ours\", \"none\"]", "sidecar = \"none\"\n"), 1);
}

#[test]
fn seeds_differ_between_entities_and_follow_the_scenario() {
    let mut scenario = shipped("hello.toml");
    let seed = |plan: &Plan, i: usize| {
        let config: toml::Table = toml::from_str(plan.instances[i].sidecar.as_ref().unwrap()).unwrap();
        config["seed"].as_integer().unwrap()
    };
    let first = scenario.plan(SidecarKind::Ours);
    assert_ne!(seed(&first, 0), seed(&first, 1));
    scenario.seed += 1;
    let second = scenario.plan(SidecarKind::Ours);
    assert_ne!(seed(&first, 0), seed(&second, 0));
    assert_ne!(first.loads[0].seed, second.loads[0].seed);
}

#[test]
fn what_is_said_of_an_apps_port_adds_to_what_the_service_says_of_it() {
    let inbound = |keys: &str| {
        let plan = mesh(&format!("protocol = \"http\"\n[service.orders.sidecar]\n{keys}\n"));
        let file: toml::Table = toml::from_str(plan.instances[0].sidecar.as_ref().unwrap()).unwrap();
        file["inbound"].to_string()
    };
    let own = inbound("");
    assert_eq!(own, "[{ port = 8080, protocol = \"http\" }]");
    assert_eq!(
        inbound("inbound = [{ port = 8080, adaptive_concurrency = true }]"),
        "[{ adaptive_concurrency = true, port = 8080, protocol = \"http\" }]"
    );
    assert_eq!(
        inbound("inbound = [{ port = 9000, protocol = \"tcp\" }]"),
        "[{ port = 9000, protocol = \"tcp\" }, { port = 8080, protocol = \"http\" }]"
    );
}

#[test]
fn what_a_service_says_of_its_sidecars_goes_into_their_files_and_its_policy_into_everybodys() {
    let plan = mesh(
        "policy = { endpoints = [\"10.9.9.7:1\"], retry.attempts = 0 }\n\
         [service.orders.sidecar]\npassthrough = false\ntimeouts.connect = \"3s\"\n\
         [[service.orders.sidecar.cluster]]\nname = \"db\"\naddresses = [\"10.9.9.9:1\"]\nendpoints = [\"10.9.9.8:1\"]\n",
    );
    let text = |name: &str| {
        let instance = plan.instances.iter().find(|i| i.name == name).unwrap();
        instance.sidecar.clone().unwrap()
    };
    insta::assert_snapshot!(
        "settings_of_orders_0",
        text("orders-0").replace(&seed_of(&text("orders-0")), "SEED")
    );
    let caller = proxy::config::parse("sidecar.toml", &text("web")).unwrap();
    assert!(caller.passthrough, "those are keys of the sidecars of orders");
    assert_eq!(caller.clusters.len(), 1);
    assert_eq!(caller.clusters[0].retry.attempts, 0);
}

fn seed_of(config: &str) -> String {
    toml::from_str::<toml::Table>(config).unwrap()["seed"].to_string()
}

#[test]
fn replicas_are_dealt_zones_weights_and_labels_in_turn() {
    let plan = mesh("zones = [\"a\", \"b\"]\nweights = [3]\nlabels = [{ version = \"1\" }, {}, {}]\n");
    let web = plan.instances.iter().find(|i| i.name == "web").unwrap();
    let config = proxy::config::parse("sidecar.toml", web.sidecar.as_ref().unwrap()).unwrap();
    let endpoints = &config.clusters[0].endpoints;
    let zones: Vec<_> = endpoints.iter().map(|e| e.zone.as_deref().unwrap_or("none")).collect();
    assert_eq!(zones, ["a", "b", "a"]);
    assert!(endpoints.iter().all(|e| e.weight == 3));
    assert_eq!(endpoints.iter().map(|e| e.labels.len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn what_is_injected_several_times_ends_with_the_last() {
    let plan = mesh(
        "[[timeline]]\nname = \"flap\"\nat = \"1s\"\nfor = \"500ms\"\nevery = \"2s\"\ntimes = 3\n\
         partition = { between = [\"web\", \"orders-0\"] }\n\
         [[timeline]]\nname = \"roll\"\nat = \"1s\"\nrestart = { process = [\"orders-1\", \"orders-2/sidecar\"] }\n\
         [[expect]]\nduring = \"flap\"\nthat = [\"orders-0/app.app_requests_total > 0\"]\n",
    );
    assert_eq!(plan.timeline[0].until, Some(ms(5500)));
    assert_eq!(
        plan.expectations[0].window,
        Window::During { from: TimePoint::Begin(0), to: TimePoint::End(0) }
    );
    let Action::Restart(Restart { kill: Kill { processes, hard: false }, wait }) = &plan.timeline[1].action
    else {
        panic!("{:?}", plan.timeline[1].action)
    };
    assert_eq!((processes.len(), *wait), (3, ms(1000)));
    assert_eq!(plan.timeline[1].until, None);
}

#[test]
fn a_name_with_quotes_survives_in_the_sidecars_configuration() {
    let text = "[scenario]\nname = 'a \"b\" \\ c'\nduration = \"1s\"\n[service.a]\nport = 1\napp = { cmd = ['x\"y'] }\n";
    let plan = plan(text);
    assert_eq!(plan.name, "a \"b\" \\ c");
    assert!(
        toml::from_str::<proxy::config::model::File>(plan.instances[0].sidecar.as_ref().unwrap()).is_ok()
    );
}

#[test]
fn later_links_change_what_they_name_and_keep_the_rest() {
    let plan = mesh(
        "[[link]]\nbetween = [\"*\", \"*\"]\ndelay = \"2ms\"\njitter = \"1ms\"\n\
         [[link]]\nfrom = [\"web\"]\nto = [\"orders-2\"]\nloss = \"1%\"\n",
    );
    let base = LinkProfile { delay: ms(2), jitter: ms(1), loss: 0.0, bandwidth: 0 };
    assert_eq!(plan.links.len(), 12, "four instances, every ordered pair, none to itself");
    assert_eq!(profile(&plan.links, 3, 0), Some(base));
    assert_eq!(profile(&plan.links, 3, 2), Some(LinkProfile { loss: 0.01, ..base }));
    assert_eq!(profile(&plan.links, 2, 3), Some(base), "the other direction is untouched");
}

#[test]
fn a_fault_on_a_link_adds_or_replaces_and_keeps_what_it_does_not_name() {
    let plan = mesh(
        "[[link]]\nbetween = [\"web\", \"orders\"]\ndelay = \"2ms\"\nloss = \"1%\"\n\
         [[timeline]]\nat = \"1s\"\nfor = \"1s\"\nlink = { between = [\"web\", \"orders-0\"], delay = \"+5ms\" }\n\
         [[timeline]]\nat = \"3s\"\nfor = \"1s\"\nlink = { from = [\"orders-*\"], to = [\"web\"], delay = \"5ms\", loss = \"0%\" }\n\
         [[timeline]]\nat = \"6s\"\npartition = { between = [\"orders-0\", \"orders-1\"] }\n",
    );
    let links = |entry: usize| plan.timeline[entry].action.links().to_vec();
    assert_eq!(
        profile(&links(0), 3, 0),
        Some(LinkProfile { delay: ms(7), jitter: ms(0), loss: 0.01, bandwidth: 0 })
    );
    assert_eq!(links(0).len(), 2);
    assert_eq!(
        profile(&links(1), 1, 3),
        Some(LinkProfile { delay: ms(5), jitter: ms(0), loss: 0.0, bandwidth: 0 })
    );
    assert_eq!(links(1).len(), 3);
    assert_eq!(profile(&links(2), 0, 1), Some(LinkProfile::CUT));
    let names: Vec<_> = plan.timeline.iter().map(|e| (&e.name[..], e.until)).collect();
    assert_eq!(names, [("link-1", Some(ms(2000))), ("link-2", Some(ms(4000))), ("partition-3", None)]);
}

#[test]
fn windows_are_times_of_the_run_or_edges_of_an_entry() {
    let plan = mesh(
        "[load.l]\nfrom = \"web\"\nurl = \"http://orders.lab:8080?x=1\"\nrate = \"10/s\"\n\
         [[timeline]]\nname = \"k\"\nat = \"2s\"\nkill = { process = \"orders-0/app\", signal = \"TERM\", restart = \"1.5s\" }\n\
         [[expect]]\nthat = [\"l.errors == 0\"]\n\
         [[expect]]\nduring = \"k\"\nthat = [\"l.errors == 0\"]\n\
         [[expect]]\nduring = \"1s..1.5s\"\nthat = [\"l.errors == 0\"]\n\
         [[expect]]\nafter = \"k.end\"\nwithin = \"2s\"\nthat = [\"l.errors == 0\"]\n\
         [[expect]]\nfault = \"k\"\nthat = [\"killed == 1\"]\n",
    );
    let windows: Vec<_> = plan.expectations.iter().map(|e| e.window.clone()).collect();
    assert_eq!(
        windows,
        [
            Window::During { from: TimePoint::At(ms(0)), to: TimePoint::At(ms(10_000)) },
            Window::During { from: TimePoint::Begin(0), to: TimePoint::End(0) },
            Window::During { from: TimePoint::At(ms(1000)), to: TimePoint::At(ms(1500)) },
            Window::Recovery { start: TimePoint::End(0), within: ms(2000), hold: ms(1000) },
            Window::Evidence { entry: 0 },
        ]
    );
    assert_eq!([TimePoint::Begin(0), TimePoint::End(0)].map(|point| plan.time(point)), [ms(2000), ms(3500)]);
    assert!(
        plan.loads[0].target.host == "orders"
            && matches!(&plan.loads[0].target.call, CallKind::Http(call) if call.path == "/?x=1")
    );
    assert_eq!(plan.loads[0].from, 3);
}

#[test]
fn a_plan_says_who_everybody_is_and_who_signs_for_whom() {
    let plan = plan(include_str!("plans/identity.toml"));
    let mut json = serde_json::to_value(&plan).unwrap();
    for instance in json["instances"].as_array_mut().unwrap() {
        instance["sidecar"].take();
    }
    for key in ["name", "seed", "warmup", "duration", "sidecar", "loads", "timeline", "expectations", "links"]
    {
        json.as_object_mut().unwrap().remove(key);
    }
    insta::assert_snapshot!("identity_plan", serde_json::to_string_pretty(&json).unwrap());
    let config = |name: &str| {
        let instance = plan.instances.iter().find(|i| i.name == name).unwrap();
        instance.sidecar.clone()
    };
    insta::assert_snapshot!("identity_sidecar_of_web", config("web").unwrap());
    insta::assert_snapshot!("identity_sidecar_of_orders_0", config("orders-0").unwrap());
    insta::assert_snapshot!("identity_sidecar_of_ledger", config("ledger").unwrap());
    assert_eq!(config("mesh"), None, "an authority has no sidecar");
    let processes: Vec<String> = plan.processes().map(|p| plan.process_name(p)).collect();
    assert_eq!(processes.iter().filter(|p| p.ends_with("/ca")).collect::<Vec<_>>(), ["mesh/ca", "other/ca"]);
    assert!(processes.contains(&"web/sidecar".to_owned()) && !processes.contains(&"mesh/sidecar".to_owned()));
}

#[test]
fn an_authority_is_killed_paused_and_cut_off_as_any_instance_is() {
    let plan = mesh(
        "[ca.mesh]\n\
         [[timeline]]\nat = \"1s\"\nkill = { process = \"mesh/ca\", restart = \"1s\" }\n\
         [[timeline]]\nat = \"3s\"\nfor = \"1s\"\npause = { process = \"mesh\" }\n\
         [[timeline]]\nat = \"5s\"\ncrash = { instance = \"mesh\", restart = \"1s\" }\n\
         [[timeline]]\nat = \"8s\"\nfor = \"1s\"\npartition = { between = [\"mesh\", \"web\"] }\n",
    );
    for entry in &plan.timeline[..3] {
        let names: Vec<_> = entry.action.processes().iter().map(|p| plan.process_name(*p)).collect();
        assert_eq!(names, ["mesh/ca"], "{}", entry.name);
    }
    assert_eq!(plan.timeline[3].action.links().len(), 2);
}

#[test]
fn other_certificates_change_who_a_sidecar_says_it_is_and_nobody_elses_file() {
    let plan = mesh(
        "[ca.mesh]\n[cert.thief]\nid = \"spiffe://cluster.local/ns/default/sa/thief\"\n\
         [[timeline]]\nat = \"1s\"\nfor = \"2s\"\ncertificate = { instance = \"orders-1\", cert = \"thief\" }\n\
         [[timeline]]\nat = \"5s\"\nrotate = { ca = \"mesh\" }\n\
         [[timeline]]\nat = \"7s\"\nconfigure = { service = \"orders\", policy = { retry.attempts = 0 } }\n",
    );
    let Action::Certificate(fault) = &plan.timeline[0].action else { panic!("{:?}", plan.timeline[0]) };
    let names: Vec<_> = fault.processes.iter().map(|p| plan.process_name(*p)).collect();
    assert_eq!(names, ["orders-1/sidecar"]);
    let own = plan.configs();
    let changed: Vec<usize> = (0..own.len()).filter(|&i| own[i] != fault.configs[i]).collect();
    assert_eq!(changed, [fault.processes[0].instance]);
    let table: toml::Table = toml::from_str(&fault.configs[changed[0]]).unwrap();
    assert_eq!(table["identity"]["id"].as_str(), Some("spiffe://cluster.local/ns/default/sa/thief"));
    assert_eq!(table["identity"]["files"].as_str(), Some("identity"));
    assert_eq!(plan.timeline[1].until, None, "a new root is for good");
}
