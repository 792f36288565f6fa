use super::*;
use crate::endpoint::fake::OUTLIER_DETECTION;
use crate::world::RngTree;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(8);
const CONFIG: Config = Config { max: MAX, ..OUTLIER_DETECTION };
const FAILURE: Outcome = Outcome::Failure(None);
const OVERLOAD: Outcome = Outcome::Overload(None);

fn now() -> Instant {
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    clock.expect("a runtime").block_on(async { Instant::now() })
}

/// Ejects as a cluster does that can spare the endpoint. The time, if it came to that.
fn tell(ejection: &mut EjectionState, outcome: Outcome, now: Instant, config: &Config) -> Option<Duration> {
    match ejection.on_outcome(outcome, now, now, config) {
        EjectionStep::Trips(reason) => {
            Some(ejection.eject(reason, outcome, now, config, &mut RngTree::new(1).rng()))
        }
        EjectionStep::Stay | EjectionStep::Restored => None,
    }
}

fn fail(ejection: &mut EjectionState, now: Instant, times: u32) -> Option<Duration> {
    (0..times).filter_map(|_| tell(ejection, FAILURE, now, &CONFIG)).last()
}

/// Ends the ejection that is on, by a probe at `now`.
fn probe(ejection: &mut EjectionState, now: Instant, outcome: Outcome) -> Option<Duration> {
    assert!(ejection.on_begin(now), "{:?}", ejection.phase());
    tell(ejection, outcome, now, &CONFIG)
}

#[test]
fn three_failures_in_a_row_eject_and_a_success_in_between_does_not_let_them_add_up() {
    let (mut ejection, now) = (EjectionState::default(), now());
    assert_eq!(fail(&mut ejection, now, 2), None);
    tell(&mut ejection, Outcome::Success, now, &CONFIG);
    assert_eq!(fail(&mut ejection, now, 2), None);
    let time = fail(&mut ejection, now, 1).expect("it is ejected");
    assert!(time >= S && time < S * 3 / 2, "{time:?}");
    assert_eq!(ejection.phase(), Phase::Ejected(now + time, Reason::Consecutive));
    let last = now + time - Duration::from_nanos(1);
    assert!(!ejection.admits(last) && !ejection.awaits_probe(last));
    assert!(ejection.admits(now + time) && ejection.awaits_probe(now + time));
}

#[test]
fn a_rate_that_is_no_lower_than_it_may_be_ejects_nobody() {
    let (mut ejection, now) = (EjectionState::default(), now());
    for nth in 0..10 {
        let outcome = if nth % 5 == 4 { FAILURE } else { Outcome::Success };
        assert_eq!(tell(&mut ejection, outcome, now, &CONFIG), None, "{nth}: four of five succeed");
    }
}

#[test]
fn three_failures_of_ten_eject_although_no_two_stand_together() {
    let (mut ejection, now) = (EjectionState::default(), now());
    for nth in 0..9 {
        let outcome = if nth % 4 == 0 { FAILURE } else { Outcome::Success };
        assert_eq!(tell(&mut ejection, outcome, now, &CONFIG), None, "{nth}: too few to judge");
    }
    assert!(tell(&mut ejection, FAILURE, now, &CONFIG).is_some());
    assert!(matches!(ejection.phase(), Phase::Ejected(_, Reason::SuccessRate)));
}

#[test]
fn overload_lowers_the_rate_but_makes_no_run() {
    let (mut ejection, now) = (EjectionState::default(), now());
    assert!((0..9).all(|_| tell(&mut ejection, OVERLOAD, now, &CONFIG).is_none()));
    assert!(tell(&mut ejection, OVERLOAD, now, &CONFIG).is_some());
    assert!(matches!(ejection.phase(), Phase::Ejected(_, Reason::SuccessRate)));
}

