//! The store as a server on a network: [`MemoryCore`] behind latency, lost questions and lost answers, and the lock
//! by which nodes take turns.

use scheduler::ids::{Epoch, Seq};
use scheduler::state::{Change, State};
use store::memory::{MemoryCore, Refusal};
use store::{Applied, Term};

use crate::calendar::Millis;
use crate::cluster::{Cluster, Happening, NodeId, Stage};
use crate::node::Message;

/// What was decided in one step, and the wall clock it was decided by.
pub(crate) type Decided = (Millis, Vec<Change>);

/// What a node asks of the store.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    BeginTerm,
    Load,
    Commit {
        epoch: Epoch,
        seq: Seq,
        steps: std::sync::Arc<Vec<Decided>>,
    },
    ReadTerm,
    /// The batches after this one.
    Follow(Seq),
}

/// What the store says to a commit, or to the question what became of it.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Applied,
    Deposed,
    /// Its predecessor is missing.
    Early,
    /// The term record as it is; the answer to [`Question::ReadTerm`].
    Term(Term),
}

/// What the store says to a node that wants to lead, or to know.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    Began(Term),
    Loaded(Box<State>, Term),
    /// Some batches after the one that was asked for; `None` if they are no longer kept.
    Followed(Option<Vec<Applied>>),
}

/// The right to lead is a lease that whoever has lost it may not have heard of.
pub(crate) const LEASE: Millis = 10_000;

/// A batch of so many changes is part of something that takes several.
const HERD: usize = 150;

pub(crate) struct ModelStore {
    pub(crate) core: MemoryCore,
    /// Who may lead, and until when unless it renews.
    pub(crate) lock: Option<(NodeId, Millis)>,
    /// Nobody reaches it before.
    pub(crate) down_until: Millis,
    /// Batches kept for those who follow.
    kept: u64,
}

impl ModelStore {
    pub(crate) fn new(salt: u32, kept: u64) -> Self {
        Self { core: MemoryCore::new(salt), lock: None, down_until: 0, kept }
    }

    /// At most so many of the batches after `after`, if all of them are still kept.
    fn applied_after(&self, after: Seq, most: usize) -> Option<Vec<Applied>> {
        if after.0 + self.kept < self.core.term().seq.0 {
            return None;
        }
        let mut batches = self.core.applied_after(after).ok()?;
        batches.truncate(most);
        Some(batches)
    }

    /// Takes the lock for the node, or renews it, if nobody else has it.
    pub(crate) fn take_lock(&mut self, node: NodeId, now: Millis) -> bool {
        let free = self.lock.is_none_or(|(holder, until)| holder == node || until <= now);
        if free {
            self.lock = Some((node, now + LEASE));
        }
        free
    }

    pub(crate) fn release_lock(&mut self, node: NodeId) {
        if self.lock.is_some_and(|(holder, _)| holder == node) {
            self.lock = None;
        }
    }
}

impl Cluster {
    /// Sends a question on its way, or loses it.
    pub(crate) fn ask_store(&mut self, node: NodeId, stage: Stage, question: Question) {
        if self.now < self.store.down_until || self.unlucky(15) {
            self.say(|| format!("node {node}: {question:?} is lost on its way to the store"));
            return;
        }
        let at = self.now + self.latency();
        self.at(at, Happening::Store { node, stage, question });
    }

    pub(crate) fn store_hears(&mut self, node: NodeId, stage: Stage, question: Question) {
        let answer = match question {
            Question::BeginTerm => {
                let term = self.store.core.begin_term();
                self.say(|| format!("store: node {node} begins term {}", term.epoch.0));
                self.audit.term_began(term);
                Message::Start(Start::Began(term))
            }
            Question::Load => {
                let (state, term) = self.store.core.load();
                Message::Start(Start::Loaded(Box::new(state), term))
            }
            Question::Follow(after) => {
                let most = self.random.pick(&[1, 3, 20, 256]);
                Message::Start(Start::Followed(self.store.applied_after(after, most)))
            }
            Question::Commit { epoch, seq, steps } => {
                Message::Verdict { epoch, seq, verdict: self.store_commits(node, epoch, seq, &steps) }
            }
            Question::ReadTerm => {
                let term = self.store.core.term();
                Message::Verdict { epoch: term.epoch, seq: term.seq, verdict: Verdict::Term(term) }
            }
        };
        if self.now < self.store.down_until || self.unlucky(15) {
            self.say(|| format!("store: its answer to node {node} is lost"));
            return;
        }
        let at = self.now + self.latency();
        self.at(at, Happening::Node { node, stage, message: answer });
    }

    fn store_commits(&mut self, node: NodeId, epoch: Epoch, seq: Seq, steps: &[Decided]) -> Verdict {
        if self.unlucky(2) {
            self.say(|| format!("store: refuses batch {} of node {node}, out of the blue", seq.0));
            return Verdict::Deposed;
        }
        let changes: Vec<Change> = steps.iter().flat_map(|(_, changes)| changes).cloned().collect();
        let before = self.store.core.term();
        match self.store.core.commit(epoch, seq, &changes) {
            Ok(()) => {
                if self.store.core.term() != before {
                    self.mark(seq.0 ^ (changes.len() as u64) << 32);
                    self.say(|| {
                        format!(
                            "store: applied batch {} of term {}, {} changes",
                            seq.0,
                            epoch.0,
                            changes.len()
                        )
                    });
                    self.say_changes(&changes);
                    self.audit.applied(self.now, epoch, seq, steps, &self.users.phrases);
                    // Many children are told in many steps: that is where a leader shall fail more often than by chance.
                    if changes.len() >= HERD && self.unlucky(250) {
                        let down = self.random.between(100, 5_000);
                        self.crash(node, down);
                    }
                }
                Verdict::Applied
            }
            Err(Refusal::Deposed(_)) => Verdict::Deposed,
            Err(Refusal::Early { .. }) => Verdict::Early,
        }
    }
}
