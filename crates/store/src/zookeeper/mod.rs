//! Several machines: an ensemble of ZooKeeper holds the state and says who leads.
//!
//! Where everything is says `tree.rs`, who may lead `latch.rs`. Writing is done by one task for each term (`writer.rs`),
//! which knows what is there (`ledger.rs`); questions (`reader.rs`) go over a session of their own.
//! **Invariant:** nothing is written but in a multi that asks whether our member of the latch and the mark of our epoch
//! are there; nothing is applied but in one that also moves the term record.

mod backup;
mod batch;
mod election;
mod latch;
mod ledger;
mod listing;
mod newest;
pub mod old;
mod options;
#[cfg(feature = "testing")]
pub mod planted;
pub mod purge;
mod reader;
mod record;
mod session;
mod tree;
mod versions;
mod writer;
mod yardstick;

pub use self::options::{Limits, Options};
pub use self::yardstick::multi_rate;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use scheduler::ids::{Epoch, JobUid, RunKey, Seq};
use scheduler::revision::Revision;
use scheduler::run::Record;
use scheduler::state::{Change, Meta, State};
use tokio::sync::{mpsc, oneshot, watch};
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use self::backup::Whole;
use self::batch::Batch;
use self::latch::{Leaving, Strangers};
use self::ledger::{Ledger, Names, Op};
use self::listing::Listed;
use self::newest::Newest;
use self::reader::Reader;
use self::record::{About, LAYOUT, StoredMember, TermRecord, json, read};
use self::session::{Pause, Sessions, answered, data, is_doubt, patiently};
use self::tree::{Ended, Paths};
use self::versions::Versions;
use self::writer::{Command, Commit, Restore, Surplus, empty_generation};
use crate::backup::{Content, Extent, StageError, Staged};
use crate::facts::first_uid;
use crate::memory::MemoryCore;
use crate::{
    Applied, AuditPage, AuditQuery, Candidate, Deposed, HistoryPage, HistoryQuery, LastRun, Member as Node,
    Retention, RevisionPage, RevisionQuery, Store, StoreError, Term, bounded, format,
};

/// Records removed by retention in one order to the writer.
const REMOVE_MAX: usize = 2000;
/// What to do where there is no room.
const ADVICE: &str = "move to PostgreSQL, by backup and restore";
/// Where more is said about an ensemble that has lost something.
const SEE: &str = "versions before 3.9.4 are known for it, see docs/guides/zookeeper.md";

/// Opens a store, which need not be reachable yet.
/// # Errors
/// [`StoreError::Unavailable`] where the options cannot be meant so, naming the flag.
pub fn open(options: Options) -> Result<ZookeeperStore, StoreError> {
    let options = options.checked()?;
    let paths = Paths::new(&options.path);
    let shared = Shared {
        sessions: Arc::new(Sessions::new(options)),
        paths,
        ensured: AtomicBool::new(false),
        looked_at: AtomicU64::new(0),
        leading: Mutex::new(None),
        leaving: Leaving::default(),
        names: Mutex::new(None),
        trouble: Mutex::new(None),
        full: Mutex::new(None),
        terms: watch::Sender::new(None),
        newest: Newest::default(),
        versions: Versions::default(),
        listed: Listed::default(),
        strangers: Strangers::default(),
    };
    Ok(ZookeeperStore { shared: Arc::new(shared) })
}

/// A handle on a store in ZooKeeper; one node's.
#[derive(Debug)]
pub struct ZookeeperStore {
    shared: Arc<Shared>,
}

impl ZookeeperStore {
    /// Where an old Chronos has its state, if there was one here. Our sessions live as long as that is held.
    pub fn old(&self) -> old::Place {
        old::Place::seen_by(&self.shared.sessions)
    }
}

/// What a handle and its tasks share.
struct Shared {
    sessions: Arc<Sessions>,
    paths: Paths,
    /// Whether the tree was there when it was looked for.
    ensured: AtomicBool,
    /// The last epoch of which it is known that no newer binary led in it, or before.
    looked_at: AtomicU64,
    leading: Mutex<Option<Leading>>,
    /// Our places in the latch that were given up.
    leaving: Leaving,
    /// What a standby has seen: so that it need not be listed when it comes to lead.
    names: Mutex<Option<Known>>,
    trouble: Mutex<Option<String>>,
    full: Mutex<Option<String>>,
    /// The epoch that this handle leads in.
    terms: watch::Sender<Option<Epoch>>,
    newest: Newest,
    versions: Versions,
    listed: Listed,
    strangers: Strangers,
}