#[test]
fn a_failed_probe_ejects_for_about_twice_as_long_and_overload_fails_it_too() {
    for outcome in [FAILURE, OVERLOAD] {
        let (mut ejection, start) = (EjectionState::default(), now());
        let first = fail(&mut ejection, start, 3).unwrap();
        let now = start + first;
        assert!(ejection.on_begin(now) && !ejection.admits(now), "the probe is under way");
        let second = tell(&mut ejection, outcome, now, &CONFIG).unwrap();
        assert!(second >= 2 * S && second < 3 * S, "{second:?}");
    }
}

#[test]
fn what_has_doubled_falls_back_by_a_step_for_each_healthy_window() {
    let (mut ejection, mut now) = (EjectionState::default(), now());
    now += fail(&mut ejection, now, 3).unwrap();
    now += probe(&mut ejection, now, FAILURE).unwrap();
    now += probe(&mut ejection, now, FAILURE).unwrap();
    probe(&mut ejection, now, Outcome::Success);
    let after = |windows: u32| {
        let mut later = ejection.clone();
        fail(&mut later, now + CONFIG.window * windows, 3).unwrap()
    };
    for (windows, least) in [(0, MAX), (1, 4 * S), (2, 2 * S), (3, S), (4, S)] {
        let time = after(windows);
        assert!(time >= least && time < least * 3 / 2, "{windows} windows: {time:?}");
    }
}

#[test]
fn the_longest_time_is_as_far_as_doubling_goes() {
    let (mut ejection, mut now) = (EjectionState::default(), now());
    now += fail(&mut ejection, now, 3).unwrap();
    for _ in 0..5 {
        now += probe(&mut ejection, now, FAILURE).unwrap();
    }
    probe(&mut ejection, now, Outcome::Success);
    let time = fail(&mut ejection, now + CONFIG.window, 3).unwrap();
    assert!(time < MAX && time >= MAX / 2, "one healthy window takes one step back: {time:?}");
}

#[test]
fn an_endpoint_may_say_when_it_wants_requests_again_within_limits() {
    for (asked, least) in [(S / 2, S), (4 * S, 4 * S), (600 * S, MAX)] {
        let (mut ejection, now) = (EjectionState::default(), now());
        fail(&mut ejection, now, 2);
        let time = tell(&mut ejection, Outcome::Failure(Some(asked)), now, &CONFIG).unwrap();
        assert!(time >= least && time <= MAX.min(least * 3 / 2), "{asked:?}: {time:?}");
    }
}

#[test]
fn a_lost_probe_does_not_shut_the_endpoint_out_for_ever() {
    let (mut ejection, start) = (EjectionState::default(), now());
    let now = start + fail(&mut ejection, start, 3).unwrap();
    ejection.on_begin(now);
    assert!(ejection.admits(now + PROBE_TIMEOUT), "another one may go when it has taken too long");
    ejection.on_outcome(Outcome::Unknown, now, now, &CONFIG);
    assert!(ejection.admits(now), "and at once if it is known that it taught nothing");
}

#[test]
fn only_requests_sent_since_the_probe_decide_in_its_stead() {
    let (mut ejection, start) = (EjectionState::default(), now());
    let now = start + fail(&mut ejection, start, 3).unwrap();
    ejection.on_begin(now);
    for stale in [Outcome::Success, FAILURE] {
        assert_eq!(
            ejection.on_outcome(stale, start, now, &CONFIG),
            EjectionStep::Stay,
            "from before the ejection"
        );
    }
    assert_eq!(ejection.on_outcome(Outcome::Success, now, now, &CONFIG), EjectionStep::Restored);
    for _ in 0..10 {
        assert_eq!(
            ejection.on_outcome(FAILURE, start, now, &CONFIG),
            EjectionStep::Stay,
            "from before its end"
        );
    }
}

