//! Slots: which of them are due, which still run after an outage, and what becomes of the others.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::book::later;
use crate::ids::{Cause, Cycle, JobName, JobUid};
use crate::job::{CatchUp, Job, Plan, Progress, Timetable};
use crate::run::{Missed, Outcome, Record, Skipped, SlotRange};
use crate::schedule::{Nominal, Schedule, ScheduleError, Slot, Span, Spread, Zones};
use crate::scheduler::Scheduler;
use crate::spawn::NewRun;

/// The instant just before `at`: due times have whole milliseconds.
pub(crate) fn before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MIN)
}

/// `at - by`, or the beginning of time.
fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}

impl Timetable {
    /// Reads the schedule again, for the job that has it now. It was read when it was posted, so this fails only if a
    /// zone has left the zone data.
    /// # Errors
    /// See [`ScheduleError`].
    pub fn schedule(&self, zones: &Zones, job: &JobName) -> Result<Schedule, ScheduleError> {
        let spread = Spread::of(job.as_str());
        Schedule::parse(zones, &self.text, &self.zone, self.dst, self.anchor, spread)
    }
}

/// The slots of a job that are due, cut to what is left of `Rn`.
struct Due {
    schedule: Schedule,
    span: Span,
}

impl Scheduler {
    /// The first slot of a schedule that has just been posted. A start that has passed makes the latest past
    /// slot due at once, and none before it; a cron expression has no start, so its slots begin now. No slot is at or
    /// before `floor`, where the job's former schedule had got to.
    pub(crate) fn first_slot(&self, schedule: &Schedule, floor: Option<Timestamp>) -> Option<Slot> {
        if schedule.repeats() == Some(0) {
            return None;
        }
        let at_once = schedule.last_until(self.now).filter(|slot| matches!(slot.nominal, Nominal::Index(_)));
        match (at_once, floor) {
            (Some(slot), None) => Some(slot),
            (Some(slot), Some(floor)) if slot.due > floor => Some(slot),
            (_, floor) => schedule.first_after(floor.map_or(self.now, |floor| floor.max(self.now))),
        }
    }

    /// Takes the due slots of one job: at most one becomes a run, the others get their outcome.
    pub(crate) fn take_slots(&mut self, uid: JobUid) {
        let Some(job) = self.book.job(uid).cloned() else { return };
        let mut progress = self.book.progress(uid);
        let Some(due) = self.due_slots(&job, &progress, self.now) else {
            // The zone is gone from the zone data, or the slot moved: find the next one afresh.
            progress.next = self.moved_slot(&job, &progress);
            return self.book.put_progress(uid, progress);
        };
        let wanted = self.wanted(&job, &due);
        let missed_until = wanted.map_or(due.span.last.due, |slot| before(slot.due));
        let consumed = self.miss(&job, &due, missed_until) + u64::from(wanted.is_some());
        let mark = wanted.unwrap_or(due.span.last);
        progress.mark = Some(mark);
        progress.remaining = progress.remaining.map(|left| left.saturating_sub(consumed));
        progress.next = if progress.remaining == Some(0) { None } else { due.schedule.after(mark.nominal) };
        let exhausted = progress.next.is_none();
        self.book.put_progress(uid, progress);
        if exhausted {
            self.watch_exhaustion(&job, mark.due);
        }
        if let (Some(slot), Plan::Schedule(table)) = (wanted, &job.plan) {
            let cause = Cause::Slot { plan: table.plan, nominal: slot.nominal };
            let cycle = Cycle { due: slot.due, origin: uid, seq: 0 };
            let graph = self.graph_now();
            self.spawn(&job, NewRun { cause, cycle, graph, due: slot.due, again: false, arguments: None });
        }
    }

