//! What an old Chronos has left in ZooKeeper, read as it is and written as it was: `<zk_path>/state/J_<job>` and
//! `frameworkId`, each a protobuf of Mesos around JSON or around another protobuf.
//!
//! The server reads it once and never writes it; going back is an order of an operator. What jobs mean is said by whoever
//! reads their JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zookeeper_client::{Acls, CreateMode, Error};

use super::session::{ANSWER_WITHIN, Sessions, all, children, data, patiently};
use super::tree::Paths;
use super::{Options, latch, record};
use crate::{Candidate, StoreError};

/// Largest entry that an old Chronos stores.
const ENTRY_MAX: usize = 1024 * 1024;
const JOB: &str = "J_";
const TASK: &str = "T_";
const FRAMEWORK: &str = "frameworkId";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// By name of the node, so by name.
    pub jobs: Vec<OldJob>,
    /// The framework id, if there is one that can be read.
    pub framework_id: Option<String>,
    /// What could not be read. It is still there.
    pub unread: Vec<Unread>,
    /// Paths of tasks, which versions 2 have left; none of them means anything.
    pub tasks: Vec<String>,
    /// Whether it is still what it was.
    pub mark: Mark,
}

impl Old {
    /// Whether there is anything that is or should be a job.
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty() || self.unread.iter().any(Unread::is_job)
    }
}

/// What tells whether an old Chronos has written: what it writes becomes the newest, what it deletes is missing. That is
/// all that the ids of all changes would tell, and fits into one node, however many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Nodes of jobs, and of the framework id.
    pub nodes: usize,
    /// The largest mzxid of them.
    pub newest: i64,
}

impl Mark {
    fn count(&mut self, node: &str, mzxid: i64) {
        if node.starts_with(JOB) || node == FRAMEWORK {
            self.nodes += 1;
            self.newest = self.newest.max(mzxid);
        }
    }
}

/// How our store stands to what an old Chronos has left beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nobody has looked yet.
    New,
    /// Its jobs are to be taken over.
    Import,
    /// What there was is here, or is not wanted.
    Settled(Mark),
}

/// What is remembered of that, in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// As it was said last.
    pub standing: Standing,
    /// Of its node, so that nobody writes over what another has said since.
    version: Option<i32>,
}

/// A job as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldJob {
    /// What its node says: the name without the mark.
    pub name: String,
    /// An object, as text.
    pub json: String,
    /// Of the last change of its node: another one means that an old Chronos has written since.
    pub mzxid: i64,
}

/// A node that could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its path.
    pub path: String,
    /// For people.
    pub why: String,
}

impl Unread {
    /// Whether it should have been a job: an old Chronos ends when it cannot read one.
    pub fn is_job(&self) -> bool {
        self.path.rsplit('/').next().is_some_and(|name| name.starts_with(JOB))
    }
}

/// What becomes of nodes of jobs that are not to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay.
    Kept,
    /// They are deleted.
    Deleted,
}

/// Where an old Chronos has its state, which is where a store of ours is.
#[derive(Clone)]
pub struct Place {
    sessions: Arc<Sessions>,
}

impl Place {
    /// A place with sessions of its own.
    /// # Errors
    /// [`StoreError::Unavailable`] for options that cannot be meant.
    pub fn new(options: Options) -> Result<Self, StoreError> {
        Ok(Self::seen_by(&Arc::new(Sessions::new(options.checked()?))))
    }

    /// That of a store, seen by its sessions: a new one may have to find out first which servers are silent.
    pub(super) fn seen_by(sessions: &Arc<Sessions>) -> Self {
        Self { sessions: sessions.clone() }
    }

    /// Its `--zk_path`.
    pub fn path(&self) -> &str {
        &self.sessions.options.path
    }

    fn dir(&self) -> String {
        format!("{}/state", self.path())
    }

    fn standing_path(&self) -> String {
        Paths::new(self.path()).old()
    }

    fn meaning(&self, error: Error) -> StoreError {
        self.sessions.meaning(&error)
    }

