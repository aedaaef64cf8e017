//! The scheduler: takes one event at a time, and says what changes and what is to be done.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::audit::Author;
use crate::book::{Book, Timer, later};
use crate::ids::{JobUid, RunKey, TaskId};
use crate::job::{Job, Plan};
use crate::limits::Limits;
use crate::notice::{Channels, Notice, NoticeId, NoticeState, Sent};
use crate::request::{Answer, Refusal, Request, RequestId};
use crate::run::{AttemptEnd, Run, RunState};
use crate::schedule::Zones;
use crate::staging::Staging;
use crate::state::{Change, Fanout, State};

/// Everything that can happen in a term. Closed on purpose: this is the whole list.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A user wants something.
    Request {
        /// For the answer.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// An engine, or a reconciliation, says something about a task.
    Task {
        /// Which.
        task: TaskId,
        /// What.
        news: TaskNews,
    },
    /// What became of sending a notice.
    Notice {
        /// Which.
        id: NoticeId,
        /// What.
        sent: Sent,
    },
    /// Whether the engine can start tasks. False at the beginning of a term.
    Engine {
        /// It can.
        ready: bool,
    },
    /// Whether the clock can be trusted. While it is not, no slot is taken and no deadline passes.
    Clock {
        /// It can.
        trusted: bool,
    },
}

/// What an engine says about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskNews {
    /// It has been taken and waits for a place.
    Waiting,
    /// There is a place for it, which is held until [`Effect::GoAhead`].
    Placed {
        /// Where it will be asked for from then on.
        node: Arc<str>,
    },
    /// It is being started, or runs.
    Running,
    /// It is over.
    Ended(AttemptEnd),
    /// Nobody can tell, and nobody waits for it any longer: it counts as ended, and may be heard of again.
    GivenUp {
        /// Why, for people; at most [`AttemptEnd::MESSAGE_MAX`] bytes.
        message: Arc<str>,
    },
    /// It has not begun, and will not unless launched again.
    NeverBegan,
    /// Nobody can tell now.
    Unknown,
}

/// Something to do once the changes of the same step are durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start the run's attempt. May be repeated by the next leader; engines know the id again.
    Launch {
        /// The run, in state [`RunState::Running`].
        run: Arc<Run>,
        /// Its job as it is now.
        job: Arc<Job>,
    },
    /// Begin the task at the place that was told of, which is durable now.
    GoAhead {
        /// Which.
        task: TaskId,
        /// The place.
        node: Arc<str>,
    },
    /// End the task. May be repeated.
    Kill {
        /// Which.
        task: TaskId,
    },
    /// The end of this task is durable; it need not be told again.
    Acknowledge {
        /// Which.
        task: TaskId,
    },
    /// Tell people. May be repeated by the next leader; receivers know the id again.
    Send {
        /// What, to whom.
        notice: Arc<Notice>,
    },
    /// Answer the user.
    Answer {
        /// Of which request.
        id: RequestId,
        /// What.
        answer: Result<Answer, Refusal>,
    },
}

/// What one event leads to. `changes` are committed under the leader's epoch first, and only
/// then are `effects` released: durable before visible.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// To be made durable, all or nothing.
    pub changes: Vec<Change>,
    /// To be done afterwards, in order.
    pub effects: Vec<Effect>,
}

/// The jobs whose due times follow from zone data.
fn zoned(state: &State) -> Vec<JobUid> {
    let in_zone = |job: &&Arc<Job>| matches!(&job.plan, Plan::Schedule(table) if !table.zone.is_empty());
    state.jobs.values().filter(in_zone).map(|job| job.uid).collect()
}

/// What a scheduler must be told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that leads, whose engine gets the tasks.
    pub node: Arc<str>,
    /// The zones in which schedules are read.
    pub zones: Zones,
    /// A job that fails so often in a row is disabled; 0 for never.
    pub disable_after_failures: u64,
    /// Between attempts of jobs that do not say how long to wait; at least [`Retry::DELAY_MIN`](crate::job::Retry::DELAY_MIN).
    pub retry_delay: Duration,
    /// What bounds the launches of the node's engine.
    pub limits: Limits,
    /// Jobs of a set that change in one batch, [`SET_BATCH`](crate::SET_BATCH); larger sets are staged first.
    pub set_batch: usize,
    /// By what people can be told of things. What happens while there is nothing is told to nobody.
    pub channels: Channels,
}

