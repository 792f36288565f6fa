//! How requests are shared out over priorities and zones, from how many members of each can be
//! picked.
//!
//! A priority can carry `overprovisioning` times the share of its members that are available, and
//! never more than everything: with the usual 1.4 the first priority keeps all requests until fewer
//! than 72 % of its members are left. What it cannot carry goes to the next one, and so on; if all
//! together cannot carry everything, it is shared out in proportion to what they can. That is
//! Envoy's arithmetic of priorities, panic included: a priority of which less than `panic` of the
//! members are available, while all together cannot carry everything, spreads its requests over all
//! its members, available or not. Then health is a worse guess than chance: either the checks are
//! wrong, or the few that are left would fall too. If every priority is in panic, members count and
//! not health; if nobody is available anywhere, the first priority gets all. A panic of 0 is none.
//!
//! Within a priority the sidecar's own zone comes first by the same rule. Envoy compares the zone's
//! share of callers with its share of members instead; that takes knowledge of all callers.

/// Members of a zone or of all others, at one priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub all: u32,
    /// Those that can be picked.
    pub open: u32,
}

/// What one priority gets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Level {
    /// Share of requests for the sidecar's own zone.
    pub local: f64,
    /// Share of requests for the others.
    pub rest: f64,
    /// Whether they are for all members, available or not.
    pub panic: bool,
}

/// The shares of every priority, first to last; own zone and others. They sum up to 1 if there is a
/// member.
pub fn levels(counts: &[[Count; 2]], overprovisioning: f64, panic: f64) -> Vec<Level> {
    let whole =
        |[local, rest]: &[Count; 2]| Count { all: local.all + rest.all, open: local.open + rest.open };
    let carries = |count: Count| {
        if count.all == 0 { 0.0 } else { (overprovisioning * ratio(count.open, count.all)).min(1.0) }
    };
    let total = counts.iter().map(|count| carries(whole(count))).sum::<f64>().min(1.0);
    let everyone: u32 = counts.iter().map(|count| whole(count).all).sum();
    let scarce = total < 1.0 - 1e-9;
    let in_panic = |count: Count| scarce && ratio(count.open, count.all.max(1)) < panic;
    let all_in_panic = counts.iter().all(|count| in_panic(whole(count)));
    let mut left = 1.0_f64;
    let level = |(index, count): (usize, &[Count; 2])| {
        let both = whole(count);
        let share = if total == 0.0 {
            f64::from(u8::from(index == 0))
        } else if all_in_panic {
            ratio(both.all, everyone)
        } else {
            (carries(both) / total).min(left)
        };
        left = (left - share).max(0.0);
        let panic = in_panic(both);
        let [local, rest] = *count;
        let at_home = if panic {
            ratio(local.all, both.all.max(1))
        } else if local.open == 0 {
            0.0
        } else if rest.open == 0 {
            1.0
        } else {
            carries(local)
        };
        Level { local: share * at_home, rest: share * (1.0 - at_home), panic }
    };
    counts.iter().enumerate().map(level).collect()
}

