//! A cluster in virtual time: two nodes, a store, an engine, users, and everything that can befall them. One seed, one
//! history.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use scheduler::ids::{Cycle, Epoch, JobName, RunKey, TaskId};
use scheduler::limits::{LabelLimit, Limits};
use scheduler::receipt::{Once, RequestKey};
use scheduler::request::Request;
use scheduler::run::{EndedRun, Outcome, Record};
use scheduler::state::Change;
use store::RevisionQuery;

use crate::calendar::{Millis, any_jump};
use crate::checkers::{Audit, Violation};
use crate::model_engine::{ModelEngine, Order, REPEAT, Sender};
use crate::model_store::{ModelStore, Question};
use crate::node::{Message, Node, Role};
use crate::random::Random;
use crate::users::{Mix, Users};
use crate::{Profile, Report};

pub(crate) type NodeId = usize;
/// Part of a node's life, unique in a history.
pub(crate) type Stage = u64;

/// What is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Node {
        node: NodeId,
        stage: Stage,
        message: Message,
    },
    Store {
        node: NodeId,
        stage: Stage,
        question: Question,
    },
    Engine {
        node: NodeId,
        stage: Stage,
        epoch: Epoch,
        order: Order,
        sender: Sender,
    },
    TaskBegins {
        task: TaskId,
        epoch: Epoch,
    },
    /// A place is found for a task that waits.
    TaskPlaced {
        task: TaskId,
        epoch: Epoch,
    },
    TaskEnds {
        task: TaskId,
        at: Millis,
    },
    TaskKilled {
        task: TaskId,
        at: Millis,
    },
    /// The engine tells again what nobody has acknowledged.
    Repeat {
        once: bool,
    },
    User,
    /// A request reaches whoever thinks that it leads. The first ones are patient until someone does.
    Ask {
        number: u64,
        request: Request,
        patient: bool,
    },
    Fault,
    Restart(NodeId),
}

pub(crate) struct Cluster {
    pub(crate) now: Millis,
    pub(crate) began: Millis,
    queue: BTreeMap<(Millis, u64), Happening>,
    order: u64,
    pub(crate) random: Random,
    pub(crate) nodes: [Node; 2],
    pub(crate) stages: Stage,
    pub(crate) store: ModelStore,
    pub(crate) engine: ModelEngine,
    pub(crate) users: Users,
    requests: u64,
    pub(crate) audit: Audit,
    pub(crate) disable_after_failures: u64,
    pub(crate) limits: Limits,
    climate: Climate,
    pub(crate) healed: bool,
    pub(crate) trace: Option<Vec<String>>,
    hash: u64,
    events: u64,
}

/// How bad it is in this history.
#[derive(Clone, Copy, Debug)]
struct Climate {
    /// How long faults go on.
    length: Millis,
    /// Multiplies the chance of everything that is lost, late or refused.
    luck: u64,
    /// Time between faults, on average.
    pace: Millis,
    /// Whether clocks step by hours.
    clocks: bool,
    /// Whether the clocks of the nodes differ all the time.
    apart: bool,
    /// Whether everything may be down for hours.
    blackout: bool,
}

/// A leader whose clock is further from the store's does not lead.
pub(crate) const SKEW_MAX: Millis = 5_000;
/// Longest that a clock is wrong by: two hours.
const STEP_MAX: Millis = 7_200_000;
/// After everything has healed, this is enough for everything to end, also what waits by a clock that was wrong.
const HEALING_MAX: Millis = 6 * 3_600_000;
/// Steps of a history; beyond it something spins.
const EVENTS_MAX: u64 = 3_000_000;