/// Decides, for one term of one leader: a deposed node drops it, the next loads anew.
pub struct Scheduler {
    pub(crate) book: Book,
    pub(crate) settings: Settings,
    pub(crate) now: Timestamp,
    /// In whose name things are done now: that of the request under way, else nobody's.
    pub(crate) author: Author,
    pub(crate) effects: Vec<Effect>,
    /// Ended runs whose children are still to be told, oldest first.
    pub(crate) fanouts: VecDeque<Fanout>,
    /// Tasks whose kill has been ordered in this term.
    pub(crate) kills: BTreeSet<TaskId>,
    /// Runs whose waits are to be held against a clock that has gone back.
    clips: Vec<RunKey>,
    /// Notices likewise.
    notice_clips: Vec<NoticeId>,
    /// Notices that a former leader may have sent.
    resend: Vec<NoticeId>,
    /// Alerts written in notices since the budget of the step was last charged for them.
    pub(crate) posted: usize,
    /// A set on its way that does not fit one batch.
    pub(crate) staging: Staging,
    /// Jobs whose next slot was computed with other zone data. Before they have been looked at, no slot is taken.
    moves: Vec<JobUid>,
    /// Whether backfills may be held back for too long, because a clock has gone back.
    holds_suspect: bool,
    engine_ready: bool,
    clock_trusted: bool,
}

impl Scheduler {
    /// One step treats at most so many slots, launches and children, so that no job can hold up the others and a
    /// batch stays within its bound. What is left waits for the next tick, which [`Scheduler::wake_at`] wants at once.
    pub const STEP_MAX: usize = 256;
    /// What weighs so much ends a step as well, see [`Change::weight`](crate::state::Change::weight).
    pub const STEP_WEIGHT_MAX: usize = 256 * 1024;

    /// Begins a term with the loaded state. Send [`Event::Engine`] once the engine follows this term.
    pub fn new(state: State, settings: Settings) -> Self {
        let fanouts = state.fanouts.values().map(|fanout| (**fanout).clone()).collect();
        let clips = state.runs.keys().copied().collect();
        let notice_clips = state.notices.keys().copied().collect();
        let sending = |notice: &&Arc<Notice>| notice.state == NoticeState::Sending;
        let resend = state.notices.values().filter(sending).map(|notice| notice.id).collect();
        let moves = if state.meta.zone_data == settings.zones.data() { Vec::new() } else { zoned(&state) };
        let holds_suspect = state.backfills.values().any(|backfill| backfill.hold.is_some());
        Self {
            book: Book::new(state, settings.limits.clone()),
            settings,
            now: Timestamp::UNIX_EPOCH,
            author: Author::default(),
            effects: Vec::new(),
            fanouts,
            kills: BTreeSet::new(),
            // The leader before may have had a clock that was ahead of ours.
            clips,
            notice_clips,
            resend,
            posted: 0,
            staging: Staging::default(),
            moves,
            holds_suspect,
            engine_ready: false,
            clock_trusted: true,
        }
    }

    /// The tasks that a former leader may have launched: what must be reconciled first. Those that were given up are among
    /// them: where one runs it is to be ended.
    pub fn open_tasks(&self) -> Vec<TaskId> {
        let state = self.book.state();
        let live = state.runs.values().filter_map(|run| match &run.state {
            RunState::Running(live) => Some(live.task.clone()),
            RunState::Queued | RunState::Waiting { .. } => None,
        });
        live.chain(state.all_given_up().map(|(task, _)| task)).collect()
    }

    /// The state as decided so far; ahead of what is durable.
    pub fn state(&self) -> &State {
        self.book.state()
    }

