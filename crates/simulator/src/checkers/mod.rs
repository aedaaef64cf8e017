//! What must be true of every history: one file for each promise. They watch the store's log and the engine's own, and
//! share no code with what decides.

mod alerts;
mod attempts;
mod backfills;
mod canary;
mod failover;
mod fencing;
mod handover;
mod joins;
mod ledger;
mod limits;
mod sets;
mod slots;
mod steps;
mod writes;

use std::sync::Arc;

use scheduler::ids::{Epoch, RunKey, Seq, TaskId};
use scheduler::notice::Notice;
use scheduler::request::{Answer, Refusal};
use scheduler::state::{Change, State};
use scheduler::{Scheduler, Step};
use store::Term;

use crate::calendar::{Millis, Phrasebook};
use crate::model_engine::{LaunchOrder, ModelEngine};
use crate::model_store::Decided;

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Its number in the design, and what watched over it.
    pub(crate) promise: String,
    pub(crate) text: String,
}

/// All checkers, and the first thing that any of them found.
pub(crate) struct Audit {
    pub(crate) violation: Option<Violation>,
    pub(crate) ledger: ledger::Ledger,
    slots: slots::Slots,
    backfills: backfills::Backfills,
    pub(crate) attempts: attempts::Attempts,
    pub(crate) writes: writes::Writes,
    fencing: fencing::Fencing,
    handover: handover::Handover,
    failover: failover::Failover,
    pub(crate) canary: canary::Canary,
    pub(crate) limits: limits::Checker,
    alerts: alerts::Alerts,
}

/// What a checker says: nothing, or what is wrong.
type Verdict = Result<(), String>;

impl Audit {
    /// Watches a store that is in this state.
    pub(crate) fn new(state: &State) -> Self {
        Self {
            violation: None,
            ledger: ledger::Ledger::new(state),
            slots: slots::Slots::default(),
            backfills: backfills::Backfills::default(),
            attempts: attempts::Attempts::default(),
            writes: writes::Writes::default(),
            fencing: fencing::Fencing::default(),
            handover: handover::Handover::default(),
            failover: failover::Failover::default(),
            canary: canary::Canary::default(),
            limits: limits::Checker::default(),
            alerts: alerts::Alerts::default(),
        }
    }

    /// Keeps the first violation: what comes after it is confusion.
    pub(crate) fn blame(&mut self, promise: &str, text: String) {
        self.violation.get_or_insert(Violation { promise: promise.into(), text });
    }

    fn check(&mut self, promise: &str, verdict: Verdict) {
        if let Err(text) = verdict {
            self.blame(promise, text);
        }
    }

    // ---- the store's log

    pub(crate) fn term_began(&mut self, term: Term) {
        self.fencing.term_began(term);
        self.handover.term_began(term, &self.ledger.state);
    }

    /// A batch has become part of the state.
    pub(crate) fn applied(
        &mut self,
        now: Millis,
        epoch: Epoch,
        seq: Seq,
        steps: &[Decided],
        phrases: &Phrasebook,
    ) {
        let fencing = self.fencing.applied(epoch, seq);
        self.check("4, fencing", fencing);
        for (wall, changes) in steps {
            let slots = self.slots.step(*wall, changes, phrases);
            self.check("1, slots", slots);
            let sets = sets::step(changes, &self.ledger.state);
            self.check("3, sets", sets);
            let backfills = self.backfills.step(changes, phrases, &self.ledger.state);
            self.check("1, backfills", backfills);
            let canary = self.canary.step(now, changes);
            self.check("7, canary", canary);
            let alerts = self.alerts.step(changes, &self.ledger.state);
            self.check("6, alerts", alerts);
            let launched = limits::launched(&self.ledger.state, changes);
            for change in changes {
                let ledger = self.ledger.apply(change, changes);
                self.check("1, ledger", ledger);
            }
            let limits = self.limits.step(&self.ledger.state, &launched);
            self.check("7, limits", limits);
        }
        self.ledger.batch(seq, steps);
    }

    // ---- the engine's log

    pub(crate) fn engine_term(&mut self, epoch: Epoch) {
        self.fencing.engine_term(epoch);
    }

