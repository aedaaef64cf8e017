//! Where everything is in ZooKeeper, and what its names say.
//!
//! Beside what Chronos left (`state`) and the latch that both share (`candidate`), `<zk_path>/store` holds
//!
//! - `about`: the id of the store and its format; `term`: the record that every commit moves;
//! - `epochs/<n>`: there is one, that of the present epoch; `nodes/<member>`: who a member of the latch is;
//! - `members/<node>`: what nodes say of themselves; `clock`: written to see what time it is there;
//! - `old`: whether what Chronos left has been imported, and as of when;
//! - `log/<first batch>`: the last batches, for followers;
//! - `g<n>`: the records themselves, of which a restore makes another generation. `meta` in it are the counters, all
//!   others are at `<kind>/<directory>/<name>`, where the directory follows from the name, so that none has more than
//!   some thousand children.
//!
//! Names of hot records are their keys. Names of cold ones say what is asked for, so that questions read no more than
//! what they answer with.

use jiff::Timestamp;
use scheduler::audit::Entry;
use scheduler::ids::{Cycle, JobName, JobUid, RunKey};
use scheduler::revision::{Deed, Revision};
use scheduler::state::Change;

use crate::CauseKind;
use crate::facts::Facts;
use crate::rows::{code, outcome};

/// Bits of a cold record's number that tell apart records of one batch; the others are the batch's.
const PLACE_BITS: u32 = 20;

/// Paths of one store.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    root: String,
}

impl Paths {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.into() }
    }

    /// The latch's directory, which an old Chronos shares.
    pub(super) fn candidates(&self) -> String {
        format!("{}/candidate", self.root)
    }

    pub(super) fn base(&self) -> String {
        format!("{}/store", self.root)
    }

    pub(super) fn about(&self) -> String {
        format!("{}/store/about", self.root)
    }

    pub(super) fn term(&self) -> String {
        format!("{}/store/term", self.root)
    }

    pub(super) fn epochs(&self) -> String {
        format!("{}/store/epochs", self.root)
    }

    pub(super) fn epoch(&self, epoch: u64) -> String {
        format!("{}/store/epochs/{epoch}", self.root)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}/store/nodes", self.root)
    }

    pub(super) fn node(&self, member: &str) -> String {
        format!("{}/store/nodes/{member}", self.root)
    }

    pub(super) fn members(&self) -> String {
        format!("{}/store/members", self.root)
    }

    pub(super) fn member(&self, node: &str) -> String {
        format!("{}/store/members/{}", self.root, escaped(node))
    }

    /// How the store stands to what an old Chronos has left.
    pub(super) fn old(&self) -> String {
        format!("{}/store/old", self.root)
    }

    /// Written to see what time it is there.
    pub(super) fn clock(&self) -> String {
        format!("{}/store/clock", self.root)
    }

    pub(super) fn log(&self) -> String {
        format!("{}/store/log", self.root)
    }

    /// The entry of the log that begins with this batch.
    pub(super) fn entry(&self, first: u64) -> String {
        format!("{}/store/log/{first:012x}", self.root)
    }

    /// A generation of the records.
    pub(super) fn tree(&self, generation: u64) -> Tree {
        Tree { path: format!("{}/store/g{generation}", self.root), generation }
    }

    /// The generation that a child of [`Paths::base`] is.
    pub(super) fn generation(name: &str) -> Option<u64> {
        name.strip_prefix('g')?.parse().ok()
    }
}

/// A generation of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) path: String,
    pub(super) generation: u64,
}

impl Tree {
    pub(super) fn meta(&self) -> String {
        format!("{}/meta", self.path)
    }

    pub(super) fn kind(&self, kind: Kind) -> String {
        format!("{}/{}", self.path, kind.word())
    }

    pub(super) fn dir(&self, kind: Kind, dir: u16) -> String {
        format!("{}/{}/{dir:03x}", self.path, kind.word())
    }

    pub(super) fn record(&self, kind: Kind, dir: u16, name: &str) -> String {
        format!("{}/{}/{dir:03x}/{name}", self.path, kind.word())
    }
}

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Jobs,
    Progress,
    Runs,
    Joins,
    Fanouts,
    Backfills,
    Notices,
    Receipts,
    Staged,
    History,
    Revisions,
    Audit,
    /// Since when the history of a job is whole.
    Kept,
}

impl Kind {
    /// What a new leader loads.
    pub(super) const HOT: [Self; 9] = [
        Self::Jobs,
        Self::Progress,
        Self::Runs,
        Self::Joins,
        Self::Fanouts,
        Self::Backfills,
        Self::Notices,
        Self::Receipts,
        Self::Staged,
    ];

