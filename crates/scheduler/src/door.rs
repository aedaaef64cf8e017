//! The door: what users ask for is checked here, whole, before anything changes.

use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::Act;
use crate::ids::{Cause, Cycle, GraphVersion, JobName, JobUid, RunKey, TaskId};
use crate::job::{Job, Pause, Plan, Progress, Timetable};
use crate::notice::clipped;
use crate::request::{Answer, Definition, Edit, Expect, PlanText, Refusal, Request};
use crate::revision::{Deed, Revision};
use crate::run::{EndedRun, KillReason, Live, Outcome, Record, Run, RunState, Skipped};
use crate::scheduler::Scheduler;
use crate::spawn::NewRun;
use crate::state::Fanout;

/// Manual runs of one job that may wait. Each is wanted, but nobody wants more.
pub const WAITING_MAX: usize = 16;

/// A job with more children cannot be deleted: they are all rewritten with it, in one batch.
pub const HEIRS_MAX: usize = 64;
/// Nor one whose children's definitions are larger together: each is written twice, as the job and as its revision,
/// and JSON within JSON may take twice its bytes, so this is what still fits a batch.
const HEIRS_BYTES_MAX: usize = 80 * 1024;

/// Where a definition comes from.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    User,
    Edit(Edit),
    Set,
}