/// Names of records as of a batch.
struct Known {
    generation: u64,
    seq: u64,
    names: Names,
}

/// This handle's term.
struct Leading {
    epoch: Epoch,
    candidate: Candidate,
    commands: mpsc::UnboundedSender<Command>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn trouble(&self, error: &StoreError) {
        let text = error.to_string();
        let mut trouble = locked(&self.trouble);
        if trouble.as_ref() != Some(&text) {
            tracing::warn!(reason = text, "the store does not take what it is given");
            *trouble = Some(text);
        }
    }

    fn trouble_is_over(&self) {
        if locked(&self.trouble).take().is_some() {
            tracing::info!("the store takes what it is given again");
        }
    }

    fn end_term(&self, epoch: u64) {
        let mut leading = locked(&self.leading);
        if leading.as_ref().is_some_and(|leading| leading.epoch.0 == epoch) {
            *leading = None;
            self.terms.send_replace(None);
        }
    }

    /// Another one leads: who has nothing to write finds out here.
    fn end_terms_before(&self, epoch: Epoch) {
        let ours = locked(&self.leading).as_ref().map(|leading| leading.epoch);
        if let Some(ours) = ours.filter(|ours| *ours < epoch) {
            self.end_term(ours.0);
        }
    }

    /// Neither the sessions there are nor what was followed over them is to be relied on.
    async fn distrust(&self) {
        *locked(&self.names) = None;
        self.sessions.distrust().await;
    }

    /// Says whether there is room.
    fn measure(&self, ledger: &Ledger) {
        let (jobs, bytes, limits) = (ledger.jobs(), ledger.bytes(), self.sessions.options.limits);
        let full = if jobs >= limits.jobs {
            let most = limits.jobs;
            Some(format!(
                "the store in ZooKeeper holds {jobs} jobs, and is meant for {most} at most: {ADVICE}"
            ))
        } else if bytes >= limits.bytes {
            let (is, most) = (bytes >> 20, limits.bytes >> 20);
            Some(format!(
                "the store in ZooKeeper holds {is} MiB, and is meant for {most} MiB at most: {ADVICE}"
            ))
        } else {
            None
        };
        *locked(&self.full) = full;
    }

    /// How far our clock is ahead of that of the servers' leader, which dates what is written.
    async fn clock_ahead(&self, client: &Client) -> Result<SignedDuration, StoreError> {
        let path = self.paths.clock();
        // Of the one time that was answered: what was asked before, and in vain, took time as well.
        let (asked, stat) = patiently(client, || async {
            let asked = Timestamp::now();
            client.set_data(&path, &[], None).await.map(|stat| (asked, stat))
        })
        .await
        .map_err(|error| self.meaning(&error))?;
        let answered = Timestamp::now();
        let ours = (asked.as_millisecond() + answered.as_millisecond()) / 2;
        Ok(SignedDuration::from_millis(ours - stat.mtime))
    }

    fn meaning(&self, error: &Error) -> StoreError {
        self.sessions.meaning(error)
    }

    /// Sees to it that there is a store, that it is the one that is meant, and that it is none of a newer binary.
    async fn ensure(&self, client: &Client) -> Result<About, StoreError> {
        let meaning = |error: Error| self.sessions.meaning(&error);
        if let Some(expected) = &self.sessions.options.expected {
            let about = self.about(client).await?;
            crate::wanted(Some(expected), about.as_ref().map(|about| about.id.as_str()))?;
        }
        // Open to all, as an old Chronos makes them.
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let candidates = self.paths.candidates();
        patiently(client, || client.mkdir(&candidates, &open)).await.map_err(meaning)?;
        loop {
            if let Some(about) = self.about(client).await? {
                self.ensured.store(true, Ordering::Relaxed);
                self.newest.is_of(&about.id);
                return Ok(about);
            }
            let ops = self.new_store()?;
            match self.write(client, &ops).await {
                Ok(_) => {}
                // Another node was faster, or our own answer was lost.
                Err(MultiWriteError::OperationFailed { source: Error::NodeExists, .. }) => {}
                Err(error) => {
                    let source = Error::from(error);
                    if !is_doubt(&source) || client.state().is_terminated() {
                        return Err(meaning(source));
                    }
                }
            }
        }
    }

