//! The state with its indices: every change goes through here, so that an index can never disagree with what it
//! indexes. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::afoot::Afoot;
use crate::audit::{Author, Entry};
use crate::backfill::Backfill;
use crate::graph::Graph;
use crate::ids::{BackfillId, Cause, Cycle, GraphVersion, JobName, JobUid, RunKey, TaskId};
use crate::job::{CatchUp, Job, Overlap, Plan, Progress, Rules};
use crate::limits::Limits;
use crate::moment::Moment;
use crate::notice::{Notice, NoticeId};
use crate::outbox::Outbox;
use crate::queue::{Class, Queue, Rank};
use crate::receipt::{ByAge, Receipt, RequestKey};
use crate::request::Definition;
use crate::revision::Revision;
use crate::run::{Record, Run, RunState};
use crate::state::{Change, Fanout, Join, Meta, State, ZoneData};

/// What a moment may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The run's next deadline: see [`Book::deadline`].
    Run(RunKey),
    /// The end of a job's pause.
    Pause(JobUid),
    /// The end of a pause between launches of a job in a launch loop.
    Loop(JobUid),
    /// When the rate of a backfill lets the next slot begin.
    Backfill(BackfillId),
    /// The run has waited or run for as long as is worth telling: see [`Book::alert_at`].
    Alert(RunKey),
    /// Some of what was given up of a job is old.
    GivenUp(JobUid),
}

/// A queued run's turn among those of its job: what is due now before past slots that have not begun, then by due time.
type Turn = (Haste, Timestamp, RunKey);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    /// It is due now, or has begun and is tried again: its job has no room for another one meanwhile.
    Due,
    /// A past slot that has not begun.
    Past,
}

fn turn(run: &Run) -> Turn {
    let past = matches!(run.key.cause, Cause::Backfill { .. }) && run.attempts.is_empty();
    (if past { Haste::Past } else { Haste::Due }, run.due, run.key)
}

/// How busy a job is. Kept only while it has live runs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Busy {
    /// Runs that an engine may have, or that wait for their next attempt.
    active: usize,
    /// Queued runs that may start as soon as anything may: as many as there is room for, those whose turn it is.
    ready: BTreeSet<Turn>,
    /// Queued runs that wait until the job has room.
    waiting: BTreeSet<Turn>,
}

