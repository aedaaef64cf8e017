//! Which jobs are meant: the conditions and orders that all lists of jobs share.

use std::sync::Arc;

use jiff::Timestamp;
use scheduler::ids::{JobName, JobUid};
use scheduler::job::{Job, Plan};
use serde::Deserialize;
use store::OutcomeKind;
use store::projection::{Overview, Projection, ProjectionHandle};
use utoipa::IntoParams;

use super::error::ApiError;
use super::lists::{Field, Key, Order, Page, Way, words};
use super::{mention, view};
use crate::wire::job::is_exhausted;
use scheduler::moment::Moment;

/// Which jobs: all conditions hold.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Chosen {
    /// Occurs in name, command, owner or labels, without regard to case.
    #[serde(default)]
    search: String,
    /// What the name begins with.
    prefix: Option<String>,
    /// In one of these states, separated by commas: `enabled`, `disabled`, `exhausted` (its schedule is over), `paused`,
    /// `failing` (its last run failed), `live`, `running`, `queued`, `idle`.
    state: Option<String>,
    /// `schedule` or `dependent`.
    kind: Option<String>,
    /// Whose: the whole owner, or one of several that are separated by commas.
    owner: Option<String>,
    /// With this label, `key` or `key=value`; several, separated by commas, are all asked for.
    label: Option<String>,
    /// The last run ended in one of these ways, separated by commas: `succeeded`, `failed`, `killed`, `timedOut`,
    /// `lost`, `skipped`, `missed`.
    outcome: Option<String>,
}

/// The same, read.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    text: String,
    prefix: String,
    states: Vec<StateWord>,
    kinds: Vec<Kind>,
    owner: String,
    labels: Vec<(String, Option<String>)>,
    outcomes: Vec<OutcomeKind>,
    now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum StateWord {
    Enabled,
    Disabled,
    Exhausted,
    Paused,
    Failing,
    Live,
    Running,
    Queued,
    Idle,
}

const STATES: [(&str, StateWord); 9] = [
    ("enabled", StateWord::Enabled),
    ("disabled", StateWord::Disabled),
    ("exhausted", StateWord::Exhausted),
    ("paused", StateWord::Paused),
    ("failing", StateWord::Failing),
    ("live", StateWord::Live),
    ("running", StateWord::Running),
    ("queued", StateWord::Queued),
    ("idle", StateWord::Idle),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Schedule,
    Dependent,
}

const KINDS: [(&str, Kind); 2] = [("schedule", Kind::Schedule), ("dependent", Kind::Dependent)];

impl Choice {
    pub(super) fn of(chosen: &Chosen, now: Timestamp) -> Result<Self, ApiError> {
        let label = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        let labels = chosen.label.as_deref().unwrap_or_default().split(',').map(str::trim);
        let labels: Vec<_> = labels.filter(|text| !text.is_empty()).map(label).collect();
        if labels.iter().any(|(key, _)| key.is_empty()) {
            return Err(ApiError::invalid("label", "`label`: expected `key` or `key=value`"));
        }
        Ok(Self {
            text: chosen.search.trim().to_lowercase(),
            prefix: chosen.prefix.clone().unwrap_or_default(),
            states: words("state", chosen.state.as_deref(), &STATES)?,
            kinds: words("kind", chosen.kind.as_deref(), &KINDS)?,
            owner: chosen.owner.as_deref().unwrap_or_default().trim().to_owned(),
            labels,
            outcomes: words(
                "outcome",
                chosen.outcome.as_deref(),
                &OutcomeKind::ALL.map(|k| (view::word(k), k)),
            )?,
            now,
        })
    }

    /// Whether it is all jobs.
    pub(super) fn is_all(&self) -> bool {
        self.text.is_empty()
            && self.prefix.is_empty()
            && self.states.is_empty()
            && self.kinds.is_empty()
            && self.owner.is_empty()
            && self.labels.is_empty()
            && self.outcomes.is_empty()
    }

    /// Whether the job is meant. What is cheap to see is looked at first.
    pub(super) fn takes(&self, of: &Overview<'_>) -> bool {
        let kind = if matches!(of.job.plan, Plan::Schedule(_)) { Kind::Schedule } else { Kind::Dependent };
        let rules = &of.job.rules;
        let labelled = |(key, value): &(String, Option<String>)| {
            rules
                .labels()
                .iter()
                .any(|(k, v)| **k == **key && value.as_ref().is_none_or(|wanted| **v == **wanted))
        };
        of.job.name.as_str().starts_with(&self.prefix)
            && (self.states.is_empty() || self.states.iter().any(|state| state.holds(of, self.now)))
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.outcomes.is_empty() || of.last.is_some_and(|last| self.outcomes.contains(&last.outcome)))
            && (self.owner.is_empty() || is_of(&rules.owner(), &self.owner))
            && self.labels.iter().all(labelled)
            && (self.text.is_empty() || mention::job_mentions(of.job, &self.text))
    }
}

fn is_of(owner: &str, wanted: &str) -> bool {
    owner == wanted || owner.split(',').any(|one| one.trim() == wanted)
}

