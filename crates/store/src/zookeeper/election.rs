//! How a term begins: a place in the latch, its turn, the epoch raised, and what is there read.

use std::sync::Arc;

use tokio::sync::mpsc;
use zookeeper_client::{Client, Error, MultiWriteError};

use super::latch::Member;
use super::ledger::{Ledger, Names};
use super::newest::Verdict;
use super::reader::Reader;
use super::record::{About, Entry, TermRecord, json};
use super::session::{answered, children, is_doubt, patiently};
use super::tree::{Paths, Tree};
use super::writer::{self, Begun, log_sizes};
use super::{Known, Leading, SEE, Shared, locked};
use crate::{Candidate, StoreError, Term, format};

/// How often the term record may have been written between our look and our turn.
const SURPRISES_MAX: u32 = 3;

impl Shared {
    /// Waits for the right to lead, and begins a term with it.
    pub(super) async fn try_begin(self: &Arc<Self>, candidate: &Candidate) -> Result<Term, StoreError> {
        let client = self.sessions.leading().await?;
        self.ensure(&client).await?;
        let mut member =
            Member::join(&self.sessions, &client, &self.paths, candidate, self.leaving.clone()).await?;
        // The servers have written for us; who waits behind another has nothing to complain of.
        self.trouble_is_over();
        member.first(&self.sessions).await?;
        let (record, version) = self.raise(&client, &member).await?;
        let reader = Reader { sessions: &self.sessions, paths: &self.paths, client: &client };
        let tree = self.paths.tree(record.generation);
        let meaning = |error: Error| self.sessions.meaning(&error);
        let names = match self.names_followed(&reader, &record).await {
            Some(names) => names,
            None => Names::list(&client, &tree).await.map_err(meaning)?,
        };
        let keep = self.sessions.options.keep();
        let ledger = Ledger::new(&client, tree, names, keep).await.map_err(meaning)?;
        let log = log_sizes(&client, &self.paths).await.map_err(meaning)?;
        let stale = self.stale_generations(&client, record.generation).await.map_err(meaning)?;
        self.measure(&ledger);
        let term = record.term();
        let (commands, orders) = mpsc::unbounded_channel();
        let again = commands.downgrade();
        *locked(&self.leading) = Some(Leading { epoch: term.epoch, candidate: candidate.clone(), commands });
        self.terms.send_replace(Some(term.epoch));
        let begun = Begun { client: client.clone(), member, record, version, ledger, log, stale };
        tokio::spawn(writer::lead(self.clone(), begun, orders, again));
        self.sessions.trust();
        self.trouble_is_over();
        Ok(term)
    }

    /// Raises the epoch with an empty batch.
    async fn raise(&self, client: &Client, member: &Member) -> Result<(TermRecord, i32), StoreError> {
        let reader = Reader { sessions: &self.sessions, paths: &self.paths, client };
        let mut surprises = 0;
        loop {
            // A newer one may have led while we waited.
            let about = self.ensure(client).await?;
            let (old, stat) = reader.term().await?;
            if old.by == member.name() {
                // The answer was lost, but it was applied.
                return Ok((old, stat.version));
            }
            self.has_lost_nothing(&old).await?;
            let seq = old.seq + 1;
            let by = member.name().to_owned();
            let new = TermRecord { epoch: old.epoch + 1, began: seq, seq, by, ..old.clone() };
            let mark = self.paths.epoch(old.epoch);
            let marked = patiently(client, || client.check_stat(&mark)).await;
            let marked = marked.map_err(|error| self.sessions.meaning(&error))?.is_some();
            let raised = async {
                let mut multi = client.new_multi_writer();
                let options = self.sessions.persistent();
                multi.add_check_version(member.path(), -1)?;
                multi.add_set_data(&self.paths.term(), &json(&new), Some(stat.version))?;
                if marked {
                    multi.add_delete(&mark, None)?;
                }
                multi.add_create(&self.paths.epoch(new.epoch), &[], &options)?;
                let entry = Entry::write([(seq, new.epoch, &[][..])].into_iter());
                multi.add_create(&self.paths.entry(seq), &entry, &options)?;
                // With the epoch: while an older binary leads, those that follow it still read. A newer one that has said so
                // since we looked has moved the term record as well.
                if about.format < format::VERSION {
                    let about = About { format: format::VERSION, ..about };
                    multi.add_set_data(&self.paths.about(), &json(&about), None)?;
                }
                answered(multi).await
            };
            match raised.await {
                Ok(_) => return Ok((new, stat.version + 1)),
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
                    return Err(StoreError::Unavailable("our place in the latch is gone".into()));
                }
                // The one before us has written a last time. Again and again it cannot have.
                Err(MultiWriteError::OperationFailed { index: 1, source: Error::BadVersion }) => {
                    surprises += 1;
                    if surprises > SURPRISES_MAX {
                        // What was seen there is not what the ensemble has.
                        self.newest.forget();
                        self.distrust().await;
                        return Err(StoreError::Unavailable(
                            "a server of ZooKeeper shows another term than the ensemble has; another one is asked".into(),
                        ));
                    }
                }
                Err(error) => {
                    let source = Error::from(error);
                    if !is_doubt(&source) || client.state().is_terminated() {
                        return Err(self.sessions.meaning(&source));
                    }
                }
            }
        }
    }

    /// Before a term begins: whether the store still has all that this handle has seen. Where it has not, another server is
    /// asked, as one may have parted from the others; where all tell the same, it is gone, and the term begins without it.
    async fn has_lost_nothing(&self, record: &TermRecord) -> Result<(), StoreError> {
        let lost = match self.newest.judge(record.seq, self.sessions.servers()) {
            Verdict::Whole => return Ok(()),
            Verdict::Behind(lost) => lost,
            Verdict::Gone(lost) => {
                let there = record.seq;
                tracing::error!(
                    there,
                    "ZooKeeper has lost what it had acknowledged: {lost} batches are gone; {SEE}"
                );
                return Ok(());
            }
        };
        self.distrust().await;
        Err(StoreError::Unavailable(format!(
            "a server of ZooKeeper does not have the last {lost} batches that this node has seen applied; another one is asked"
        )))
    }

    /// What this handle has followed as a standby, brought up to the beginning of a term.
    async fn names_followed(&self, reader: &Reader<'_>, record: &TermRecord) -> Option<Names> {
        let Known { generation, seq, mut names } = locked(&self.names).take()?;
        if generation != record.generation {
            return None;
        }
        for batch in reader.between(seq, record.seq).await.ok()?? {
            names.follow(batch.seq.0, &batch.changes);
        }
        Some(names)
    }

    async fn stale_generations(&self, client: &Client, present: u64) -> Result<Vec<Tree>, Error> {
        let there = children(client, &self.paths.base()).await?;
        let generations = there.iter().filter_map(|name| Paths::generation(name));
        Ok(generations.filter(|one| *one != present).map(|one| self.paths.tree(one)).collect())
    }
}