impl Cluster {
    pub(crate) fn new(seed: u64, profile: Profile, traced: bool) -> Self {
        let mut random = Random::new(seed);
        // Around changes of clocks, month ends, and plain days.
        let days = random.pick(&[20_176, 20_177, 20_393, 20_394, 20_086, 20_147, 20_300, 20_513]);
        let began = days * 86_400_000 + random.between(0, 86_399) * 1000 + random.between(0, 999);
        let big = profile == Profile::Big;
        let clocks = random.permille(200);
        let jump = random.permille(350).then(|| any_jump(&mut random));
        // A stream of its own, so that what came later does not turn every older seed into another history.
        let mut herds = Random::new(seed ^ 0x6865_7264);
        let limits = any_limits(&mut herds, big);
        let mix = Mix {
            jobs: if big { 25 + random.below(25) } else { 3 + random.below(9) },
            busy: random.permille(800).then(|| random.pick(&[4_000, 15_000, 40_000])),
            edits: random.permille(600),
            herd: random.permille(if big { 300 } else { 20 }).then(|| 257 + random.below(150)),
            canary: if clocks { 20_000 } else { random.pick(&[1_000, 3_000, 5_000]) },
            limited: limits != Limits::default(),
            home: jump.map(|(zone, _)| zone),
        };
        let minutes = if big { random.between(10, 60) } else { random.between(2, 15) };
        let began = match jump {
            // The jump itself comes within the faults, or some of the time that it leaves out or repeats does.
            Some((_, at)) => at - random.between(-2_400_000, minutes * 60_000),
            None => began,
        };
        let salt = u32::try_from(random.below(1 << 20)).unwrap_or(0);
        let store = ModelStore::new(salt, random.pick(&[20, 200, 4_000]));
        // Up to five seconds each: what a leader may be off by.
        let apart = random.permille(500);
        let mut node = |stage| {
            let skew = if apart { random.between(-SKEW_MAX, SKEW_MAX) } else { 0 };
            Node::new(stage, skew, random.permille(700))
        };
        let nodes = [node(1), node(2)];
        let climate = Climate {
            length: minutes * 60_000,
            luck: random.pick(&[0, 1, 1, 2, 4]),
            pace: random.pick(&[8_000, 20_000, 60_000]),
            clocks,
            apart,
            blackout: random.permille(250),
        };
        let disable_after_failures = random.pick(&[0, 0, 2, 5]);
        Self {
            now: began,
            began,
            queue: BTreeMap::new(),
            order: 0,
            nodes,
            stages: 2,
            engine: ModelEngine::new(Random::new(seed ^ 0x706c_6163_6573).permille(350)),
            users: Users::new(mix, herds, Random::new(seed ^ 0x7265_6772_6574)),
            requests: 0,
            audit: Audit::new(store.core.state()),
            store,
            disable_after_failures,
            limits,
            climate,
            healed: false,
            trace: traced.then(Vec::new),
            hash: seed,
            events: 0,
            random,
        }
    }

    /// Plays the whole history: faults, then none.
    pub(crate) fn play(mut self) -> Report {
        let settled = self.play_out();
        if settled && self.audit.violation.is_none() {
            let Self { store, engine, audit, .. } = &mut self;
            audit.finish(store.core.state(), engine);
        }
        Report {
            violation: self
                .audit
                .violation
                .take()
                .map(|Violation { promise, text }| format!("promise {promise}: {text}")),
            trace: self.trace.take().unwrap_or_default(),
            hash: self.hash,
            events: self.events,
            runs: self.audit.ledger.ended.len(),
        }
    }

    fn play_out(&mut self) -> bool {
        let right = !self.climate.clocks && !self.climate.apart;
        self.audit.attempts.clocks_right = right;
        self.audit.limits.begin(self.limits.clone(), right);
        self.audit.canary.skew = if self.climate.apart { SKEW_MAX } else { 0 };
        self.audit.canary.may_wait =
            self.limits.running_max.is_some() || self.limits.launch_rate_max.is_some();
        self.say_climate();
        let opening = self.users.opening(&mut self.random, self.now);
        let mut after = 3_000;
        for request in opening {
            after += self.random.between(1, 40);
            self.ask_soon(after, request, true);
        }
        for node in 0..self.nodes.len() {
            let stage = self.nodes[node].stage;
            let at = self.now + self.random.between(0, 2_000);
            self.at(at, Happening::Node { node, stage, message: Message::Poll });
        }
        self.at(self.now + REPEAT, Happening::Repeat { once: false });
        let first = self.now + 8_000;
        self.at(first, Happening::Fault);
        self.at(first, Happening::User);
        let end = self.now + self.climate.length;
        if !self.run_until(end) {
            return false;
        }
        self.heal();
        let healed = self.now;
        loop {
            let until = self.now + 5_000;
            if !self.run_until(until) {
                return false;
            }
            let waits = self.audit.waits(self.now, self.store.core.state());
            match waits {
                None => break,
                Some(what) if self.now > healed + HEALING_MAX => {
                    self.audit.blame(
                        "5, progress",
                        format!("all has healed {} min ago, but {what}", HEALING_MAX / 60_000),
                    );
                    return false;
                }
                Some(_) => {}
            }
        }
        self.audit.violation.is_none()
    }