/// Those that a job has no more as its parents, where it still has some; sorted, as parents are.
fn former_parents(old: &Plan, new: &Plan) -> Vec<JobUid> {
    match (old, new) {
        (Plan::Parents(old), Plan::Parents(new)) => {
            old.iter().copied().filter(|parent| new.binary_search(parent).is_err()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether somebody has said already that it shall end, for good.
fn is_being_killed(run: &Run) -> bool {
    matches!(&run.state, RunState::Running(live) if !matches!(live.kill, None | Some(KillReason::TimedOut)))
}

impl Scheduler {
    pub(crate) fn request(&mut self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Put(definition) => self.put(definition, Origin::User),
            Request::Edit { definition, edit } => self.put(definition, Origin::Edit(edit)),
            Request::Apply { definitions, manner } => self.apply_set(definitions, manner),
            Request::When { job, expect, then } => {
                self.expect(&job, &expect)?;
                self.request(*then)
            }
            Request::By { request, .. } => self.request(*request),
            Request::Once { once, request } => self.once(once, *request),
            Request::Delete(name) => self.delete(&name),
            Request::Trigger { job, arguments } => self.trigger(&job, arguments),
            Request::KillJob(name) => self.kill_job(&name),
            Request::KillRun(key) => self.kill_run(key),
            Request::CancelRun(key) => self.cancel_run(key),
            Request::Report { task, elements } => self.report(task, elements),
            Request::EngineNote(note) => {
                self.book.note_for_engine(note);
                Ok(Answer::Noted)
            }
            Request::ForgetNode { node, runs } => {
                self.note(None, Act::NodeForgotten { node: clipped(&node, Act::NODE_MAX), runs });
                Ok(Answer::Noted)
            }
            Request::MarkSuccess { job, failed } => self.mark_success(&job, failed),
            Request::Pause { job, reason, until } => self.pause(&job, reason, until),
            Request::Resume(name) => self.resume(&name),
            Request::Backfill(order) => self.backfill(order),
            Request::CancelBackfill { id, remains } => self.cancel_backfill(id, remains),
            Request::Rerun { run, children } => self.rerun(&run, children),
            Request::RetryNotice(id) => self.retry_notice(id),
        }
    }

    pub(crate) fn job_called(&self, name: &JobName) -> Result<Arc<Job>, Refusal> {
        self.book.job_named(name).cloned().ok_or_else(|| Refusal::NoSuchJob(name.clone()))
    }

    fn expect(&self, name: &JobName, expect: &Expect) -> Result<(), Refusal> {
        let present = self.book.job_named(name).map(|job| (job.uid, job.version));
        let holds = match (expect, &present) {
            (Expect::Absent, present) => present.is_none(),
            (Expect::Present, present) => present.is_some(),
            (Expect::OneOf(versions), Some(present)) => versions.contains(present),
            (Expect::OneOf(_), None) => false,
        };
        if holds { Ok(()) } else { Err(Refusal::VersionMismatch { job: name.clone(), present }) }
    }

    // ---- create and replace

    pub(crate) fn put(&mut self, definition: Definition, origin: Origin) -> Result<Answer, Refusal> {
        let old = self.book.job_named(&definition.name).cloned();
        let plan = self.plan(&definition, old.as_deref())?;
        let deed = match origin {
            Origin::Edit(Edit::Patch) => Deed::Patched,
            Origin::Edit(Edit::RollBack { to }) => Deed::RolledBack { to },
            Origin::Edit(Edit::Restore) => Deed::Restored,
            Origin::Set => Deed::Applied,
            Origin::User if old.is_some() => Deed::Replaced,
            Origin::User => Deed::Created,
        };
        match old {
            None => self.create(definition, plan, deed),
            Some(old) => self.replace(&old, definition, plan, deed),
        }
    }

    /// Puts a job whose definition has changed, and keeps what it has become.
    pub(crate) fn revise(&mut self, job: Job, deed: Deed) {
        let job = self.book.put_job(job);
        self.keep(job, deed);
    }

    fn keep(&mut self, job: Arc<Job>, deed: Deed) {
        let parents = self.names_of_parents(&job);
        let (named, version) = ((job.uid, job.name.clone()), job.version);
        let by = self.author.name().clone();
        self.book.revise(Revision { job, parents, at: self.now, by, deed });
        self.note(Some(named), Act::Defined { deed, version });
    }

    pub(crate) fn names_of_parents(&self, job: &Job) -> Vec<JobName> {
        let Plan::Parents(parents) = &job.plan else { return Vec::new() };
        let mut names: Vec<JobName> =
            parents.iter().filter_map(|uid| self.book.job(*uid)).map(|parent| parent.name.clone()).collect();
        names.sort();
        names
    }

    /// The plan as it will be kept. The schedule that is there already keeps its anchor.
    pub(crate) fn plan(&mut self, definition: &Definition, old: Option<&Job>) -> Result<Plan, Refusal> {
        let job = &definition.name;
        match &definition.plan {
            PlanText::Schedule { text, zone, dst } => {
                let version = old.map_or(1, |old| old.version + 1);
                let (text, zone) = (text.clone(), zone.clone());
                let table = Timetable { text, zone, dst: *dst, anchor: self.now, plan: version };
                if let Some(Plan::Schedule(old)) = old.map(|old| &old.plan)
                    && (&old.text, &old.zone, old.dst) == (&table.text, &table.zone, table.dst)
                {
                    return Ok(Plan::Schedule(old.clone()));
                }
                table
                    .schedule(&self.settings.zones, job)
                    .map_err(|cause| Refusal::Schedule { job: job.clone(), cause })?;
                Ok(Plan::Schedule(table))
            }
            PlanText::Parents(names) => self.parents(job, names, old).map(Plan::Parents),
        }
    }

    fn parents(
        &mut self,
        job: &JobName,
        names: &[JobName],
        old: Option<&Job>,
    ) -> Result<Vec<JobUid>, Refusal> {
        if names.is_empty() {
            return Err(Refusal::NoParents(job.clone()));
        }
        if names.contains(job) {
            return Err(Refusal::Cycle { path: vec![job.clone(), job.clone()] });
        }
        let mut missing: Vec<JobName> =
            names.iter().filter(|n| self.book.job_named(n).is_none()).cloned().collect();
        if !missing.is_empty() {
            missing.sort();
            missing.dedup();
            return Err(Refusal::MissingParents { job: job.clone(), missing });
        }
        let mut uids: Vec<JobUid> =
            names.iter().filter_map(|n| self.book.job_named(n)).map(|job| job.uid).collect();
        uids.sort();
        uids.dedup();
        if uids.len() > Definition::PARENTS_MAX {
            return Err(Refusal::TooManyParents { job: job.clone(), count: uids.len() });
        }
        if let Some(old) = old {
            for parent in &uids {
                if let Some(path) = self.book.graph().path_down(old.uid, *parent) {
                    let name = |uid: &JobUid| self.book.job(*uid).map(|job| job.name.clone());
                    let path = path.iter().filter_map(name).chain([job.clone()]).collect();
                    return Err(Refusal::Cycle { path });
                }
            }
        }
        Ok(uids)
    }

    fn create(&mut self, definition: Definition, plan: Plan, deed: Deed) -> Result<Answer, Refusal> {
        let uid = self.book.next_uid();
        let mut progress = Progress::new(self.now);
        self.begin_schedule(&definition.name, &plan, &mut progress)?;
        let Definition { name, rules, body, .. } = definition;
        // A new job takes part in the cycles that are under way: none of them can have fired it.
        let (created, joins_from) = (self.now, GraphVersion::default());
        let (version, changed) = (1, created);
        self.revise(
            Job { uid, version, created, changed, joins_from, name, plan, rules: rules.shared(), body },
            deed,
        );
        self.book.put_progress(uid, progress);
        Ok(Answer::Put { uid, version: 1, changed: true })
    }

    /// Sets the first slot of a schedule that has just been posted.
    fn begin_schedule(&self, job: &JobName, plan: &Plan, progress: &mut Progress) -> Result<(), Refusal> {
        progress.next = None;
        progress.remaining = None;
        if let Plan::Schedule(table) = plan {
            let schedule = table
                .schedule(&self.settings.zones, job)
                .map_err(|cause| Refusal::Schedule { job: job.clone(), cause })?;
            progress.remaining = schedule.repeats();
            progress.next = self.first_slot(&schedule, progress.mark.map(|mark| mark.due));
        }
        Ok(())
    }

    fn replace(
        &mut self,
        old: &Job,
        definition: Definition,
        plan: Plan,
        deed: Deed,
    ) -> Result<Answer, Refusal> {
        let Definition { name, rules, body, .. } = definition;
        if (&old.plan, &*old.rules, &old.body) == (&plan, &rules, &body) {
            return Ok(Answer::Put { uid: old.uid, version: old.version, changed: false });
        }
        let mut progress = self.book.progress(old.uid);
        let plan_changes = old.plan != plan;
        if plan_changes || (rules.disabled && !old.rules.disabled) {
            self.withdraw_slots(old, &mut progress);
        }
        if plan_changes {
            self.begin_schedule(&name, &plan, &mut progress)?;
        } else if old.rules.disabled
            && !rules.disabled
            && progress.remaining != Some(0)
            && let Plan::Schedule(table) = &plan
        {
            // Disabled jobs have no slots, so those that would have come meanwhile do not exist.
            let floor = progress.mark.map_or(self.now, |mark| mark.due.max(self.now));
            progress.next = table
                .schedule(&self.settings.zones, &name)
                .ok()
                .and_then(|schedule| schedule.first_after(floor));
        }
        let becomes_dependent = plan_changes && matches!(plan, Plan::Parents(_));
        // While it was disabled the cycles under way went on without it.
        let comes_back = old.rules.disabled && !rules.disabled;
        let joins_from =
            if becomes_dependent || comes_back { self.book.next_graph() } else { old.joins_from };
        if rules.disabled || (plan_changes && !becomes_dependent) {
            progress.flags.clear();
            self.book.put_progress(old.uid, progress.clone());
            if matches!(plan, Plan::Parents(_)) {
                self.retire_joins(old, &Skipped::Withdrawn);
            } else {
                self.close_joins(old, &Skipped::Withdrawn);
            }
            progress.sequence = self.book.progress(old.uid).sequence;
        }
        if rules.disabled {
            self.withdraw(old.uid);
            let counted = self.book.progress(old.uid);
            progress = Progress {
                next: progress.next,
                remaining: progress.remaining,
                mark: progress.mark,
                ..counted
            };
        }
        let (uid, version, created, changed) = (old.uid, old.version + 1, old.created, self.now);
        let former = former_parents(&old.plan, &plan);
        let new = Job { uid, version, created, changed, joins_from, name, plan, rules: rules.shared(), body };
        self.revise(new.clone(), deed);
        self.book.put_progress(uid, progress);
        if !former.is_empty() {
            self.forget_parents(&new, &former);
        }
        Ok(Answer::Put { uid, version, changed: true })
    }

    /// Slots that are due but were not taken end with the schedule that made them.
    pub(crate) fn withdraw_slots(&mut self, job: &Job, progress: &mut Progress) {
        if job.rules.disabled {
            return;
        }
        let why = match &progress.paused {
            Some(pause) => Skipped::Paused { reason: pause.reason.clone() },
            None => Skipped::Withdrawn,
        };
        let now = self.now;
        self.close_slots(job, progress, now, why);
    }

    // ---- delete

    /// Children of a dependent get its parents instead; children of a scheduled job lose it as a parent, and those
    /// that had no other inherit its schedule.
    fn delete(&mut self, name: &JobName) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        let heirs: Vec<Arc<Job>> = {
            let uids: Vec<JobUid> = self.book.graph().children(job.uid).collect();
            uids.into_iter().filter_map(|uid| self.book.job(uid).cloned()).collect()
        };
        let bytes: usize = heirs.iter().map(|heir| heir.body.len()).sum();
        if heirs.len() > HEIRS_MAX || bytes > HEIRS_BYTES_MAX {
            return Err(Refusal::TooManyHeirs { job: name.clone(), children: heirs.len() });
        }
        self.finish_telling(job.uid);
        let mut progress = self.book.progress(job.uid);
        self.withdraw_slots(&job, &mut progress);
        self.book.put_progress(job.uid, progress.clone());
        for heir in &heirs {
            self.inherit(heir, &job, &progress);
        }
        let live = self.live_runs(job.uid);
        self.watch_deletion(&job, live.len());
        self.close_joins(&job, &Skipped::Withdrawn);
        self.withdraw(job.uid);
        for run in &live {
            self.order_kill(run, KillReason::Deleted);
        }
        self.forget_backfills(job.uid);
        self.keep(Arc::new(Job { version: job.version + 1, ..Job::clone(&job) }), Deed::Deleted);
        self.book.remove_job(job.uid);
        Ok(Answer::Deleted { live: live.len() })
    }

    /// The job's children hear of all its ended runs now: afterwards they are nobody's children.
    fn finish_telling(&mut self, uid: JobUid) {
        let (mut own, others): (Vec<_>, Vec<_>) =
            self.fanouts.drain(..).partition(|fanout| fanout.run.job == uid);
        self.fanouts.extend(own.drain(..));
        let mut budget = usize::MAX;
        while self.fanouts.front().is_some_and(|fanout| fanout.run.job == uid) {
            self.tell_one(&mut budget);
        }
        self.fanouts.extend(others);
    }

    fn inherit(&mut self, heir: &Job, gone: &Job, gone_progress: &Progress) {
        let Plan::Parents(parents) = &heir.plan else { return };
        let mut parents: Vec<JobUid> = parents.iter().copied().filter(|parent| *parent != gone.uid).collect();
        if let Plan::Parents(grandparents) = &gone.plan {
            parents.extend(grandparents);
            parents.sort();
            parents.dedup();
        }
        let mut heir = heir.clone();
        heir.version += 1;
        heir.changed = self.now;
        heir.joins_from = self.book.next_graph();
        let mut progress = self.book.progress(heir.uid);
        if parents.is_empty()
            && let Plan::Schedule(table) = &gone.plan
        {
            heir.plan = Plan::Schedule(Timetable { plan: heir.version, ..table.clone() });
            // Disabled jobs have no slots, so those that would have come meanwhile do not exist.
            let after = gone_progress.mark.map_or(self.now, |mark| mark.due.max(self.now));
            let schedule = table.schedule(&self.settings.zones, &heir.name).ok();
            // Nor does the heir have the slots that `H` gave to another name.
            let spread = schedule.as_ref().is_some_and(|schedule| schedule.resolved().is_some());
            progress.next = if (gone.rules.disabled || spread) && gone_progress.remaining != Some(0) {
                schedule.and_then(|schedule| schedule.first_after(after))
            } else {
                gone_progress.next
            };
            progress.mark = gone_progress.mark;
            progress.remaining = gone_progress.remaining;
            progress.accounted_since = self.now;
        } else {
            heir.plan = Plan::Parents(parents);
        }
        progress.flags.retain(|(parent, _)| *parent != gone.uid);
        self.revise(heir.clone(), Deed::Inherited);
        self.book.put_progress(heir.uid, progress);
        self.forget_parents(&heir, &[gone.uid]);
    }

    // ---- runs

    fn trigger(&mut self, name: &JobName, arguments: Option<Arc<str>>) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        if job.rules.disabled {
            return Err(Refusal::Disabled(name.clone()));
        }
        let (waiting, _) = self.book.queued(job.uid);
        if waiting >= WAITING_MAX {
            return Err(Refusal::TooManyWaiting { job: name.clone(), waiting });
        }
        let number = self.next_number(job.uid);
        let cycle = Cycle { due: self.now, origin: job.uid, seq: number };
        let cause = Cause::Trigger(number);
        let graph = self.graph_now();
        let key = self.spawn(&job, NewRun { cause, cycle, graph, due: self.now, again: false, arguments });
        self.note_of(job.uid, Act::Triggered { run: key });
        Ok(Answer::Triggered(key))
    }

    fn kill_job(&mut self, name: &JobName) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        let live = self.live_runs(job.uid);
        let going_on = live.iter().filter(|run| !is_being_killed(run)).count();
        live.iter().for_each(|run| self.end_by_hand(run));
        if going_on > 0 {
            self.note_of(job.uid, Act::Killed { run: None, runs: going_on as u64 });
        }
        Ok(Answer::Killed { runs: live.len() })
    }

    fn kill_run(&mut self, key: RunKey) -> Result<Answer, Refusal> {
        let run = self.book.state().runs.get(&key).cloned().ok_or(Refusal::NoSuchRun(key))?;
        let goes_on = !is_being_killed(&run);
        self.end_by_hand(&run);
        if goes_on {
            self.note(Some((key.job, run.job.clone())), Act::Killed { run: Some(key), runs: 1 });
        }
        Ok(Answer::Killed { runs: 1 })
    }

    fn cancel_run(&mut self, key: RunKey) -> Result<Answer, Refusal> {
        match self.book.state().runs.get(&key).map(|run| &run.state) {
            None | Some(RunState::Running(_)) => Err(Refusal::NoSuchRun(key)),
            Some(RunState::Queued | RunState::Waiting { .. }) => self.kill_run(key),
        }
    }

    fn report(&mut self, task: TaskId, elements: u64) -> Result<Answer, Refusal> {
        let run = self.book.run_of_task(&task).cloned();
        let Some((run, live)) = run.and_then(|run| run.live(&task).map(|live| (run, live))) else {
            return Err(Refusal::NoSuchTask(task));
        };
        let elements = live.elements.saturating_add(elements);
        self.set_live(&run, Live { elements, ..live });
        Ok(Answer::Marked(run.key))
    }

    pub(crate) fn end_by_hand(&mut self, run: &Run) {
        match run.state {
            RunState::Running(_) => self.order_kill(run, KillReason::Asked),
            _ if run.attempts.is_empty() => self.finish(run, Outcome::Skipped(Skipped::Cancelled)),
            _ => self.finish(run, Outcome::Killed(KillReason::Asked)),
        }
    }

    /// A run without attempts that has succeeded: the ledger keeps what was, and says what was done about it.
    fn mark_success(&mut self, name: &JobName, failed: Option<(RunKey, Cycle)>) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        let failed = failed.filter(|(key, _)| key.job == job.uid);
        let number = self.next_number(job.uid);
        let key = RunKey { job: job.uid, cause: Cause::Trigger(number) };
        let own = Cycle { due: self.now, origin: job.uid, seq: number };
        let cycle = failed.map_or(own, |(_, cycle)| cycle);
        self.book.append(Record::Run(EndedRun {
            key,
            job: job.name.clone(),
            cycle,
            due: self.now,
            created: self.now,
            ended: self.now,
            outcome: Outcome::Succeeded,
            arguments: None,
            attempts: Vec::new(),
        }));
        let mut progress = self.book.progress(job.uid);
        progress.flags.clear();
        self.book.put_progress(job.uid, progress);
        let _ = self.count(&job, true);
        // Of a cycle that is marked nobody asks when it began: its joins are open, or not to be opened again.
        let (graph, again) = (self.graph_now(), failed.is_some());
        self.fan_out(Fanout { run: key, cycle, graph, succeeded: true, again, after: None });
        self.note_of(job.uid, Act::Marked { run: key });
        Ok(Answer::Marked(key))
    }

    // ---- pause

    fn pause(
        &mut self,
        name: &JobName,
        reason: Arc<str>,
        until: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        if until.is_some_and(|until| until <= self.now) {
            return Err(Refusal::PauseOver(name.clone()));
        }
        if self.book.progress(job.uid).paused.is_none() && !job.rules.disabled {
            // What was due before the pause is not subject to it.
            self.take_slots_due(job.uid);
        }
        let mut progress = self.book.progress(job.uid);
        let before = progress.paused.take().map(|pause| *pause);
        let since = before.as_ref().map_or(self.now, |pause| pause.since);
        let after = Pause { since, reason, until };
        progress.paused = Some(Box::new(after.clone()));
        self.book.put_progress(job.uid, progress);
        if before.as_ref() != Some(&after) {
            self.note_of(job.uid, Act::Paused { before, after });
        }
        Ok(Answer::Paused)
    }

    fn resume(&mut self, name: &JobName) -> Result<Answer, Refusal> {
        let job = self.job_called(name)?;
        let before = self.book.progress(job.uid).paused;
        self.end_pause(job.uid);
        if let Some(before) = before {
            self.note_of(job.uid, Act::Resumed { before: *before });
        }
        Ok(Answer::Resumed)
    }
}
