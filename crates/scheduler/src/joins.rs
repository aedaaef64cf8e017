//! Joins: what the end of a parent's run means to its children.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{Cause, Cycle, GraphVersion, JobUid, RunKey};
use crate::job::{Job, Plan};
use crate::run::{EndedRun, Outcome, Record, Skipped};
use crate::scheduler::Scheduler;
use crate::spawn::NewRun;
use crate::state::{Arrival, Fanout, Join, Stage};

/// Open joins of one child. Beyond it the oldest gives way: a parent that never ends must not fill the store.
pub const JOINS_MAX: usize = 64;

/// Joins of one child that gave way and whose late parents are still awaited. A parent may run a thousand cycles at
/// once; whoever is later than that is not waited for.
const SUPERSEDED_MAX: usize = 1024;

/// How much of a step's bound it takes to tell a child: a join of many parents is a large change.
fn cost(parents: usize) -> usize {
    1 + parents / 16
}

/// Whether nobody is awaited any more.
fn is_whole(join: &Join) -> bool {
    join.parents.iter().all(|(_, arrival)| *arrival != Arrival::Awaited)
}

impl Scheduler {
    /// Tells children what became of their parents' runs, within the bound of the step.
    pub(crate) fn tell_children(&mut self, budget: &mut usize) {
        while *budget > 0 && !self.fanouts.is_empty() {
            self.tell_one(budget);
            self.charge(budget);
        }
    }

    /// Tells the next child of the oldest fan-out, or ends that.
    pub(crate) fn tell_one(&mut self, budget: &mut usize) {
        let Some(fanout) = self.fanouts.front_mut() else { return };
        let Some(child) = self.book.graph().child_after(fanout.run.job, fanout.after) else {
            let run = fanout.run;
            self.fanouts.pop_front();
            return self.book.remove_fanout(run);
        };
        fanout.after = Some(child);
        let news = fanout.clone();
        *budget = budget.saturating_sub(cost(self.book.graph().parents(child).len()));
        self.tell(child, &news);
    }

    /// What could not be told in this step is made durable, with how far it has come.
    pub(crate) fn keep_fanouts(&mut self) {
        // Only the oldest moves on, and new ones are at the end: the others are kept as they are.
        let is_new = |fanout: &&Fanout| {
            !self.book.state().fanouts.get(&fanout.run).is_some_and(|kept| **kept == **fanout)
        };
        let new = self.fanouts.iter().rev().take_while(is_new);
        let moved = self.fanouts.front().filter(is_new);
        let keep: BTreeMap<RunKey, Fanout> =
            new.chain(moved).map(|fanout| (fanout.run, fanout.clone())).collect();
        keep.into_values().for_each(|fanout| self.book.put_fanout(fanout));
    }

    fn tell(&mut self, child: JobUid, news: &Fanout) {
        let Some(job) = self.book.job(child).cloned() else { return };
        let Plan::Parents(parents) = &job.plan else { return };
        if job.rules.disabled {
            if self.book.state().joins.contains_key(&(child, news.cycle)) {
                // It was disabled in mid-cycle: those behind it know already.
                return self.arrive(&job, news);
            }
            // It has no runs and so no outcomes, but those behind it must not wait for it. They are told once.
            let first = self.open_join(&job, news).parents.first().map(|(parent, _)| *parent);
            if first == Some(news.run.job) && self.book.graph().single_root(child).is_some() {
                let key = RunKey { job: child, cause: Cause::Join { cycle: news.cycle, round: 0 } };
                // Its parents may have changed since, and a former one may have had it tell them already.
                let again = news.again || news.graph < job.joins_from;
                self.fan_out(Fanout { run: key, succeeded: false, again, after: None, ..news.clone() });
            }
            return;
        }
        let single = parents.len() == 1;
        if single {
            self.follow(&job, news);
        } else if self.book.graph().single_root(child).is_some() {
            self.arrive(&job, news);
        } else if news.succeeded {
            self.raise_flag(&job, news);
        }
    }

    /// A child of one parent: every success fires, every failure passes on.
    fn follow(&mut self, job: &Job, news: &Fanout) {
        // Once its parent has changed, a cycle may have fired it before.
        let again = news.again || news.graph < job.joins_from;
        let round = if again { self.next_number(job.uid) } else { 0 };
        let new = self.joined((news.cycle, news.graph), round, again);
        if news.succeeded {
            self.spawn(job, new);
        } else {
            self.skip(job, &new, self.upstream(news.run.job));
        }
    }

    fn joined(&self, (cycle, graph): (Cycle, GraphVersion), round: u32, again: bool) -> NewRun {
        NewRun { cause: Cause::Join { cycle, round }, cycle, graph, due: self.now, again, arguments: None }
    }

    fn upstream(&self, parent: JobUid) -> Skipped {
        let name = self.book.job(parent).map_or("(deleted)", |job| job.name.as_str());
        Skipped::Upstream { parent: name.into() }
    }