    /// Reads what is there; nothing where there is nothing.
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn read(&self) -> Result<Old, StoreError> {
        let client = self.sessions.looking().await?;
        let meaning = |error| self.meaning(error);
        let dir = self.dir();
        // A server may lag behind what an old Chronos has written a moment ago.
        patiently(&client, || client.sync("/")).await.map_err(meaning)?;
        let mut names = children(&client, &dir).await.map_err(meaning)?;
        names.sort();
        let (tasks, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with(TASK));
        let tasks = tasks.iter().map(|name| format!("{dir}/{name}")).collect();
        let mut old = Old { tasks, ..Old::default() };
        let found = all(&names, async |name| data(&client, &format!("{dir}/{name}")).await).await;
        for (node, found) in names.iter().zip(found.map_err(meaning)?) {
            // One that has just been deleted is no job.
            let Some((entry, stat)) = found else { continue };
            old.mark.count(node, stat.mzxid);
            match take(node, &entry) {
                Ok(Taken::Job { name, json }) => old.jobs.push(OldJob { name, json, mzxid: stat.mzxid }),
                Ok(Taken::Framework(id)) => old.framework_id = id,
                Err(why) => old.unread.push(Unread { path: format!("{dir}/{node}"), why }),
            }
        }
        Ok(old)
    }

    /// Makes what is there what an old Chronos would go on from: these jobs, by name. Returns the mzxid of each node that
    /// was written, by name of the job.
    /// # Errors
    /// [`StoreError::TooLarge`] for a job beyond what it reads, before anything is written; [`StoreError::Unavailable`],
    /// after which it may be done in part: do it again.
    pub async fn write(
        &self,
        jobs: &BTreeMap<String, String>,
        framework_id: Option<&str>,
        others: Others,
    ) -> Result<BTreeMap<String, i64>, StoreError> {
        let mut entries = BTreeMap::new();
        for (name, json) in jobs {
            let node = format!("{JOB}{name}");
            if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
                let why = format!("job `{name}` cannot be a node of ZooKeeper: its name must have no slash");
                return Err(StoreError::Unavailable(why));
            }
            let entry = write_entry(&node, json.as_bytes())?;
            if entry.len() > ENTRY_MAX {
                let why = format!(
                    "job `{name}` has {} bytes, of {ENTRY_MAX} that an old Chronos reads",
                    entry.len()
                );
                return Err(StoreError::TooLarge(why));
            }
            entries.insert(node, entry);
        }
        if let Some(id) = framework_id {
            entries.insert(FRAMEWORK.into(), write_entry(FRAMEWORK, &field(1, id.as_bytes()))?);
        }
        let client = self.sessions.looking().await?;
        let meaning = |error| self.meaning(error);
        let dir = self.dir();
        // Directories are open to all, as those of an old Chronos.
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        patiently(&client, || client.mkdir(&dir, &open)).await.map_err(meaning)?;
        let there = match others {
            Others::Deleted => children(&client, &dir).await.map_err(meaning)?,
            Others::Kept => Vec::new(),
        };
        let surplus = there.iter().filter(|node| node.starts_with(JOB) && !entries.contains_key(*node));
        let removed = all(surplus, async |node| {
            let path = format!("{dir}/{node}");
            match patiently(&client, || client.delete(&path, None)).await {
                Err(Error::NoNode) => Ok(()),
                done => done,
            }
        });
        removed.await.map_err(meaning)?;
        let options = self.sessions.persistent();
        let written = all(&entries, async |(node, entry)| {
            let path = format!("{dir}/{node}");
            patiently(&client, || async {
                match client.set_data(&path, entry, None).await {
                    Err(Error::NoNode) => {
                        client.create(&path, entry, &options).await.map(|(stat, _)| stat.mzxid)
                    }
                    done => done.map(|stat| stat.mzxid),
                }
            })
            .await
        });
        let written = written.await.map_err(meaning)?;
        let named = entries.keys().zip(written);
        Ok(named.filter_map(|(node, mzxid)| Some((node.strip_prefix(JOB)?.to_owned(), mzxid))).collect())
    }

    /// What the store remembers of its standing; it may be older than what [`Place::read`] has found since.
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Damaged`].
    pub async fn recall(&self) -> Result<Remembered, StoreError> {
        let found = data(&self.sessions.looking().await?, &self.standing_path()).await;
        let found = found.map_err(|error| self.meaning(error))?;
        Ok(match found {
            Some((bytes, stat)) => {
                Remembered { standing: record::read("old", &bytes)?, version: Some(stat.version) }
            }
            None => Remembered { standing: Standing::New, version: None },
        })
    }

    /// Says it anew, if nobody else has since it was recalled.
    /// # Errors
    /// [`StoreError::Unavailable`], also where somebody has: recall it again.
    pub async fn remember(&self, before: Remembered, standing: Standing) -> Result<(), StoreError> {
        let path = self.standing_path();
        let client = self.sessions.looking().await?;
        let (bytes, options) = (record::json(&standing), self.sessions.persistent());
        let written = async {
            match before.version {
                Some(version) => client.set_data(&path, &bytes, Some(version)).await.map(drop),
                None => client.create(&path, &bytes, &options).await.map(drop),
            }
        };
        let done = tokio::time::timeout(ANSWER_WITHIN, written).await.unwrap_or(Err(Error::Timeout));
        done.map_err(|error| match error {
            Error::BadVersion | Error::NodeExists => {
                StoreError::Unavailable(format!("somebody else has just written `{path}`: look again"))
            }
            error => self.meaning(error),
        })
    }

    /// Who leads in the same latch: an old Chronos, of which only the address is known, or one of ours.
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Damaged`].
    pub async fn leader(&self) -> Result<Option<Candidate>, StoreError> {
        latch::leader(&self.sessions.looking().await?, &Paths::new(self.path())).await
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.dir()).finish()
    }
}

