//! Laws of picking, through a configuration and a cluster, for every policy.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::*;
use crate::config::{self, OutlierDetection};
use crate::endpoint::{Outcome, Reason};
use crate::telemetry::Metrics;
use crate::world::RngTree;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// For an hour.
const EJECT: OutlierDetection = OutlierDetection {
    consecutive_failures: 1,
    success_rate: 0.0,
    min_requests: 0,
    window: S,
    base: HOUR,
    max: HOUR,
    cap: 1.0,
};
const HOUR: Duration = Duration::from_secs(3600);
const POLICIES: [&str; 6] = ["p2c", "least_request", "round_robin", "random", "ring_hash", "maglev"];

fn setting(policy: &str) -> String {
    let hashes = ["ring_hash", "maglev"].contains(&policy);
    let hash = if hashes { ", hash = 'header:x-user', table_size = 1009" } else { "" };
    let hash = if policy == "ring_hash" { ", hash = 'header:x-user'" } else { hash };
    format!("policy = '{policy}'{hash}")
}

/// A snapshot of one cluster: keys of its balance, and its endpoints with what follows the address.
fn snapshot(balance: &str, endpoints: &[&str]) -> config::Snapshot {
    let endpoints = endpoints.iter().enumerate();
    let endpoints: Vec<_> =
        endpoints.map(|(i, rest)| format!("{{ address = '10.0.0.{i}:80'{rest} }}")).collect();
    let text = format!(
        "service = 'web'\nzone = 'a'\n[[cluster]]\nname = 'orders'\naddresses = ['10.96.0.1:80']\n\
         endpoints = [{}]\nbalance = {{ {balance} }}\n",
        endpoints.join(", ")
    );
    config::parse("sidecar.toml", &text).unwrap()
}

fn table(snapshot: config::Snapshot, previous: Option<&Table>) -> (Table, Metrics) {
    let metrics = Metrics::default();
    (Table::new(Arc::new(snapshot), previous, &metrics, Instant::now()), metrics)
}

fn cluster(balance: &str, endpoints: &[&str]) -> Arc<Cluster> {
    table(snapshot(balance, endpoints), None).0.clusters[0].clone()
}

fn eject(cluster: &Cluster, position: usize, now: Instant) {
    eject_for(cluster, position, now, HOUR);
}

fn eject_for(cluster: &Cluster, position: usize, now: Instant, time: Duration) {
    let config = OutlierDetection { base: time, max: time, ..EJECT };
    let rng = &mut RngTree::new(1).rng();
    cluster.endpoints[position].eject(Reason::Consecutive, Outcome::Failure(None), now, &config, rng);
}

/// A request that is over at once.
fn visit(cluster: &Cluster, position: usize, now: Instant) {
    cluster.endpoints[position].begin(now).0.answered();
}

/// Picks with a header of its own each time, so that hashes spread; each request is over at once.
fn pick(cluster: &Cluster, now: Instant, rng: &mut StdRng, attempted: Attempted) -> Option<usize> {
    let context = PickContext { hash: cluster.config.balance.hash.as_ref().map(|_| rng.random()), subset: 0 };
    let picked = cluster.pick(now, rng, context, attempted)?;
    cluster.count(picked);
    visit(cluster, picked.position, now);
    Some(picked.position)
}

fn counts(cluster: &Cluster, now: Instant, picks: u32) -> Vec<u32> {
    let mut rng = RngTree::new(1).rng();
    let mut counts = vec![0; cluster.endpoints.len()];
    for _ in 0..picks {
        counts[pick(cluster, now, &mut rng, Attempted::default()).expect("there is somebody")] += 1;
    }
    counts
}

