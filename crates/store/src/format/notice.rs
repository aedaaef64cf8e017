//! Notices and the alerts they tell of, as stored; and what a job says about them.

use std::collections::BTreeMap;

use scheduler::notice::{
    Address, Alert, AlertKind, AlertKinds, AlertRules, Channel, Notice, NoticeId, NoticeState,
};
use serde::{Deserialize, Serialize};

use super::value::{Key, Ms, Name, Shared, Span, Text, Uid, is_default};

/// See [`AlertRules`].
#[derive(PartialEq, Serialize, Deserialize)]
pub(super) struct StoredAlertRules {
    /// Left out where the kinds are those that a job without rules has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on: Option<Vec<StoredKind>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late_after: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    long_running_after: Option<Span>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to: Vec<Shared>,
}

/// See [`AlertKind`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredKind {
    Failed,
    Recovered,
    Missed,
    Disabled,
    Killed,
    Late,
    LongRunning,
    Deleted,
    Exhausted,
}

/// See [`Notice`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredNotice {
    id: u64,
    channel: StoredChannel,
    #[serde(default, skip_serializing_if = "is_default")]
    to: Text,
    created: Ms,
    alerts: Vec<StoredAlert>,
    counts: BTreeMap<StoredKind, u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<Ms>,
    give_up: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Text>,
    state: StoredState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredChannel {
    Mail,
    Webhook,
    Slack,
    Mattermost,
    Sentry,
}

/// See [`NoticeState`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredState {
    Waiting { until: Ms },
    Sending,
    Delivered { at: Ms },
    GivenUp { at: Ms },
}

/// See [`Alert`].
#[derive(Serialize, Deserialize)]
struct StoredAlert {
    kind: StoredKind,
    job: Uid,
    name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<Key>,
    due: Ms,
    at: Ms,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    slots: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    detail: Text,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it a reference")]
fn is_one(slots: &u64) -> bool {
    *slots == 1
}

impl From<&AlertRules> for StoredAlertRules {
    fn from(AlertRules { on, late_after, long_running_after, to }: &AlertRules) -> Self {
        let usual = *on == AlertKinds::default();
        Self {
            on: (!usual).then(|| on.iter().map(StoredKind::from).collect()),
            late_after: late_after.map(Span),
            long_running_after: long_running_after.map(Span),
            to: to.iter().cloned().map(Shared).collect(),
        }
    }
}

impl From<StoredAlertRules> for AlertRules {
    fn from(StoredAlertRules { on, late_after, long_running_after, to }: StoredAlertRules) -> Self {
        Self {
            on: on.map_or_else(AlertKinds::default, |on| on.into_iter().map(AlertKind::from).collect()),
            late_after: late_after.map(|span| span.0),
            long_running_after: long_running_after.map(|span| span.0),
            to: to.into_iter().map(|text| text.0).collect(),
        }
    }
}

impl From<AlertKind> for StoredKind {
    fn from(kind: AlertKind) -> Self {
        match kind {
            AlertKind::Failed => Self::Failed,
            AlertKind::Recovered => Self::Recovered,
            AlertKind::Missed => Self::Missed,
            AlertKind::Disabled => Self::Disabled,
            AlertKind::Killed => Self::Killed,
            AlertKind::Late => Self::Late,
            AlertKind::LongRunning => Self::LongRunning,
            AlertKind::Deleted => Self::Deleted,
            AlertKind::Exhausted => Self::Exhausted,
        }
    }
}

impl From<StoredKind> for AlertKind {
    fn from(stored: StoredKind) -> Self {
        match stored {
            StoredKind::Failed => Self::Failed,
            StoredKind::Recovered => Self::Recovered,
            StoredKind::Missed => Self::Missed,
            StoredKind::Disabled => Self::Disabled,
            StoredKind::Killed => Self::Killed,
            StoredKind::Late => Self::Late,
            StoredKind::LongRunning => Self::LongRunning,
            StoredKind::Deleted => Self::Deleted,
            StoredKind::Exhausted => Self::Exhausted,
        }
    }
}

impl From<NoticeState> for StoredState {
    fn from(state: NoticeState) -> Self {
        match state {
            NoticeState::Waiting { until } => Self::Waiting { until: Ms(until) },
            NoticeState::Sending => Self::Sending,
            NoticeState::Delivered { at } => Self::Delivered { at: Ms(at) },
            NoticeState::GivenUp { at } => Self::GivenUp { at: Ms(at) },
        }
    }
}

impl From<StoredState> for NoticeState {
    fn from(stored: StoredState) -> Self {
        match stored {
            StoredState::Waiting { until } => Self::Waiting { until: until.0 },
            StoredState::Sending => Self::Sending,
            StoredState::Delivered { at } => Self::Delivered { at: at.0 },
            StoredState::GivenUp { at } => Self::GivenUp { at: at.0 },
        }
    }
}

impl From<&Notice> for StoredNotice {
    fn from(notice: &Notice) -> Self {
        let Notice { id, address, created, alerts, counts, attempts, tried, give_up, error, state } = notice;
        Self {
            id: id.0,
            channel: match address.channel {
                Channel::Mail => StoredChannel::Mail,
                Channel::Webhook => StoredChannel::Webhook,
                Channel::Slack => StoredChannel::Slack,
                Channel::Mattermost => StoredChannel::Mattermost,
                Channel::Sentry => StoredChannel::Sentry,
            },
            to: Text(address.to.clone()),
            created: Ms(*created),
            alerts: alerts.iter().map(StoredAlert::from).collect(),
            counts: counts.iter().map(|(kind, count)| ((*kind).into(), *count)).collect(),
            attempts: *attempts,
            tried: tried.map(Ms),
            give_up: Ms(*give_up),
            error: error.clone().map(Text),
            state: (*state).into(),
        }
    }
}

impl From<StoredNotice> for Notice {
    fn from(stored: StoredNotice) -> Self {
        let channel = match stored.channel {
            StoredChannel::Mail => Channel::Mail,
            StoredChannel::Webhook => Channel::Webhook,
            StoredChannel::Slack => Channel::Slack,
            StoredChannel::Mattermost => Channel::Mattermost,
            StoredChannel::Sentry => Channel::Sentry,
        };
        Self {
            id: NoticeId(stored.id),
            address: Address { channel, to: stored.to.0 },
            created: stored.created.0,
            alerts: stored.alerts.into_iter().map(Alert::from).collect(),
            counts: stored.counts.into_iter().map(|(kind, count)| (kind.into(), count)).collect(),
            attempts: stored.attempts,
            tried: stored.tried.map(|at| at.0),
            give_up: stored.give_up.0,
            error: stored.error.map(|text| text.0),
            state: stored.state.into(),
        }
    }
}

impl From<&Alert> for StoredAlert {
    fn from(Alert { kind, job, name, run, due, at, slots, detail }: &Alert) -> Self {
        Self {
            kind: (*kind).into(),
            job: Uid(*job),
            name: Name(name.clone()),
            run: run.map(Key),
            due: Ms(*due),
            at: Ms(*at),
            slots: *slots,
            detail: Text(detail.clone()),
        }
    }
}

impl From<StoredAlert> for Alert {
    fn from(StoredAlert { kind, job, name, run, due, at, slots, detail }: StoredAlert) -> Self {
        Self {
            kind: kind.into(),
            job: job.0,
            name: name.0,
            run: run.map(|key| key.0),
            due: due.0,
            at: at.0,
            slots,
            detail: detail.0,
        }
    }
}