/// Puts any bytes where an old Chronos would have its entry, for tests of those who read it.
/// # Errors
/// [`StoreError::Unavailable`].
#[cfg(feature = "testing")]
pub async fn plant(options: Options, node: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = format!("{}/state/{node}", options.path);
    super::planted::plant(options, &path, bytes).await
}

/// An old Chronos in the latch, for as long as this is held, for tests.
#[cfg(feature = "testing")]
pub struct StandIn {
    _sessions: Sessions,
}

/// Joins the latch as an old Chronos of this address does.
/// # Errors
/// [`StoreError::Unavailable`].
#[cfg(feature = "testing")]
pub async fn stand_in(options: Options, address: &str) -> Result<StandIn, StoreError> {
    let sessions = Sessions::new(options.checked()?);
    let client = sessions.looking().await?;
    let dir = Paths::new(&sessions.options.path).candidates();
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client.mkdir(&dir, &open).await.map_err(|error| sessions.meaning(&error))?;
    let member = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let path = format!("{dir}/_c_00000000-0000-4000-8000-000000000001-latch-");
    let joined = client.create(&path, address.as_bytes(), &member).await;
    joined.map_err(|error| sessions.meaning(&error))?;
    Ok(StandIn { _sessions: sessions })
}

/// Whether an old Chronos makes nodes of this name.
pub(super) fn is_name(node: &str) -> bool {
    node == FRAMEWORK || node.starts_with(JOB) || node.starts_with(TASK)
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Job { name: String, json: String },
    Framework(Option<String>),
}

/// Reads the entry of a node; or says why not.
fn take(node: &str, entry: &[u8]) -> Result<Taken, String> {
    let Entry { name, value } = read_entry(entry)?;
    if name != node {
        return Err(format!("its entry is that of `{name}`"));
    }
    if node == FRAMEWORK {
        if value.is_empty() {
            return Ok(Taken::Framework(None));
        }
        let id = fields(value)?.into_iter().rev().find_map(|(number, bytes)| (number == 1).then_some(bytes));
        let id = id.flatten().ok_or("it holds no framework id")?;
        let id = std::str::from_utf8(id).map_err(|_| "its framework id is no text")?;
        return Ok(Taken::Framework(Some(id).filter(|id| !id.is_empty()).map(str::to_owned)));
    }
    let name = node.strip_prefix(JOB).ok_or("no old Chronos makes a node of this name")?;
    let json = std::str::from_utf8(value).map_err(|_| "its value is no text")?;
    match serde_json::from_str(json) {
        Ok(serde_json::Value::Object(_)) => Ok(Taken::Job { name: name.into(), json: json.into() }),
        Ok(_) => Err("its value is JSON, but no object".into()),
        Err(error) => Err(format!("its value is no JSON: {error}")),
    }
}

/// `mesos.internal.state.Entry`: name, a random id, value.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    value: &'a [u8],
}

fn read_entry(bytes: &[u8]) -> Result<Entry<'_>, String> {
    let (mut name, mut uuid, mut value) = (None, None, None);
    for (number, bytes) in fields(bytes)? {
        match number {
            1 => name = bytes,
            2 => uuid = bytes,
            3 => value = bytes,
            _ => {}
        }
    }
    let name = name.ok_or("it is no entry of Mesos: it has no name")?;
    let name = std::str::from_utf8(name).map_err(|_| "the name in its entry is no text")?;
    uuid.ok_or("it is no entry of Mesos: it has no id")?;
    Ok(Entry { name, value: value.ok_or("it is no entry of Mesos: it has no value")? })
}

