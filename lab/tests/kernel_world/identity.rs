//! Identity on the kernel: who may read what, and that a check of packets can fail.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::kernel::cleanup::REGISTRY;
use lab::plan::{APP_UID, CA_UID, Plan, SIDECAR_UID, SidecarKind};
use lab::scenario::Scenario;
use lab::world::World;
use pcap_file::pcap::PcapReader;

use super::testbed::{Testbed, can_run};

const EXE: &str = env!("CARGO_BIN_EXE_lab");

fn plan(text: &str) -> Plan {
    let scenario: Scenario = lab::scenario::parse("test.toml", text).unwrap_or_else(|e| panic!("{e:?}"));
    scenario.plan(SidecarKind::Ours)
}

const MESH: &str = "[scenario]\nname = \"test\"\nduration = \"1s\"\n\
    [ca.mesh]\n[cert.own]\n\
    [service.web]\n\
    [service.orders]\nport = 8080\ntls = { cert = \"own\", mode = \"strict\" }\napp = { http = {} }\n";

#[tokio::test]
async fn a_sidecar_reads_its_own_certificates_and_nobody_else_does() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("identity");
    let (world, _) = bench.world(plan(MESH), EXE.into());
    world.up().await.unwrap();
    let run = Path::new(REGISTRY).join(&bench.run_id);
    let instance = |name: &str| world.plan().instances.iter().position(|i| i.name == name).unwrap();
    // As `user`, in the namespaces of an instance: the files of `folder`, or nothing if it may not
    // look.
    let list = |name: &str, user: u32, folder: PathBuf| {
        let shell = format!("ls {0} && cat {0}/*", folder.display());
        let node = world.node(instance(name)).unwrap();
        let said = node.run(move || Command::new("sh").args(["-c", &shell]).uid(user).gid(user).output());
        let said = said.unwrap().unwrap();
        said.status.success().then(|| String::from_utf8(said.stdout).unwrap())
    };
    let identity = || run.join("identity");

    let web = list("web", SIDECAR_UID, identity()).expect("its own user may");
    assert!(web.contains("roots.pem") && web.contains("token"), "{web}");
    assert!(!web.contains("PRIVATE KEY"), "the key of a certificate from the authority is in memory only");
    let orders = list("orders", SIDECAR_UID, identity()).expect("its own user may");
    assert!(orders.contains("tls.key") && orders.contains("PRIVATE KEY"), "it was to have files");

    assert_eq!(list("orders", APP_UID, identity()), None, "an app sees no key");
    for user in [APP_UID, SIDECAR_UID] {
        assert_eq!(list("web", user, run.join("identities/orders")), None, "nor the files of others");
        assert_eq!(list("web", user, run.join("data/mesh")), None, "nor what the authority keeps");
    }
    let written = format!("echo > {}/tls.key", identity().display());
    let node = world.node(instance("orders")).unwrap();
    let wrote = node
        .run(move || Command::new("sh").args(["-c", &written]).uid(SIDECAR_UID).gid(SIDECAR_UID).output());
    assert!(!wrote.unwrap().unwrap().status.success(), "a sidecar changes nothing there");

    let state = std::fs::metadata(run.join("data/mesh")).unwrap();
    assert_eq!((state.uid(), state.permissions().mode() & 0o777), (CA_UID, 0o700));
    let authority = world.plan().processes().find(|p| world.plan().process_name(*p) == "mesh/ca").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid(authority).unwrap())).unwrap();
    assert!(status.contains(&format!("Uid:\t{CA_UID}\t{CA_UID}")), "{status}");
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

/// What a `no_plaintext_between` of `web` and `orders` says, by condition.
fn judged(services: &str) -> Vec<(String, bool)> {
    let text = format!(
        "[scenario]\nname = \"test\"\nduration = \"1s\"\nwarmup = \"100ms\"\n{services}\
         [load.checkout]\nfrom = \"web\"\nurl = \"http://orders:8080/\"\nrate = \"20/s\"\n\
         [[expect]]\nno_plaintext_between = [\"web\", \"orders\"]\n"
    );
    let bench = Testbed::new("capture");
    let scenario = lab::scenario::parse("test.toml", &text).unwrap_or_else(|e| panic!("{e:?}"));
    let mut options = lab::kernel::Options::new(EXE.into(), bench.dir.path().join("run"));
    options.run_id.clone_from(&bench.run_id);
    let report = lab::run_on_kernel(&scenario, options).unwrap();
    let file = bench.dir.path().join("run/captures/web.pcap");
    let mut packets = PcapReader::new(File::open(file).unwrap()).unwrap();
    let count = std::iter::from_fn(|| packets.next_packet().map(Result::unwrap).map(drop)).count();
    assert!(count > 20, "the file has the packets");
    let conditions = &report.expectations.first().expect("one expectation").conditions;
    conditions.iter().map(|condition| (condition.text.clone(), condition.passed)).collect()
}

#[test]
fn plaintext_on_the_wire_breaks_the_expectation_and_tls_does_not() {
    if !can_run() {
        return;
    }
    let orders = "port = 8080\nprotocol = \"http\"\napp = { http = {} }\n";
    let encrypted = judged(&format!("[ca.mesh]\n[service.web]\n[service.orders]\n{orders}"));
    assert_eq!(encrypted.len(), 8, "{encrypted:?}");
    assert!(encrypted.iter().all(|(_, passed)| *passed), "{encrypted:?}");
    let plain = judged(&format!("[service.web]\n[service.orders]\n{orders}"));
    let broken = plain.iter().filter(|(_, passed)| !passed).map(|(text, _)| text.as_str());
    let broken: Vec<&str> = broken.collect();
    assert_eq!(broken.len(), 6, "no records, plaintext, and words of the load, each way: {broken:?}");
}
