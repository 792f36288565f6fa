//! What a sidecar needs of a registry, asked of a real etcd (Debian's package) and of the
//! simulator's built-in one by the same client: they must tell the same story, or a simulated run
//! would prove nothing.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::app;
use lab::app::{AppKind, AppSpec, Registry};
use proxy::discovery::etcd::wire::{EventKind, LeaseId, Streamed, WatchMessage};
use proxy::discovery::etcd::{EtcdClient, EtcdError, position::Next, position::Position};
use proxy::world::{KernelNet, Listener, Net, RngTree, SystemWall, World};
use tests::server::{Etcd, free};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

const PREFIX: &str = "/sidelab/services/orders/";
/// Long enough for a machine that is busy with other tests.
const WITHIN: Duration = Duration::from_secs(30);
/// The shortest lease that etcd gives.
const TTL: u64 = 2;

/// What a watch of the prefix tells from a revision on, until it has told `events` changes or has
/// ended.
async fn told(client: &EtcdClient<KernelNet>, from: i64, events: usize) -> Vec<WatchMessage> {
    let mut lines = client.watch(PREFIX, from).await.expect("a watch");
    let (mut heard, mut changes) = (Vec::new(), 0);
    while heard.is_empty() || changes < events {
        let line = timeout(WITHIN, lines.next()).await.expect("news in time").expect("a whole line");
        let Some(line) = line else { break };
        let message: Streamed<WatchMessage> = serde_json::from_slice(&line).expect("a message");
        let message = message.result.expect("no error");
        changes += message.events.len();
        let over = message.canceled;
        heard.push(message);
        if over {
            break;
        }
    }
    heard
}

/// `+orders-0=a` for a put, `-orders-0` for a deletion.
fn words(messages: &[WatchMessage]) -> Vec<String> {
    let word = |event: &proxy::discovery::etcd::wire::Event| {
        let key = String::from_utf8(event.kv.key.clone()).unwrap();
        let name = key.strip_prefix(PREFIX).expect("only keys of the prefix").to_owned();
        match event.kind {
            EventKind::Put => format!("+{name}={}", String::from_utf8(event.kv.value.clone()).unwrap()),
            EventKind::Delete => format!("-{name}"),
        }
    };
    messages.iter().flat_map(|message| &message.events).map(word).collect()
}