/// Number of a field, and its bytes where it has a length.
type Field<'a> = (u64, Option<&'a [u8]>);

/// The fields of a protobuf message, in their order, with the bytes of those that have a length.
/// Source: <https://protobuf.dev/programming-guides/encoding/>
fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let cut = || "it is no protobuf message, or was cut".to_owned();
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(cut)?;
        let bytes = match key & 7 {
            0 => {
                varint(&mut rest).ok_or_else(cut)?;
                None
            }
            1 => {
                rest.split_off(..8).ok_or_else(cut)?;
                None
            }
            2 => {
                let length = varint(&mut rest).and_then(|n| usize::try_from(n).ok()).ok_or_else(cut)?;
                Some(rest.split_off(..length).ok_or_else(cut)?)
            }
            5 => {
                rest.split_off(..4).ok_or_else(cut)?;
                None
            }
            _ => return Err(cut()),
        };
        if key >> 3 == 0 {
            return Err(cut());
        }
        fields.push((key >> 3, bytes));
    }
    Ok(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write_entry(node: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid)
        .map_err(|error| StoreError::Unavailable(format!("the system has no random numbers: {error}")))?;
    Ok([field(1, node.as_bytes()), field(2, &uuid), field(3, value)].concat())
}

/// A field with a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, byte for byte.
    const ENTRY: &[u8] = b"\x0a\x03J_a\x12\x10\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x1a\x0c{\"name\":\"a\"}";

    fn job(name: &str, json: &str) -> Result<Taken, String> {
        Ok(Taken::Job { name: name.into(), json: json.into() })
    }

    #[test]
    fn an_entry_is_read() {
        assert_eq!(take("J_a", ENTRY), job("a", "{\"name\":\"a\"}"));
        // Unknown fields of each type, and order, do not matter; of two the last one counts.
        let strange = [
            &b"\x1a\x03old"[..],
            b"\x20\x96\x01",
            b"\x29\0\0\0\0\0\0\0\0",
            b"\x35\0\0\0\0",
            b"\x3a\x02hi",
            ENTRY,
        ]
        .concat();
        assert_eq!(take("J_a", &strange), job("a", "{\"name\":\"a\"}"));
        // Names of versions 2 have blanks and more.
        let node = "J_nightly #2 report";
        let entry = write_entry(node, b"{}").expect("random numbers");
        assert_eq!(take(node, &entry), job("nightly #2 report", "{}"));
        let long = format!("{{\"command\":\"{}\"}}", "x".repeat(70_000));
        let entry = write_entry("J_long", long.as_bytes()).expect("random numbers");
        assert_eq!(take("J_long", &entry), job("long", &long));
    }

    #[test]
    fn a_framework_id_is_read() {
        let read = |value: &[u8]| take(FRAMEWORK, &write_entry(FRAMEWORK, value).expect("random numbers"));
        let id = "2f6c6c5e-1d9b-4a0e-8a53-000000000001-0000";
        assert_eq!(read(&field(1, id.as_bytes())), Ok(Taken::Framework(Some(id.into()))));
        assert_eq!(read(b""), Ok(Taken::Framework(None)));
        assert_eq!(read(b"\x0a\x00"), Ok(Taken::Framework(None)));
        assert!(read(b"\x0a\x05ab").is_err());
        assert!(read(b"\x10\x05").is_err());
        assert!(read(b"\x0a\x01\xff").is_err());
    }

    #[test]
    fn what_is_no_entry_is_told_and_harms_nobody() {
        for cut in 0..ENTRY.len() {
            assert!(take("J_a", &ENTRY[..cut]).is_err(), "cut at {cut}");
        }
        for place in 0..ENTRY.len() {
            for bit in 0..8 {
                let mut flipped = ENTRY.to_vec();
                flipped[place] ^= 1 << bit;
                // Read or refused, but nothing else.
                let _ = take("J_a", &flipped);
            }
        }
        let of = |value: &[u8]| take("J_a", &write_entry("J_a", value).expect("random numbers"));
        for value in [&b""[..], b"[]", b"null", b"{", b"\xff{}", b"{} x"] {
            assert!(of(value).is_err(), "{value:?}");
        }
        assert_eq!(take("J_b", ENTRY), Err("its entry is that of `J_a`".into()));
        let huge = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        for bytes in
            [&huge[..], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x00", b"\x0b"]
        {
            assert!(take("J_a", bytes).is_err(), "{bytes:?}");
        }
    }
}
