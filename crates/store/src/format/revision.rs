//! What a definition was, as stored.

use std::sync::Arc;

use scheduler::job::Job;
use scheduler::revision::{Deed, Revision};
use serde::{Deserialize, Serialize};

use super::job::StoredJob;
use super::value::{Ms, Name, Text, is_default};

/// See [`Revision`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRevision {
    job: StoredJob,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parents: Vec<Name>,
    at: Ms,
    #[serde(default, skip_serializing_if = "is_default")]
    by: Text,
    deed: StoredDeed,
}

/// See [`Deed`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredDeed {
    Created,
    Replaced,
    Patched,
    Applied,
    RolledBack { to: u32 },
    Restored,
    Deleted,
    Inherited,
    Disabled,
}

impl From<&Revision> for StoredRevision {
    fn from(Revision { job, parents, at, by, deed }: &Revision) -> Self {
        Self {
            job: (&**job).into(),
            parents: parents.iter().cloned().map(Name).collect(),
            at: Ms(*at),
            by: Text(by.clone()),
            deed: (*deed).into(),
        }
    }
}

impl TryFrom<StoredRevision> for Revision {
    type Error = &'static str;

    fn try_from(StoredRevision { job, parents, at, by, deed }: StoredRevision) -> Result<Self, Self::Error> {
        Ok(Self {
            job: Arc::new(Job::try_from(job)?),
            parents: parents.into_iter().map(|name| name.0).collect(),
            at: at.0,
            by: by.0,
            deed: deed.into(),
        })
    }
}

impl From<Deed> for StoredDeed {
    fn from(deed: Deed) -> Self {
        match deed {
            Deed::Created => Self::Created,
            Deed::Replaced => Self::Replaced,
            Deed::Patched => Self::Patched,
            Deed::Applied => Self::Applied,
            Deed::RolledBack { to } => Self::RolledBack { to },
            Deed::Restored => Self::Restored,
            Deed::Deleted => Self::Deleted,
            Deed::Inherited => Self::Inherited,
            Deed::Disabled => Self::Disabled,
        }
    }
}

impl From<StoredDeed> for Deed {
    fn from(stored: StoredDeed) -> Self {
        match stored {
            StoredDeed::Created => Self::Created,
            StoredDeed::Replaced => Self::Replaced,
            StoredDeed::Patched => Self::Patched,
            StoredDeed::Applied => Self::Applied,
            StoredDeed::RolledBack { to } => Self::RolledBack { to },
            StoredDeed::Restored => Self::Restored,
            StoredDeed::Deleted => Self::Deleted,
            StoredDeed::Inherited => Self::Inherited,
            StoredDeed::Disabled => Self::Disabled,
        }
    }
}
