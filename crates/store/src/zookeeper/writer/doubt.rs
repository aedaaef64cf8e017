//! What is applied where an answer is missing or says no: the term record is read, and the rest is sent again.

use std::time::{Duration, Instant};

use futures_util::stream::StreamExt;
use tracing::{error, warn};
use zookeeper_client::{Error, MultiWriteError, SessionState};

use super::{Answer, Flight, Over, Verdict, Writer, log_sizes};
use crate::StoreError;
use crate::zookeeper::SEE;
use crate::zookeeper::ledger::{Before, Ledger, Names};
use crate::zookeeper::reader::Reader;
use crate::zookeeper::record::TermRecord;
use crate::zookeeper::session::{ANSWER_WITHIN, Pause, is_doubt};

/// How often operations may be refused one by one before somebody else must be writing in our tree.
pub(super) const CONFLICTS_MAX: u32 = 3;
/// Between two looks at what has been applied, where the first did not help.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

impl<'c> Writer<'c> {
    /// Takes the answer to the group that was sent first.
    pub(super) async fn answered(&mut self, answer: Answer) -> Result<(), Over> {
        match answer {
            Ok(_) => {
                self.acknowledge();
                Ok(())
            }
            Err(error) => {
                // Those behind it have failed with it, or their answers do not matter now.
                while self.answers.next().await.is_some() {}
                let verdict = self.verdict(&error);
                self.settle(verdict).await
            }
        }
    }

