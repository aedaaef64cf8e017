//! What people are told of: what happened to a job (an alert), and the messages that tell it (notices).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::ids::{JobName, JobUid, RunKey};

/// What may be worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// A run ended failed, timed out or lost, after its last attempt.
    Failed,
    /// The first success after errors.
    Recovered,
    /// Slots passed that nobody could start in time.
    Missed,
    /// The job failed so often that it was disabled. Takes the place of [`AlertKind::Failed`].
    Disabled,
    /// Somebody or something ended a run on purpose.
    Killed,
    /// A due run has not started within `lateAfter`.
    Late,
    /// An attempt runs longer than `longRunningAfter`.
    LongRunning,
    /// Somebody deleted the job.
    Deleted,
    /// The schedule has no slot left.
    Exhausted,
}

impl AlertKind {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Recovered,
        Self::Missed,
        Self::Disabled,
        Self::Killed,
        Self::Late,
        Self::LongRunning,
        Self::Deleted,
        Self::Exhausted,
    ];

    /// Its word, in job files, notices and stores.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::Missed => "missed",
            Self::Disabled => "disabled",
            Self::Killed => "killed",
            Self::Late => "late",
            Self::LongRunning => "longRunning",
            Self::Deleted => "deleted",
            Self::Exhausted => "exhausted",
        }
    }

    /// The kind of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Some of the kinds. Two bytes, because every job may have its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AlertKinds(u16);

