//! Single values as they are stored: instants as integer milliseconds, names and keys as text.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use scheduler::ids::{Cycle, JobName, JobUid, RunKey, TaskId};
use scheduler::schedule::{Nominal, Slot};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant: milliseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Ms(pub(crate) Timestamp);

/// A span: milliseconds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Span(pub(crate) Duration);

/// A job's uid: a number; 52 bits are safe in every JSON reader.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Uid(#[serde(with = "uid")] pub(crate) JobUid);

/// A run's key in the form of [`RunKey`]'s `Display`.
#[derive(Clone, Copy)]
pub(crate) struct Key(pub(crate) RunKey);

/// Text that is shared with the core's records.
#[derive(Clone, PartialEq)]
pub(crate) struct Text(pub(crate) Arc<str>);

/// Text that many records have in common, such as a schedule, a zone or a node: one copy serves those that are read
/// one after the other. A million jobs are some 100 MiB smaller for it.
#[derive(Clone, PartialEq)]
pub(crate) struct Shared(pub(crate) Arc<str>);

/// Copies kept for sharing, by each thread that reads. There are more schedules than that, but not in one minute.
const SHARED_MAX: usize = 1024;
/// Longer texts are hardly ever the same.
const SHARED_BYTES_MAX: usize = 64;

/// A job's name, checked again when it is read.
pub(crate) struct Name(pub(crate) JobName);

/// What an engine calls an attempt.
pub(crate) struct Task(pub(crate) TaskId);

/// See [`Cycle`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct StoredCycle {
    due: Ms,
    origin: Uid,
    #[serde(default, skip_serializing_if = "is_default")]
    seq: u32,
}

/// See [`Slot`]: `index` or `civil` says which occurrence.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "RawSlot", into = "RawSlot")]
pub(crate) struct StoredSlot(pub(crate) Slot);

#[derive(Clone, Copy, Serialize, Deserialize)]
struct RawSlot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    civil: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    fold: u8,
    due: Ms,
}

/// For `skip_serializing_if`: what is left out is what reading fills in.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&Cycle> for StoredCycle {
    fn from(&Cycle { due, origin, seq }: &Cycle) -> Self {
        Self { due: Ms(due), origin: Uid(origin), seq }
    }
}

impl From<StoredCycle> for Cycle {
    fn from(StoredCycle { due, origin, seq }: StoredCycle) -> Self {
        Self { due: due.0, origin: origin.0, seq }
    }
}

impl From<StoredSlot> for RawSlot {
    fn from(StoredSlot(Slot { nominal, due }): StoredSlot) -> Self {
        let due = Ms(due);
        match nominal {
            Nominal::Index(k) => Self { index: Some(k), civil: None, fold: 0, due },
            Nominal::Civil { second, fold } => Self { index: None, civil: Some(second), fold, due },
        }
    }
}

impl TryFrom<RawSlot> for StoredSlot {
    type Error = &'static str;

    fn try_from(RawSlot { index, civil, fold, due }: RawSlot) -> Result<Self, Self::Error> {
        let nominal = match (index, civil) {
            (Some(k), None) => Nominal::Index(k),
            (None, Some(second)) => Nominal::Civil { second, fold },
            _ => return Err("a slot has either `index` or `civil`"),
        };
        Ok(Self(Slot { nominal, due: due.0 }))
    }
}

impl Serialize for Ms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.as_millisecond())
    }
}

impl<'de> Deserialize<'de> for Ms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ms = i64::deserialize(deserializer)?;
        Timestamp::from_millisecond(ms).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|ms| Self(Duration::from_millis(ms)))
    }
}

mod uid {
    use super::{Deserialize, Deserializer, JobUid, Serializer};

    pub(super) fn serialize<S: Serializer>(uid: &JobUid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(uid.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobUid, D::Error> {
        u64::deserialize(deserializer).map(JobUid)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse("the key of a run", |text: &str| {
            text.parse().map(Key).map_err(|()| "not a key")
        }))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse("text", |text: &str| Ok::<_, fmt::Error>(Text(text.into()))))
    }
}

impl Default for Text {
    fn default() -> Self {
        Self("".into())
    }
}

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse("text", |text: &str| Ok::<_, fmt::Error>(Shared(shared(text)))))
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self(shared(""))
    }
}

fn shared(text: &str) -> Arc<str> {
    thread_local!(static COPIES: RefCell<HashSet<Arc<str>>> = RefCell::default());
    if text.len() > SHARED_BYTES_MAX {
        return text.into();
    }
    COPIES.with_borrow_mut(|copies| {
        if let Some(copy) = copies.get(text) {
            return copy.clone();
        }
        if copies.len() == SHARED_MAX {
            copies.clear();
        }
        let copy: Arc<str> = text.into();
        copies.insert(copy.clone());
        copy
    })
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse("the name of a job", |text: &str| JobName::new(text).map(Name)))
    }
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Task {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse("a task id", |text: &str| {
            TaskId::parse(text).map(Task).ok_or("not a task id")
        }))
    }
}

/// Reads text without keeping a copy of it on the way.
struct Parse<F>(&'static str, F);

impl<T, E: fmt::Display, F: Fn(&str) -> Result<T, E>> Visitor<'_> for Parse<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<X: Error>(self, text: &str) -> Result<T, X> {
        (self.1)(text).map_err(X::custom)
    }
}
