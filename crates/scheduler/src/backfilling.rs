//! How backfills and re-runs begin, go on and end. What they are: [`crate::backfill`].

use std::sync::Arc;

use crate::audit::Act;
use crate::backfill::{Backfill, Children, Redo};
use crate::book::later;
use crate::door::WAITING_MAX;
use crate::ids::{BackfillId, Cause, Cycle, JobUid, RunKey};
use crate::job::{Job, Plan};
use crate::request::{Answer, BackfillOrder, Refusal, Remains};
use crate::run::{EndedRun, Outcome, Run, Skipped};
use crate::schedule::Slot;
use crate::scheduler::Scheduler;
use crate::spawn::{Counted, NewRun};

impl Scheduler {
    // ---- asked for

    pub(crate) fn backfill(&mut self, order: BackfillOrder) -> Result<Answer, Refusal> {
        let BackfillOrder { job: name, from, to, order, parallel, rate, children, except } = order;
        let job = self.job_called(&name)?;
        let Plan::Schedule(table) = &job.plan else { return Err(Refusal::NoSchedule(name)) };
        let pace = |rate: crate::backfill::Rate| rate.count > 0 && rate.per <= Backfill::PER_MAX;
        if !(1..=Backfill::PARALLEL_MAX).contains(&parallel) || !rate.is_none_or(pace) {
            return Err(Refusal::Pace(name));
        }
        let schedule = table
            .schedule(&self.settings.zones, &name)
            .map_err(|cause| Refusal::Schedule { job: name.clone(), cause })?;
        let preview = Redo::preview(&schedule, (from, to), self.now, order, &except)
            .map_err(|cause| Refusal::Range { job: name, cause })?;
        self.make_room_for_backfill()?;
        if self.book.progress(job.uid).paused.is_none() && !job.rules.disabled {
            // What is due belongs to the schedule.
            self.take_slots_due(job.uid);
        }
        let id = BackfillId { job: job.uid, number: self.next_number(job.uid) };
        let what = Redo::Slots { table: table.clone(), from, to: preview.to, order };
        let (slots, next) = (preview.slots, Some(preview.first));
        let begun = Backfill { children, parallel, rate, slots, next, except, ..self.new_backfill(id, what) };
        self.book.put_backfill(begun);
        self.note_of(job.uid, Act::Backfilled { id, slots });
        Ok(Answer::Backfilling { id, slots })
    }

    fn new_backfill(&self, id: BackfillId, what: Redo) -> Backfill {
        Backfill {
            id,
            what,
            children: Children::Follow,
            parallel: 1,
            rate: None,
            created: self.now,
            slots: 1,
            next: None,
            except: Vec::new(),
            begun: 0,
            succeeded: 0,
            failed: 0,
            last: None,
            hold: None,
            under_way: Vec::new(),
            cancelled: false,
            ended: None,
        }
    }

    /// Forgets the one that has been over for longest where as many are kept as may be.
    fn make_room_for_backfill(&mut self) -> Result<(), Refusal> {
        let kept = &self.book.state().backfills;
        if kept.len() < Backfill::KEPT_MAX {
            return Ok(());
        }
        let over = kept.values().filter_map(|backfill| Some((backfill.ended?, backfill.id))).min();
        let (_, id) = over.ok_or(Refusal::TooManyBackfills)?;
        self.book.remove_backfill(id);
        Ok(())
    }

    pub(crate) fn cancel_backfill(&mut self, id: BackfillId, remains: Remains) -> Result<Answer, Refusal> {
        let kept = self.book.state().backfills.get(&id).cloned().ok_or(Refusal::NoSuchBackfill(id))?;
        if kept.ended.is_some() {
            return Ok(Answer::Cancelled { runs: 0 });
        }
        self.book.put_backfill(Backfill { next: None, hold: None, cancelled: true, ..(*kept).clone() });
        if remains == Remains::GoOn {
            self.note_of(id.job, Act::Cancelled { id, runs: 0 });
            return Ok(Answer::Cancelled { runs: 0 });
        }
        let of_it = |run: &&Arc<Run>| BackfillId::of_cycle(run.cycle) == id;
        let live: Vec<Arc<Run>> = self.book.state().runs.values().filter(of_it).cloned().collect();
        live.iter().for_each(|run| self.end_by_hand(run));
        self.note_of(id.job, Act::Cancelled { id, runs: live.len() as u64 });
        Ok(Answer::Cancelled { runs: live.len() })
    }