pub(crate) struct Book {
    state: State,
    graph: Graph,
    by_name: BTreeMap<JobName, JobUid>,
    /// Jobs by their next slot, where slots may be taken; and the same by job.
    due: BTreeSet<(Moment, JobUid)>,
    due_of: BTreeMap<JobUid, Moment>,
    timers: BTreeSet<(Timestamp, Timer)>,
    queue: Queue,
    busy: BTreeMap<JobUid, Busy>,
    tasks: BTreeMap<TaskId, RunKey>,
    afoot: Afoot,
    outbox: Outbox,
    receipts: ByAge,
    changes: Vec<Change>,
    /// What they weigh.
    weight: usize,
    /// Where in `changes` the present value of a run or a progress stands: a step keeps only the last of each.
    put_at: BTreeMap<PutKey, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PutKey {
    Run(RunKey),
    Progress(JobUid),
    Backfill(BackfillId),
    Notice(NoticeId),
}

/// `at + by`, or the end of time.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

impl Book {
    pub(crate) fn new(state: State, limits: Limits) -> Self {
        let mut book = Self {
            graph: Graph::new(&state.jobs),
            by_name: state.jobs.values().map(|job| (job.name.clone(), job.uid)).collect(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            timers: BTreeSet::new(),
            queue: Queue::new(limits),
            busy: BTreeMap::new(),
            tasks: BTreeMap::new(),
            afoot: Afoot::new(&state),
            outbox: Outbox::default(),
            receipts: state.receipts.values().map(|r| (r.at, r.once.key.clone())).collect(),
            changes: Vec::new(),
            weight: 0,
            put_at: BTreeMap::new(),
            state,
        };
        let runs: Vec<Arc<Run>> = book.state.runs.values().cloned().collect();
        runs.iter().for_each(|run| book.index_run(run));
        let holds = book.state.backfills.values().filter_map(|b| Some((b.hold?, Timer::Backfill(b.id))));
        book.timers.extend(holds);
        for notice in book.state.notices.values() {
            book.outbox.insert(notice);
        }
        let jobs: Vec<JobUid> = book.state.jobs.keys().copied().collect();
        for uid in &jobs {
            book.index_holds(*uid);
            book.admit(*uid);
        }
        // At once, not one by one: a tree that is built of sorted pairs is built faster, and half the size.
        book.due_of = jobs.iter().filter_map(|uid| Some((*uid, book.slot_to_take(*uid)?.into()))).collect();
        book.due = book.due_of.iter().map(|(uid, at)| (*at, *uid)).collect();
        book
    }

    // ---- reading

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    pub(crate) fn job_named(&self, name: &JobName) -> Option<&Arc<Job>> {
        self.by_name.get(name).and_then(|uid| self.state.jobs.get(uid))
    }

    pub(crate) fn job(&self, uid: JobUid) -> Option<&Arc<Job>> {
        self.state.jobs.get(&uid)
    }

    /// How far the job has come. Every job has progress; a job that has none is treated as new.
    pub(crate) fn progress(&self, uid: JobUid) -> Progress {
        self.state.progress.get(&uid).map_or_else(|| Progress::new(Timestamp::UNIX_EPOCH), |p| (**p).clone())
    }

    pub(crate) fn run_of_task(&self, task: &TaskId) -> Option<&Arc<Run>> {
        self.tasks.get(task).and_then(|key| self.state.runs.get(key))
    }

    /// Runs that an engine may have or that wait for their next attempt.
    pub(crate) fn active(&self, uid: JobUid) -> usize {
        self.busy.get(&uid).map_or(0, |b| b.active)
    }

    /// The queued runs of a job, and which of them is the first to start.
    pub(crate) fn queued(&self, uid: JobUid) -> (usize, Option<RunKey>) {
        let Some(busy) = self.busy.get(&uid) else { return (0, None) };
        let first = busy.ready.first().or(busy.waiting.first()).map(|(.., key)| *key);
        (busy.ready.len() + busy.waiting.len(), first)
    }

    /// How many runs of the job may be active at once: in a launch loop, one.
    pub(crate) fn room(&self, uid: JobUid) -> usize {
        let quick_failures = self.state.progress.get(&uid).and_then(|p| p.quick_failures.as_ref());
        if quick_failures.is_some_and(|quick_failures| quick_failures.is_loop()) {
            return 1;
        }
        match self.rules(uid).overlap {
            Overlap::Allow { max } => max as usize,
            Overlap::Queue | Overlap::Skip | Overlap::Replace => 1,
        }
    }

    /// The rules of a job; of a deleted one the defaults, for the runs that outlive it.
    pub(crate) fn rules(&self, uid: JobUid) -> Arc<Rules> {
        self.job(uid).map_or_else(|| Rules::default().shared(), |job| job.rules.clone())
    }

    /// The first job whose next slot is due at or before `now`.
    pub(crate) fn first_due(&self) -> Option<(Timestamp, JobUid)> {
        self.due.first().map(|(at, uid)| (at.at(), *uid))
    }

    pub(crate) fn first_timer(&self) -> Option<(Timestamp, Timer)> {
        self.timers.first().copied()
    }

    /// The queued runs that may start, under the limits of the server.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// See [`Queue::next`].
    pub(crate) fn next_ready(&mut self, now: Timestamp, budget: &mut usize) -> Option<RunKey> {
        self.queue.next(now, budget)
    }

    /// See [`Queue::spend`].
    pub(crate) fn spend_launch(&mut self, now: Timestamp) {
        self.queue.spend(now);
    }

    /// The backfill that a cycle is of.
    pub(crate) fn backfill_of(&self, cycle: Cycle) -> Option<&Arc<Backfill>> {
        self.state.backfills.get(&BackfillId::of_cycle(cycle))
    }

    /// Whether anything of a backfill's cycle is alive.
    pub(crate) fn lives(&self, cycle: Cycle) -> bool {
        self.afoot.lives(cycle)
    }

    /// Backfills that may be able to go on, the one that has waited longest first.
    pub(crate) fn stirred(&self) -> Vec<BackfillId> {
        let mut stirred: Vec<BackfillId> = self.afoot.stirred.iter().copied().collect();
        stirred.sort_by_key(|id| (self.state.backfills.get(id).and_then(|backfill| backfill.last), *id));
        stirred
    }

    pub(crate) fn any_stirred(&self) -> bool {
        !self.afoot.stirred.is_empty()
    }

    /// The next backfill that may be complete.
    pub(crate) fn take_over(&mut self) -> Option<BackfillId> {
        self.afoot.over.pop_first()
    }

    pub(crate) fn any_over(&self) -> bool {
        !self.afoot.over.is_empty()
    }

    /// The backfill cannot go on before something changes.
    pub(crate) fn settle_backfill(&mut self, id: BackfillId) {
        self.afoot.stirred.remove(&id);
    }

    /// The first queued run of a job that is of no backfill.
    pub(crate) fn first_queued_of_its_own(&self, uid: JobUid) -> Option<RunKey> {
        if self.state.backfills.is_empty() {
            return self.queued(uid).1;
        }
        let own = |run: &&Arc<Run>| run.state == RunState::Queued && self.backfill_of(run.cycle).is_none();
        self.state.runs_of(uid).filter(own).map(|run| (run.due, run.key)).min().map(|(_, key)| key)
    }

    /// When the run must be looked at again: start deadline, retry, run limit, or the end of patience.
    pub(crate) fn deadline(run: &Run, rules: &Rules) -> Option<Timestamp> {
        match &run.state {
            RunState::Queued if run.attempts.is_empty() => rules.start_deadline(run),
            RunState::Queued => None,
            RunState::Waiting { until, .. } => Some(*until),
            RunState::Running(live) => {
                // What waits for a place does not run yet.
                let begun = live.started.filter(|_| live.kill.is_none());
                let limit = begun.zip(rules.run_max).map(|(begun, max)| later(begun, max));
                let patience = live.unknown_since.map(|since| later(since, rules.lost_after));
                limit.into_iter().chain(patience).min()
            }
        }
    }

    /// When the run is to be told of, if nothing happens before.
    fn alert_at(run: &Run, rules: &Rules) -> Option<Timestamp> {
        let alerts = rules.alerts.as_ref()?;
        match &run.state {
            RunState::Queued if run.attempts.is_empty() && !run.told.late => {
                alerts.late_after.map(|after| later(run.due, after))
            }
            RunState::Running(live) if !run.told.long_running => {
                live.started.zip(alerts.long_running_after).map(|(begun, after)| later(begun, after))
            }
            _ => None,
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    // ---- changing

    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        self.put_at.clear();
        self.weight = 0;
        std::mem::take(&mut self.changes)
    }

    /// What the changes that were not taken yet weigh.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn next_uid(&mut self) -> JobUid {
        let uid = JobUid(self.state.meta.next_uid);
        self.change(Change::Meta(Meta { next_uid: uid.0 + 1, ..self.state.meta.clone() }));
        uid
    }

    /// The parents of an existing job are about to change: cycles from now on are told from those under way.
    pub(crate) fn next_graph(&mut self) -> GraphVersion {
        let graph = GraphVersion(self.state.meta.graph.0 + 1);
        self.change(Change::Meta(Meta { graph, ..self.state.meta.clone() }));
        graph
    }

    pub(crate) fn note_zone_data(&mut self, zone_data: ZoneData) {
        self.change(Change::Meta(Meta { zone_data, ..self.state.meta.clone() }));
    }

    /// Keeps what the engine wants to be reminded of, if that is news.
    pub(crate) fn note_for_engine(&mut self, note: Option<Arc<str>>) {
        if note.is_some() && note != self.state.meta.engine_note {
            self.change(Change::Meta(Meta { engine_note: note, ..self.state.meta.clone() }));
        }
    }

    pub(crate) fn put_job(&mut self, job: Job) -> Arc<Job> {
        let uid = job.uid;
        let runs: Vec<Arc<Run>> = self.state.runs_of(uid).cloned().collect();
        runs.iter().for_each(|run| self.unindex_run(run));
        if let Some(old) = self.state.jobs.get(&uid) {
            self.graph.remove(old);
        }
        self.graph.insert(&job);
        self.by_name.insert(job.name.clone(), uid);
        let job = Arc::new(job);
        self.change(Change::PutJob(job.clone()));
        runs.iter().for_each(|run| self.index_run(run));
        self.admit(uid);
        self.refresh_due(uid);
        job
    }

    /// The job's queued runs must have ended before.
    pub(crate) fn remove_job(&mut self, uid: JobUid) {
        let Some(job) = self.state.jobs.get(&uid).cloned() else { return };
        let runs: Vec<Arc<Run>> = self.state.runs_of(uid).cloned().collect();
        runs.iter().for_each(|run| self.unindex_run(run));
        self.unindex_holds(uid);
        self.graph.remove(&job);
        self.by_name.remove(&job.name);
        self.change(Change::RemoveJob(uid));
        runs.iter().for_each(|run| self.index_run(run));
        self.refresh_due(uid);
    }

    pub(crate) fn put_progress(&mut self, uid: JobUid, progress: Progress) {
        let old = self.state.progress.get(&uid);
        let holds = |of: &Progress| (of.paused.clone(), of.quick_failures.clone(), of.given_up_until());
        let holds_change = old.is_none_or(|old| holds(old) != holds(&progress));
        if holds_change {
            self.unindex_holds(uid);
        }
        self.change(Change::PutProgress(uid, Arc::new(progress)));
        if holds_change {
            self.index_holds(uid);
            self.withdraw_ready(uid);
            self.admit(uid);
        }
        self.refresh_due(uid);
    }

    pub(crate) fn put_run(&mut self, run: Run) {
        let uid = run.key.job;
        if let Some(old) = self.state.runs.get(&run.key).cloned() {
            self.unindex_run(&old);
        }
        let run = Arc::new(run);
        self.index_run(&run);
        self.change(Change::PutRun(run));
        self.admit(uid);
        self.refresh_catch_up(uid);
    }

    /// Ends a live run: it leaves the state and enters the ledger.
    pub(crate) fn end_run(&mut self, key: RunKey, record: Record) {
        if let Some(old) = self.state.runs.get(&key).cloned() {
            self.unindex_run(&old);
            self.change(Change::RemoveRun(key));
        }
        self.append(record);
        self.admit(key.job);
        self.refresh_catch_up(key.job);
    }

    pub(crate) fn append(&mut self, record: Record) {
        self.push(Change::Append(Arc::new(record)));
    }

    pub(crate) fn note(&mut self, entry: Entry) {
        self.change(Change::Note(Arc::new(entry)));
    }

    pub(crate) fn revise(&mut self, revision: Revision) {
        self.push(Change::Revise(Arc::new(revision)));
    }

    pub(crate) fn put_join(&mut self, join: Join) {
        self.change(Change::PutJoin(Arc::new(join)));
    }

    pub(crate) fn remove_join(&mut self, child: JobUid, cycle: Cycle) {
        if self.state.joins.contains_key(&(child, cycle)) {
            self.change(Change::RemoveJoin(child, cycle));
        }
    }

    pub(crate) fn put_fanout(&mut self, fanout: Fanout) {
        self.change(Change::PutFanout(Arc::new(fanout)));
    }

    pub(crate) fn remove_fanout(&mut self, run: RunKey) {
        if self.state.fanouts.contains_key(&run) {
            self.change(Change::RemoveFanout(run));
        }
    }

    pub(crate) fn put_backfill(&mut self, backfill: Backfill) {
        let id = backfill.id;
        if let Some(hold) = self.state.backfills.get(&id).and_then(|old| old.hold) {
            self.timers.remove(&(hold, Timer::Backfill(id)));
        }
        if let Some(hold) = backfill.hold {
            self.timers.insert((hold, Timer::Backfill(id)));
        }
        self.change(Change::PutBackfill(Arc::new(backfill)));
    }

    pub(crate) fn remove_backfill(&mut self, id: BackfillId) {
        let Some(old) = self.state.backfills.get(&id) else { return };
        if let Some(hold) = old.hold {
            self.timers.remove(&(hold, Timer::Backfill(id)));
        }
        self.change(Change::RemoveBackfill(id));
    }

    pub(crate) fn next_notice(&mut self) -> NoticeId {
        let id = self.state.meta.notices + 1;
        self.change(Change::Meta(Meta { notices: id, ..self.state.meta.clone() }));
        NoticeId(id)
    }

    pub(crate) fn count_lost_alert(&mut self) {
        let alerts_lost = self.state.meta.alerts_lost + 1;
        self.change(Change::Meta(Meta { alerts_lost, ..self.state.meta.clone() }));
    }

    pub(crate) fn put_notice(&mut self, notice: Notice) {
        if let Some(old) = self.state.notices.get(&notice.id) {
            self.outbox.remove(old);
        }
        self.outbox.insert(&notice);
        self.change(Change::PutNotice(Arc::new(notice)));
    }

    pub(crate) fn remove_notice(&mut self, id: NoticeId) {
        if let Some(old) = self.state.notices.get(&id) {
            self.outbox.remove(old);
            self.change(Change::RemoveNotice(id));
        }
    }

    /// The oldest receipt, and how many there are.
    pub(crate) fn oldest_receipt(&self) -> Option<(RequestKey, usize)> {
        self.receipts.first().map(|(_, key)| (key.clone(), self.receipts.len()))
    }

    pub(crate) fn put_receipt(&mut self, receipt: Receipt) {
        let key = receipt.once.key.clone();
        if let Some(old) = self.state.receipts.get(&key) {
            self.receipts.remove(&(old.at, key.clone()));
        }
        self.receipts.insert((receipt.at, key));
        self.change(Change::PutReceipt(Arc::new(receipt)));
    }

    pub(crate) fn remove_receipt(&mut self, key: &RequestKey) {
        if let Some(old) = self.state.receipts.get(key) {
            self.receipts.remove(&(old.at, key.clone()));
            self.change(Change::RemoveReceipt(key.clone()));
        }
    }

    pub(crate) fn stage(&mut self, definition: Arc<Definition>) {
        self.change(Change::Stage(definition));
    }

    pub(crate) fn unstage(&mut self, name: &JobName) {
        self.change(Change::Unstage(name.clone()));
    }

    /// A staged set has been decided, by whom; or, with `None`, it is whole.
    pub(crate) fn note_applying(&mut self, author: Option<Author>) {
        let applying = author.map(Arc::new);
        self.change(Change::Meta(Meta { applying, ..self.state.meta.clone() }));
    }

    fn change(&mut self, change: Change) {
        self.afoot.note(&self.state, &change);
        self.state.apply(&change);
        let key = match &change {
            Change::PutRun(run) => Some(PutKey::Run(run.key)),
            Change::PutProgress(uid, _) => Some(PutKey::Progress(*uid)),
            Change::PutBackfill(backfill) => Some(PutKey::Backfill(backfill.id)),
            Change::PutNotice(notice) => Some(PutKey::Notice(notice.id)),
            _ => None,
        };
        match key.and_then(|key| self.put_at.insert(key, self.changes.len()).map(|at| (key, at))) {
            Some((key, at)) => {
                self.put_at.insert(key, at);
                self.weight = self.weight + change.weight() - self.changes[at].weight();
                self.changes[at] = change;
            }
            None => self.push(change),
        }
    }

    fn push(&mut self, change: Change) {
        self.weight += change.weight();
        self.changes.push(change);
    }

    // ---- indices

    /// Says where the indices differ from those that a new leader would build of the same state.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fresh = Self::new(self.state.clone(), self.queue.limits().clone());
        let same =
            |what: &str, same: bool| if same { Ok(()) } else { Err(format!("index of {what} is wrong")) };
        same("names", self.by_name == fresh.by_name)?;
        same("due slots", self.due == fresh.due && self.due_of == fresh.due_of)?;
        same("timers", self.timers == fresh.timers)?;
        same("busy jobs", self.busy == fresh.busy)?;
        self.queue.check(&fresh.queue)?;
        same("tasks", self.tasks == fresh.tasks)?;
        same("what lives of backfills", self.afoot.same_lives(&fresh.afoot))?;
        same("the outbox", self.outbox == fresh.outbox)?;
        same("receipts", self.receipts == fresh.receipts)?;
        same("the graph", self.graph.edges() == fresh.graph.edges())
    }