    /// The next number of a job for what is not named by a slot or a cycle alone.
    pub(crate) fn next_number(&mut self, uid: JobUid) -> u32 {
        let mut progress = self.book.progress(uid);
        progress.sequence = progress.sequence.saturating_add(1);
        let number = progress.sequence;
        self.book.put_progress(uid, progress);
        number
    }

    /// A child of several parents under one root: waits for all of them, cycle by cycle.
    fn arrive(&mut self, job: &Job, news: &Fanout) {
        let kept = self.book.state().joins.get(&(job.uid, news.cycle)).cloned();
        let mut join = match kept {
            Some(join) => (*join).clone(),
            // A repeat of a cycle that has fired, or one that began before the child had these parents.
            None if news.again || news.graph < job.joins_from => return,
            None => {
                self.make_room(job);
                self.open_join(job, news)
            }
        };
        let Some((_, arrival)) = join.parents.iter_mut().find(|(parent, _)| *parent == news.run.job) else {
            return;
        };
        *arrival = if news.succeeded { Arrival::Succeeded } else { Arrival::Failed };
        join.again |= news.again;
        self.settle(job, join);
    }

    /// In a cycle that began at a job in the middle of the graph, only what descends from there takes part.
    fn open_join(&mut self, job: &Job, news: &Fanout) -> Join {
        let (cycle, graph) = (news.cycle, news.graph);
        let from_root = self.book.graph().single_root(job.uid) == Some(cycle.origin);
        let parents = self.book.graph().parents(job.uid).to_vec();
        let edges = self.book.graph();
        let takes_part = |parent: &JobUid| from_root || edges.descends(*parent, cycle.origin);
        let parents =
            parents.into_iter().filter(takes_part).map(|parent| (parent, Arrival::Awaited)).collect();
        Join { child: job.uid, cycle, graph, opened: self.now, parents, stage: Stage::Open, again: false }
    }

    /// Fires the join, skips it, or keeps it waiting.
    fn settle(&mut self, job: &Job, mut join: Join) {
        if join.stage == Stage::Superseded {
            return if is_whole(&join) {
                self.book.remove_join(job.uid, join.cycle);
            } else {
                self.book.put_join(join);
            };
        }
        let failed =
            join.parents.iter().find(|(_, arrival)| *arrival == Arrival::Failed).map(|(parent, _)| *parent);
        let complete = join.parents.iter().all(|(_, arrival)| *arrival == Arrival::Succeeded);
        if let Some(parent) = failed {
            if join.stage == Stage::Open {
                join.stage = Stage::Skipped;
                let again = join.again;
                let cycle = (join.cycle, join.graph);
                let round = if again { self.next_number(job.uid) } else { 0 };
                self.book.put_join(join);
                let new = self.joined(cycle, round, again);
                return self.skip(job, &new, self.upstream(parent));
            }
        } else if join.stage == Stage::Skipped {
            // Reopened: its first skip is in the ledger, what comes now is another round.
            join.stage = Stage::Open;
            join.again = true;
        }
        if complete {
            self.book.remove_join(job.uid, join.cycle);
            let round = if join.again { self.next_number(job.uid) } else { 0 };
            let new = self.joined((join.cycle, join.graph), round, join.again);
            self.spawn(job, new);
        } else {
            self.book.put_join(join);
        }
    }

    /// Makes room for one more join: what nobody will arrive at any more is forgotten first, then the oldest gives way.
    /// What a backfill has under way is bounded by that and gives no way.
    fn make_room(&mut self, job: &Job) {
        let under_way = |cycle: Cycle| {
            self.book.backfill_of(cycle).is_some_and(|backfill| backfill.under_way.contains(&cycle.due))
        };
        let joins: Vec<_> =
            self.book.state().joins_of(job.uid).filter(|join| !under_way(join.cycle)).cloned().collect();
        let kept: Vec<_> = joins.iter().filter(|join| join.stage != Stage::Superseded).collect();
        if kept.len() < JOINS_MAX {
            return;
        }
        if let Some(settled) = kept.iter().find(|join| join.stage == Stage::Skipped && is_whole(join)) {
            return self.book.remove_join(job.uid, settled.cycle);
        }
        let Some(victim) = kept.first() else { return };
        self.supersede(job, victim, Skipped::JoinSuperseded);
    }

    /// Closes a join that parents may still arrive at: they find it and change nothing.
    fn supersede(&mut self, job: &Job, join: &Join, why: Skipped) {
        self.close_join(job, join, why);
        if is_whole(join) {
            return;
        }
        // Who has arrived does not come again.
        let awaited = |(_, arrival): &&(JobUid, Arrival)| *arrival == Arrival::Awaited;
        let parents = join.parents.iter().filter(awaited).copied().collect();
        self.book.put_join(Join { stage: Stage::Superseded, parents, ..join.clone() });
        let is_gone = |join: &&Arc<Join>| join.stage == Stage::Superseded;
        let (count, oldest) = {
            let mut gone = self.book.state().joins_of(job.uid).filter(is_gone);
            let oldest = gone.next().map(|join| join.cycle);
            (1 + gone.count(), oldest)
        };
        if let Some(cycle) = oldest.filter(|_| count > SUPERSEDED_MAX) {
            self.book.remove_join(job.uid, cycle);
        }
    }

