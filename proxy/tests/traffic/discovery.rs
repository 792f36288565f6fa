//! Endpoints that come, change and go while requests pass: by name, from a name server of the
//! test's own and from a real one (dnsmasq), and from a real etcd. Callers notice nothing, whatever
//! becomes of the source.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SRV};
use hickory_proto::rr::{RData, Record, RecordType};
use proxy::config::names::absolute as name;
use proxy::discovery::etcd::wire::LeaseId;
use proxy::discovery::{EndpointStore, etcd};
use proxy::world::{KernelNet, Listener, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::common::{SERVICE, Seen, Side, TestNet, outbound, run, spawn, until};
use crate::server::{Etcd, Server, free};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Where endpoints pretend to be; the test's network leads elsewhere.
const ENDPOINTS: [&str; 3] = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"];

fn config(discovery: &str) -> String {
    format!(
        "service = 'web'\ninstance = 'web-1'\n[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\nprotocol = 'http'\n\
         balance.policy = 'round_robin'\ndiscovery = {discovery}\n"
    )
}

/// Three apps, and a sidecar that has learned of so many of them from `discovery`.
async fn mesh(discovery: &str, known: usize) -> (Side, Arc<EndpointStore>, [Seen; 3]) {
    let apps = [Seen::default(), Seen::default(), Seen::default()];
    let mut net = TestNet::to(SERVICE);
    for (endpoint, app) in ENDPOINTS.iter().zip(&apps) {
        net = net.redirect(endpoint.parse().unwrap(), app.app(OK).await);
    }
    let config = config(discovery);
    let side = outbound(net.clone(), &config).await;
    let store = side.discover(net, &config);
    until("the first answer", || endpoints(&store) == known).await;
    (side, store, apps)
}

fn described(store: &EndpointStore) -> String {
    store.status("orders", Instant::now()).expect("its endpoints are learned").to_string()
}

/// How many endpoints are known.
fn endpoints(store: &EndpointStore) -> usize {
    let line = described(store);
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find(|pair| pair[1] == "endpoints").map_or(usize::MAX, |pair| pair[0].parse().unwrap())
}

/// Waits until exactly these apps get requests.
async fn until_served_by(load: &Load, apps: &[Seen; 3], wanted: [bool; 3]) {
    let counts = || apps.each_ref().map(Seen::requests);
    for _ in 0..200 {
        // A few requests more, so that what was under way is over and each had its turn.
        let (settled, begun) = (load.done.get() + 4, load.done.get() + 16);
        until("requests go on", || load.done.get() >= settled).await;
        let before = counts();
        until("requests go on", || load.done.get() >= begun).await;
        let after = counts();
        if std::array::from_fn(|i| after[i] > before[i]) == wanted {
            return;
        }
    }
    panic!("not served by {wanted:?}: {:?}", counts());
}

/// One request after another, each of which must be answered as it should be.
struct Load {
    done: Rc<Cell<usize>>,
}

impl Load {
    async fn start(side: &Side) -> Load {
        let done = Rc::new(Cell::new(0));
        let (mut client, counted) = (side.client().await, done.clone());
        spawn(async move {
            loop {
                let answer = client.ask(GET).await;
                assert_eq!((answer.status(), answer.text()), (200, "ok"), "request {}", counted.get());
                counted.set(counted.get() + 1);
                sleep(Duration::from_millis(1)).await;
            }
        });
        Load { done }
    }
}

/// By owner and type.
type Records = BTreeMap<(String, u16), Vec<RData>>;

/// What a name server of the test's own says.
#[derive(Clone, Default)]
struct Zone {
    records: Rc<RefCell<Records>>,
    fails: Rc<Cell<bool>>,
    asked: Rc<Cell<usize>>,
}

impl Zone {
    async fn serve(&self) -> SocketAddr {
        let mut listener = KernelNet::default().bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let at = listener.local_addr().unwrap();
        let zone = self.clone();
        spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let zone = zone.clone();
                spawn(async move {
                    let mut length = [0; 2];
                    while io.read_exact(&mut length).await.is_ok() {
                        let mut question = vec![0; u16::from_be_bytes(length).into()];
                        io.read_exact(&mut question).await.unwrap();
                        let answer = zone.answer(&Message::from_vec(&question).unwrap());
                        io.write_all(&(answer.len() as u16).to_be_bytes()).await.unwrap();
                        io.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        at
    }

    fn answer(&self, question: &Message) -> Vec<u8> {
        self.asked.set(self.asked.get() + 1);
        let query = &question.queries[0];
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        if self.fails.get() {
            answer.metadata.response_code = ResponseCode::ServFail;
        }
        let records = self.records.borrow();
        let key = (query.name.to_string(), query.query_type().into());
        for data in records.get(&key).into_iter().flatten() {
            answer.add_answer(Record::from_rdata(query.name.clone(), 0, data.clone()));
        }
        answer.to_vec().unwrap()
    }

    fn set(&self, owner: &str, kind: RecordType, records: Vec<RData>) {
        self.records.borrow_mut().insert((format!("{owner}."), kind.into()), records);
    }

    /// The hosts at which endpoints are.
    fn hosts(&self, endpoints: &[usize]) {
        let a = |i: &usize| match ENDPOINTS[*i].parse::<SocketAddr>().unwrap().ip() {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(_) => unreachable!("they are IPv4"),
        };
        self.set("orders.example", RecordType::A, endpoints.iter().map(a).collect());
    }
}

/// The addresses of the host, as this name server has them.
fn host_at(server: SocketAddr) -> String {
    format!(
        "{{ dns = {{ name = 'orders.example', port = 8080, servers = ['{server}'], min_ttl = '10ms' }} }}"
    )
}

#[test]
fn addresses_of_a_name_come_and_go_and_a_name_server_that_fails_takes_none_away() {
    run(async {
        let zone = Zone::default();
        zone.hosts(&[0]);
        let server = zone.serve().await;
        let dns = host_at(server);
        let (side, _board, apps) = mesh(&dns, 1).await;
        let load = Load::start(&side).await;
        until_served_by(&load, &apps, [true, false, false]).await;
        zone.hosts(&[0, 1]);
        until_served_by(&load, &apps, [true, true, false]).await;
        zone.hosts(&[1, 2]);
        until_served_by(&load, &apps, [false, true, true]).await;

        zone.fails.set(true);
        zone.hosts(&[]);
        let asked = zone.asked.get();
        until("it is asked in vain", || zone.asked.get() > asked + 3).await;
        until_served_by(&load, &apps, [false, true, true]).await;
        zone.hosts(&[0]);
        zone.fails.set(false);
        until_served_by(&load, &apps, [true, false, false]).await;
    });
}

#[test]
fn a_service_has_the_ports_priorities_and_weights_that_its_records_say() {
    run(async {
        let zone = Zone::default();
        let srv = |priority, host: &str| RData::SRV(SRV::new(priority, 1, 8080, name(host).unwrap()));
        for (i, endpoint) in ENDPOINTS.iter().enumerate() {
            let IpAddr::V4(address) = endpoint.parse::<SocketAddr>().unwrap().ip() else { unreachable!() };
            zone.set(&format!("orders-{i}.example"), RecordType::A, vec![RData::A(A(address))]);
        }
        let service = "_http._tcp.orders.example";
        let set = |first: u16, second: u16| {
            let records = vec![srv(first, "orders-0.example"), srv(second, "orders-1.example")];
            zone.set(service, RecordType::SRV, records);
        };
        set(10, 20);
        let server = zone.serve().await;
        let dns = format!("{{ dns = {{ srv = '{service}', servers = ['{server}'], min_ttl = '10ms' }} }}");
        let (side, _board, apps) = mesh(&dns, 2).await;
        let load = Load::start(&side).await;
        until_served_by(&load, &apps, [true, false, false]).await;
        set(20, 10);
        until_served_by(&load, &apps, [false, true, false]).await;
        set(10, 10);
        until_served_by(&load, &apps, [true, true, false]).await;
        zone.set(service, RecordType::SRV, vec![srv(0, "orders-2.example")]);
        until_served_by(&load, &apps, [false, false, true]).await;
    });
}

#[test]
fn a_name_without_addresses_leaves_nobody() {
    run(async {
        let zone = Zone::default();
        zone.hosts(&[0]);
        let server = zone.serve().await;
        let dns = host_at(server);
        let (side, store, _apps) = mesh(&dns, 1).await;
        let mut client = side.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        zone.hosts(&[]);
        until("it is believed", || endpoints(&store) == 0).await;
        // It comes into force within a moment of that.
        while client.ask(GET).await.status() != 503 {}
    });
}

#[test]
fn dnsmasq_is_followed_and_its_end_changes_nothing_for_callers() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let write = |endpoints: &[usize]| {
            let line = |i: &usize| format!("{} orders.example\n", ENDPOINTS[*i].split(':').next().unwrap());
            std::fs::write(&hosts, endpoints.iter().map(line).collect::<String>()).unwrap();
        };
        write(&[0, 1]);
        let at = free();
        let (port, file) = (format!("--port={}", at.port()), format!("--addn-hosts={}", hosts.display()));
        let start = || {
            let args = [
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=",
                "--local-ttl=0",
                "--auth-ttl=0",
                &port,
                &file,
            ];
            Server::start("dnsmasq", "dnsmasq-base", &args)
        };
        let Some(server) = start() else { return };
        let dns = host_at(at);
        let (side, _board, apps) = mesh(&dns, 2).await;
        let load = Load::start(&side).await;
        until_served_by(&load, &apps, [true, true, false]).await;
        write(&[1, 2]);
        let pid = nix::unistd::Pid::from_raw(server.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        until_served_by(&load, &apps, [false, true, true]).await;

        drop(server);
        sleep(Duration::from_millis(300)).await;
        until_served_by(&load, &apps, [false, true, true]).await;
        write(&[0]);
        let _server = start().expect("it was there before");
        until_served_by(&load, &apps, [true, false, false]).await;
    });
}

/// A lease, as soon as etcd gives one.
async fn lease(client: &etcd::EtcdClient<KernelNet>) -> LeaseId {
    loop {
        match client.grant(600).await {
            Ok(granted) => return granted.id,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[test]
fn endpoints_in_etcd_come_change_and_go_under_load_and_its_death_changes_nothing_for_callers() {
    run(async {
        let Some(mut server) = Etcd::start() else { return };
        let at = server.address;
        let prefix = "/sidelab/services/orders/";
        let client = etcd::EtcdClient::new(KernelNet::default(), vec![at]);
        let lease = lease(&client).await;
        let put = async |i: usize, more: &str| {
            let document = format!("{{\"address\":\"{}\"{more}}}", ENDPOINTS[i]);
            client.put(&format!("{prefix}orders-{i}"), &document, lease).await.expect("a put");
        };
        put(0, "").await;
        put(1, "").await;
        let source = format!("{{ etcd = {{ endpoints = ['http://{at}'], prefix = '{prefix}' }} }}");
        let (side, store, apps) = mesh(&source, 2).await;
        let load = Load::start(&side).await;
        until_served_by(&load, &apps, [true, true, false]).await;
        // Come.
        put(2, "").await;
        until_served_by(&load, &apps, [true, true, true]).await;
        // Change: of a worse priority it is not needed; of the same it is; with a weight it gets
        // its share.
        put(0, ",\"priority\":1").await;
        until_served_by(&load, &apps, [false, true, true]).await;
        put(0, ",\"priority\":0,\"weight\":3,\"zone\":\"a\",\"labels\":{\"version\":\"2\"}").await;
        until_served_by(&load, &apps, [true, true, true]).await;
        let (before, begun) = (apps.each_ref().map(Seen::requests), load.done.get());
        until("a hundred requests", || load.done.get() >= begun + 100).await;
        let share = |i: usize| apps[i].requests() - before[i];
        assert!((55..=65).contains(&share(0)), "three in five: {} of 100", share(0));

        // Die, with everything in the middle of it, and come back.
        server.kill();
        until_served_by(&load, &apps, [true, true, true]).await;
        until("it is missed", || described(&store).contains("stale for")).await;
        server.run();
        // Go: a lease that ends takes all of its keys along, so those that stay are moved to
        // another.
        let other = self::lease(&client).await;
        let document = format!("{{\"address\":\"{}\"}}", ENDPOINTS[2]);
        client.put(&format!("{prefix}orders-2"), &document, other).await.expect("a put");
        client.revoke(lease).await.expect("it is known");
        until_served_by(&load, &apps, [false, false, true]).await;
        println!("{} requests, none failed", load.done.get());
    });
}
