//! What an old Chronos tells of its runs, and how that agrees with what a shadow recorded.
//!
//! The old API has no list of runs. It has, for each job, how often it succeeded and failed, when it last did, and the
//! start of its schedule, which it moves on with each launch. Looked at again and again, that tells how many runs
//! ended in between and when the last of them did; of what lies before the first look only the last end is known.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// The clocks of two machines differ by less.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(5);

/// What one look at the old Chronos shows of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) successes: u64,
    pub(super) errors: u64,
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_error: Option<Timestamp>,
}

/// The end of a run of the old Chronos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// Not before.
    earliest: Timestamp,
    /// Not after; the same where the time is known.
    latest: Timestamp,
}

/// What was seen of a job, look by look.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// Ends from here on are all known.
    since: Timestamp,
    looked: Timestamp,
    counts: Counts,
    ends: Vec<End>,
    /// Whether someone posted the job anew, so that it counted from 0 again.
    pub(super) reset: bool,
}

/// A run that the shadow recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) due: Timestamp,
    pub(super) launched: Timestamp,
}

/// How a job compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Runs that both have.
    pub(super) agreed: usize,
    /// Runs that ended at the old Chronos and that the shadow has no launch for.
    pub(super) only_old: usize,
    /// Launches of the shadow after which nothing ended at the old Chronos.
    pub(super) only_here: usize,
    /// Launches of the shadow whose run at the old Chronos may still go on.
    pub(super) open: usize,
    /// How long after our launches the ends came, where their times are known; the longest last.
    pub(super) later: Vec<SignedDuration>,
}

impl Watch {
    /// The first look. Of what ended before only the last end is known; it counts if it is not before `since`.
    pub(super) fn begin(at: Timestamp, since: Timestamp, counts: Counts) -> Self {
        let last = counts.times().into_iter().max().filter(|last| *last >= since);
        // There may be more between an earlier end and the last one, so only that one counts.
        let ends = last.map(End::at).into_iter().collect();
        let since = last.unwrap_or(since);
        Self { since, looked: at, counts, ends, reset: false }
    }

    /// A later look.
    pub(super) fn look(&mut self, at: Timestamp, counts: Counts) {
        let before = std::mem::replace(&mut self.counts, counts);
        let mut known: Vec<End> =
            [(before.last_success, counts.last_success), (before.last_error, counts.last_error)]
                .into_iter()
                .filter(|(before, now)| before != now)
                .filter_map(|(_, now)| now)
                .filter(|t| *t >= self.since)
                .map(End::at)
                .collect();
        let less = counts.successes < before.successes || counts.errors < before.errors;
        self.reset |= less;
        let more = |now: u64, before: u64| if less { now } else { now - before };
        let ended = more(counts.successes, before.successes) + more(counts.errors, before.errors);
        let unknown = usize::try_from(ended).unwrap_or(usize::MAX).saturating_sub(known.len()).min(LOOK_MAX);
        known.extend(std::iter::repeat_n(End { earliest: self.looked, latest: at }, unknown));
        // Those whose times are not known came before the last one.
        known.sort_by_key(|end| (end.earliest, end.latest));
        self.ends.extend(known);
        self.looked = at;
    }

    /// Puts ends and launches side by side, in their order: a launch goes with the first end after it, and before the
    /// next launch. A launch younger than `longest` whose end is not there yet is open.
    pub(super) fn compare(&self, recorded: &[Recorded], longest: SignedDuration) -> Comparison {
        let mut recorded = recorded.to_vec();
        recorded.sort_by_key(|run| run.launched);
        // An end may seem to come before its launch, but not so far that it is nearer to the launch before.
        let begins = |i: usize| -> Option<Timestamp> {
            let run = recorded.get(i)?;
            let before = i.checked_sub(1).and_then(|i| recorded.get(i));
            let skew =
                before.map_or(SKEW_MAX, |b| (run.launched.duration_since(b.launched) / 2).min(SKEW_MAX));
            run.launched.checked_sub(skew).ok()
        };
        let mut comparison = Comparison::default();
        let mut ends = self.ends.iter().peekable();
        for (i, run) in recorded.iter().enumerate() {
            while ends.next_if(|end| begins(i).is_some_and(|begins| end.latest < begins)).is_some() {
                comparison.only_old += 1;
            }
            let next = begins(i + 1);
            let may_go_on = ends.peek().is_none() && self.looked.duration_since(run.launched) < longest;
            match ends.next_if(|end| next.is_none_or(|next| end.earliest < next)) {
                Some(end) => {
                    comparison.agreed += 1;
                    if end.earliest == end.latest {
                        comparison.later.push(end.latest.duration_since(run.launched));
                    }
                }
                // What ended before the first look is not known.
                None if run.launched < self.since => {}
                None if may_go_on => comparison.open += 1,
                None => comparison.only_here += 1,
            }
        }
        comparison.only_old += ends.count();
        comparison.later.sort();
        comparison
    }
}

/// More ends of one job between two looks tell no more.
const LOOK_MAX: usize = 10_000;

impl End {
    fn at(t: Timestamp) -> Self {
        Self { earliest: t, latest: t }
    }
}

impl Counts {
    fn times(&self) -> Vec<Timestamp> {
        self.last_success.into_iter().chain(self.last_error).collect()
    }
}

impl Comparison {
    /// Whether there is nothing that only one of the two has.
    pub(super) fn is_same(&self) -> bool {
        self.only_old == 0 && self.only_here == 0
    }

