//! What is more than one multi: batches that no request has room for, retention, and content that is put back.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::StreamExt;
use scheduler::ids::{JobUid, Seq};
use zookeeper_client::{Error, MultiWriteError};

use super::doubt::CONFLICTS_MAX;
use super::{Flight, MULTI_BYTES_MAX, Over, Restore, Surplus, Verdict, Writer, empty_generation, sweep};
use crate::memory::MemoryCore;
use crate::zookeeper::batch::Batch;
use crate::zookeeper::ledger::{Ledger, Op};
use crate::zookeeper::reader::Reader;
use crate::zookeeper::record::{Entry, TermRecord};
use crate::zookeeper::session::{Pause, all, patiently};
use crate::zookeeper::tree::{Kind, Paths};
use crate::{Deposed, StoreError};

/// Operations in one multi of retention or of a restore.
const HOUSEKEEPING_MAX: usize = 500;

impl<'c> Writer<'c> {
    /// A batch whose operations are more than a request may be: it is put into the log, which makes it durable, and
    /// then into its records, part by part. Until that is done the term record says so, and whoever loads, or leads
    /// next, takes it from the log.
    pub(super) async fn send_in_parts(&mut self, mut flight: Flight) -> Result<(), Over> {
        let entry = self.paths.entry(flight.first);
        let is_entry = |op: &Op| matches!(op, Op::Create(path, _) if *path == entry);
        let (log, ops): (Vec<Op>, Vec<Op>) = std::mem::take(&mut flight.ops).into_iter().partition(is_entry);
        self.settle_sent().await?;
        let unfinished = Some(flight.first);
        self.send(Flight { ops: log, unfinished, ..flight });
        self.settle_sent().await?;
        self.write_parts(ops).await?;
        self.record.unfinished = None;
        self.move_record().await
    }

    /// Waits for what is on its way.
    async fn settle_sent(&mut self) -> Result<(), Over> {
        while let Some(answer) = self.answers.next().await {
            self.answered(answer).await?;
        }
        Ok(())
    }

    /// Moves the term record to what it should be, without a batch.
    async fn move_record(&mut self) -> Result<(), Over> {
        loop {
            let record = self.record.clone();
            let answer = self.send_multi(Some(&record), &[]).await;
            let Err(error) = answer else { return Ok(()) };
            match self.verdict(&error) {
                Verdict::Over(over) => return Err(over),
                Verdict::Doubt(_) | Verdict::Conflict(_) => {}
                Verdict::Refused(error) => {
                    self.shared.trouble(&error);
                    self.pause(Duration::from_secs(1)).await?;
                }
            }
            let (found, version) = self.look().await?;
            if found.epoch != record.epoch {
                return Err(Over(format!("epoch {} has begun", found.epoch)));
            }
            self.version = version;
            if found == record {
                return Ok(());
            }
        }
    }