    /// Runs once more what has ended. Where its children were told that it failed, the new run counts for the same
    /// cycle, and the joins that were skipped because of it wait for it; else it begins a cycle of its own, in which
    /// all that descends from it runs again and nothing else is waited for.
    pub(crate) fn rerun(&mut self, past: &EndedRun, children: Children) -> Result<Answer, Refusal> {
        if self.book.state().runs.contains_key(&past.key) {
            return Err(Refusal::StillLive(past.key));
        }
        let gone = || Refusal::NoSuchJob(past.job.clone());
        let job = self.book.job(past.key.job).cloned().ok_or_else(gone)?;
        if job.rules.disabled {
            return Err(Refusal::Disabled(job.name.clone()));
        }
        let (waiting, _) = self.book.queued(job.uid);
        if waiting >= WAITING_MAX {
            return Err(Refusal::TooManyWaiting { job: job.name.clone(), waiting });
        }
        let reopens = children == Children::Follow && failed_its_children(past, &job);
        if !reopens {
            self.make_room_for_backfill()?;
        }
        let id = BackfillId { job: job.uid, number: self.next_number(job.uid) };
        let (cause, due, arguments) = (Cause::Trigger(id.number), past.due, past.arguments.clone());
        let mut cycle = past.cycle;
        if !reopens {
            cycle = Cycle { due: past.cycle.due, origin: job.uid, seq: id.number };
            let under_way = vec![cycle.due];
            let again = self.new_backfill(id, Redo::Run(past.key));
            self.book.put_backfill(Backfill { children, begun: 1, last: Some(self.now), under_way, ..again });
        }
        let graph = self.graph_now();
        let key = self.spawn(&job, NewRun { cause, cycle, graph, due, again: reopens, arguments });
        self.note_of(job.uid, Act::Reran { run: past.key, again: key });
        Ok(Answer::Triggered(key))
    }

    /// A job that is deleted takes its backfills along; what has begun of them goes on like everything else of it.
    pub(crate) fn forget_backfills(&mut self, job: JobUid) {
        let ids: Vec<BackfillId> = self.book.state().backfills_of(job).map(|backfill| backfill.id).collect();
        ids.into_iter().for_each(|id| self.book.remove_backfill(id));
    }

    // ---- under way

    /// Lets each backfill that may go on do so by one slot, those that have waited longest first. Returns whether a
    /// slot has begun.
    pub(crate) fn begin_backfills(&mut self, budget: &mut usize) -> bool {
        let mut begun = false;
        for id in self.book.stirred() {
            if *budget == 0 {
                break;
            }
            *budget -= 1;
            begun |= self.go_on(id);
            self.charge(budget);
        }
        begun && *budget > 0
    }

    /// Ends the backfills that are complete, however much else is to be done: it costs nobody anything.
    pub(crate) fn end_backfills(&mut self, budget: &mut usize) {
        while *budget > 0
            && let Some(id) = self.book.take_over()
        {
            *budget -= 1;
            self.look_after(id);
            self.charge(budget);
        }
    }

    /// Forgets the cycles that are over, and ends the backfill with the last of them. `None` once it has ended.
    fn look_after(&mut self, id: BackfillId) -> Option<Backfill> {
        let kept = self.book.state().backfills.get(&id)?.clone();
        if kept.ended.is_some() {
            return None;
        }
        let mut backfill = (*kept).clone();
        backfill.under_way.retain(|due| self.book.lives(kept.cycle(*due)));
        if backfill.next.is_none() && backfill.under_way.is_empty() {
            self.book.put_backfill(Backfill { ended: Some(self.now), ..backfill });
            return None;
        }
        if backfill != *kept {
            self.book.put_backfill(backfill.clone());
        }
        Some(backfill)
    }

    fn go_on(&mut self, id: BackfillId) -> bool {
        let Some(backfill) = self.look_after(id) else { return false };
        if let Some((slot, job)) = self.may_begin(&backfill) {
            self.begin(backfill, slot, &job);
            return true;
        }
        self.book.settle_backfill(id);
        false
    }

    /// The next slot, if the job can take it at once: a run that had to wait would be in the way of others. A job
    /// that may run several at once keeps a place free for what is due now.
    fn may_begin(&self, backfill: &Backfill) -> Option<(Slot, Arc<Job>)> {
        let uid = backfill.id.job;
        let slot = backfill.next.filter(|_| backfill.hold.is_none())?;
        let job = self.book.job(uid).filter(|job| !job.rules.disabled)?;
        let progress = self.book.progress(uid);
        let slowed = progress.quick_failures.is_some_and(|failures| failures.until.is_some());
        let paused = progress.paused.is_some() || slowed;
        let busy = self.book.active(uid) + self.book.queued(uid).0;
        let room = self.book.room(uid);
        let places = if room > 1 { room - 1 } else { 1 };
        let fits = busy < places && backfill.under_way.len() < backfill.parallel as usize;
        (fits && !paused).then(|| (slot, job.clone()))
    }

