use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::advance;

use super::*;
use crate::config::LogTarget;

fn log(filter: LogFilter, queue: usize) -> (Arc<AccessLog>, AccessQueue) {
    let config = config::AccessLog { target: LogTarget::Stdout, format: LogFormat::Json, filter, queue };
    let (log, queue) = channel(config);
    (Arc::new(log), queue)
}

fn begin(log: &Arc<AccessLog>, rng: &mut StdRng) -> Option<AccessEntry> {
    let (client, service) = (([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 80).into());
    log.begin(AccessEvent::Request, Direction::Outbound, (client, None), service, SystemTime::UNIX_EPOCH, rng)
}

fn written(queue: &mut AccessQueue) -> usize {
    std::iter::from_fn(|| queue.items.try_recv().ok()).count()
}

#[tokio::test(start_paused = true)]
async fn only_what_takes_longer_has_a_line_if_that_is_asked_for() {
    let mut rng = StdRng::seed_from_u64(1);
    let slower_than = Some(Duration::from_millis(500));
    let (log, mut queue) = log(LogFilter { slower_than, ..LogFilter::default() }, 8);
    let quick = begin(&log, &mut rng).unwrap();
    advance(Duration::from_millis(500)).await;
    drop(quick);
    assert_eq!(written(&mut queue), 0);
    let slow = begin(&log, &mut rng).unwrap();
    advance(Duration::from_millis(501)).await;
    drop(slow);
    assert_eq!(written(&mut queue), 1);
}

#[tokio::test]
async fn a_share_is_chosen_when_a_request_begins_and_the_rest_costs_nothing() {
    let mut rng = StdRng::seed_from_u64(1);
    let (log, _queue) = log(LogFilter { share: Some(0.25), ..LogFilter::default() }, 8);
    let chosen = (0..4000).filter(|_| begin(&log, &mut rng).is_some()).count();
    assert!((900..1100).contains(&chosen), "{chosen}");
}

#[tokio::test]
async fn what_is_neither_answered_nor_refused_was_abandoned_by_its_client() {
    let mut rng = StdRng::seed_from_u64(1);
    let (log, mut queue) = log(LogFilter { errors: true, ..LogFilter::default() }, 8);
    let mut answered = begin(&log, &mut rng).unwrap();
    answered.ended();
    drop(answered);
    assert_eq!(written(&mut queue), 0);
    drop(begin(&log, &mut rng));
    let Ok(LogItem::Record(record)) = queue.items.try_recv() else { panic!("it has a line") };
    assert_eq!((record.reason(), record.flags()), (Some("client"), Some("DC")));
}

#[tokio::test]
async fn lines_without_room_are_counted() {
    let mut rng = StdRng::seed_from_u64(1);
    let (log, mut queue) = log(LogFilter::default(), 2);
    for _ in 0..5 {
        drop(begin(&log, &mut rng));
    }
    assert_eq!((written(&mut queue), queue.lost.load(Ordering::Relaxed)), (2, 3));
}
