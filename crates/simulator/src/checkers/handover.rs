//! Promise 5, at its root: a leader begins with the state that all batches before its term have made, whether it has
//! loaded it or followed it; and what it decides, once durable, is the state it has.

use std::collections::BTreeMap;

use scheduler::ids::Epoch;
use scheduler::state::{Change, State};
use store::Term;

use super::Verdict;

/// A node may begin to lead when so many others have done so since its term began: it will be told.
const LATE_MAX: u64 = 16;

#[derive(Default)]
pub(crate) struct Handover {
    /// Each term's first batch, and the state then.
    began: BTreeMap<Epoch, (Term, State)>,
}

impl Handover {
    /// A term has begun in this state, played back from the log.
    pub(crate) fn term_began(&mut self, term: Term, state: &State) {
        self.began.insert(term.epoch, (term, state.clone()));
    }

    /// A leader is about to decide upon this state.
    pub(crate) fn takes_office(&mut self, term: Term, state: &State) -> Verdict {
        let Some((began, then)) = self.began.get(&term.epoch) else {
            return Err(format!("term {} has not begun, and is led", term.epoch.0));
        };
        if *began != term {
            return Err(format!("a leader begins after batch {} of {began:?}", term.seq.0));
        }
        if let Some(what) = difference(state, then) {
            return Err(format!("term {} begins with other {what} than the log has made", term.epoch.0));
        }
        self.began.retain(|epoch, _| epoch.0 + LATE_MAX >= term.epoch.0);
        Ok(())
    }
}

/// The leader's state must be what the next one would load: the durable one and the changes on their way to it.
pub(crate) fn decided<'a>(
    durable: &State,
    on_their_way: impl Iterator<Item = &'a Change>,
    leader: &State,
) -> Verdict {
    let mut reloaded = durable.clone();
    on_their_way.for_each(|change| reloaded.apply(change));
    match difference(leader, &reloaded) {
        None => Ok(()),
        Some(what) => Err(format!("the leader has other {what} than its batches make")),
    }
}

/// The part of the state in which two differ.
fn difference(one: &State, other: &State) -> Option<&'static str> {
    // Named one by one: whoever adds a field is asked here.
    let State { meta, jobs, progress, runs, joins, fanouts, backfills, notices, receipts, staged } = one;
    let parts = [
        ("counters", *meta == other.meta),
        ("jobs", *jobs == other.jobs),
        ("progress", *progress == other.progress),
        ("runs", *runs == other.runs),
        ("joins", *joins == other.joins),
        ("fan-outs", *fanouts == other.fanouts),
        ("backfills", *backfills == other.backfills),
        ("notices", *notices == other.notices),
        ("receipts", *receipts == other.receipts),
        ("staged jobs", *staged == other.staged),
    ];
    parts.iter().find(|(_, same)| !same).map(|(what, _)| *what)
}