    /// Says whether what is kept beside the state follows from it, as it would for the next leader. For the simulator.
    /// # Errors
    /// What does not.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        self.book.check()
    }

    /// Takes one event at `now`. Ticking early or twice is harmless.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Step {
        // Time servers pull a clock back by less than a second; that is not worth looking at every run.
        if later(now, Duration::from_secs(1)) < self.now {
            self.clips = self.book.state().runs.keys().copied().collect();
            self.holds_suspect = true;
            self.notice_clips = self.book.state().notices.keys().copied().collect();
        }
        self.now = now;
        match event {
            Event::Tick => {}
            Event::Request { id, request } => {
                if let Some(answer) = self.ask(id, request) {
                    self.effects.push(Effect::Answer { id, answer });
                }
            }
            Event::Task { task, news } => self.task_news(task, news),
            Event::Notice { id, sent } => self.notice_sent(id, sent),
            Event::Engine { ready } => self.engine_ready = ready,
            Event::Clock { trusted } => self.clock_trusted = trusted,
        }
        self.advance();
        Step { changes: self.book.take_changes(), effects: std::mem::take(&mut self.effects) }
    }

    /// When to send the next [`Event::Tick`]; `None` when there is nothing to wait for.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.is_staging()
            || !self.fanouts.is_empty()
            || self.book.any_over()
            || !self.moves.is_empty()
            || (self.clock_trusted && (!self.clips.is_empty() || self.holds_suspect))
            || (self.clock_trusted && !(self.notice_clips.is_empty() && self.resend.is_empty()))
        {
            return Some(self.now);
        }
        if !self.clock_trusted {
            return None;
        }
        if self.engine_ready && self.book.any_stirred() && self.book.queue().is_quiet() {
            return Some(self.now);
        }
        let due = self.book.first_due().map(|(at, _)| at);
        let timer = self.book.first_timer().map(|(at, _)| at);
        let launch = self.book.queue().wake_at(self.now).filter(|_| self.engine_ready);
        let notice = self.book.outbox().first().map(|(at, _)| at);
        due.into_iter().chain(timer).chain(launch).chain(notice).min()
    }

    /// Does what is due, within the bound of one step.
    fn advance(&mut self) {
        if self.is_applying() {
            self.put_staged();
            self.keep_fanouts();
            return;
        }
        let mut budget = Self::STEP_MAX;
        self.charge(&mut budget);
        self.tell_children(&mut budget);
        self.move_slots(&mut budget);
        if self.clock_trusted && self.moves.is_empty() {
            self.clip_waits(&mut budget);
            self.pass_deadlines(&mut budget);
            while budget > 0 {
                let Some((_, uid)) = self.book.first_due().filter(|(at, _)| *at <= self.now) else { break };
                self.take_slots(uid);
                budget -= 1;
                self.charge(&mut budget);
            }
            // Slots that were skipped, and runs that gave up, may have children too.
            self.tell_children(&mut budget);
        }
        if self.engine_ready && self.clock_trusted {
            self.launch_ready(&mut budget);
            // Backfills begin nothing while anything else is to be begun or told.
            while self.book.queue().is_quiet() && self.fanouts.is_empty() && self.begin_backfills(&mut budget)
            {
                self.launch_ready(&mut budget);
            }
        }
        // What is still to be told belongs to its cycle.
        if self.fanouts.is_empty() {
            self.end_backfills(&mut budget);
        }
        if self.clock_trusted {
            self.send_notices(&mut budget);
        }
        self.prepare_set();
        self.keep_fanouts();
    }

    /// Computes the due times anew that other zone data may have moved. The slots stay the same ones.
    fn move_slots(&mut self, budget: &mut usize) {
        while *budget > 0 {
            let Some(uid) = self.moves.pop() else { break };
            self.move_slot(uid);
            *budget -= 1;
            self.charge(budget);
        }
        let zone_data = self.settings.zones.data();
        if self.moves.is_empty() && self.book.state().meta.zone_data != zone_data {
            self.book.note_zone_data(zone_data);
        }
    }

    /// After the clock has gone back, nothing waits longer than it would have: slots follow the wall clock, but a
    /// retry or a limit is a stretch of time.
    fn clip_waits(&mut self, budget: &mut usize) {
        if std::mem::take(&mut self.holds_suspect) {
            self.clip_holds();
        }
        while *budget > 0 {
            let Some(key) = self.clips.pop() else { break };
            self.clip_wait(key);
            *budget -= 1;
            self.charge(budget);
        }
    }

    /// Sends what people are to be told. Last of all: what is told can wait, what is to run cannot.
    fn send_notices(&mut self, budget: &mut usize) {
        while *budget > 0 {
            let Some(id) = self.notice_clips.pop() else { break };
            self.clip_notice(id);
            *budget -= 1;
        }
        while *budget > 0 {
            let Some(id) = self.resend.pop() else { break };
            self.send_again(id);
            *budget -= 1;
        }
        while *budget > 0 {
            let first = self.book.outbox().first().filter(|(at, _)| *at <= self.now);
            let Some((_, id)) = first else { break };
            self.turn_notice(id);
            *budget = budget.saturating_sub(Notice::ALERTS_MAX);
            self.charge(budget);
        }
    }

    /// What was written of alerts counts as work of the step, and nothing more is begun once it weighs too much.
    pub(crate) fn charge(&mut self, budget: &mut usize) {
        *budget = budget.saturating_sub(std::mem::take(&mut self.posted));
        if self.book.weight() >= Self::STEP_WEIGHT_MAX {
            *budget = 0;
        }
    }

    fn pass_deadlines(&mut self, budget: &mut usize) {
        while *budget > 0 {
            let Some((_, timer)) = self.book.first_timer().filter(|(at, _)| *at <= self.now) else { break };
            match timer {
                Timer::Run(key) => self.pass_deadline(key),
                Timer::Pause(uid) => self.end_pause(uid),
                Timer::Loop(uid) => self.end_loop_pause(uid),
                Timer::Backfill(id) => self.release(id),
                Timer::GivenUp(uid) => self.forget_given_up(uid),
                Timer::Alert(key) => self.watch_wait(key),
            }
            *budget -= 1;
            self.charge(budget);
        }
    }
}