    /// Writes operations in as many multis as it takes. Those that are done already are left out.
    async fn write_parts(&mut self, ops: Vec<Op>) -> Result<(), Over> {
        let mut rest: VecDeque<Op> = ops.into();
        while !rest.is_empty() {
            let mut part: Vec<Op> = Vec::new();
            let mut bytes = 0;
            while part.len() < HOUSEKEEPING_MAX
                && let Some(op) = rest.front()
                && (part.is_empty() || bytes + op.bytes() < MULTI_BYTES_MAX / 2)
            {
                bytes += op.bytes();
                part.extend(rest.pop_front());
            }
            let mut conflicts = 0;
            while !part.is_empty() {
                let answer = self.send_multi(None, &part).await;
                let Err(error) = answer else { break };
                match self.verdict(&error) {
                    Verdict::Over(over) => return Err(over),
                    Verdict::Refused(error) => {
                        self.shared.trouble(&error);
                        self.pause(Duration::from_secs(1)).await?;
                    }
                    Verdict::Doubt(what) | Verdict::Conflict(what) => {
                        // What was looked at is not so when it is done: once that is an answer that was lost.
                        conflicts += u32::from(matches!(error, MultiWriteError::OperationFailed { .. }));
                        if conflicts > CONFLICTS_MAX {
                            return Err(self.out_of_line(&what).await);
                        }
                        part = self.left_of(part).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Which of these operations are still to be done; what is there decides.
    async fn left_of(&mut self, part: Vec<Op>) -> Result<Vec<Op>, Over> {
        let mut pause = Pause::new();
        loop {
            let (client, asked) = (self.client, self.asks());
            let look = all(&part, async |op| {
                let path = match op {
                    Op::Create(path, _) | Op::Set(path, _) | Op::Delete(path) => path,
                };
                patiently(client, || client.check_stat(path)).await
            });
            match look.await {
                Ok(found) => {
                    let left = part.into_iter().zip(found).filter_map(|(op, found)| match (op, found) {
                        (Op::Create(path, data), Some(_)) | (Op::Set(path, data), Some(_)) => {
                            Some(Op::Set(path, data))
                        }
                        (Op::Create(path, data), None) | (Op::Set(path, data), None) => {
                            Some(Op::Create(path, data))
                        }
                        (Op::Delete(path), Some(_)) => Some(Op::Delete(path)),
                        (Op::Delete(_), None) => None,
                    });
                    return Ok(left.collect());
                }
                Err(_) => self.go_on_asking(asked, &mut pause).await?,
            }
        }
    }

    /// Finishes a batch that an earlier leader has put into the log but not into all of its records.
    pub(super) async fn finish(&mut self) -> Result<(), Over> {
        let Some(first) = self.record.unfinished else { return Ok(()) };
        let reader = Reader { sessions: &self.shared.sessions, paths: &self.paths, client: self.client };
        let last = self.record.began - 1;
        let batches = reader.between(first - 1, last).await.map_err(|error| Over(error.to_string()))?;
        let batches = batches.ok_or_else(|| Over(format!("batch {first} is not in the log any more")))?;
        let encoded: Vec<(u64, Batch)> =
            batches.iter().map(|batch| (batch.seq.0, Batch::encode(&batch.changes))).collect();
        self.ledger.doubt(encoded.iter().map(|(seq, batch)| (*seq, batch)));
        let ops = self.ledger.compose(encoded.iter().map(|(seq, batch)| (*seq, batch)));
        let ops = self.left_of(ops).await?;
        self.write_parts(ops).await?;
        self.record.unfinished = None;
        self.move_record().await
    }

    /// Removes what retention does not keep. Returns how many records of the history went.
    pub(super) async fn remove(&mut self, surplus: &Surplus) -> Result<Result<u64, StoreError>, Over> {
        let Surplus { records, revisions, audit, forget } = surplus;
        let mut ops = self.ledger.remove(records);
        let tree = self.ledger.tree.clone();
        for revised in revisions {
            ops.push(Op::Delete(tree.record(Kind::Revisions, revised.dir(), &revised.name)));
            self.ledger.forget_revisions(revised.job);
        }
        ops.extend(audit.iter().map(|noted| Op::Delete(tree.record(Kind::Audit, noted.dir(), &noted.name))));
        for job in forget {
            if !self.ledger.names().has(Kind::Jobs, &job.to_string()) {
                ops.push(self.ledger.forget_kept(*job));
            }
        }
        if ops.is_empty() {
            // It says whether this node leads.
            let Err(error) = self.send_multi(None, &[]).await else { return Ok(Ok(0)) };
            return match self.verdict(&error) {
                Verdict::Over(over) => Err(over),
                Verdict::Refused(error) => Ok(Err(error)),
                Verdict::Doubt(why) | Verdict::Conflict(why) => Ok(Err(StoreError::Unavailable(why))),
            };
        }
        self.write_parts(ops).await?;
        self.shared.measure(&self.ledger);
        Ok(Ok(records.len() as u64))
    }

    /// Writes content as another generation, and makes it the present one with a batch.
    pub(super) async fn restore(&mut self, order: Restore) -> Result<(), Over> {
        let Restore { epoch, seq, content, batch, reply } = order;
        let TermRecord { epoch: present, began, seq: last, .. } = self.record;
        let refused = |reason: String| StoreError::from(Deposed { reason });
        if epoch.0 != present || seq.0 <= began || seq.0 > last + 1 {
            let reason = format!("batch {} of epoch {} is not the next one", seq.0, epoch.0);
            // Whoever asked may have gone; likewise below.
            let _ = reply.send(Err(refused(reason)));
            return Ok(());
        }
        if seq.0 <= last {
            let _ = reply.send(Ok(()));
            return Ok(());
        }
        match self.replace(seq, &content, batch).await {
            Ok(()) => drop(reply.send(Ok(()))),
            Err(Over(reason)) => {
                let _ = reply.send(Err(refused(reason.clone())));
                return Err(Over(reason));
            }
        }
        Ok(())
    }

    async fn replace(&mut self, seq: Seq, content: &MemoryCore, batch: Batch) -> Result<(), Over> {
        let unavailable = |error: Error| Over(error.to_string());
        let base = self.paths.base();
        let there = patiently(self.client, || self.client.list_children(&base)).await.map_err(unavailable)?;
        let latest = there.iter().filter_map(|name| Paths::generation(name)).max().unwrap_or(0);
        let old = self.ledger.tree.clone();
        let tree = self.paths.tree(latest.max(old.generation) + 1);
        let mut ledger = Ledger::empty(tree.clone(), self.shared.sessions.options.keep());
        let begin = empty_generation(&tree);
        self.write_parts(begin).await?;
        for (seq, part) in crate::zookeeper::backup::parts(content, seq.0 - 1) {
            let mut ops = ledger.compose([(seq, &part.batch)].into_iter());
            for kept in &part.kept {
                ledger.keep(JobUid(kept.job), kept, &mut ops);
            }
            self.write_parts(ops).await?;
        }
        let mut ops = ledger.compose([(seq.0, &batch)].into_iter());
        // Followers cannot go on: what they know is no past of this.
        let old_log: Vec<u64> = self.log.drain(..).map(|(first, _)| first).collect();
        ops.extend(old_log.into_iter().map(|first| Op::Delete(self.paths.entry(first))));
        let entry = Entry::restored(seq.0);
        (self.log, self.log_bytes) = (VecDeque::from([(seq.0, entry.len())]), entry.len());
        ops.push(Op::Create(self.paths.entry(seq.0), entry));
        self.ledger = ledger;
        let batches = vec![(batch, Vec::new())];
        let generation = tree.generation;
        self.send(Flight { first: seq.0, last: seq.0, ops, batches, generation, unfinished: None });
        self.settle_sent().await?;
        tokio::spawn(sweep(self.client.clone(), vec![old]));
        Ok(())
    }
}