    /// Forgets the joins of a job that is no child any more; open ones get their outcome.
    pub(crate) fn close_joins(&mut self, job: &Job, why: &Skipped) {
        let joins: Vec<_> = self.book.state().joins_of(job.uid).cloned().collect();
        joins.iter().for_each(|join| self.close_join(job, join, why.clone()));
    }

    /// The same for a job that is disabled: its parents go on, and what they tell must not begin a cycle twice.
    pub(crate) fn retire_joins(&mut self, job: &Job, why: &Skipped) {
        let open = |join: &&Arc<Join>| join.stage != Stage::Superseded;
        let joins: Vec<_> = self.book.state().joins_of(job.uid).filter(open).cloned().collect();
        joins.iter().for_each(|join| self.supersede(job, join, why.clone()));
    }

    /// Forgets a join; an open one gets its outcome.
    pub(crate) fn close_join(&mut self, job: &Job, join: &Join, why: Skipped) {
        self.book.remove_join(job.uid, join.cycle);
        if join.stage == Stage::Open {
            let round = if join.again { self.next_number(job.uid) } else { 0 };
            let new = self.joined((join.cycle, join.graph), round, join.again);
            self.skip(job, &new, why);
        }
    }

    /// Who is no parent any more takes no part in the joins that are open. `former` is sorted.
    pub(crate) fn forget_parents(&mut self, job: &Job, former: &[JobUid]) {
        let joins: Vec<_> = self.book.state().joins_of(job.uid).cloned().collect();
        for join in joins {
            if join.stage == Stage::Superseded {
                // Whoever is late for it finds that the job takes part in later cycles only.
                self.book.remove_join(job.uid, join.cycle);
                continue;
            }
            let mut join = (*join).clone();
            let before = join.parents.len();
            join.parents.retain(|(parent, _)| former.binary_search(parent).is_err());
            if join.parents.is_empty() {
                self.close_join(job, &join, Skipped::JoinSuperseded);
            } else if join.parents.len() < before {
                self.settle(job, join);
            }
        }
    }

    /// A child whose parents have several roots: one flag per parent; when all are raised it fires, and is the root of
    /// a cycle of its own, due when the latest of what it consumed was.
    fn raise_flag(&mut self, job: &Job, news: &Fanout) {
        let mut progress = self.book.progress(job.uid);
        let parents = self.book.graph().parents(job.uid).to_vec();
        progress.flags.retain(|(parent, _)| parents.contains(parent));
        match progress.flags.binary_search_by_key(&news.run.job, |(parent, _)| *parent) {
            Ok(at) => {
                progress.sequence = progress.sequence.saturating_add(1);
                let superseded = progress.flags[at].1;
                progress.flags[at].1 = news.cycle;
                let cycle = Cycle { due: superseded.due, origin: job.uid, seq: progress.sequence };
                self.book.append(Record::Run(EndedRun {
                    key: RunKey { job: job.uid, cause: Cause::Join { cycle, round: 0 } },
                    job: job.name.clone(),
                    cycle,
                    due: self.now,
                    created: self.now,
                    ended: self.now,
                    outcome: Outcome::Skipped(Skipped::JoinSuperseded),
                    arguments: None,
                    attempts: Vec::new(),
                }));
            }
            Err(at) => progress.flags.insert(at, (news.run.job, news.cycle)),
        }
        if progress.flags.len() < parents.len() {
            return self.book.put_progress(job.uid, progress);
        }
        let latest = progress.flags.iter().map(|(_, cycle)| cycle.due).max().unwrap_or(self.now);
        progress.sequence = progress.sequence.saturating_add(1);
        let cycle = Cycle { due: latest, origin: job.uid, seq: progress.sequence };
        progress.flags.clear();
        self.book.put_progress(job.uid, progress);
        let new = self.joined((cycle, self.graph_now()), 0, false);
        self.spawn(job, new);
    }

    /// A job's pause has ended by itself: the slots until then are skipped, those after it count again.
    pub(crate) fn end_pause(&mut self, uid: JobUid) {
        let Some(job) = self.book.job(uid).cloned() else { return };
        let mut progress = self.book.progress(uid);
        let Some(pause) = progress.paused.take() else { return };
        let end = pause.until.map_or(self.now, |until| until.min(self.now));
        if !job.rules.disabled {
            self.close_slots(&job, &mut progress, end, Skipped::Paused { reason: pause.reason });
        }
        self.book.put_progress(uid, progress);
    }
}