impl StateWord {
    fn holds(self, of: &Overview<'_>, now: Timestamp) -> bool {
        match self {
            Self::Enabled => !of.job.rules.disabled && !is_exhausted(of.job, of.progress),
            Self::Disabled => of.job.rules.disabled || is_exhausted(of.job, of.progress),
            Self::Exhausted => is_exhausted(of.job, of.progress),
            Self::Paused => view::pause(of.progress, now).is_some(),
            Self::Failing => of.progress.errors_in_a_row > 0,
            Self::Live => of.running + of.waiting > 0,
            Self::Running => of.running > 0,
            Self::Queued => of.waiting > 0,
            Self::Idle => of.running + of.waiting == 0,
        }
    }
}

/// What lists of jobs are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobField {
    Name,
    /// Running ones first, those that cannot start last.
    State,
    /// The worst first.
    LastOutcome,
    LastEnded,
    LastSuccess,
    LastError,
    Next,
    Owner,
    /// Failures since the last success.
    Errors,
    Created,
    Changed,
}

impl Field for JobField {
    const ALL: &'static [(&'static str, Self)] = &[
        ("name", Self::Name),
        ("state", Self::State),
        ("lastOutcome", Self::LastOutcome),
        ("lastEnded", Self::LastEnded),
        ("lastSuccess", Self::LastSuccess),
        ("lastError", Self::LastError),
        ("next", Self::Next),
        ("owner", Self::Owner),
        ("errors", Self::Errors),
        ("created", Self::Created),
        ("changed", Self::Changed),
    ];
    const NAME: Option<Self> = Some(Self::Name);
}

fn key(order: Order<JobField>, of: &Overview<'_>, now: Timestamp) -> Key {
    match order.field {
        JobField::Name => order.identity(of.job.name.as_str()),
        JobField::State => order.number(Some(match () {
            () if of.running > 0 => 0,
            () if of.waiting > 0 => 1,
            () if is_exhausted(of.job, of.progress) => 4,
            () if of.job.rules.disabled => 5,
            () if view::pause(of.progress, now).is_some() => 3,
            () => 2,
        })),
        JobField::LastOutcome => order.number(of.last.map(|last| match last.outcome {
            OutcomeKind::Failed => 0,
            OutcomeKind::Lost => 1,
            OutcomeKind::TimedOut => 2,
            OutcomeKind::Killed => 3,
            OutcomeKind::Missed => 4,
            OutcomeKind::Skipped => 5,
            OutcomeKind::Succeeded => 6,
        })),
        JobField::LastEnded => order.time(of.last.map(|last| last.ended)),
        JobField::LastSuccess => order.time(of.progress.last_success.map(Moment::at)),
        JobField::LastError => order.time(of.progress.last_error.map(Moment::at)),
        JobField::Next => {
            order.time(of.progress.next.filter(|_| !of.job.rules.disabled).map(|slot| slot.due))
        }
        JobField::Owner => order.text_of(&of.job.rules.owner()),
        JobField::Errors => order.number(i64::try_from(of.progress.errors_in_a_row).ok()),
        JobField::Created => order.time(Some(of.job.created)),
        JobField::Changed => order.time(Some(of.job.changed)),
    }
}

/// The jobs of a page, in order.
pub(super) struct Selected {
    pub(super) jobs: Vec<JobUid>,
    /// How many are meant, on all pages.
    pub(super) total: usize,
    /// Cursor of the next page, if there is one.
    pub(super) next: Option<String>,
}

/// The jobs of one page. What changes while it looks may be seen or not, but no job is seen twice.
pub(super) fn select(
    handle: &ProjectionHandle,
    choice: &Choice,
    order: Order<JobField>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Selected, ApiError> {
    let after = order.place(cursor, |text| JobName::new(text).ok())?;
    if choice.is_all() && order.field == JobField::Name {
        // They are in this order already.
        let projection = handle.read();
        let place = after.as_ref().map(|(_, name)| name);
        let (jobs, next) = match order.way {
            Way::Up => first(order, limit, projection.jobs_after(place)),
            Way::Down => first(order, limit, projection.jobs_before(place)),
        };
        return Ok(Selected { jobs, total: projection.state().jobs.len(), next });
    }
    let mut page = Page::new(after, limit);
    each(handle, |_, of| {
        if choice.takes(of) {
            page.offer(key(order, of, choice.now), &of.job.name, || of.job.uid);
        }
    });
    let total = page.total;
    let (jobs, next) = page.told(order);
    Ok(Selected { jobs, total, next })
}

/// The first so many of jobs in the order of their names, and the cursor of the next page if there are more.
fn first<'a>(
    order: Order<JobField>,
    limit: usize,
    mut jobs: impl Iterator<Item = &'a Arc<Job>>,
) -> (Vec<JobUid>, Option<String>) {
    let page: Vec<&Arc<Job>> = jobs.by_ref().take(limit).collect();
    let last = page.last().filter(|_| jobs.next().is_some());
    let next = last.map(|job| order.cursor(&order.identity(job.name.as_str()), &job.name));
    (page.iter().map(|job| job.uid).collect(), next)
}

/// Looks at all jobs in the order of their creation, letting writers in now and then: commits wait for readers.
pub(super) fn each(handle: &ProjectionHandle, mut look: impl FnMut(&Projection, &Overview<'_>)) {
    /// So many take about half a millisecond.
    const AT_ONCE: usize = 2000;
    let mut last = None;
    loop {
        let projection = handle.read();
        let mut seen = None;
        for (i, overview) in projection.overviews(last).take(AT_ONCE).enumerate() {
            look(&projection, &overview);
            seen = (i + 1 == AT_ONCE).then_some(overview.job.uid);
        }
        if seen.is_none() {
            return;
        }
        last = seen;
    }
}