    fn begin(&mut self, mut backfill: Backfill, slot: Slot, job: &Job) {
        let schedule = match &backfill.what {
            Redo::Slots { table, .. } => table.schedule(&self.settings.zones, &job.name).ok(),
            Redo::Run(_) => None,
        };
        // Without its zone, which has left the zone data, nobody can say which slots are left.
        backfill.next = schedule.as_ref().and_then(|schedule| backfill.advanced(schedule));
        backfill.cancelled |= schedule.is_none();
        backfill.trim();
        backfill.begun += 1;
        backfill.last = Some(self.now);
        let spacing = backfill.rate.filter(|_| backfill.next.is_some()).map(|rate| rate.spacing());
        backfill.hold = spacing.map(|spacing| later(self.now, spacing));
        backfill.under_way.push(slot.due);
        let cause = Cause::Backfill { number: backfill.id.number, nominal: slot.nominal };
        let cycle = backfill.cycle(slot.due);
        self.book.put_backfill(backfill);
        let graph = self.graph_now();
        self.spawn(job, NewRun { cause, cycle, graph, due: slot.due, again: false, arguments: None });
    }

    /// Its rate lets the next slot begin.
    pub(crate) fn release(&mut self, id: BackfillId) {
        if let Some(kept) = self.book.state().backfills.get(&id).cloned() {
            self.book.put_backfill(Backfill { hold: None, ..(*kept).clone() });
        }
    }

    /// After a clock has gone back, no backfill is held longer than its rate says.
    pub(crate) fn clip_holds(&mut self) {
        let held: Vec<Arc<Backfill>> = self
            .book
            .state()
            .backfills
            .values()
            .filter(|backfill| backfill.hold.is_some())
            .cloned()
            .collect();
        for kept in held {
            let longest = kept.rate.map(|rate| later(self.now, rate.spacing()));
            let hold = kept.hold.min(longest);
            if hold != kept.hold {
                self.book.put_backfill(Backfill { hold, ..(*kept).clone() });
            }
        }
    }

    /// Counts a run that a backfill has made, and says whether its children are told.
    pub(crate) fn note_backfilled(&mut self, run: &Run, succeeded: bool) -> Children {
        let Some(kept) = self.book.backfill_of(run.cycle).cloned() else { return Children::Follow };
        if !is_root(run.key, &kept) {
            return Children::Follow;
        }
        let mut backfill = (*kept).clone();
        if succeeded {
            backfill.succeeded += 1
        } else {
            backfill.failed += 1
        }
        self.book.put_backfill(backfill);
        kept.children
    }

    /// Past slots count, but they say nothing about how the job does now: they neither disable it nor end a row of
    /// failures.
    pub(crate) fn count_backfilled(&mut self, job: &Job, succeeded: bool) -> Counted {
        let mut progress = self.book.progress(job.uid);
        if succeeded {
            progress.successes += 1
        } else {
            progress.errors += 1
        }
        self.book.put_progress(job.uid, progress);
        if succeeded { Counted::Success { errors_before: 0 } } else { Counted::Error }
    }
}

/// Whether the backfill has made the run, and not a parent or a user.
fn is_root(key: RunKey, backfill: &Backfill) -> bool {
    let number = match key.cause {
        Cause::Backfill { number, .. } | Cause::Trigger(number) => number,
        Cause::Slot { .. } | Cause::Join { .. } => return false,
    };
    (key.job, number) == (backfill.id.job, backfill.id.number)
}

/// Whether the children of an ended run were told that it failed. They hear nothing of a slot or a trigger that was
/// forbidden before it began; and a soft error counts for them as a success.
fn failed_its_children(past: &EndedRun, job: &Job) -> bool {
    match &past.outcome {
        Outcome::Succeeded => false,
        Outcome::Failed | Outcome::TimedOut | Outcome::Lost => !job.rules.soft_error,
        Outcome::Killed(_) | Outcome::Skipped(Skipped::Upstream { .. }) => true,
        Outcome::Skipped(_) | Outcome::Missed(_) => matches!(past.key.cause, Cause::Join { .. }),
    }
}