fn ratio(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Open and all of each priority, without zones.
    fn of(counts: &[(u32, u32)], panic: f64) -> Vec<(u32, bool)> {
        let counts: Vec<_> =
            counts.iter().map(|(open, all)| [Count::default(), Count { all: *all, open: *open }]).collect();
        levels(&counts, 1.4, panic).iter().map(|l| ((l.rest * 1000.0).round() as u32, l.panic)).collect()
    }

    #[test]
    fn priorities_share_as_in_envoys_tables() {
        // Open and all of each priority; what each gets, in thousandths.
        for (counts, expected) in [
            (&[(100, 100), (100, 100)][..], &[(1000, false), (0, false)][..]),
            (&[(72, 100), (100, 100)], &[(1000, false), (0, false)]),
            (&[(71, 100), (100, 100)], &[(994, false), (6, false)]),
            (&[(50, 100), (50, 100)], &[(700, false), (300, false)]),
            (&[(0, 100), (100, 100)], &[(0, false), (1000, false)]),
            // 35 % and 35 % carry 98 %: not everything, and both are below the threshold.
            (&[(35, 100), (35, 100)], &[(500, true), (500, true)]),
            // All are, so members count.
            (&[(10, 100), (10, 50)], &[(667, true), (333, true)]),
            (&[(25, 100), (50, 100)], &[(350, false), (650, false)]),
            (&[(10, 100), (55, 100)], &[(154, true), (846, false)]),
            (&[(0, 3), (0, 9)], &[(1000, true), (0, true)]),
        ] {
            assert_eq!(of(counts, 0.5), expected, "{counts:?}");
        }
    }

    #[test]
    fn without_a_threshold_there_is_no_panic() {
        assert_eq!(of(&[(1, 10)], 0.0), [(1000, false)]);
        assert_eq!(of(&[(0, 10)], 0.0), [(1000, false)]);
    }

    #[test]
    fn the_own_zone_comes_first_as_long_as_it_can_carry_everything() {
        let shares = |local, rest| {
            let [level] = levels(&[[local, rest]], 1.4, 0.5)[..] else { panic!("one level") };
            ((level.local * 1000.0).round() as u32, (level.rest * 1000.0).round() as u32, level.panic)
        };
        let count = |open, all| Count { all, open };
        assert_eq!(shares(count(3, 3), count(6, 6)), (1000, 0, false));
        assert_eq!(shares(count(2, 3), count(6, 6)), (933, 67, false));
        assert_eq!(shares(count(0, 3), count(6, 6)), (0, 1000, false));
        assert_eq!(shares(count(1, 3), count(0, 6)), (333, 667, true), "one of nine is panic");
        assert_eq!(shares(count(2, 2), count(0, 1)), (1000, 0, false));
        assert_eq!(shares(count(0, 0), count(6, 6)), (0, 1000, false));
    }

    fn counts() -> impl Strategy<Value = Vec<[Count; 2]>> {
        let count = || {
            (0u32..20).prop_flat_map(|all| (Just(all), 0..=all)).prop_map(|(all, open)| Count { all, open })
        };
        proptest::collection::vec([count(), count()], 1..5)
            .prop_filter("a priority has members", |levels| levels.iter().all(|[a, b]| a.all + b.all > 0))
    }

    proptest! {
        #[test]
        fn everything_is_shared_out_and_nothing_goes_where_nobody_is(counts in counts(), panic in 0.0f64..1.0) {
            let levels = levels(&counts, 1.4, panic);
            let sum: f64 = levels.iter().map(|l| l.local + l.rest).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "{levels:?}");
            let anybody = counts.iter().flatten().any(|count| count.open > 0);
            for (level, [local, rest]) in levels.iter().zip(&counts) {
                for (share, count) in [(level.local, local), (level.rest, rest)] {
                    let there = if level.panic { count.all } else { count.open };
                    prop_assert!(share == 0.0 || there > 0 || !anybody && panic == 0.0, "{levels:?}");
                }
            }
        }

        #[test]
        fn a_priority_gets_nothing_while_those_before_it_can_carry_everything(counts in counts(), panic in 0.0f64..1.0) {
            let levels = levels(&counts, 1.4, panic);
            let mut carried = 0.0;
            for (level, [local, rest]) in levels.iter().zip(&counts) {
                if carried >= 1.0 {
                    prop_assert!(level.local + level.rest < 1e-9);
                }
                carried += (1.4 * f64::from(local.open + rest.open) / f64::from(local.all + rest.all)).min(1.0);
            }
        }

        #[test]
        fn the_first_priority_never_gets_less_when_more_of_it_is_available(counts in counts(), more in 0u32..20) {
            let before = levels(&counts, 1.4, 0.0)[0];
            let mut counts = counts;
            let rest = &mut counts[0][1];
            rest.open = (rest.open + more).min(rest.all);
            let after = levels(&counts, 1.4, 0.0)[0];
            // All of it already while nobody was available anywhere.
            prop_assert!(after.local + after.rest >= before.local + before.rest - 1e-9 || before.local + before.rest > 1.0 - 1e-9);
        }
    }
}