    /// The slots from the next one until `until`, both included; `None` if there are none.
    fn due_slots(&self, job: &Job, progress: &Progress, until: Timestamp) -> Option<Due> {
        let Plan::Schedule(table) = &job.plan else { return None };
        let next = progress.next.filter(|slot| slot.due <= until)?;
        let schedule = table.schedule(&self.settings.zones, &job.name).ok()?;
        let mut span = schedule.span_from(before(next.due), until)?;
        if let Some(left) = progress.remaining.filter(|left| *left < span.count) {
            let end = oldest(&schedule, before(next.due), until, left);
            span = schedule.span_from(before(next.due), end)?;
        }
        Some(Due { schedule, span })
    }

    /// The slot among the due ones that shall run, if any.
    fn wanted(&self, job: &Job, due: &Due) -> Option<Slot> {
        let start = |slot: &Slot| later(slot.due, job.rules.offset(job.uid, slot.nominal));
        let in_time = |slot: &Slot, limit: Duration| start(slot) >= earlier(self.now, limit);
        let epsilon = job.rules.epsilon.unwrap_or(Duration::MAX);
        match job.rules.catch_up {
            CatchUp::Latest => Some(due.span.last).filter(|slot| in_time(slot, epsilon)),
            CatchUp::None => {
                let punctual = job.rules.epsilon.unwrap_or(CatchUp::PUNCTUAL);
                Some(due.span.last).filter(|slot| in_time(slot, punctual))
            }
            CatchUp::All { count_max, age_max } => {
                // Which of them are too late for their part of the jitter is seen when they have become runs.
                let epsilon = epsilon.saturating_add(job.rules.jitter.unwrap_or_default());
                let from = before(earlier(self.now, epsilon.min(age_max))).max(before(due.span.first.due));
                let from = newest(&due.schedule, from, due.span.last.due, count_max);
                due.schedule.first_after(from).filter(|slot| slot.due <= due.span.last.due)
            }
        }
    }

    /// Records the due slots up to `until` as missed, and says how many they are.
    fn miss(&mut self, job: &Job, due: &Due, until: Timestamp) -> u64 {
        let (first, last) = (due.span.first.due, due.span.last.due.min(until));
        if last < first {
            return 0;
        }
        let jitter = job.rules.jitter.unwrap_or_default();
        let epsilon = job.rules.epsilon.map(|epsilon| epsilon.saturating_add(jitter));
        let epsilon_passed = epsilon.map(|epsilon| before(earlier(self.now, epsilon)));
        let mut count = 0;
        let mut from = before(first);
        let why = match job.rules.catch_up {
            CatchUp::Latest => Missed::GaveWay,
            CatchUp::None => Missed::NoCatchUp,
            CatchUp::All { .. } => Missed::CatchUpBound,
        };
        // Under `latest` a slot gives way to a later one even if it could still start; the last one can only be late.
        let split = match (job.rules.catch_up, epsilon_passed) {
            (CatchUp::Latest, Some(_)) if last == due.span.last.due => Some((before(last), Missed::GaveWay)),
            (CatchUp::All { .. }, Some(passed)) => Some((passed.min(last), Missed::Epsilon)),
            _ => None,
        };
        let parts = match split {
            Some((at, before_split @ Missed::GaveWay)) => [(at, before_split), (last, Missed::Epsilon)],
            Some((at, before_split)) => [(at, before_split), (last, why)],
            None => [(last, why), (last, why)],
        };
        for (until, why) in parts {
            if until > from {
                count += self.record_range(job, &due.schedule, from, until, Outcome::Missed(why));
                from = until;
            }
        }
        count.min(due.span.count)
    }

    /// Appends one line for all slots after `from` until `until`; says how many they are.
    fn record_range(
        &mut self,
        job: &Job,
        schedule: &Schedule,
        from: Timestamp,
        until: Timestamp,
        outcome: Outcome,
    ) -> u64 {
        let Some(span) = schedule.span_from(from, until) else { return 0 };
        let range = SlotRange {
            job: job.uid,
            name: job.name.clone(),
            first: span.first.nominal,
            first_due: span.first.due,
            last: span.last.nominal,
            last_due: span.last.due,
            count: span.count,
            recorded: self.now,
            outcome,
        };
        self.watch_slots(job, &range);
        self.book.append(Record::Range(range));
        span.count
    }