    /// What the store says of itself, if there is one.
    /// # Errors
    /// [`StoreError::Newer`] where a newer binary has led.
    async fn about(&self, client: &Client) -> Result<Option<About>, StoreError> {
        let found = data(client, &self.paths.about()).await.map_err(|error| self.meaning(&error))?;
        let Some((about, _)) = found else { return Ok(None) };
        let about: About = read("about", &about)?;
        about.check()?;
        Ok(Some(about))
    }

    /// What was read, unless a newer binary has led since it was looked at last: what such a one writes may mean something
    /// else than we take it for, or cannot be read at all. The format is raised with an epoch, so that it need not be asked
    /// for each time.
    async fn of_no_newer<T>(
        &self,
        client: &Client,
        read: Result<T, StoreError>,
        epoch: impl Fn(&T) -> Option<Epoch>,
    ) -> Result<T, StoreError> {
        let epoch = match &read {
            Ok(read) => epoch(read).map_or(0, |epoch| epoch.0),
            Err(StoreError::Damaged(_)) => u64::MAX,
            Err(_) => return read,
        };
        if epoch > self.looked_at.load(Ordering::Relaxed) {
            self.about(client).await?;
            if read.is_ok() {
                self.looked_at.fetch_max(epoch, Ordering::Relaxed);
            }
        }
        read
    }

    /// What makes an empty store of nothing.
    fn new_store(&self) -> Result<Vec<Op>, StoreError> {
        let paths = &self.paths;
        let mut random = [0; 20];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::Unavailable(format!("the system has no random numbers: {error}")))?;
        let id: String = random[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let salt = u32::from_le_bytes([random[16], random[17], random[18], random[19]]);
        let about = About { id, layout: LAYOUT, format: format::VERSION };
        let term =
            TermRecord { epoch: 0, began: 0, seq: 0, generation: 1, by: String::new(), unfinished: None };
        let mut line = Vec::new();
        let meta = Change::Meta(Meta { next_uid: first_uid(salt), ..Meta::default() });
        let value = format::write_change(&mut line, &meta);
        let node = |path: String| Op::Create(path, Vec::new());
        let tree = paths.tree(1);
        let mut ops = vec![
            node(paths.base()),
            node(paths.epochs()),
            node(paths.epoch(0)),
            node(paths.nodes()),
            node(paths.members()),
            node(paths.clock()),
            node(paths.log()),
        ];
        ops.extend(empty_generation(&tree));
        ops.push(Op::Set(tree.meta(), line[value].to_vec()));
        ops.push(Op::Create(paths.term(), json(&term)));
        ops.push(Op::Create(paths.about(), json(&about)));
        Ok(ops)
    }

    /// Operations as one multi, without conditions.
    async fn write(&self, client: &Client, ops: &[Op]) -> Result<Vec<MultiWriteResult>, MultiWriteError> {
        let mut multi = client.new_multi_writer();
        for op in ops {
            match op {
                Op::Create(path, data) => multi.add_create(path, data, &self.sessions.persistent())?,
                Op::Set(path, data) => multi.add_set_data(path, data, None)?,
                Op::Delete(path) => multi.add_delete(path, None)?,
            }
        }
        answered(multi).await
    }

    /// What was just followed.
    fn followed(&self, batches: &[Applied]) {
        if let Some(last) = batches.last() {
            self.newest.saw(last.seq.0);
        }
        let mut known = locked(&self.names);
        let Some(known) = &mut *known else { return };
        for batch in batches {
            if batch.seq.0 == known.seq + 1 {
                known.names.follow(batch.seq.0, &batch.changes);
                known.seq = batch.seq.0;
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.sessions.options).finish_non_exhaustive()
    }
}

impl ZookeeperStore {
    /// The random id of the store: another id means another store, whatever its path.
    /// # Errors
    /// See [`StoreError`].
    pub async fn id(&self) -> Result<String, StoreError> {
        let client = self.shared.sessions.looking().await?;
        Ok(self.shared.ensure(&client).await?.id)
    }

    async fn client(&self) -> Result<Client, StoreError> {
        let client = self.shared.sessions.looking().await?;
        if !self.shared.ensured.load(Ordering::Relaxed) {
            self.shared.ensure(&client).await?;
        }
        Ok(client)
    }