    /// The middle and the longest time between our launch and the old end.
    pub(super) fn spread(&self) -> Option<(SignedDuration, SignedDuration)> {
        Some((*self.later.get(self.later.len() / 2)?, *self.later.last()?))
    }
}

/// All jobs that were ever seen at the old Chronos.
pub(super) type Watches = BTreeMap<String, Watch>;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    /// Minutes and seconds after noon.
    fn at(text: &str) -> Timestamp {
        format!("2030-01-01T12:{text}Z").parse().expect("an instant")
    }

    fn counts(successes: u64, last: &str) -> Counts {
        let last_success = Some(last).filter(|last| !last.is_empty()).map(at);
        Counts { successes, last_success, ..Counts::default() }
    }

    /// The first look is at 10:00, each further one a minute later; each shows successes so far and the last one.
    #[track_caller]
    fn check(since: &str, looks: &[(u64, &str)], launched: &[&str], expected: [usize; 4]) -> Comparison {
        let first = at("10:00");
        let mut watch = Watch::begin(first, at(since), counts(looks[0].0, looks[0].1));
        for ((successes, last), minute) in looks[1..].iter().zip(1..) {
            watch.look(first + MINUTE * minute, counts(*successes, last));
        }
        let recorded: Vec<_> = launched.iter().map(|t| Recorded { due: at(t), launched: at(t) }).collect();
        let found = watch.compare(&recorded, MINUTE * 2);
        assert_eq!([found.agreed, found.only_old, found.only_here, found.open], expected, "{found:?}");
        found
    }

    #[test]
    fn ends_go_with_the_launches_before_them() {
        let found = check(
            "10:00",
            &[(7, "09:20"), (8, "10:30"), (9, "11:32"), (10, "12:35")],
            &["10:10", "11:10", "12:10"],
            [3, 0, 0, 0],
        );
        assert_eq!(
            found.spread().map(|(middle, longest)| (middle.as_secs(), longest.as_secs())),
            Some((22, 25))
        );
    }

    #[test]
    fn what_only_one_of_them_has_is_counted() {
        // It ran twice where we have one launch; the time of one of the two is not known.
        check("10:00", &[(0, ""), (2, "10:50")], &["10:10"], [1, 1, 0, 0]);
        // It never ran; the last launch may still go on.
        check("10:00", &[(0, ""), (0, ""), (0, ""), (0, "")], &["10:10", "11:10", "12:10"], [0, 0, 1, 2]);
        // It ran before any of our launches.
        check("10:00", &[(0, ""), (1, "10:15"), (2, "11:30")], &["11:10"], [1, 1, 0, 0]);
        check("10:00", &[(4, "09:00"), (5, "10:15")], &[], [0, 1, 0, 0]);
    }

    #[test]
    fn clocks_may_differ_by_less_than_half_a_period() {
        let mut watch = Watch::begin(at("10:00"), at("10:00"), Counts::default());
        for (i, second) in (1u64..).zip(["10:04", "10:06", "10:08", "10:10"]) {
            watch.look(
                at(second),
                Counts { successes: i, last_success: Some(at(second)), ..Counts::default() },
            );
        }
        let recorded = ["10:04", "10:06", "10:08", "10:10"].map(|t| Recorded { due: at(t), launched: at(t) });
        let found = watch.compare(&recorded, MINUTE);
        assert_eq!((found.agreed, found.is_same()), (4, true), "{found:?}");
        // A clock that is four seconds ahead.
        check("10:00", &[(0, ""), (1, "10:06")], &["10:10"], [1, 0, 0, 0]);
    }

    #[test]
    fn a_run_that_began_before_the_first_look_is_no_difference() {
        check("10:00", &[(7, "08:55"), (8, "10:05"), (9, "11:05")], &["09:50", "10:50"], [2, 0, 0, 0]);
        // It began before, and has not ended yet.
        check("10:00", &[(7, "08:55"), (7, "08:55")], &["09:50"], [0, 0, 0, 0]);
    }

    #[test]
    fn of_what_was_before_the_first_look_the_last_end_is_known() {
        check("05:00", &[(7, "09:20")], &["06:10", "07:10", "08:10", "09:10"], [1, 0, 0, 0]);
        // Nothing has ended since, so the launches came to nothing there.
        check("05:00", &[(7, "03:20")], &["06:10", "07:10"], [0, 0, 2, 0]);
        check("05:00", &[(7, "09:20")], &["06:10"], [1, 0, 0, 0]);
    }

    #[test]
    fn counters_that_begin_anew_are_noticed() {
        let mut watch = Watch::begin(at("10:00"), at("10:00"), counts(7, "09:20"));
        watch.look(at("11:00"), counts(1, "10:30"));
        assert!(watch.reset);
        let run = Recorded { due: at("10:10"), launched: at("10:10") };
        assert_eq!(watch.compare(&[run], MINUTE).agreed, 1);
    }

    #[test]
    fn a_failed_run_has_run() {
        let mut watch = Watch::begin(at("10:00"), at("10:00"), Counts::default());
        watch.look(at("11:00"), Counts { errors: 1, last_error: Some(at("10:40")), ..Counts::default() });
        let run = Recorded { due: at("10:10"), launched: at("10:10") };
        assert_eq!(watch.compare(&[run], MINUTE).agreed, 1);
    }
}