    /// Ends all slots that are due by `until` without running them, because of a pause or because the job changes.
    pub(crate) fn close_slots(&mut self, job: &Job, progress: &mut Progress, until: Timestamp, why: Skipped) {
        let Some(due) = self.due_slots(job, progress, until) else { return };
        let (first, last) = (due.span.first.due, due.span.last);
        self.record_range(job, &due.schedule, before(first), last.due, Outcome::Skipped(why));
        progress.mark = Some(last);
        progress.remaining = progress.remaining.map(|left| left.saturating_sub(due.span.count));
        progress.next = if progress.remaining == Some(0) { None } else { due.schedule.after(last.nominal) };
    }

    /// Where the next slot has moved, with the zone data at hand; `None` if its zone or its day is gone.
    fn moved_slot(&self, job: &Job, progress: &Progress) -> Option<Slot> {
        let Plan::Schedule(table) = &job.plan else { return None };
        let schedule = table.schedule(&self.settings.zones, &job.name).ok()?;
        let next = progress.next?;
        match schedule.due(next.nominal) {
            Some(due) if due > self.now => Some(Slot { nominal: next.nominal, due }),
            _ => schedule.first_after(self.now),
        }
    }

    /// The next slot keeps its identity and gets the due time that today's zone data give it.
    pub(crate) fn move_slot(&mut self, uid: JobUid) {
        let Some(job) = self.book.job(uid).cloned() else { return };
        let Plan::Schedule(table) = &job.plan else { return };
        let mut progress = self.book.progress(uid);
        let (Some(next), Ok(schedule)) = (progress.next, table.schedule(&self.settings.zones, &job.name))
        else {
            return;
        };
        let moved = schedule.due(next.nominal).map(|due| Slot { nominal: next.nominal, due });
        progress.next = moved.or_else(|| schedule.after(next.nominal));
        if progress.next != Some(next) {
            self.book.put_progress(uid, progress);
        }
    }

    /// Takes the due slots of one job if there are any.
    pub(crate) fn take_slots_due(&mut self, uid: JobUid) {
        if self.book.progress(uid).next.is_some_and(|slot| slot.due <= self.now) {
            self.take_slots(uid);
        }
    }
}

/// The instant of the last of the first `keep` slots after `from`, where there are more of them until `until`.
fn oldest(schedule: &Schedule, from: Timestamp, until: Timestamp, keep: u64) -> Timestamp {
    let count = |until: i64| {
        let until = Timestamp::from_millisecond(until).unwrap_or(Timestamp::MIN);
        schedule.span_from(from, until).map_or(0, |span| span.count)
    };
    let (mut low, mut high) = (from.as_millisecond(), until.as_millisecond());
    // Fewer than `keep` until `low`, at least as many until `high`.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if count(middle) < keep { low = middle } else { high = middle }
    }
    Timestamp::from_millisecond(high).unwrap_or(until)
}

/// An instant after which at most `keep` slots are due until `until`, and not before `from`: the boundary behind
/// which older slots are given up. A binary search, because counting is cheaper than walking.
fn newest(schedule: &Schedule, from: Timestamp, until: Timestamp, keep: u64) -> Timestamp {
    let count = |from: i64| {
        let from = Timestamp::from_millisecond(from).unwrap_or(Timestamp::MIN);
        schedule.span_from(from, until).map_or(0, |span| span.count)
    };
    let (mut low, mut high) = (from.as_millisecond(), until.as_millisecond());
    if count(low) <= keep {
        return from;
    }
    // More than `keep` after `low`, none after `high`.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if count(middle) > keep { low = middle } else { high = middle }
    }
    Timestamp::from_millisecond(high).unwrap_or(until)
}
