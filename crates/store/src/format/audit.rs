//! Who did what, as stored.

use scheduler::audit::{Act, Author, Entry};
use scheduler::job::Pause;
use scheduler::notice::NoticeId;
use serde::{Deserialize, Serialize};

use super::backfill::StoredBackfillId;
use super::revision::StoredDeed;
use super::run::StoredAttemptEnd;
use super::value::{Key, Ms, Name, Text, Uid, is_default};

/// See [`Author`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAuthor {
    #[serde(default, skip_serializing_if = "is_default")]
    by: Text,
    #[serde(default, skip_serializing_if = "is_default")]
    via: Text,
}

/// See [`Entry`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredEntry {
    at: Ms,
    #[serde(flatten)]
    author: StoredAuthor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<StoredJobRef>,
    act: StoredAct,
}

#[derive(Serialize, Deserialize)]
struct StoredJobRef {
    uid: Uid,
    name: Name,
}

/// See [`Act`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredAct {
    Defined {
        deed: StoredDeed,
        version: u32,
    },
    Triggered(Key),
    Killed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<Key>,
        runs: u64,
        /// These were the runs of a node that was forgotten. Older versions of this format know no such act: to them
        /// it is one of no job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<Text>,
        /// How an attempt of this run ended was heard late. Older versions know no such act: to them nothing was killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        late: Option<StoredLate>,
    },
    Marked(Key),
    Paused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<StoredPause>,
        after: StoredPause,
    },
    Resumed(StoredPause),
    Backfilled {
        id: StoredBackfillId,
        slots: u64,
    },
    Cancelled {
        id: StoredBackfillId,
        runs: u64,
    },
    Reran {
        run: Key,
        again: Key,
    },
    NoticeRetried(u64),
    StoreRestored {
        taken: Ms,
        lines: u64,
    },
}

/// See [`Act::HeardLate`].
#[derive(Serialize, Deserialize)]
struct StoredLate {
    attempt: u32,
    node: Text,
    lost: Ms,
    end: StoredAttemptEnd,
}

/// See [`Pause`].
#[derive(Serialize, Deserialize)]
struct StoredPause {
    since: Ms,
    #[serde(default, skip_serializing_if = "is_default")]
    reason: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Ms>,
}

impl From<&Author> for StoredAuthor {
    fn from(author: &Author) -> Self {
        Self { by: Text(author.name().clone()), via: Text(author.via().clone()) }
    }
}

impl From<StoredAuthor> for Author {
    fn from(StoredAuthor { by, via }: StoredAuthor) -> Self {
        Self::new(&by.0, &via.0)
    }
}

impl From<&Entry> for StoredEntry {
    fn from(Entry { at, author, job, act }: &Entry) -> Self {
        let job = job.as_ref().map(|(uid, name)| StoredJobRef { uid: Uid(*uid), name: Name(name.clone()) });
        Self { at: Ms(*at), author: author.into(), job, act: act.into() }
    }
}

impl From<StoredEntry> for Entry {
    fn from(StoredEntry { at, author, job, act }: StoredEntry) -> Self {
        let job = job.map(|job| (job.uid.0, job.name.0));
        Self { at: at.0, author: author.into(), job, act: act.into() }
    }
}

impl From<&Act> for StoredAct {
    fn from(act: &Act) -> Self {
        match act {
            Act::Defined { deed, version } => Self::Defined { deed: (*deed).into(), version: *version },
            Act::Triggered { run } => Self::Triggered(Key(*run)),
            Act::Killed { run, runs } => {
                Self::Killed { run: run.map(Key), runs: *runs, node: None, late: None }
            }
            Act::NodeForgotten { node, runs } => {
                Self::Killed { run: None, runs: *runs, node: Some(Text(node.clone())), late: None }
            }
            Act::HeardLate { run, attempt, node, lost, end } => {
                let (node, lost, end) = (Text(node.clone()), Ms(*lost), end.into());
                let late = Some(StoredLate { attempt: *attempt, node, lost, end });
                Self::Killed { run: Some(Key(*run)), runs: 0, node: None, late }
            }
            Act::Marked { run } => Self::Marked(Key(*run)),
            Act::Paused { before, after } => {
                Self::Paused { before: before.as_ref().map(Into::into), after: after.into() }
            }
            Act::Resumed { before } => Self::Resumed(before.into()),
            Act::Backfilled { id, slots } => Self::Backfilled { id: (*id).into(), slots: *slots },
            Act::Cancelled { id, runs } => Self::Cancelled { id: (*id).into(), runs: *runs },
            Act::Reran { run, again } => Self::Reran { run: Key(*run), again: Key(*again) },
            Act::NoticeRetried { id } => Self::NoticeRetried(id.0),
            Act::StoreRestored { taken, lines } => Self::StoreRestored { taken: Ms(*taken), lines: *lines },
        }
    }
}

impl From<StoredAct> for Act {
    fn from(stored: StoredAct) -> Self {
        match stored {
            StoredAct::Defined { deed, version } => Self::Defined { deed: deed.into(), version },
            StoredAct::Triggered(run) => Self::Triggered { run: run.0 },
            StoredAct::Killed { run: Some(run), late: Some(late), .. } => {
                let StoredLate { attempt, node, lost, end } = late;
                Self::HeardLate { run: run.0, attempt, node: node.0, lost: lost.0, end: end.into() }
            }
            StoredAct::Killed { node: Some(node), runs, .. } => Self::NodeForgotten { node: node.0, runs },
            StoredAct::Killed { run, runs, .. } => Self::Killed { run: run.map(|run| run.0), runs },
            StoredAct::Marked(run) => Self::Marked { run: run.0 },
            StoredAct::Paused { before, after } => {
                Self::Paused { before: before.map(Into::into), after: after.into() }
            }
            StoredAct::Resumed(before) => Self::Resumed { before: before.into() },
            StoredAct::Backfilled { id, slots } => Self::Backfilled { id: id.into(), slots },
            StoredAct::Cancelled { id, runs } => Self::Cancelled { id: id.into(), runs },
            StoredAct::Reran { run, again } => Self::Reran { run: run.0, again: again.0 },
            StoredAct::NoticeRetried(id) => Self::NoticeRetried { id: NoticeId(id) },
            StoredAct::StoreRestored { taken, lines } => Self::StoreRestored { taken: taken.0, lines },
        }
    }
}

impl From<&Pause> for StoredPause {
    fn from(Pause { since, reason, until }: &Pause) -> Self {
        Self { since: Ms(*since), reason: Text(reason.clone()), until: until.map(Ms) }
    }
}

impl From<StoredPause> for Pause {
    fn from(StoredPause { since, reason, until }: StoredPause) -> Self {
        Self { since: since.0, reason: reason.0, until: until.map(|until| until.0) }
    }
}