    fn reader<'a>(&'a self, client: &'a Client) -> Reader<'a> {
        Reader { sessions: &self.shared.sessions, paths: &self.shared.paths, client }
    }

    /// Gives the leader's task an order.
    async fn order<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Deposed> {
        let gone = || Deposed { reason: "this node does not lead".into() };
        let (reply, answer) = oneshot::channel();
        {
            let leading = locked(&self.shared.leading);
            let leading = leading.as_ref().ok_or_else(gone)?;
            leading.commands.send(command(reply)).map_err(|_| gone())?;
        }
        answer.await.map_err(|_| gone())
    }

    async fn remove(&self, surplus: Surplus) -> Result<u64, StoreError> {
        self.order(|reply| Command::Remove { surplus, reply }).await?
    }

    /// Records of the history that retention does not keep.
    fn surplus(&self, mut ended: Vec<Ended>, keep: Retention, now: Timestamp) -> Vec<Ended> {
        let oldest = now.checked_sub(keep.age_max).unwrap_or(Timestamp::MIN);
        // As many as retention keeps, and as there is room for: jobs may have come that leave less for those that were there.
        let jobs = ended.iter().map(|record| record.facts.job).collect::<HashSet<_>>().len();
        let count_max = keep.count_max.min(self.shared.sessions.options.keep().each_of(jobs));
        let mut newer = HashMap::new();
        ended.reverse();
        ended.retain(|record| {
            let newer: &mut u64 = newer.entry(record.facts.job).or_default();
            *newer += 1;
            record.facts.recorded < oldest || *newer > count_max
        });
        ended.reverse();
        ended
    }
}

#[async_trait]
impl Store for ZookeeperStore {
    fn kind(&self) -> &'static str {
        "zookeeper"
    }

    async fn begin_term(&self, candidate: &Candidate) -> Result<Term, StoreError> {
        // A new term ends the old one, and gives others their chance.
        self.resign().await;
        let mut pause = Pause::new();
        loop {
            match self.shared.try_begin(candidate).await {
                Ok(term) => return Ok(term),
                Err(error @ (StoreError::Newer { .. } | StoreError::Damaged(_))) => return Err(error),
                Err(error) => {
                    self.shared.trouble(&error);
                    pause.wait().await;
                }
            }
        }
    }

    async fn resign(&self) {
        // An error means that the term is over already.
        let _ = self.order(|reply| Command::Resign { reply }).await;
        // Nobody leads who waits behind a place that nobody holds.
        self.shared.leaving.over().await;
    }

    async fn leader(&self) -> Option<Candidate> {
        let ours = locked(&self.shared.leading).as_ref().map(|leading| leading.candidate.clone());
        if ours.is_some() {
            return ours;
        }
        reader::soon(async {
            let client = self.client().await.ok()?;
            latch::leader(&client, &self.shared.paths).await.ok()?
        })
        .await
    }

    async fn store_id(&self) -> Result<Option<String>, StoreError> {
        self.id().await.map(Some)
    }

    async fn present(&self) -> Result<Term, StoreError> {
        let client = self.client().await?;
        let term = self.reader(&client).term().await.map(|(record, _)| record.term());
        if let Ok(term) = &term {
            self.shared.end_terms_before(term.epoch);
        }
        self.shared.of_no_newer(&client, term, |term| Some(term.epoch)).await
    }

    async fn announce(&self, candidate: &Candidate, news: &str) -> Result<(), StoreError> {
        bounded(news)?;
        self.shared.versions.look(&self.shared.sessions.options.hosts);
        let client = self.client().await?;
        self.shared.strangers.look(&client, &self.shared.paths);
        let path = self.shared.paths.member(&candidate.node);
        let said = json(&StoredMember { candidate: format::write_candidate(candidate), news: news.into() });
        let options = self.shared.sessions.persistent();
        let done = patiently(&client, || async {
            match client.set_data(&path, &said, None).await {
                Err(Error::NoNode) => match client.create(&path, &said, &options).await {
                    // Somebody else may be on our data folder.
                    Err(Error::NodeExists) | Ok(_) => Ok(()),
                    Err(error) => Err(error),
                },
                done => done.map(drop),
            }
        });
        done.await.map_err(|error| self.shared.sessions.meaning(&error))
    }