    fn say_climate(&mut self) {
        let (climate, mix) = (self.climate, self.users.mix);
        let limits = self.limits.clone();
        self.say(|| format!("{climate:?} {mix:?} {limits:?}"));
    }

    /// False when a promise has been broken.
    fn run_until(&mut self, until: Millis) -> bool {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.audit.blame("7, steps", format!("more than {EVENTS_MAX} events: something spins"));
            }
            self.happen(happening);
            if self.audit.violation.is_some() {
                return false;
            }
        }
        self.now = until;
        true
    }

    pub(crate) fn at(&mut self, at: Millis, happening: Happening) {
        self.order += 1;
        self.queue.insert((at, self.order), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Node { node, stage, message } => {
                if !self.nodes[node].up || self.nodes[node].stage != stage {
                    return;
                }
                let paused_until = self.nodes[node].paused_until;
                if self.now < paused_until {
                    // Everything waits, in its order, until the process goes on.
                    return self.at(paused_until, Happening::Node { node, stage, message });
                }
                self.mark(self.now.unsigned_abs() << 1 | node as u64);
                self.node_hears(node, message);
            }
            Happening::Store { node, stage, question } => self.store_hears(node, stage, question),
            Happening::Engine { node, stage, epoch, order, sender } => {
                self.engine_hears(node, stage, epoch, order, sender);
            }
            Happening::TaskBegins { task, epoch } => self.task_begins(&task, epoch),
            Happening::TaskPlaced { task, epoch } => self.task_placed(&task, epoch),
            Happening::TaskEnds { task, at } => self.task_ends(&task, at),
            Happening::TaskKilled { task, at } => self.task_killed(&task, at),
            Happening::Repeat { once } => {
                self.engine_repeats();
                if !once {
                    self.at(self.now + REPEAT, Happening::Repeat { once });
                }
            }
            Happening::User => self.user(),
            Happening::Ask { number, request, patient } => self.ask(number, request, patient),
            Happening::Fault => self.fault(),
            Happening::Restart(node) => self.restart(node),
        }
    }

    // ---- users

    fn user(&mut self) {
        let Some(pace) = self.users.mix.busy.filter(|_| !self.healed) else { return };
        let after = self.random.between(1, 2 * pace);
        self.at(self.now + after, Happening::User);
        let core = &self.store.core;
        let failed = |job: &JobName| -> Option<(RunKey, Cycle)> {
            let records = core.records().filter_map(|record| match &**record {
                Record::Run(run) if run.job == *job => Some((run.key, run.cycle, run.outcome.clone())),
                _ => None,
            });
            let last = records.last()?;
            (last.2 != Outcome::Succeeded).then_some((last.0, last.1))
        };
        let ended = |job: &JobName, back: u64| {
            let of_job = |record: &Arc<Record>| match &**record {
                Record::Run(run) if run.job == *job => Some(run.clone()),
                _ => None,
            };
            let runs: Vec<EndedRun> = core.records().filter_map(of_job).collect();
            let at = runs.len().checked_sub(1 + usize::try_from(back).ok()?)?;
            runs.get(at).cloned()
        };
        let was = |job: &JobName| {
            core.revisions(&RevisionQuery { name: Some(job.clone()), ..RevisionQuery::default() }).revisions
        };
        let request = self.users.request(&mut self.random, self.now, core.state(), failed, ended, was);
        if !self.random.permille(250) {
            return self.ask_soon(0, request, false);
        }
        // Somebody who does not trust the answer, or did not hear it, asks again.
        let key = format!("request-{}", self.requests + 1);
        let Some(key) = RequestKey::new(&key) else { return };
        let request = Request::Once { once: Once { key, digest: 1 }, request: Box::new(request) };
        let again = self.random.between(0, 20_000);
        self.ask_soon(0, request.clone(), false);
        self.ask_soon(again, request, false);
    }

    fn ask_soon(&mut self, after: Millis, request: Request, patient: bool) {
        self.requests += 1;
        let number = self.requests;
        self.audit.writes.asked(number, request.clone());
        self.at(self.now + after, Happening::Ask { number, request, patient });
    }

    fn ask(&mut self, number: u64, request: Request, patient: bool) {
        let leads = |node: &NodeId| self.nodes[*node].up && matches!(self.nodes[*node].role, Role::Leader(_));
        let leaders: Vec<NodeId> = (0..self.nodes.len()).filter(leads).collect();
        if leaders.is_empty() {
            if patient && !self.healed {
                self.at(self.now + 500, Happening::Ask { number, request, patient });
            }
            return;
        }
        let node = self.random.pick(&leaders);
        let stage = self.nodes[node].stage;
        self.say(|| format!("user: request {number} to node {node}: {request:?}"));
        self.at(self.now, Happening::Node { node, stage, message: Message::Asked(number, request) });
    }

    // ---- faults

    /// True with the given chance in a thousand, times how bad it is here; never once all has healed.
    pub(crate) fn unlucky(&mut self, permille: u64) -> bool {
        !self.healed && self.random.permille(permille * self.climate.luck)
    }

    pub(crate) fn latency(&mut self) -> Millis {
        if self.unlucky(10) { self.random.between(50, 4_000) } else { self.random.between(1, 12) }
    }

    pub(crate) fn pause(&mut self, node: NodeId, time: Millis) {
        self.say(|| format!("fault: node {node} pauses for {time} ms"));
        let until = self.now + time;
        self.nodes[node].paused_until = self.nodes[node].paused_until.max(until);
    }

    fn fault(&mut self) {
        if self.healed {
            return;
        }
        let after = self.random.between(500, 2 * self.climate.pace);
        self.at(self.now + after, Happening::Fault);
        let node = usize::try_from(self.random.below(2)).unwrap_or(0);
        match self.random.below(100) {
            0..30 => {
                let down = self.random.between(100, 20_000);
                self.crash(node, down);
            }
            30..50 => {
                let time = self.random.between(200, 40_000);
                self.pause(node, time);
            }
            50..65 => {
                self.say(|| "fault: the lock is taken from its holder, who does not hear of it".into());
                self.store.lock = None;
            }
            65..75 => {
                let time = self.random.between(500, 20_000);
                self.say(|| format!("fault: the store is down for {time} ms"));
                self.store.down_until = self.now + time;
            }
            75..85 => self.engine_restarts(),
            85..95 if self.climate.clocks => {
                let offset = match self.random.below(4) {
                    0 => 0,
                    1 => self.random.between(-90_000, 90_000),
                    _ => self.random.between(-STEP_MAX, STEP_MAX),
                };
                self.say(|| format!("fault: the clock of node {node} is wrong by {offset} ms from now on"));
                self.nodes[node].wall_offset = offset;
                self.turn_in(node, 0);
            }
            95..100 if self.climate.blackout => {
                self.climate.blackout = false;
                let down = self.random.between(60_000, 4 * 3_600_000);
                self.say(|| format!("fault: everything is down for {down} ms"));
                self.crash(0, down);
                self.crash(1, down);
            }
            _ => {}
        }
    }

    pub(crate) fn crash(&mut self, node: NodeId, down: Millis) {
        if !self.nodes[node].up {
            return;
        }
        self.say(|| format!("fault: node {node} crashes, for {down} ms"));
        self.nodes[node].up = false;
        self.nodes[node].paused_until = 0;
        self.nodes[node].followed = None;
        self.advance_stage(node, Role::Standby);
        self.at(self.now + down, Happening::Restart(node));
    }

    fn restart(&mut self, node: NodeId) {
        if !self.nodes[node].up {
            self.say(|| format!("node {node} starts"));
            self.nodes[node].up = true;
            self.advance_stage(node, Role::Standby);
        }
    }

    /// From now on nothing fails, clocks are right, and users only watch.
    fn heal(&mut self) {
        self.say(|| "everything heals".into());
        self.healed = true;
        self.store.down_until = self.now;
        self.engine_heals();
        for node in 0..self.nodes.len() {
            self.restart(node);
            self.nodes[node].paused_until = self.now;
            self.nodes[node].wall_offset = 0;
            self.turn_in(node, 0);
        }
        self.audit.healed(self.now, self.store.core.state());
    }

    // ---- history

    pub(crate) fn mark(&mut self, what: u64) {
        self.hash = (self.hash ^ what).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.began;
            trace.push(format!("{:>9}.{:03} {}", at / 1000, at % 1000, line()));
        }
    }

    pub(crate) fn say_changes(&mut self, changes: &[Change]) {
        if self.trace.is_some() {
            for change in changes {
                self.say(|| format!("store:   {}", told(change)));
            }
        }
    }
}