    fn enqueue(&mut self, turn: Turn) {
        let (rank, class) = self.place(turn);
        self.queue.insert(rank, class, turn.1, turn.2);
    }

    fn dequeue(&mut self, turn: Turn) {
        let (rank, class) = self.place(turn);
        self.queue.remove(rank, class, turn.1, turn.2);
    }

    /// What tells a run's place in the queue, besides its due time. It follows from the job as it is now.
    fn place(&self, (haste, _, key): Turn) -> (Rank, Arc<Class>) {
        let Some(job) = self.job(key.job) else { return (Rank::Normal, self.queue.class(&Rules::default())) };
        let rank = match haste {
            Haste::Past => Rank::Low,
            Haste::Due if job.rules.high_priority => Rank::High,
            Haste::Due => Rank::Normal,
        };
        (rank, self.queue.class(&job.rules))
    }

    fn index_run(&mut self, run: &Run) {
        let rules = self.rules(run.key.job);
        if let Some(at) = Self::deadline(run, &rules) {
            self.timers.insert((at, Timer::Run(run.key)));
        }
        if let Some(at) = Self::alert_at(run, &rules) {
            self.timers.insert((at, Timer::Alert(run.key)));
        }
        let busy = self.busy.entry(run.key.job).or_default();
        match &run.state {
            RunState::Queued => {
                busy.waiting.insert(turn(run));
            }
            RunState::Waiting { .. } => busy.active += 1,
            RunState::Running(live) => {
                busy.active += 1;
                self.tasks.insert(live.task.clone(), run.key);
                self.queue.started(&self.place(turn(run)).1);
            }
        }
    }