/// The story. `restart` ends the registry as a crash does and starts it again on the same data.
async fn story(server: SocketAddr, restart: impl AsyncFnOnce()) {
    // The first does not listen: the next one is asked.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let client = EtcdClient::new(KernelNet::default(), vec![nobody, server]);
    let key = |name: &str| format!("{PREFIX}{name}");

    let empty = client.list(PREFIX).await.expect("an empty list");
    assert!(empty.kvs.is_empty() && empty.header.revision >= 1);
    let mut position = Position::default();
    position.listed(empty.header);

    // Leases: put, renewed, unknown, revoked.
    let granted = client.grant(60).await.expect("a lease");
    assert_eq!(client.renew(granted.id).await, Ok(60));
    client.put(&key("orders-0"), "a", granted.id).await.expect("a put");
    client.put(&key("orders-1"), "b", granted.id).await.expect("a put");
    let elsewhere = "/sidelab/services/orders2/x";
    client.put(elsewhere, "c", granted.id).await.expect("a put");
    let unknown = LeaseId(granted.id.0 ^ 0x1000);
    assert_eq!(client.renew(unknown).await, Err(EtcdError::NoLease));
    assert_eq!(client.put(&key("orders-2"), "d", unknown).await.unwrap_err(), EtcdError::NoLease);
    assert_eq!(client.revoke(unknown).await, Err(EtcdError::NoLease));

    // A watch resumes where the list was read, and tells nothing of other prefixes.
    let Next::Watch(from) = position.next() else { panic!("it has a list") };
    let heard = told(&client, from, 2).await;
    assert!(heard[0].created && position.begun(heard[0].header));
    assert_eq!(words(&heard), ["+orders-0=a", "+orders-1=b"]);
    position.seen(heard.last().unwrap().revision());

    // What was there before a crash is there after it, and a watch goes on.
    restart().await;
    let listed = timeout(WITHIN, async {
        loop {
            match client.list(PREFIX).await {
                Ok(listed) => return listed,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let listed = listed.await.expect("it comes back");
    assert_eq!((listed.kvs.len(), listed.header.cluster_id), (2, empty.header.cluster_id));
    assert_eq!(client.renew(granted.id).await, Ok(60), "leases outlive a crash");

    // A lease that nobody renews takes its keys along; a put under another lease moves a key.
    let short = client.grant(TTL).await.expect("a lease");
    client.put(&key("orders-1"), "e", short.id).await.expect("a put");
    client.put(&key("orders-2"), "f", short.id).await.expect("a put");
    client.put(&key("orders-2"), "g", granted.id).await.expect("a put");
    let Next::Watch(from) = position.next() else { panic!("it has a list") };
    let heard = told(&client, from, 4).await;
    assert!(position.begun(heard[0].header), "the history is the same");
    assert_eq!(words(&heard), ["+orders-1=e", "+orders-2=f", "+orders-2=g", "-orders-1"]);
    assert_eq!(client.renew(short.id).await, Err(EtcdError::NoLease));

    // Revoking takes all keys of a lease at once.
    let last = heard.last().unwrap().header.revision;
    client.revoke(granted.id).await.expect("it is known");
    let heard = told(&client, last + 1, 2).await;
    assert_eq!(words(&heard), ["-orders-0", "-orders-2"]);
    assert!(client.list(PREFIX).await.unwrap().kvs.is_empty());

    // A revision from the future: the watch begins, and what it says of itself gives it away.
    let future = heard.last().unwrap().header.revision + 1000;
    let mut ahead = Position::default();
    ahead.listed(proxy::discovery::etcd::wire::Header { revision: future, ..empty.header });
    let begun = told(&client, future + 1, 0).await;
    assert!(begun[0].created && !ahead.begun(begun[0].header));

    client.probe(PREFIX).await.expect("the server that answered last is asked, and lives");
    client.next_server();
    client.probe(PREFIX).await.expect_err("no other is asked than the one at hand");
}

#[tokio::test]
async fn the_built_in_registry_tells_the_story() {
    let story = async {
        let net = KernelNet::default();
        let disk = app::RegistryData::default();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut running = None;
        let mut start = async |port: u16| {
            // Dropping the last one's set ends its process.
            running = None;
            let listener = net.bind(at(port)).await.expect("a port");
            let metrics = net.bind(at(0)).await.expect("a port");
            let address = listener.local_addr().unwrap();
            let spec = AppSpec { instance: "registry".into(), port, kind: AppKind::Registry(Registry {}) };
            let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let serving = app::serve_on(world, spec, disk.clone(), listener, metrics);
            net.spawn("registry", async move {
                tokio::select! {
                    _ = ended => {}
                    served = serving => served.expect("it serves"),
                }
            });
            running = Some(end);
            address
        };
        let address = start(0).await;
        story(address, async || {
            start(address.port()).await;
        })
        .await;
    };
    LocalSet::new().run_until(story).await;
}

/// Waits until etcd answers.
async fn ready(etcd: &Etcd) {
    let client = EtcdClient::new(KernelNet::default(), vec![etcd.address]);
    let answers = async {
        while client.list(PREFIX).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(WITHIN, answers).await.expect("etcd answers");
}

#[tokio::test]
async fn a_real_etcd_tells_the_same_story() {
    let Some(mut etcd) = Etcd::start() else { return };
    let story = async {
        ready(&etcd).await;
        let address = etcd.address;
        story(address, async || {
            etcd.kill();
            etcd.run();
        })
        .await;
    };
    LocalSet::new().run_until(story).await;
}

#[tokio::test]
async fn a_sidecar_that_was_killed_disappears_from_the_registry_within_its_lease() {
    let Some(etcd) = Etcd::start() else { return };
    let story = async {
        ready(&etcd).await;
        let client = EtcdClient::new(KernelNet::default(), vec![etcd.address]);
        let ports: Vec<u16> = (0..5).map(|_| free().port()).collect();
        let file = etcd.folder.path().join("sidecar.toml");
        let text = format!(
            "service = 'orders'\ninstance = 'orders-0'\nworkers = 1\ntimeouts.drain_min = '0s'\n\
             listen = {{ outbound = {}, inbound = {}, admin = {}, metrics = {}, health = {} }}\n\
             [register]\naddress = '10.0.0.7:8080'\nttl = '{TTL}s'\nzone = 'a'\n\
             etcd = {{ endpoints = ['http://{}'], prefix = '{PREFIX}' }}\n",
            ports[0], ports[1], ports[2], ports[3], ports[4], etcd.address
        );
        std::fs::write(&file, text).unwrap();
        let start = || {
            Command::new(env!("CARGO_BIN_EXE_lab-under-test"))
                .args(["__sidecar", "--config"])
                .arg(&file)
                .stderr(Stdio::null())
                .spawn()
                .expect("a sidecar")
        };
        let there = async |wanted: bool| {
            let same = async {
                loop {
                    let listed = client.list(PREFIX).await.expect("etcd answers").kvs;
                    if listed.is_empty() != wanted {
                        return listed;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(WITHIN, same).await.expect("it comes and goes in time")
        };

        let mut sidecar = start();
        let listed = there(true).await;
        assert_eq!(listed[0].key, format!("{PREFIX}orders-0").as_bytes());
        let endpoint = proxy::discovery::document::read(&listed[0].value).expect("a document");
        assert_eq!(
            (endpoint.address.to_string(), endpoint.zone.as_deref()),
            ("10.0.0.7:8080".into(), Some("a"))
        );
        // It renews: after two leases it is still there.
        sleep(Duration::from_secs(2 * TTL)).await;
        assert_eq!(client.list(PREFIX).await.unwrap().kvs.len(), 1);
        sidecar.kill().unwrap();
        sidecar.wait().unwrap();
        assert_eq!(client.list(PREFIX).await.unwrap().kvs.len(), 1, "nobody has told etcd");
        there(false).await;

        // One that is told to end takes itself out before it has ended.
        let mut sidecar = start();
        there(true).await;
        let pid = nix::unistd::Pid::from_raw(sidecar.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(sidecar.wait().unwrap().success());
        assert!(client.list(PREFIX).await.unwrap().kvs.is_empty());
    };
    LocalSet::new().run_until(story).await;
}
