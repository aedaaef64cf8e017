//! Names of things: jobs, runs, tasks, terms. All are values that follow from what they name.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::schedule::Nominal;

/// The number of a term of leadership; the fencing token of every write, launch and kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The number of an applied batch since the store was made. It grows by one with every batch, across terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// How often the parents of existing jobs have changed since the store was made. A cycle carries the version it
/// began in, so that what began before an edit is told from what began after it without a look at any clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GraphVersion(pub u32);

/// One creation of a job: kept when its definition is replaced, new when a job of the same name is created again.
///
/// The high bits are a salt of the store, so that task ids of a forgotten store are never met again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobUid(pub u64);

impl JobUid {
    /// A uid fits this many bits, so that a task id always has room for a readable slug.
    pub const BITS: u32 = 52;
    /// The low bits count jobs; the 20 bits above them are the salt of the store.
    pub const COUNTER_BITS: u32 = 32;
}

impl fmt::Display for JobUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base36(self.0))
    }
}

impl std::str::FromStr for JobUid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        parse36(text).map(Self)
    }
}

/// A job's name as its users know it: 1 to [`JobName::LEN_MAX`] of `[A-Za-z0-9_.-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobName(Arc<str>);

/// Why a text is not a job name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing to call it by.
    #[error("a job name must not be empty")]
    Empty,
    /// Chronos had no bound; a bound keeps storage keys and pages sane.
    #[error("a job name has at most 255 characters, this one has {0}")]
    TooLong(usize),
    /// A character that old clients, shells or storage keys would trip over.
    #[error(
        "job name `{name}` contains {character:?}; allowed are letters, digits, `_`, `.` and `-` (ASCII)"
    )]
    Character {
        /// The offending name, cut to a printable length.
        name: String,
        /// Its first offending character.
        character: char,
    },
    /// `.` and `..` are paths, not names.
    #[error("`{0}` cannot be a job name: it means a folder in every path")]
    Path(String),
}

impl JobName {
    /// Longest name. Chronos had no bound of its own; 255 is the bound of a file name.
    pub const LEN_MAX: usize = 255;

    /// Checks the text against the rule of Chronos (`[\w.-]+`, ASCII), plus a bound.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::LEN_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if text == "." || text == ".." {
            return Err(NameError::Path(text.into()));
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))) {
            Some(character) => Err(NameError::Character { name: text.chars().take(80).collect(), character }),
            None => Ok(Self(text.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a chain of runs descends from: the due time of its root run, and which run that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cycle {
    /// Due time of the root run; what users see and sort by.
    pub due: Timestamp,
    /// The job whose run began the cycle.
    pub origin: JobUid,
    /// 0 for a slot; else the origin's sequence number, which tells apart what shares a due time.
    pub seq: u32,
}

/// Why a run exists. With the job's uid it is the identity of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A slot of a schedule of the job.
    Slot {
        /// Which schedule: the version of the job that brought it, so that another schedule's slots are others.
        plan: u32,
        /// Which slot of it.
        nominal: Nominal,
    },
    /// Someone asked for it; numbered by the job.
    Trigger(u32),
    /// The parents of this cycle succeeded. `round` is 0 the first time; a reopened join takes a number from
    /// the job, as a trigger does.
    Join {
        /// The cycle that fired, or was skipped.
        cycle: Cycle,
        /// Tells apart the first time and what came of re-runs.
        round: u32,
    },
    /// A past slot that a user wants to run; see [`crate::backfill`].
    Backfill {
        /// Of which backfill of the job.
        number: u32,
        /// Which slot of the schedule that it goes through.
        nominal: Nominal,
    },
}

/// Identity of a backfill: the job whose slots it goes through, and a number that the job has given it, as it does
/// to triggers. It is the `(origin, seq)` of all cycles that it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackfillId {
    /// Whose slots.
    pub job: JobUid,
    /// Its number.
    pub number: u32,
}

impl BackfillId {
    /// The backfill that a cycle would be of. Whether there is one only the state knows.
    pub fn of_cycle(cycle: Cycle) -> Self {
        Self { job: cycle.origin, number: cycle.seq }
    }
}

impl fmt::Display for BackfillId {
    /// What the keys of its runs begin with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-b{}", self.job, base36(self.number.into()))
    }
}

impl std::str::FromStr for BackfillId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (job, number) = text.split_once("-b").ok_or(())?;
        Ok(Self { job: JobUid(parse36(job)?), number: small36(number)? })
    }
}

/// Identity of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Whose run.
    pub job: JobUid,
    /// For which cause.
    pub cause: Cause,
}

impl fmt::Display for RunKey {
    /// The form used in URLs, logs and task ids: `[a-z0-9-]`, at most 50 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.job)?;
        match self.cause {
            Cause::Slot { plan, nominal } => {
                write_nominal(f, nominal)?;
                // Most jobs keep their first schedule.
                if plan == 1 { Ok(()) } else { write!(f, "-{}", base36(plan.into())) }
            }
            Cause::Trigger(seq) => write!(f, "t{}", base36(seq.into())),
            Cause::Join { cycle, round } => {
                let due = base36(since_1970(cycle.due.as_millisecond()));
                let (seq, round) = (base36(cycle.seq.into()), base36(round.into()));
                write!(f, "j{}-{due}-{seq}-{round}", cycle.origin)
            }
            Cause::Backfill { number, nominal } => {
                write!(f, "b{}-", base36(number.into()))?;
                write_nominal(f, nominal)
            }
        }
    }
}