    fn unindex_run(&mut self, run: &Run) {
        let uid = run.key.job;
        let rules = self.rules(uid);
        if let Some(at) = Self::deadline(run, &rules) {
            self.timers.remove(&(at, Timer::Run(run.key)));
        }
        if let Some(at) = Self::alert_at(run, &rules) {
            self.timers.remove(&(at, Timer::Alert(run.key)));
        }
        let turn = turn(run);
        match &run.state {
            RunState::Queued if self.busy.get(&uid).is_some_and(|busy| busy.ready.contains(&turn)) => {
                self.dequeue(turn);
            }
            RunState::Queued | RunState::Waiting { .. } => {}
            RunState::Running(live) => {
                self.tasks.remove(&live.task);
                self.queue.ended(&self.place(turn).1);
            }
        }
        let Some(busy) = self.busy.get_mut(&uid) else { return };
        match &run.state {
            RunState::Queued => {
                busy.waiting.remove(&turn);
                busy.ready.remove(&turn);
            }
            RunState::Waiting { .. } | RunState::Running(_) => busy.active -= 1,
        }
        if busy.active == 0 && busy.ready.is_empty() && busy.waiting.is_empty() {
            self.busy.remove(&uid);
        }
    }

    /// Lets queued runs into the queue as far as the job has room, those whose turn it is. One that was let in and has
    /// not been launched, because a limit holds it, makes way for one whose turn is earlier: a past slot that waits
    /// for its label does not keep the job's own slots waiting. So who is in the queue follows from the state.
    /// A pause holds back all but manual runs, a launch loop those too.
    fn admit(&mut self, uid: JobUid) {
        let room = self.room(uid);
        let progress = self.state.progress.get(&uid);
        let paused = progress.is_some_and(|p| p.paused.is_some());
        let slowed = |p: &Arc<Progress>| p.quick_failures.as_ref().is_some_and(|loops| loops.until.is_some());
        if progress.is_some_and(slowed) {
            return;
        }
        let held = |(.., key): &Turn| paused && !matches!(key.cause, Cause::Trigger(_));
        loop {
            let Some(busy) = self.busy.get_mut(&uid) else { return };
            let room = room.saturating_sub(busy.active);
            let next = busy.waiting.iter().find(|turn| !held(turn)).copied();
            let last = busy.ready.last().copied();
            match (next, last) {
                (Some(next), _) if busy.ready.len() < room => {
                    busy.waiting.remove(&next);
                    busy.ready.insert(next);
                    self.enqueue(next);
                }
                (next, Some(last)) if busy.ready.len() > room || next.is_some_and(|next| next < last) => {
                    busy.ready.remove(&last);
                    busy.waiting.insert(last);
                    self.dequeue(last);
                }
                _ => return,
            }
        }
    }

