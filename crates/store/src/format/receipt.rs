//! What requests came to, and definitions that are on their way to be jobs, as stored.

use scheduler::ids::JobName;
use scheduler::job::Job;
use scheduler::receipt::{Once, Receipt, RequestKey};
use scheduler::request::{Answer, Definition, Verdict};
use serde::{Deserialize, Serialize};

use super::backfill::StoredBackfillId;
use super::job::StoredJob;
use super::value::{Key, Ms, Name, Uid};

/// See [`RequestKey`].
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct StoredKey(String);

/// See [`Receipt`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredReceipt {
    key: StoredKey,
    /// In hexadecimal: no reader of JSON has numbers of that size.
    digest: String,
    at: Ms,
    answer: StoredAnswer,
}

/// See [`Answer`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredAnswer {
    Put { uid: Uid, version: u32, changed: bool },
    Applied(Vec<StoredVerdict>),
    Deleted { live: usize },
    Triggered(Key),
    Killed { runs: usize },
    Marked(Key),
    Paused,
    Resumed,
    Backfilling { id: StoredBackfillId, slots: u64 },
    Cancelled { runs: usize },
    NoticeRetried,
    Noted,
}

/// See [`Verdict`].
#[derive(Serialize, Deserialize)]
struct StoredVerdict {
    job: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<Uid>,
    version: u32,
    changed: bool,
}

/// A definition: as a job that is none yet, with its parents by name.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredDefinition {
    job: StoredJob,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parents: Vec<Name>,
}

impl From<&RequestKey> for StoredKey {
    fn from(key: &RequestKey) -> Self {
        Self(key.as_str().into())
    }
}

impl TryFrom<StoredKey> for RequestKey {
    type Error = &'static str;

    fn try_from(StoredKey(text): StoredKey) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("that is not the key of a request")
    }
}

impl From<&Receipt> for StoredReceipt {
    fn from(Receipt { once: Once { key, digest }, at, answer }: &Receipt) -> Self {
        let (key, digest) = (key.into(), format!("{digest:032x}"));
        Self { key, digest, at: Ms(*at), answer: answer.into() }
    }
}

impl TryFrom<StoredReceipt> for Receipt {
    type Error = &'static str;

    fn try_from(StoredReceipt { key, digest, at, answer }: StoredReceipt) -> Result<Self, Self::Error> {
        let digest = u128::from_str_radix(&digest, 16).map_err(|_| "that is no digest")?;
        Ok(Self { once: Once { key: key.try_into()?, digest }, at: at.0, answer: answer.into() })
    }
}

impl From<&Answer> for StoredAnswer {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Put { uid, version, changed } => {
                Self::Put { uid: Uid(*uid), version: *version, changed: *changed }
            }
            Answer::Applied(verdicts) => Self::Applied(verdicts.iter().map(Into::into).collect()),
            Answer::Deleted { live } => Self::Deleted { live: *live },
            Answer::Triggered(run) => Self::Triggered(Key(*run)),
            Answer::Killed { runs } => Self::Killed { runs: *runs },
            Answer::Marked(run) => Self::Marked(Key(*run)),
            Answer::Paused => Self::Paused,
            Answer::Resumed => Self::Resumed,
            Answer::Backfilling { id, slots } => Self::Backfilling { id: (*id).into(), slots: *slots },
            Answer::Cancelled { runs } => Self::Cancelled { runs: *runs },
            Answer::NoticeRetried => Self::NoticeRetried,
            Answer::Noted => Self::Noted,
            // Nobody keeps a receipt of a receipt; what it says is the same.
            Answer::Before(answer) => (&**answer).into(),
        }
    }
}

impl From<StoredAnswer> for Answer {
    fn from(stored: StoredAnswer) -> Self {
        match stored {
            StoredAnswer::Put { uid, version, changed } => Self::Put { uid: uid.0, version, changed },
            StoredAnswer::Applied(verdicts) => Self::Applied(verdicts.into_iter().map(Into::into).collect()),
            StoredAnswer::Deleted { live } => Self::Deleted { live },
            StoredAnswer::Triggered(run) => Self::Triggered(run.0),
            StoredAnswer::Killed { runs } => Self::Killed { runs },
            StoredAnswer::Marked(run) => Self::Marked(run.0),
            StoredAnswer::Paused => Self::Paused,
            StoredAnswer::Resumed => Self::Resumed,
            StoredAnswer::Backfilling { id, slots } => Self::Backfilling { id: id.into(), slots },
            StoredAnswer::Cancelled { runs } => Self::Cancelled { runs },
            StoredAnswer::NoticeRetried => Self::NoticeRetried,
            StoredAnswer::Noted => Self::Noted,
        }
    }
}

impl From<&Verdict> for StoredVerdict {
    fn from(Verdict { job, uid, version, changed }: &Verdict) -> Self {
        Self { job: Name(job.clone()), uid: uid.map(Uid), version: *version, changed: *changed }
    }
}

impl From<StoredVerdict> for Verdict {
    fn from(StoredVerdict { job, uid, version, changed }: StoredVerdict) -> Self {
        Self { job: job.0, uid: uid.map(|uid| uid.0), version, changed }
    }
}

impl From<&Definition> for StoredDefinition {
    fn from(definition: &Definition) -> Self {
        let (job, parents) = definition.draft();
        Self { job: (&job).into(), parents: parents.into_iter().map(Name).collect() }
    }
}

impl TryFrom<StoredDefinition> for Definition {
    type Error = &'static str;

    fn try_from(StoredDefinition { job, parents }: StoredDefinition) -> Result<Self, Self::Error> {
        let parents: Vec<JobName> = parents.into_iter().map(|name| name.0).collect();
        Ok(Self::of(&Job::try_from(job)?, parents))
    }
}