impl std::str::FromStr for RunKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (job, cause) = text.split_once('-').ok_or(())?;
        let job = JobUid(parse36(job)?);
        let kind = cause.chars().next().ok_or(())?;
        let rest = cause.get(1..).ok_or(())?;
        let cause = match kind {
            'i' | 'c' | 'd' => {
                let (nominal, plan) = match cause.split_once('-') {
                    Some((nominal, plan)) => (nominal, small36(plan)?),
                    None => (cause, 1),
                };
                Cause::Slot { plan, nominal: read_nominal(nominal)? }
            }
            'b' => {
                let (number, nominal) = rest.split_once('-').ok_or(())?;
                Cause::Backfill { number: small36(number)?, nominal: read_nominal(nominal)? }
            }
            't' => Cause::Trigger(small36(rest)?),
            'j' => {
                let parts: Vec<&str> = rest.split('-').collect();
                let [origin, due, seq, round] = parts[..] else { return Err(()) };
                let due = Timestamp::from_millisecond(time36(due)?).map_err(|_| ())?;
                let cycle = Cycle { due, origin: JobUid(parse36(origin)?), seq: small36(seq)? };
                Cause::Join { cycle, round: small36(round)? }
            }
            _ => return Err(()),
        };
        Ok(Self { job, cause })
    }
}

fn write_nominal(f: &mut fmt::Formatter<'_>, nominal: Nominal) -> fmt::Result {
    match nominal {
        Nominal::Index(k) => write!(f, "i{}", base36(k)),
        Nominal::Civil { second, fold: 0 } => write!(f, "c{}", base36(since_1970(second))),
        Nominal::Civil { second, .. } => write!(f, "d{}", base36(since_1970(second))),
    }
}

fn read_nominal(text: &str) -> Result<Nominal, ()> {
    let number = text.get(1..).ok_or(())?;
    match text.chars().next() {
        Some('i') => Ok(Nominal::Index(parse36(number)?)),
        Some('c') => Ok(Nominal::Civil { second: time36(number)?, fold: 0 }),
        Some('d') => Ok(Nominal::Civil { second: time36(number)?, fold: 1 }),
        _ => Err(()),
    }
}

/// Names a task by what it is, never by when someone made it. Two leaders that both think it is
/// noon derive the same id, so an engine can tell a repeat from a second launch.
///
/// At most 63 of `[a-z0-9-]` (a DNS label: the smallest bound of all engines), beginning with a readable slug
/// of the job's name and ending with the attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Longest id.
    pub const LEN_MAX: usize = 63;
    /// Longest slug; what is readable in a table.
    const SLUG_MAX: usize = 24;

    /// The id of one attempt of one run.
    pub fn of(name: &JobName, run: RunKey, attempt: u32) -> Self {
        let identity = format!("{run}-{}", base36(attempt.into()));
        let room = Self::SLUG_MAX.min(Self::LEN_MAX.saturating_sub(identity.len() + 1)).max(1);
        let lower = name.as_str().bytes().map(|b| match b.to_ascii_lowercase() {
            b @ (b'a'..=b'z' | b'0'..=b'9') => b as char,
            _ => '-',
        });
        let slug: String = lower.skip_while(|c| !c.is_ascii_lowercase()).take(room).collect();
        let slug = slug.trim_end_matches('-');
        Self(format!("{}-{identity}", if slug.is_empty() { "x" } else { slug }).into())
    }

    /// Takes an id that was made by [`TaskId::of`] back from a store or an engine.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.as_bytes()[0].is_ascii_lowercase();
        fits.then(|| Self(text.into()))
    }

    /// The keys of runs that the id may have in it: a job's name has dashes too.
    pub fn keys(&self) -> impl Iterator<Item = RunKey> {
        let identity = self.0.rsplit_once('-').map_or("", |(identity, _)| identity);
        identity.match_indices('-').filter_map(|(at, _)| identity[at + 1..].parse().ok())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn base36(mut n: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize] as char);
        n /= 36;
        if n == 0 {
            return digits.iter().rev().collect();
        }
    }
}

fn parse36(text: &str) -> Result<u64, ()> {
    let canonical = text == "0" || text.bytes().next().is_some_and(|first| first != b'0');
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    if canonical && plain { u64::from_str_radix(text, 36).map_err(|_| ()) } else { Err(()) }
}

fn small36(text: &str) -> Result<u32, ()> {
    u32::try_from(parse36(text)?).map_err(|_| ())
}

/// Due and civil times are after 1970, which the door sees to; so are all that are read back.
fn since_1970(n: i64) -> u64 {
    n.max(0).unsigned_abs()
}

fn time36(text: &str) -> Result<i64, ()> {
    i64::try_from(parse36(text)?).map_err(|_| ())
}