    async fn members(&self) -> Result<Vec<Node>, StoreError> {
        let client = self.client().await?;
        let meaning = |error: Error| self.shared.sessions.meaning(&error);
        // It also brings the server up to what others have said.
        let ahead = self.shared.clock_ahead(&client).await?;
        let dir = self.shared.paths.members();
        patiently(&client, || client.sync(&dir)).await.map_err(meaning)?;
        let names = session::children(&client, &dir).await.map_err(meaning)?;
        let found = session::all(names, async |name| data(&client, &format!("{dir}/{name}")).await);
        let now = Timestamp::now().as_millisecond() - i64::try_from(ahead.as_millis()).unwrap_or(0);
        let mut members = Vec::new();
        for (said, stat) in found.await.map_err(meaning)?.into_iter().flatten() {
            // Of a newer version, which says who it is in another way.
            let Ok(StoredMember { candidate, news }) = read("members", &said) else { continue };
            let Some(candidate) = format::read_candidate(&candidate) else { continue };
            let age = Duration::from_millis(u64::try_from(now - stat.mtime).unwrap_or(0));
            members.push(Node { candidate, news, age });
        }
        members.sort_by(|a, b| a.candidate.node.cmp(&b.candidate.node));
        Ok(members)
    }

    async fn forget_member(&self, node: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let path = self.shared.paths.member(node);
        match client.delete(&path, None).await {
            Ok(()) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(self.shared.sessions.meaning(&error)),
        }
    }

    async fn clock_ahead(&self) -> Result<Option<SignedDuration>, StoreError> {
        let client = self.client().await?;
        self.shared.clock_ahead(&client).await.map(Some)
    }

    async fn load(&self) -> Result<(State, Term), StoreError> {
        let client = self.client().await?;
        let loaded = self.reader(&client).load().await;
        let loaded = self.shared.of_no_newer(&client, loaded, |loaded| Some(loaded.term().epoch)).await?;
        let term = loaded.term();
        // A leader knows it already.
        let leads = locked(&self.shared.leading).is_some();
        let known = Known { generation: loaded.record.generation, seq: term.seq.0, names: loaded.names };
        *locked(&self.shared.names) = (!leads).then_some(known);
        Ok((loaded.state, term))
    }

    async fn commit(&self, epoch: Epoch, seq: Seq, changes: &[Change]) -> Result<(), Deposed> {
        if locked(&self.shared.leading).as_ref().is_none_or(|leading| leading.epoch != epoch) {
            return Err(Deposed { reason: format!("this node does not lead epoch {}", epoch.0) });
        }
        let batch = Batch::encode(changes);
        self.order(|reply| Command::Commit(Commit { epoch, seq, batch, reply })).await?
    }

    async fn follow(&self, after: Seq) -> Result<Vec<Applied>, StoreError> {
        let client = self.client().await?;
        let batches = self.reader(&client).follow(after).await;
        let last = |batches: &Vec<Applied>| batches.last().map(|batch| batch.epoch);
        let batches = self.shared.of_no_newer(&client, batches, last).await?;
        self.shared.followed(&batches);
        Ok(batches)
    }