#[test]
fn it_stays_out_for_its_rate_until_a_probe_succeeds() {
    let (mut ejection, mut now) = (EjectionState::default(), now());
    for _ in 0..10 {
        now += tell(&mut ejection, OVERLOAD, now, &CONFIG).unwrap_or_default();
    }
    assert!(ejection.is_out_for_its_rate());
    now += probe(&mut ejection, now, FAILURE).unwrap();
    assert!(ejection.is_out_for_its_rate());
    probe(&mut ejection, now, Outcome::Success);
    assert!(!ejection.is_out_for_its_rate());
    fail(&mut ejection, now, 3);
    assert!(!ejection.is_out_for_its_rate());
}

#[test]
fn each_criterion_can_be_switched_off() {
    let (mut ejection, now) = (EjectionState::default(), now());
    let off = Config { consecutive_failures: 0, success_rate: 0.0, ..CONFIG };
    assert!((0..100).all(|_| tell(&mut ejection, FAILURE, now, &off).is_none()));
    let rate_only = Config { consecutive_failures: 0, ..CONFIG };
    assert!(tell(&mut ejection, FAILURE, now, &rate_only).is_some());
}

#[test]
fn an_endpoint_that_is_not_ejected_when_it_is_time_may_be_at_the_next_failure() {
    let (mut ejection, now) = (EjectionState::default(), now());
    for _ in 0..2 {
        ejection.on_outcome(FAILURE, now, now, &CONFIG);
    }
    for _ in 0..5 {
        assert_eq!(ejection.on_outcome(FAILURE, now, now, &CONFIG), EjectionStep::Trips(Reason::Consecutive));
        assert!(ejection.admits(now));
    }
}

#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Begin,
    Tell(Outcome),
    Check,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u64..4000).prop_map(Event::Wait),
        2 => Just(Event::Begin),
        3 => Just(Event::Tell(Outcome::Success)),
        6 => Just(Event::Tell(FAILURE)),
        2 => (0u32..20).prop_map(|s| Event::Tell(Outcome::Overload(Some(s * S)))),
        1 => Just(Event::Tell(Outcome::Unknown)),
        1 => Just(Event::Check),
    ]
}

proptest! {
    #[test]
    fn only_the_arrows_of_the_picture_are_taken_and_no_ejection_is_too_short_or_too_long(
        events in proptest::collection::vec(event(), 0..300),
        seed in any::<u64>(),
    ) {
        let (mut ejection, mut now) = (EjectionState::default(), now());
        let mut rng = RngTree::new(seed).rng();
        for event in events {
            let before = ejection.phase();
            match event {
                Event::Wait(ms) => now += Duration::from_millis(ms),
                Event::Begin => {
                    let admitted = ejection.admits(now);
                    let is_probe = ejection.on_begin(now);
                    prop_assert_eq!(is_probe, admitted && before != Phase::Closed);
                    if is_probe {
                        prop_assert!(matches!(ejection.phase(), Phase::HalfOpen(_)) && !ejection.admits(now));
                    }
                }
                Event::Check => {
                    prop_assert_eq!(ejection.restore(now), before != Phase::Closed);
                    prop_assert_eq!(ejection.phase(), Phase::Closed);
                }
                Event::Tell(outcome) => match ejection.on_outcome(outcome, now, now, &CONFIG) {
                    EjectionStep::Stay => prop_assert_eq!(
                        std::mem::discriminant(&ejection.phase()),
                        std::mem::discriminant(&before)
                    ),
                    EjectionStep::Restored => {
                        prop_assert!(matches!(before, Phase::HalfOpen(_)));
                        prop_assert_eq!(ejection.phase(), Phase::Closed);
                    }
                    EjectionStep::Trips(reason) => {
                        let from_probe = matches!(before, Phase::HalfOpen(_));
                        prop_assert_eq!(from_probe, reason == Reason::Probe);
                        prop_assert!(from_probe || before == Phase::Closed);
                        let time = ejection.eject(reason, outcome, now, &CONFIG, &mut rng);
                        prop_assert!(time >= CONFIG.base && time <= CONFIG.max, "{time:?}");
                        prop_assert!(!ejection.admits(now) && ejection.admits(now + time));
                    }
                },
            }
        }
    }
}