    pub(super) const COLD: [Self; 4] = [Self::History, Self::Revisions, Self::Audit, Self::Kept];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Progress => "progress",
            Self::Runs => "runs",
            Self::Joins => "joins",
            Self::Fanouts => "fanouts",
            Self::Backfills => "backfills",
            Self::Notices => "notices",
            Self::Receipts => "receipts",
            Self::Staged => "staged",
            Self::History => "history",
            Self::Revisions => "revisions",
            Self::Audit => "audit",
            Self::Kept => "kept",
        }
    }

    /// The tag of its records in the stored format, see [`crate::format`].
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Jobs => "job",
            Self::Progress => "progress",
            Self::Runs => "run",
            Self::Joins => "join",
            Self::Fanouts => "fanout",
            Self::Backfills => "backfill",
            Self::Notices => "notice",
            Self::Receipts => "receipt",
            Self::Staged => "staged",
            Self::History => "record",
            Self::Revisions => "revision",
            Self::Audit => "audit",
            Self::Kept => "kept",
        }
    }

    /// How many directories its records are spread over: what there is of most is the history.
    fn dirs(self) -> u32 {
        match self {
            Self::History => 1024,
            _ => 256,
        }
    }

    /// In which directory what belongs to `key` is.
    pub(super) fn dir(self, key: &str) -> u16 {
        u16::try_from(crc32fast::hash(key.as_bytes()) % self.dirs()).unwrap_or(0)
    }

    pub(super) fn dir_of(self, job: JobUid) -> u16 {
        self.dir(&job.to_string())
    }
}

/// The name of the hot record that a change puts or removes, of kinds with one record a change.
pub(super) fn hot_name(change: &Change) -> Option<(Kind, String)> {
    Some(match change {
        Change::PutJob(job) => (Kind::Jobs, job.uid.to_string()),
        Change::PutProgress(uid, _) => (Kind::Progress, uid.to_string()),
        Change::PutRun(run) => (Kind::Runs, run.key.to_string()),
        Change::RemoveRun(key) => (Kind::Runs, key.to_string()),
        Change::PutJoin(join) => (Kind::Joins, join_name(join.child, join.cycle)),
        Change::RemoveJoin(child, cycle) => (Kind::Joins, join_name(*child, *cycle)),
        Change::PutFanout(fanout) => (Kind::Fanouts, fanout.run.to_string()),
        Change::RemoveFanout(run) => (Kind::Fanouts, run.to_string()),
        Change::PutBackfill(backfill) => (Kind::Backfills, backfill.id.to_string()),
        Change::RemoveBackfill(id) => (Kind::Backfills, id.to_string()),
        Change::PutNotice(notice) => (Kind::Notices, notice.id.0.to_string()),
        Change::RemoveNotice(id) => (Kind::Notices, id.0.to_string()),
        Change::PutReceipt(receipt) => (Kind::Receipts, escaped(&receipt.once.key.to_string())),
        Change::RemoveReceipt(key) => (Kind::Receipts, escaped(&key.to_string())),
        Change::Stage(definition) => (Kind::Staged, escaped(definition.name.as_str())),
        Change::Unstage(name) => (Kind::Staged, escaped(name.as_str())),
        Change::Meta(_) | Change::RemoveJob(_) | Change::Append(_) | Change::Revise(_) | Change::Note(_) => {
            return None;
        }
    })
}

fn join_name(child: JobUid, Cycle { due, origin, seq }: Cycle) -> String {
    format!("{child},{origin},{},{seq}", due.as_millisecond())
}

/// A text of others as a name: without slashes, and never `.` or `..`.
fn escaped(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (n, c) in text.chars().enumerate() {
        match c {
            '/' | '%' => name.push_str(&format!("%{:02x}", u32::from(c))),
            '.' if n == 0 => name.push_str("%2e"),
            _ => name.push(c),
        }
    }
    name
}

/// The number of a cold record: they sort as they were written.
pub(super) fn number(seq: u64, place: usize) -> u64 {
    (seq << PLACE_BITS) + place as u64
}

/// The batch that a record with this number came with.
pub(super) fn batch_of(number: u64) -> u64 {
    number >> PLACE_BITS
}

/// Its place among the changes of that batch.
pub(super) fn place_of(number: u64) -> usize {
    usize::try_from(number & ((1 << PLACE_BITS) - 1)).unwrap_or(0)
}

/// What the name of a record of the history says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) number: u64,
    pub(super) key: Option<RunKey>,
    pub(super) facts: Facts,
    pub(super) name: String,
}

impl Ended {
    pub(super) fn new(number: u64, key: Option<RunKey>, facts: Facts) -> Self {
        let Facts { job, name, first_due, last_due, recorded, outcome, .. } = &facts;
        let whose = key.map_or_else(|| job.to_string(), |key| key.to_string());
        let [first, last, recorded] = [first_due, last_due, recorded].map(|at| at.as_millisecond());
        let name = format!("{number:x},{whose},{},{first},{last},{recorded},{name}", code(*outcome));
        Self { number, key, facts, name }
    }