    pub(super) fn verdict(&self, error: &MultiWriteError) -> Verdict {
        match error {
            MultiWriteError::OperationFailed { index: 0, source: Error::NoNode } => {
                Verdict::Over(Over("our place in the latch is gone".into()))
            }
            MultiWriteError::OperationFailed { index: 1, source: Error::NoNode } => {
                Verdict::Over(Over("another epoch has begun".into()))
            }
            MultiWriteError::OperationFailed { source: source @ Error::QuotaExceeded, .. } => {
                Verdict::Refused(self.shared.sessions.meaning(source))
            }
            MultiWriteError::OperationFailed { index: 2, source } => {
                Verdict::Doubt(format!("term: {source}"))
            }
            MultiWriteError::OperationFailed {
                source: source @ (Error::NoNode | Error::NodeExists | Error::NotEmpty | Error::BadVersion),
                index,
            } => Verdict::Conflict(format!("operation {index}: {source}")),
            MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source } => {
                if is_doubt(source) {
                    Verdict::Doubt(source.to_string())
                } else {
                    Verdict::Refused(self.shared.sessions.meaning(source))
                }
            }
        }
    }

    /// Finds out what has been applied of what was sent, and sends the rest again.
    async fn settle(&mut self, verdict: Verdict) -> Result<(), Over> {
        let conflict = match verdict {
            Verdict::Over(over) => return Err(over),
            Verdict::Doubt(why) => {
                // What was looked at a moment ago has changed again: not faster than somebody can read of it.
                if std::mem::replace(&mut self.in_doubt, true) {
                    self.pause(DOUBT_PAUSE).await?;
                }
                let why = format!(
                    "an answer of ZooKeeper is missing ({why}); it is being found out what is applied"
                );
                self.shared.trouble(&StoreError::Unavailable(why));
                None
            }
            Verdict::Refused(error) => {
                self.shared.trouble(&error);
                self.pause(Duration::from_secs(1)).await?;
                None
            }
            Verdict::Conflict(what) => {
                self.conflicts += 1;
                Some(what)
            }
        };
        let (record, version) = self.look().await?;
        if record.epoch != self.record.epoch {
            return Err(Over(format!("epoch {} has begun", record.epoch)));
        }
        if record.seq < self.applied {
            return Err(gone_back(record.seq, self.applied));
        }
        while self.sent.front().is_some_and(|flight| flight.last <= record.seq) {
            self.acknowledge();
        }
        if let Some(what) = conflict
            && self.sent.front().is_some_and(|flight| flight.first == record.seq + 1)
        {
            let replaces = self.sent.iter().any(|flight| flight.generation != record.generation);
            if self.conflicts > CONFLICTS_MAX || replaces {
                return Err(self.out_of_line(&what).await);
            }
            warn!(what, "the records in ZooKeeper are not those that were expected; they are listed anew");
            return self.compose_anew(record, version).await;
        }
        self.send_again(record, version);
        Ok(())
    }

    /// What was listed a moment ago is not there. Servers before 3.9.4 are known to part from the others in silence, and a
    /// node that stays with such a one would never lead again.
    pub(super) async fn out_of_line(&mut self, what: &str) -> Over {
        let base = self.paths.base();
        error!(
            what,
            "the server of ZooKeeper that this node asks shows records below `{base}` that the ensemble does not have, \
             or somebody else writes there; the next session begins with another server, see docs/guides/zookeeper.md"
        );
        self.shared.distrust().await;
        Over(format!("a server of ZooKeeper is out of line, or somebody else writes below `{base}`: {what}"))
    }

    fn send_again(&mut self, record: TermRecord, version: i32) {
        (self.record, self.version) = (record, version);
        for flight in std::mem::take(&mut self.sent) {
            self.send(flight);
        }
    }

    /// Looks at what is there, and makes operations of the batches once more.
    async fn compose_anew(&mut self, record: TermRecord, version: i32) -> Result<(), Over> {
        let keep = self.shared.sessions.options.keep();
        let mut pause = Pause::new();
        let (ledger, log) = loop {
            let asked = self.asks();
            let tree = self.paths.tree(record.generation);
            let listed = async {
                let names = Names::list(self.client, &tree).await?;
                let mut ledger = Ledger::new(self.client, tree.clone(), names, keep).await?;
                ledger.learn(Before::list(self.client, &tree).await?);
                Ok::<_, Error>((ledger, log_sizes(self.client, &self.paths).await?))
            };
            match listed.await {
                Ok(listed) => break listed,
                Err(_) => self.go_on_asking(asked, &mut pause).await?,
            }
        };
        (self.ledger, self.log) = (ledger, log);
        self.log_bytes = self.log.iter().map(|(_, bytes)| bytes).sum();
        let flights = std::mem::take(&mut self.sent);
        let composed: Vec<Flight> =
            flights.into_iter().map(|flight| self.compose(flight.first, flight.batches)).collect();
        self.sent = composed.into();
        self.send_again(record, version);
        Ok(())
    }

    /// The term record, however long it takes to read it.
    pub(super) async fn look(&mut self) -> Result<(TermRecord, i32), Over> {
        let mut pause = Pause::new();
        loop {
            let asked = self.asks();
            let reader = Reader { sessions: &self.shared.sessions, paths: &self.paths, client: self.client };
            match reader.term().await {
                Ok((record, stat)) => return Ok((record, stat.version)),
                Err(error @ StoreError::Damaged(_)) => return Err(Over(error.to_string())),
                Err(error) => self.shared.trouble(&error),
            }
            self.go_on_asking(asked, &mut pause).await?;
        }
    }

    /// Now, where the server of this session is connected to.
    pub(super) fn asks(&self) -> Option<Instant> {
        (self.client.state() == SessionState::SyncConnected).then(Instant::now)
    }

    /// What was asked then had no answer that tells anything: a pause until it is asked again, unless that is of no use. A
    /// server that answers pings alone keeps the session alive, and with it our place before all others.
    pub(super) async fn go_on_asking(
        &mut self,
        asked: Option<Instant>,
        pause: &mut Pause,
    ) -> Result<(), Over> {
        if self.client.state().is_terminated() {
            return Err(expired());
        }
        if asked.is_some_and(|asked| asked.elapsed() >= ANSWER_WITHIN) && self.asks().is_some() {
            return Err(Over(
                "the server of ZooKeeper that the leader's session is with answers nothing".into(),
            ));
        }
        if !self.ending {
            pause.wait().await;
            self.peek();
        }
        if self.ending {
            return Err(Over("the term ended before it was known what is applied".into()));
        }
        Ok(())
    }

    pub(super) async fn pause(&mut self, time: Duration) -> Result<(), Over> {
        tokio::time::sleep(time).await;
        self.peek();
        if self.ending {
            return Err(Over("the term ended before the batch could be written".into()));
        }
        Ok(())
    }
}

/// The ensemble does not have what it has acknowledged: no fault of this node, and nothing that it could mend.
fn gone_back(there: u64, acknowledged: u64) -> Over {
    let lost = acknowledged - there;
    error!(
        there,
        acknowledged, "ZooKeeper has lost what it had acknowledged: {lost} batches are gone; {SEE}"
    );
    Over(format!(
        "ZooKeeper has lost what it had acknowledged: batch {there} is the last there, {acknowledged} was applied"
    ))
}

pub(super) fn expired() -> Over {
    Over("the session with ZooKeeper has ended".into())
}