impl AlertKinds {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// These as well.
    #[must_use]
    pub fn with(self, kind: AlertKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether it is among them.
    pub fn contains(self, kind: AlertKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Those among them.
    pub fn iter(self) -> impl Iterator<Item = AlertKind> {
        AlertKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl Default for AlertKinds {
    /// What needs a person, and that it no longer does, and that a job is gone, which Chronos told as well. Kills are made
    /// by people, most jobs that have no slot left were meant to, and the other two need a length.
    fn default() -> Self {
        let kinds = [
            AlertKind::Failed,
            AlertKind::Recovered,
            AlertKind::Missed,
            AlertKind::Disabled,
            AlertKind::Deleted,
        ];
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl FromIterator<AlertKind> for AlertKinds {
    fn from_iter<I: IntoIterator<Item = AlertKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for AlertKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What a job wants told, and to whom. A job without any has the default kinds and no recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertRules {
    /// What is told; the two kinds that need a length are told wherever it is given.
    pub on: AlertKinds,
    /// How long after its due time a run may start before it is late.
    pub late_after: Option<Duration>,
    /// How long an attempt may run before that is told.
    pub long_running_after: Option<Duration>,
    /// Mail addresses, without repeats; at most [`AlertRules::RECIPIENTS_MAX`].
    pub to: Vec<Arc<str>>,
}

impl AlertRules {
    /// Each recipient has messages of its own: more people share a mailing list.
    pub const RECIPIENTS_MAX: usize = 8;

    /// Whether it shall be told.
    pub fn wants(&self, kind: AlertKind) -> bool {
        match kind {
            AlertKind::Late => self.late_after.is_some(),
            AlertKind::LongRunning => self.long_running_after.is_some(),
            kind => self.on.contains(kind),
        }
    }
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What.
    pub kind: AlertKind,
    /// To which job.
    pub job: JobUid,
    /// Its name at the time.
    pub name: JobName,
    /// The run it is about; `None` for slots that never became one.
    pub run: Option<RunKey>,
    /// When that was due; of several slots the last.
    pub due: Timestamp,
    /// When it happened.
    pub at: Timestamp,
    /// How many slots it is about.
    pub slots: u64,
    /// For people, one line; at most [`Alert::DETAIL_MAX`] bytes.
    pub detail: Arc<str>,
}

impl Alert {
    /// Longest detail: the message of an engine is in the history at full length.
    pub const DETAIL_MAX: usize = 200;
}

/// Names a notice; grows within a store and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoticeId(pub u64);

/// By what a notice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// SMTP.
    Mail,
    /// An HTTP POST.
    Webhook,
    /// A post to a channel of Slack.
    Slack,
    /// The same of Mattermost.
    Mattermost,
    /// An event of Sentry.
    Sentry,
}

impl Channel {
    /// All of them. Only the first has recipients; of the others there is one each.
    pub const ALL: [Self; 5] = [Self::Mail, Self::Webhook, Self::Slack, Self::Mattermost, Self::Sentry];

    /// Its word, in the API, the log and the metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Mattermost => "mattermost",
            Self::Sentry => "sentry",
        }
    }
}

/// Which channels the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// A mail server is configured.
    pub mail: bool,
    /// A URL is configured.
    pub webhook: bool,
    /// A URL of Slack is configured.
    pub slack: bool,
    /// A URL of Mattermost is configured.
    pub mattermost: bool,
    /// A project of Sentry is configured.
    pub sentry: bool,
}

impl Channels {
    /// Whether there is this one.
    pub fn has(self, channel: Channel) -> bool {
        match channel {
            Channel::Mail => self.mail,
            Channel::Webhook => self.webhook,
            Channel::Slack => self.slack,
            Channel::Mattermost => self.mattermost,
            Channel::Sentry => self.sentry,
        }
    }

    /// Those that hear of all jobs, whoever their owners are.
    pub fn of_all(self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(move |channel| *channel != Channel::Mail && self.has(*channel))
    }
}

/// Where a notice goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// By what.
    pub channel: Channel,
    /// To whom; empty for all but mail, as there is one of each.
    pub to: Arc<str>,
}

/// A message to one address, about one alert or, when there are many at a time, about all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Its identity, by which receivers tell a repeat.
    pub id: NoticeId,
    /// Where it goes.
    pub address: Address,
    /// When its first alert came.
    pub created: Timestamp,
    /// The first alerts, at most [`Notice::ALERTS_MAX`].
    pub alerts: Vec<Alert>,
    /// How many alerts there are in all, by kind.
    pub counts: BTreeMap<AlertKind, u64>,
    /// How often it has been sent.
    pub attempts: u32,
    /// When it was last sent.
    pub tried: Option<Timestamp>,
    /// When it is given up.
    pub give_up: Timestamp,
    /// Why it did not arrive the last time; at most [`Notice::ERROR_MAX`] bytes.
    pub error: Option<Arc<str>>,
    /// Where it is.
    pub state: NoticeState,
}

/// Where a notice is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeState {
    /// To be sent at `until`, or when the one before it to the same address is settled.
    Waiting {
        /// Not before this.
        until: Timestamp,
    },
    /// On its way, so possibly there.
    Sending,
    /// The other side has taken it.
    Delivered {
        /// When that was known.
        at: Timestamp,
    },
    /// It will not be sent again unless somebody asks.
    GivenUp {
        /// Since when.
        at: Timestamp,
    },
}

impl Notice {
    /// Alerts told in full; the others are counted. A notice is written again for each that is added.
    pub const ALERTS_MAX: usize = 10;
    /// Longest error.
    pub const ERROR_MAX: usize = 300;

    /// How many alerts it tells of.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Whether nothing more will happen by itself.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, NoticeState::Delivered { .. } | NoticeState::GivenUp { .. })
    }

    /// Whether alerts may still be added: nobody has seen it.
    pub fn is_open(&self) -> bool {
        self.attempts == 0 && matches!(self.state, NoticeState::Waiting { .. })
    }

    /// Adds an alert, in full while there is room.
    pub fn add(&mut self, alert: Alert) {
        *self.counts.entry(alert.kind).or_default() += 1;
        if self.alerts.len() < Self::ALERTS_MAX {
            self.alerts.push(alert);
        }
    }
}

/// What became of sending a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The other side has taken it.
    Delivered,
    /// It may succeed later.
    Later {
        /// Why not now.
        error: Arc<str>,
        /// The other side asked for this much patience.
        after: Option<Duration>,
    },
    /// It will never be taken.
    Refused {
        /// Why.
        error: Arc<str>,
    },
}

/// The beginning of a text that has at most `max` bytes, in one line.
pub(crate) fn clipped(text: &str, max: usize) -> Arc<str> {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=max.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line[..end].trim().into()
}