/// Five standard deviations of a binomial distribution.
fn assert_shares(counts: &[u32], weights: &[f64], what: &str) {
    let (n, total): (u32, f64) = (counts.iter().sum(), weights.iter().sum());
    for (count, weight) in counts.iter().zip(weights) {
        let share = weight / total;
        let (mean, deviation) = (f64::from(n) * share, (f64::from(n) * share * (1.0 - share)).sqrt());
        assert!(
            (f64::from(*count) - mean).abs() <= 5.0 * deviation + 1.0,
            "{what}: {counts:?} for {weights:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn idle_endpoints_get_their_shares_by_every_policy_that_draws_or_takes_turns() {
    for policy in ["p2c", "least_request", "round_robin", "random"] {
        let equal = cluster(&setting(policy), &[""; 3]);
        assert_shares(&counts(&equal, Instant::now(), 6000), &[1.0; 3], policy);
        let weighted = cluster(&setting(policy), &["", ", weight = 2", ", weight = 3"]);
        assert_shares(&counts(&weighted, Instant::now(), 6000), &[1.0, 2.0, 3.0], policy);
    }
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_three_is_picked_by_fewer_than_one_request_in_a_hundred() {
    let (cluster, now) = (cluster("", &[""; 3]), Instant::now());
    cluster.endpoints[1].observe(now - S, now);
    let picked = counts(&cluster, now, 3000)[1];
    // It is in two pairs of three, and explored once in 128 of them.
    assert!((10..30).contains(&picked), "{picked}");
}

#[tokio::test(start_paused = true)]
async fn after_a_stall_one_good_answer_gives_an_endpoint_its_share_back() {
    let (cluster, now) = (cluster("", &[""; 3]), Instant::now());
    let mut rng = RngTree::new(1).rng();
    for (endpoint, latency) in cluster.endpoints.iter().zip([5 * MS, 5 * MS, 3 * S]) {
        endpoint.observe(now - latency, now);
    }
    // A hundred requests a second, each answered after 5 ms.
    let mut after = 0;
    let (mut at, mut last) = (now, [0; 3]);
    for request in 0..1000 {
        at += 10 * MS;
        let picked =
            cluster.pick(at, &mut rng, PickContext::default(), Attempted::default()).unwrap().position;
        visit(&cluster, picked, at);
        cluster.endpoints[picked].observe(at, at + 5 * MS);
        if picked == 2 && after == 0 {
            after = request;
        }
        if request >= 500 {
            last[picked] += 1;
        }
    }
    assert!((100..300).contains(&after), "explored after {after} requests");
    assert!(last[2] > 100, "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_nobody_is_avoided_once_they_have_given_up() {
    let (cluster, now) = (cluster("", &[""; 3]), Instant::now());
    for endpoint in cluster.endpoints.iter() {
        endpoint.observe(now - 5 * MS, now);
    }
    let (given_up, _) = cluster.endpoints[0].begin(now);
    tokio::time::advance(S).await;
    drop(given_up);
    assert_eq!(cluster.endpoints[0].latency(Instant::now()), S);
    assert!(counts(&cluster, Instant::now(), 1000)[0] < 10);
}

#[tokio::test(start_paused = true)]
async fn active_requests_count_by_weight() {
    // A quarter of the weight holds a quarter of the requests under p2c. Under Envoy's least
    // request, which takes turns by weight over active requests, what is held grows as the root of
    // the weight: 1 to 1.73.
    for (policy, expected) in [("p2c", 90..=125), ("least_request", 140..=155)] {
        let (cluster, now) = (cluster(&setting(policy), &["", ", weight = 3"]), Instant::now());
        for endpoint in cluster.endpoints.iter() {
            endpoint.observe(now - MS, now);
        }
        let mut rng = RngTree::new(1).rng();
        let mut held = Vec::new();
        for _ in 0..400 {
            let picked =
                cluster.pick(now, &mut rng, PickContext::default(), Attempted::default()).unwrap().position;
            held.push(cluster.endpoints[picked].begin(now).0);
        }
        let light = cluster.endpoints[0].pending();
        assert!(expected.contains(&light), "{policy}: {light} of 400");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_tried_at_once_by_one_request() {
    let (cluster, now) = (cluster("", &[""; 3]), Instant::now());
    for endpoint in &cluster.endpoints[..2] {
        endpoint.observe(now - MS, now);
    }
    assert_shares(&counts(&cluster, now, 3000)[2..], &[2.0], "drawn in two pairs of three");
    let _trial = cluster.endpoints[2].begin(now);
    assert_eq!(counts(&cluster, now, 3000)[2], 0);
}

#[tokio::test(start_paused = true)]
async fn too_few_available_endpoints_do_not_get_everything() {
    for policy in POLICIES {
        let snapshot = snapshot(&setting(policy), &[""; 5]);
        let (table, metrics) = table(snapshot, None);
        let (cluster, now) = (&table.clusters[0], Instant::now());
        eject(cluster, 0, now);
        eject(cluster, 1, now);
        assert_eq!(counts(cluster, now, 500)[..2], [0, 0], "{policy}: three of five are enough");
        eject(cluster, 2, now);
        assert!(counts(cluster, now, 500).iter().all(|count| *count > 20), "{policy}: two are not");
        let line = r#"proxy_picks_total{side="outbound",cluster="orders",kind="panic"} 500"#;
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_priority_takes_over_what_the_first_cannot_carry_and_gives_it_back() {
    for policy in POLICIES {
        let endpoints = ["", "", ", priority = 1", ", priority = 1"];
        let (table, metrics) = table(snapshot(&setting(policy), &endpoints), None);
        let (cluster, now) = (&table.clusters[0], Instant::now());
        assert_eq!(counts(cluster, now, 500)[2..], [0, 0], "{policy}");
        eject(cluster, 0, now);
        let half = counts(cluster, now, 2000);
        // One of two carries 70 %.
        assert_shares(&[half[1], half[2] + half[3]], &[0.7, 0.3], policy);
        let line = format!("kind=\"failover\"}} {}\n", half[2] + half[3]);
        assert!(metrics.text().contains(&line), "{line}{}", metrics.text());
        eject(cluster, 1, now);
        assert_eq!(counts(cluster, now, 500)[..2], [0, 0], "{policy}");
        let later = now + 2 * HOUR;
        assert!(counts(cluster, later, 500)[0] > 0, "{policy}: an ejection that has lapsed is noticed");
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_comes_first_and_the_rest_steps_in() {
    for policy in POLICIES {
        let endpoints = [", zone = 'a'", ", zone = 'a'", ", zone = 'b'", ""];
        let snapshot = snapshot(&setting(policy), &endpoints);
        let (table, metrics) = table(snapshot, None);
        let (cluster, now) = (&table.clusters[0], Instant::now());
        assert_eq!(counts(cluster, now, 500)[2..], [0, 0], "{policy}");
        eject(cluster, 0, now);
        let counted = counts(cluster, now, 2000);
        assert_shares(&[counted[1], counted[2] + counted[3]], &[0.7, 0.3], policy);
        let line = format!("kind=\"other_zone\"}} {}\n", counted[2] + counted[3]);
        assert!(metrics.text().contains(&line), "{line}{}", metrics.text());
    }
    let (elsewhere, metrics) = table(snapshot("", &[", zone = 'b'"; 2]), None);
    counts(&elsewhere.clusters[0], Instant::now(), 500);
    let line = "kind=\"other_zone\"} 0\n";
    assert!(metrics.text().contains(line), "nobody is in the own zone: {}", metrics.text());
    let (blind, now) = (cluster("zone_aware = false", &[", zone = 'a'", ", zone = 'b'"]), Instant::now());
    assert_shares(&counts(&blind, now, 2000), &[1.0, 1.0], "not asked to");
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_where_it_is_while_others_come_and_go() {
    for policy in ["ring_hash", "maglev"] {
        let (cluster, now) = (cluster(&setting(policy), &[""; 5]), Instant::now());
        let mut rng = RngTree::new(1).rng();
        let mut owner = |user: u32, attempted| {
            let mut headers = HeaderMap::new();
            headers.insert("x-user", HeaderValue::from(user));
            let context = cluster.context(Some(&headers), [10, 0, 0, 1].into());
            cluster.pick(now, &mut rng, context, attempted).unwrap().position
        };
        let before: Vec<_> = (0..1000).map(|user| owner(user, Attempted::default())).collect();
        let again: Vec<_> = (0..1000).map(|user| owner(user, Attempted::default())).collect();
        assert_eq!(before, again, "{policy}");
        let mut attempted = Attempted::default();
        attempted.insert(before[7]);
        let second = owner(7, attempted);
        assert!(
            second != before[7] && second == owner(7, attempted),
            "{policy}: its second place is its own too"
        );
        eject(&cluster, 4, now);
        for (user, before) in (0..).zip(&before) {
            let after = owner(user, Attempted::default());
            assert_eq!(after == *before, *before != 4, "{policy}: user {user} went from {before} to {after}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_what_is_hashed_goes_anywhere() {
    let (cluster, now) = (cluster("policy = 'maglev', hash = 'cookie:session'", &[""; 3]), Instant::now());
    let mut rng = RngTree::new(1).rng();
    let mut counts = [0; 3];
    for _ in 0..3000 {
        let context = cluster.context(Some(&HeaderMap::new()), [10, 0, 0, 1].into());
        counts[cluster.pick(now, &mut rng, context, Attempted::default()).unwrap().position] += 1;
    }
    assert_shares(&counts, &[1.0; 3], "by chance");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_added_or_is_back_warms_up() {
    for policy in ["p2c", "least_request", "round_robin", "random"] {
        let balance = format!("{}, slow_start = {{ window = '10s' }}", setting(policy));
        let (old, _) = table(snapshot(&balance, &[""; 2]), None);
        assert_shares(
            &counts(&old.clusters[0], Instant::now(), 2000),
            &[1.0, 1.0],
            "nobody is new at the start",
        );
        let (new, _) = table(snapshot(&balance, &[""; 3]), Some(&old));
        let cluster = &new.clusters[0];
        let share = |counts: Vec<u32>| f64::from(counts[2]) / f64::from(counts.iter().sum::<u32>());
        let begun = Instant::now();
        // With two draws out of three, a tenth of the weight is somewhat less than a tenth of the
        // fair third.
        let cold = share(counts(cluster, begun, 3000));
        assert!((0.01..0.08).contains(&cold), "{policy}: {cold}");
        tokio::time::advance(10 * S).await;
        let warm = share(counts(cluster, Instant::now(), 3000));
        assert!((0.28..0.39).contains(&warm), "{policy}: {warm}");
        let now = Instant::now();
        eject_for(cluster, 2, now, S);
        tokio::time::advance(S).await;
        let probe = Instant::now();
        visit(cluster, 2, probe);
        cluster.endpoints[2].on_outcome(Outcome::Success, probe, probe, &EJECT);
        let back = share(counts(cluster, probe, 3000));
        assert!((0.01..0.08).contains(&back), "{policy}: {back} when it is back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subset_has_only_endpoints_with_its_labels() {
    let labels = [
        ", labels = { version = '1', disk = 'ssd' }",
        ", labels = { version = '2', disk = 'ssd' }",
        ", labels = { version = '2', disk = 'hdd' }",
    ];
    let mut snapshot = snapshot("", &labels);
    let mut config = (*snapshot.clusters[0]).clone();
    let of = |key: &str, value: &str| Arc::new([(key.to_owned(), value.to_owned())].into());
    config.subset = of("version", "2");
    config.subsets = vec![of("disk", "ssd"), of("disk", "tape")];
    snapshot.clusters = vec![config.into()];
    let (cluster, now) = (table(snapshot, None).0.clusters[0].clone(), Instant::now());
    assert_eq!(counts(&cluster, now, 500)[0], 0);
    let mut rng = RngTree::new(1).rng();
    let mut pick = |subset| {
        let picked = cluster.pick(now, &mut rng, PickContext { hash: None, subset }, Attempted::default());
        picked.map(|picked| picked.position)
    };
    assert!((0..100).all(|_| pick(1) == Some(1)));
    assert_eq!((pick(2), pick(3)), (None, None), "nobody has it, and there is no such subset");
}

#[tokio::test(start_paused = true)]
async fn taking_turns_goes_on_through_a_reload_that_changes_nothing_here() {
    let balance = setting("round_robin");
    let (first, _) = table(snapshot(&balance, &[""; 3]), None);
    let (now, mut rng) = (Instant::now(), RngTree::new(1).rng());
    let mut met = vec![pick(&first.clusters[0], now, &mut rng, Attempted::default()).unwrap()];
    let (second, _) = table(snapshot(&balance, &[""; 3]), Some(&first));
    for _ in 0..2 {
        met.push(pick(&second.clusters[0], now, &mut rng, Attempted::default()).unwrap());
    }
    met.sort_unstable();
    assert_eq!(met, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn how_much_chance_a_pick_takes_does_not_depend_on_how_the_endpoints_do() {
    let next_after = |disturb: bool| {
        let (cluster, now) = (cluster("", &[""; 4]), Instant::now());
        if disturb {
            eject(&cluster, 3, now);
            cluster.endpoints[0].observe(now - S, now);
        }
        let mut rng = RngTree::new(1).rng();
        for _ in 0..100 {
            pick(&cluster, now, &mut rng, Attempted::default());
        }
        rng.random::<u64>()
    };
    assert_eq!(next_after(false), next_after(true));
}

#[tokio::test(start_paused = true)]
async fn who_was_tried_on_everybody_available_goes_to_others_before_it_goes_back() {
    for (panic, expected) in [("50%", 0), ("0%", 1)] {
        let (cluster, now) = (cluster(&format!("panic = '{panic}'"), &[""; 2]), Instant::now());
        eject(&cluster, 0, now);
        let mut attempted = Attempted::default();
        attempted.insert(1);
        let mut rng = RngTree::new(1).rng();
        assert_eq!(pick(&cluster, now, &mut rng, attempted), Some(expected), "panic at {panic}");
        attempted.insert(0);
        assert!(pick(&cluster, now, &mut rng, attempted).is_some(), "somewhere beats nowhere");
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_tried_leaves_the_better_of_the_others_to_be_found() {
    let (cluster, now) = (cluster("", &[""; 3]), Instant::now());
    cluster.endpoints[1].observe(now - S, now);
    let (mut attempted, mut rng) = (Attempted::default(), RngTree::new(1).rng());
    attempted.insert(0);
    let slow = (0..3000).filter(|_| pick(&cluster, now, &mut rng, attempted) == Some(1)).count();
    // In one of 81 picks none of four pairs has the third one in it; one of 128 explores.
    assert!((30..100).contains(&slow), "{slow}");
}

#[tokio::test(start_paused = true)]
async fn as_many_choices_as_members_find_the_one_with_the_fewest_active_requests() {
    let (cluster, now) = (cluster("policy = 'least_request', choices = 5", &[""; 5]), Instant::now());
    let active = [3, 1, 4, 2, 5].into_iter().zip(cluster.endpoints.iter());
    let _held: Vec<_> =
        active.flat_map(|(count, endpoint)| (0..count).map(move |_| endpoint.begin(now))).collect();
    assert_eq!(counts(&cluster, now, 500), [0, 500, 0, 0, 0]);
}

#[test]
fn the_page_tells_a_probe_that_is_under_way_from_one_that_the_next_request_will_be() {
    let (cluster, now) = (cluster("", &[""]), Instant::now());
    let shown = |now| cluster.status(now).endpoints[0].state.to_string();
    eject_for(&cluster, 0, now, S);
    assert!(shown(now).contains("for another"));
    let lapsed = now + 10 * S;
    assert!(shown(lapsed).contains("the next request is its probe"));
    let (_active, is_probe) = cluster.endpoints[0].begin(lapsed);
    assert!(is_probe && shown(lapsed).contains("its probe is under way"));
    cluster.endpoints[0].on_outcome(Outcome::Unknown, lapsed, lapsed, &EJECT);
    assert!(shown(lapsed).contains("the next request is its probe"), "it was given up");
}

#[test]
fn the_first_attempts_are_remembered_until_there_are_too_many() {
    let mut attempted = Attempted::default();
    assert!(attempted.is_empty() && !attempted.contains(0));
    for position in 0..Attempted::MOST {
        attempted.insert(1000 + position);
    }
    assert!(
        (1000..1000 + Attempted::MOST).all(|position| attempted.contains(position)) && !attempted.contains(0)
    );
    attempted.insert(7);
    assert!(attempted.contains(7) && !attempted.contains(1000) && attempted.contains(1001));
}

#[derive(Debug, Clone)]
struct Member {
    priority: u8,
    zone: &'static str,
    weight: u32,
    ejected: bool,
    attempted: bool,
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let zone = prop_oneof![Just("a"), Just("b"), Just("c")];
    let member = (0u8..3, zone, 1u32..5, any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
        |(priority, zone, weight, ejected, attempted)| Member { priority, zone, weight, ejected, attempted },
    );
    proptest::collection::vec(member, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_pick_is_of_somebody_available_and_of_somebody_new_if_there_is_one(members in members(), seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let tables: Vec<String> = members
            .iter()
            .map(|m| format!(", priority = {}, zone = '{}', weight = {}", m.priority, m.zone, m.weight))
            .collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        for policy in POLICIES {
            for panic in ["0%", "50%"] {
                let cluster = cluster(&format!("{}, panic = '{panic}'", setting(policy)), &tables);
                let now = Instant::now();
                let mut attempted = Attempted::default();
                for (position, member) in members.iter().enumerate() {
                    if member.ejected {
                        eject(&cluster, position, now);
                    }
                    if member.attempted {
                        attempted.insert(position);
                    }
                }
                let available = |p: usize| !members[p].ejected;
                let is_new = |p: usize| !attempted.contains(p);
                let anybody = (0..members.len()).any(available);
                let anybody_new = (0..members.len()).any(|p| available(p) && is_new(p));
                let mut rng = RngTree::new(seed).rng();
                for _ in 0..20 {
                    match pick(&cluster, now, &mut rng, attempted) {
                        Some(p) if panic == "0%" => {
                            prop_assert!(available(p), "{policy}");
                            prop_assert!(is_new(p) || !anybody_new, "{policy}");
                        }
                        Some(p) => prop_assert!(is_new(p) || !anybody_new, "{policy} in panic"),
                        None => prop_assert!(panic == "0%" && !anybody, "{policy}"),
                    }
                }
            }
        }
    }
}