    /// The number in a name.
    pub(super) fn number_in(name: &str) -> Option<u64> {
        u64::from_str_radix(name.split(',').next()?, 16).ok()
    }

    pub(super) fn read(name: &str) -> Option<Self> {
        let number = Self::number_in(name)?;
        let mut parts = name.splitn(7, ',').skip(1);
        let whose = parts.next()?;
        let key: Option<RunKey> = whose.parse().ok();
        let job = match key {
            Some(key) => key.job,
            None => whose.parse().ok()?,
        };
        let outcome = outcome(parts.next()?.parse().ok()?)?;
        let mut time = || Timestamp::from_millisecond(parts.next()?.parse().ok()?).ok();
        let (first_due, last_due, recorded) = (time()?, time()?, time()?);
        let cause = key.map_or(CauseKind::Slot, |key| CauseKind::of(key.cause));
        let of = JobName::new(parts.next()?).ok()?;
        let facts = Facts { job, name: of, first_due, last_due, recorded, outcome, cause };
        Some(Self { number, key, facts, name: name.into() })
    }

    pub(super) fn dir(&self) -> u16 {
        Kind::History.dir_of(self.facts.job)
    }
}

/// What the name of a revision says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Revised {
    pub(super) number: u64,
    pub(super) job: JobUid,
    pub(super) version: u32,
    pub(super) deleted: bool,
    pub(super) at: i64,
    pub(super) of: JobName,
    pub(super) name: String,
}

impl Revised {
    pub(super) fn new(number: u64, revision: &Revision) -> Self {
        let (job, version) = (revision.job.uid, revision.job.version);
        let (deleted, at) = (revision.deed == Deed::Deleted, revision.at.as_millisecond());
        let of = revision.job.name.clone();
        let name = format!("{number:x},{job},{version},{},{at},{of}", u8::from(deleted));
        Self { number, job, version, deleted, at, of, name }
    }

    pub(super) fn read(name: &str) -> Option<Self> {
        let mut parts = name.splitn(6, ',');
        Some(Self {
            number: u64::from_str_radix(parts.next()?, 16).ok()?,
            job: parts.next()?.parse().ok()?,
            version: parts.next()?.parse().ok()?,
            deleted: parts.next()? == "1",
            at: parts.next()?.parse().ok()?,
            of: JobName::new(parts.next()?).ok()?,
            name: name.into(),
        })
    }

    pub(super) fn dir(&self) -> u16 {
        Kind::Revisions.dir_of(self.job)
    }
}

/// What the name of an entry of the audit says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted {
    pub(super) number: u64,
    pub(super) at: i64,
    pub(super) name: String,
}

impl Noted {
    pub(super) fn new(number: u64, entry: &Entry) -> Self {
        let at = entry.at.as_millisecond();
        Self { number, at, name: format!("{number:x},{at}") }
    }

    pub(super) fn read(name: &str) -> Option<Self> {
        let (number, at) = name.split_once(',')?;
        Some(Self { number: u64::from_str_radix(number, 16).ok()?, at: at.parse().ok()?, name: name.into() })
    }

    pub(super) fn dir(&self) -> u16 {
        Kind::Audit.dir(&format!("{:x}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{ended, every_change};
    use scheduler::run::Outcome;

    #[test]
    fn names_are_read_as_they_were_written() {
        for (_, change) in every_change() {
            if let Change::Append(record) = &change {
                let written = Ended::new(number(7, 3), crate::format::record_key(record), Facts::of(record));
                assert_eq!(Ended::read(&written.name), Some(written));
            }
            if let Change::Revise(revision) = &change {
                let written = Revised::new(number(8, 1), revision);
                assert_eq!(Revised::read(&written.name), Some(written));
            }
            if let Change::Note(entry) = &change {
                let written = Noted::new(number(9, 0), entry);
                assert_eq!(Noted::read(&written.name), Some(written));
            }
        }
        for name in ["", ",", "1,2,3", "zz,1-i1,0,0,0,0,a", "1,1-i1,9,0,0,0,a"] {
            assert_eq!((Ended::read(name), Revised::read(name)), (None, None), "{name}");
        }
    }

    #[test]
    fn names_are_names_for_zookeeper() {
        for (text, name) in [("a/b", "a%2fb"), (".", "%2e"), ("..", "%2e."), ("50%", "50%25"), ("a.b", "a.b")]
        {
            assert_eq!(escaped(text), name);
        }
        let record = ended(1, 2, Outcome::Failed);
        let name = Ended::new(1, crate::format::record_key(&record), Facts::of(&record)).name;
        assert!(!name.contains('/'), "{name}");
    }
}