    /// The engine takes an order to start a task.
    pub(crate) fn launched(&mut self, now: Millis, epoch: Epoch, order: &LaunchOrder) {
        let fencing = self.fencing.launched(now, epoch, order);
        self.check("4, fencing", fencing);
    }

    /// The engine takes an order to kill.
    pub(crate) fn killed(&mut self, now: Millis, epoch: Epoch, task: &TaskId, not_after: Millis) {
        let fencing = self.fencing.killed(now, epoch, task, not_after);
        self.check("4, fencing", fencing);
        let attempts = self.attempts.killed(task, &self.ledger);
        self.check("4, attempts", attempts);
    }

    /// A task begins to run, beside these of the same job.
    pub(crate) fn started(
        &mut self,
        now: Millis,
        epoch: Epoch,
        order: &LaunchOrder,
        alive: &[(RunKey, TaskId)],
    ) {
        let fencing = self.fencing.started(epoch, &order.task);
        self.check("4, fencing", fencing);
        let attempts = self.attempts.started(now, order, alive, &self.ledger);
        self.check("2, attempts", attempts);
        self.canary.started(now, order);
    }

    pub(crate) fn ended(&mut self, now: Millis, task: &TaskId) {
        self.attempts.ended(now, task, &self.ledger);
    }

    /// The engine is told that an end is durable.
    pub(crate) fn acknowledged(&mut self, task: &TaskId) {
        if self.ledger.is_live(task) {
            self.blame("3, writes", format!("{task} was acknowledged before its end was durable"));
        }
    }

    /// Somebody has got a message.
    pub(crate) fn received(&mut self, notice: &Arc<Notice>) {
        let alerts = self.alerts.received(notice);
        self.check("6, alerts", alerts);
    }

    // ---- the nodes

    /// A node begins to lead with this state.
    pub(crate) fn takes_office(&mut self, term: Term, state: &State) {
        let handover = self.handover.takes_office(term, state);
        self.check("5, handover", handover);
    }

    /// A leader has decided so far, with these changes on their way to a store that still has its term.
    pub(crate) fn decided<'a>(&mut self, on_their_way: impl Iterator<Item = &'a Change>, leader: &State) {
        let handover = handover::decided(&self.ledger.state, on_their_way, leader);
        self.check("5, handover", handover);
    }

    /// A scheduler has taken a step.
    pub(crate) fn stepped(&mut self, core: &Scheduler, step: &Step, probe: bool, idle_ticks: u32) {
        let steps = steps::check(core, step, probe, idle_ticks);
        self.check("7, steps", steps);
    }

    /// A user has an answer.
    pub(crate) fn answered(&mut self, number: u64, seq: Seq, answer: &Result<Answer, Refusal>) {
        let writes = self.writes.answered(number, seq, answer, &self.ledger);
        self.check("3, writes", writes);
    }

    // ---- the end

    pub(crate) fn healed(&mut self, now: Millis, state: &State) {
        self.canary.healed(now);
        self.failover.healed(now, state, &self.ledger);
        self.slots.healed(now);
        self.alerts.healed(state);
    }

    /// What has to happen before the history is over, if anything.
    pub(crate) fn waits(&mut self, now: Millis, state: &State) -> Option<String> {
        let overdue = self.failover.overdue(now, state);
        self.check("5, fail-over", overdue);
        self.failover
            .waits(state)
            .or_else(|| self.slots.waits(state))
            .or_else(|| backfills::waits(state))
            .or_else(|| self.alerts.waits(state))
            .or_else(|| self.canary.waits(now))
    }

    /// Everything has ended: the books must agree.
    pub(crate) fn finish(&mut self, state: &State, engine: &ModelEngine) {
        let verdict = self.canary.finish();
        self.check("7, canary", verdict);
        let verdict = self.alerts.finish();
        self.check("6, alerts", verdict);
        let verdict = self.ledger.finish(state);
        self.check("1, ledger", verdict);
        let verdict = self.backfills.finish(state);
        self.check("1, backfills", verdict);
        let verdict = self.writes.finish(&self.ledger);
        self.check("3, writes", verdict);
        let verdict = self.failover.finish(state, &self.ledger, engine);
        self.check("5, fail-over", verdict);
        let verdict = joins::finish(state, &self.ledger, &self.failover.cycles);
        self.check("5, joins", verdict);
    }
}
