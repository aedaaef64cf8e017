//! Single values as they are written in settings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use scheduler::limits::LabelLimit;
use serde::Deserialize;

use crate::wire::duration;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(pub IpAddr);

impl Address {
    pub(super) const LOOPBACK: Self = Self(IpAddr::V4(Ipv4Addr::LOCALHOST));
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(Self::LOOPBACK);
        }
        text.parse().map(Self).map_err(|_| {
            "not an IP address; write 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all networks".into()
        })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose time zones are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tzdata {
    /// Those compiled into this program: the same on all nodes that run it.
    Bundled,
    /// Those of the machine.
    System,
}

impl fmt::Display for Tzdata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundled => "bundled",
            Self::System => "system",
        })
    }
}

/// Where state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum StoreKind {
    /// A file in the data folder.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
    /// A ZooKeeper ensemble.
    ZooKeeper,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::ZooKeeper => "zookeeper",
        })
    }
}

/// What becomes of the tasks of a node that cannot reach the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnIsolation {
    /// They are killed after a minute, so that the next leader knows that they have ended.
    Kill,
    /// They run on, and nobody knows of them before the node is back.
    Keep,
}

impl fmt::Display for OnIsolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Keep => "keep",
        })
    }
}

/// A list of texts.
pub(super) struct Texts(pub(super) Vec<String>);

impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// What runs tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Processes of this machine.
    Local,
    /// A cluster.
    Mesos,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Mesos => "mesos",
        })
    }
}

/// What becomes of tasks of an old Chronos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OldTasksKind {
    /// They run to their end.
    Keep,
    /// They are ended.
    Kill,
}

impl fmt::Display for OldTasksKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Kill => "kill",
        })
    }
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A length of time as written, such as `90d` or `1h30m`; see [`duration::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Length(pub Duration);

impl Length {
    pub(super) const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse(text).map(Self).ok_or_else(|| format!("not {}", duration::EXPECTED))
    }
}

impl TryFrom<String> for Length {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::text(self.0))
    }
}

/// A number of bytes as written, such as `10GiB`; a unit is wanted, so that nobody takes megabytes for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl Size {
    const UNITS: [(&'static str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |(unit, bytes): &(&str, u64)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*bytes)
        };
        let size = Self::UNITS.iter().find_map(read);
        size.map(Self).ok_or_else(|| "not a size such as 500MiB or 10GiB".into())
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        match Self::UNITS.iter().find(fits) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}KiB", self.0 / 1024),
        }
    }
}

/// A limit of tasks by label as written: `key=value:N`, or `key:N` for each value by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LabelMax(pub LabelLimit);

impl FromStr for LabelMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "not a label and a count above 0, such as team=etl:8 or team:4".to_owned();
        let (label, max) = text.rsplit_once(':').ok_or_else(expected)?;
        let (key, value) = label.split_once('=').map_or((label, None), |(key, value)| (key, Some(value)));
        let max = max.parse().map_err(|_| expected())?;
        if key.is_empty() {
            return Err(expected());
        }
        Ok(Self(LabelLimit { key: key.into(), value: value.map(Into::into), max }))
    }
}

impl TryFrom<String> for LabelMax {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("`{text}` is {why}"))
    }
}

impl fmt::Display for LabelMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) struct LabelMaxima(pub(super) Vec<LabelMax>);

impl fmt::Display for LabelMaxima {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(LabelMax::to_string).collect::<Vec<_>>().join(","))
    }
}

pub(super) struct Hosts(pub(super) Vec<String>);

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

pub(super) struct Folder(pub(super) PathBuf);

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}