/// Limits that bind now and then, and still let everything end.
fn any_limits(random: &mut Random, big: bool) -> Limits {
    let mut limit =
        |permille, of: &[u32]| random.permille(permille).then(|| random.pick(of)).and_then(NonZeroU32::new);
    let running_max = limit(200, if big { &[16, 40] } else { &[4, 8, 20] });
    let launch_rate_max = limit(150, &[5, 20]);
    let labels = [
        ("team", None, limit(250, &[2, 5])),
        ("team", Some("a"), limit(150, &[2, 3])),
        ("zone", None, limit(250, &[2, 4])),
    ];
    let labels = labels.into_iter().filter_map(|(key, value, max)| {
        Some(LabelLimit { key: key.into(), value: value.map(Into::into), max: max? })
    });
    Limits { running_max, launch_rate_max, running_max_by_label: labels.collect() }
}

fn told(change: &Change) -> String {
    match change {
        Change::Meta(meta) => format!("next uid {}", meta.next_uid),
        Change::PutJob(job) => {
            format!("job {} {} version {} {:?} {:?}", job.name, job.uid, job.version, job.plan, job.rules)
        }
        Change::RemoveJob(uid) => format!("job {uid} is gone"),
        Change::PutProgress(uid, progress) => format!("progress of {uid} {progress:?}"),
        Change::PutRun(run) => {
            format!(
                "run {} {} due {} {:?}, {} attempts",
                run.job,
                run.key,
                run.due,
                run.state,
                run.attempts.len()
            )
        }
        Change::RemoveRun(key) => format!("run {key} is over"),
        Change::PutJoin(join) => format!("join {join:?}"),
        Change::RemoveJoin(child, cycle) => format!("join of {child} is over, cycle {cycle:?}"),
        Change::PutFanout(fanout) => format!("fan-out {fanout:?}"),
        Change::Revise(revision) => {
            format!("revision {} of {}: {:?}", revision.job.version, revision.job.name, revision.deed)
        }
        Change::Note(entry) => format!("audit {entry:?}"),
        Change::RemoveFanout(run) => format!("fan-out of {run} is over"),
        Change::PutBackfill(backfill) => format!("backfill {backfill:?}"),
        Change::RemoveBackfill(id) => format!("backfill {id} is forgotten"),
        Change::PutReceipt(receipt) => format!("receipt {receipt:?}"),
        Change::RemoveReceipt(key) => format!("receipt {key} is forgotten"),
        Change::Stage(definition) => format!("staged {}", definition.name),
        Change::Unstage(name) => format!("no longer staged: {name}"),
        Change::PutNotice(notice) => format!("notice {notice:?}"),
        Change::RemoveNotice(id) => format!("notice {} is forgotten", id.0),
        Change::Append(record) => match &**record {
            Record::Run(run) => format!(
                "ledger: {} {} due {} {:?} {:?}",
                run.job, run.key, run.due, run.outcome, run.attempts
            ),
            Record::Range(range) => format!(
                "ledger: {} {} slots from {} to {}: {:?}",
                range.name, range.count, range.first_due, range.last_due, range.outcome
            ),
        },
    }
}