    async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.reader(&self.client().await?).history(query, &self.shared.listed).await
    }

    async fn ended_run(&self, key: RunKey) -> Result<Option<Record>, StoreError> {
        self.reader(&self.client().await?).ended_run(key).await
    }

    async fn revisions(&self, query: &RevisionQuery) -> Result<RevisionPage, StoreError> {
        self.reader(&self.client().await?).revisions(query).await
    }

    async fn revision(&self, job: JobUid, version: u32) -> Result<Option<Revision>, StoreError> {
        self.reader(&self.client().await?).revision(job, version).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.reader(&self.client().await?).audit(query).await
    }

    async fn last_runs(&self) -> Result<Vec<LastRun>, StoreError> {
        self.reader(&self.client().await?).last_runs().await
    }

    async fn kept_since(&self, job: JobUid) -> Result<Option<Timestamp>, StoreError> {
        self.reader(&self.client().await?).kept_since(job).await
    }

    async fn prune(&self, retention: Retention, now: Timestamp) -> Result<u64, StoreError> {
        // Also with nothing to do: it says whether this node leads.
        self.remove(Surplus::default()).await?;
        let client = self.client().await?;
        let reader = self.reader(&client);
        let mut removed = 0;
        let mut records = self.surplus(reader.all_ended().await?, retention, now);
        while !records.is_empty() {
            let rest = records.split_off(REMOVE_MAX.min(records.len()));
            removed += self.remove(Surplus { records, ..Surplus::default() }).await?;
            records = rest;
        }
        let oldest = now.checked_sub(retention.age_max).unwrap_or(Timestamp::MIN).as_millisecond();
        let revised = reader.all_revised().await?;
        let is_gone = |one: &&tree::Revised| one.deleted && one.at < oldest;
        let gone: std::collections::BTreeSet<JobUid> =
            revised.iter().filter(is_gone).map(|one| one.job).collect();
        let revisions = revised.into_iter().filter(|one| gone.contains(&one.job)).collect();
        let oldest = now.checked_sub(retention.audit_age_max).unwrap_or(Timestamp::MIN).as_millisecond();
        let count_max = retention.audit_count_max.min(self.shared.sessions.options.audit_max);
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
        let noted = reader.all_noted().await?.into_iter().enumerate();
        let audit = noted.filter(|(n, entry)| *n >= count_max || entry.at < oldest).map(|(_, entry)| entry);
        let audit = audit.collect();
        let (term, _) = reader.term().await?;
        let kept = ledger::kept_of(&client, &self.shared.paths.tree(term.generation)).await;
        let kept = kept.map_err(|error| self.shared.sessions.meaning(&error))?;
        let left: std::collections::BTreeSet<JobUid> =
            reader.all_ended().await?.iter().map(|record| record.facts.job).collect();
        let forget = kept.iter().map(|kept| JobUid(kept.job)).filter(|job| !left.contains(job)).collect();
        self.remove(Surplus { records: Vec::new(), revisions, audit, forget }).await?;
        Ok(removed)
    }

    async fn backup(&self, extent: Extent, to: mpsc::Sender<Vec<u8>>) -> Result<(), StoreError> {
        let client = self.client().await?;
        let whole = Whole::read(&self.reader(&client), extent).await;
        let whole = self.shared.of_no_newer(&client, whole, |whole| Some(whole.term.epoch)).await?;
        let work = tokio::task::spawn_blocking(move || whole.write(extent, &to));
        work.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("writing stopped: {error}"))))
    }

    async fn stage(&self, from: mpsc::Receiver<Vec<u8>>) -> Result<Staged, StageError> {
        let options = &self.shared.sessions.options;
        let (limits, keep) = (options.limits, options.keep());
        let staged = MemoryCore::stage(from, |jobs| keep.each_of(jobs), options.audit_max).await?;
        let Staged { header, records, content } = staged;
        let content = content.in_memory()?;
        let measured = tokio::task::spawn_blocking(move || (ledger::bytes_of(&content), content)).await;
        let (bytes, content) =
            measured.map_err(|error| StoreError::Unavailable(format!("reading stopped: {error}")))?;
        let jobs = content.state().jobs.len();
        let too_large = |why: String| Err(StoreError::TooLarge(why).into());
        if jobs > limits.jobs {
            let most = limits.jobs;
            return too_large(format!(
                "the backup has {jobs} jobs, and ZooKeeper is meant for {most} at most: restore it into PostgreSQL"
            ));
        }
        if bytes > limits.bytes {
            let (is, most) = (bytes >> 20, limits.bytes >> 20);
            return too_large(format!(
                "the backup takes {is} MiB in ZooKeeper, which is meant for {most} MiB at most: restore it into PostgreSQL, \
                 or take it without the history (`chronos backup --no_history`)"
            ));
        }
        Ok(Staged { header, records, content: Content::Memory(content) })
    }

    async fn restore(
        &self,
        epoch: Epoch,
        seq: Seq,
        staged: Staged,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        let content = staged.content.in_memory()?;
        let batch = Batch::encode(changes);
        let restore = |reply| Command::Restore(Box::new(Restore { epoch, seq, content, batch, reply }));
        self.order(restore).await?
    }

    async fn deposed(&self, epoch: Epoch) -> Deposed {
        let mut terms = self.shared.terms.subscribe();
        // The sender lives as long as we do.
        let _ = terms.wait_for(|leads| *leads != Some(epoch)).await;
        Deposed { reason: format!("this node does not lead epoch {}", epoch.0) }
    }

    fn full(&self) -> Option<String> {
        locked(&self.shared.full).clone()
    }

    fn trouble(&self) -> Option<String> {
        locked(&self.shared.trouble).clone()
    }

    fn notes(&self) -> Vec<String> {
        self.shared.versions.note().into_iter().chain(self.shared.strangers.note()).collect()
    }
}