    /// Puts ready runs back among the waiting, so that they are admitted anew.
    fn withdraw_ready(&mut self, uid: JobUid) {
        let Some(busy) = self.busy.get_mut(&uid) else { return };
        let ready = std::mem::take(&mut busy.ready);
        busy.waiting.extend(&ready);
        ready.into_iter().for_each(|turn| self.dequeue(turn));
    }

    fn unindex_holds(&mut self, uid: JobUid) {
        for timer in self.ends_of_holds(uid) {
            self.timers.remove(&timer);
        }
    }

    fn index_holds(&mut self, uid: JobUid) {
        let ends = self.ends_of_holds(uid);
        self.timers.extend(ends);
    }

    /// When a pause or a launch loop lets go of the job, and when it is to let go of what was given up.
    fn ends_of_holds(&self, uid: JobUid) -> Vec<(Timestamp, Timer)> {
        let Some(progress) = self.state.progress.get(&uid) else { return Vec::new() };
        let pause = progress.paused.as_ref().and_then(|pause| pause.until);
        let slowed = progress.quick_failures.as_ref().and_then(|loops| loops.until);
        let pause = pause.map(|until| (until, Timer::Pause(uid)));
        let slowed = slowed.map(|until| (until, Timer::Loop(uid)));
        let given_up = progress.given_up_until().map(|until| (until, Timer::GivenUp(uid)));
        pause.into_iter().chain(slowed).chain(given_up).collect()
    }

    /// Under `catchUp: all` slots wait while a run of the job is queued, so its runs move its place.
    fn refresh_catch_up(&mut self, uid: JobUid) {
        if self.job(uid).is_some_and(|job| matches!(job.rules.catch_up, CatchUp::All { .. })) {
            self.refresh_due(uid);
        }
    }

    fn refresh_due(&mut self, uid: JobUid) {
        let next = self.slot_to_take(uid).map(Moment::from);
        let old = match next {
            Some(at) => self.due_of.insert(uid, at),
            None => self.due_of.remove(&uid),
        };
        if old != next {
            old.map(|at| self.due.remove(&(at, uid)));
            next.map(|at| self.due.insert((at, uid)));
        }
    }

    fn slot_to_take(&self, uid: JobUid) -> Option<Timestamp> {
        let job = self.job(uid)?;
        let progress = self.state.progress.get(&uid)?;
        let next = progress.next?;
        let backlog = matches!(job.rules.catch_up, CatchUp::All { .. }) && self.queued(uid).0 > 0;
        let held = job.rules.disabled || progress.paused.is_some() || backlog;
        (matches!(job.plan, Plan::Schedule(_)) && !held).then_some(next.due)
    }
}
