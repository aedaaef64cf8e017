//! Jobs and their progress, as stored.

use std::sync::Arc;
use std::time::Duration;

use scheduler::ids::{Cycle, GraphVersion, JobUid};
use scheduler::job::{
    CatchUp, Guarantee, Job, Overlap, Pause, Plan, Progress, Retry, Rules, Tags, Timetable,
};
use scheduler::limits::Label;
use scheduler::schedule::{DstPolicy, Fold, Gap};
use scheduler::{GivenUp, QuickFailures};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::notice::StoredAlertRules;
use super::value::{Key, Ms, Name, Shared, Span, StoredCycle, StoredSlot, Text, Uid, is_default};

/// See [`Job`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredJob {
    uid: Uid,
    #[serde(default = "first", skip_serializing_if = "is_first")]
    version: u32,
    name: Name,
    created: Ms,
    /// Left out when it is `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<Ms>,
    /// A version of the graph.
    #[serde(default, skip_serializing_if = "is_default")]
    graph: u32,
    /// Either this or `parents`. Two fields instead of a flattened enum, which would be read through a buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<StoredTimetable>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parents: Option<Vec<Uid>>,
    #[serde(default, skip_serializing_if = "is_default")]
    rules: StoredRules,
    body: Text,
}

/// See [`Timetable`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredTimetable {
    text: Shared,
    #[serde(default, skip_serializing_if = "is_default")]
    zone: Shared,
    #[serde(default, skip_serializing_if = "is_default")]
    gap: StoredGap,
    #[serde(default, skip_serializing_if = "is_default")]
    fold: StoredFold,
    anchor: Ms,
    #[serde(default = "first", skip_serializing_if = "is_first")]
    plan: u32,
}

/// See [`Gap`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredGap {
    #[default]
    Auto,
    Shift,
    Skip,
    End,
}

/// See [`Fold`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredFold {
    #[default]
    Auto,
    First,
    Second,
    Both,
}

/// See [`Rules`]. The defaults are those of the format, whatever becomes of those of the core.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct StoredRules {
    #[serde(skip_serializing_if = "is_default")]
    disabled: bool,
    #[serde(skip_serializing_if = "is_default")]
    high_priority: bool,
    #[serde(skip_serializing_if = "is_default")]
    catch_up: StoredCatchUp,
    #[serde(skip_serializing_if = "Option::is_none")]
    epsilon: Option<Span>,
    #[serde(skip_serializing_if = "is_default")]
    overlap: StoredOverlap,
    #[serde(skip_serializing_if = "is_default")]
    retry: StoredRetry,
    #[serde(skip_serializing_if = "is_default")]
    guarantee: StoredGuarantee,
    #[serde(skip_serializing_if = "is_an_hour")]
    lost_after: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_max: Option<Span>,
    #[serde(skip_serializing_if = "is_default")]
    soft_error: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<Span>,
    #[serde(skip_serializing_if = "is_default")]
    owner: Shared,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<(Shared, Shared)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alerts: Option<StoredAlertRules>,
}

/// See [`CatchUp`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredCatchUp {
    #[default]
    Latest,
    All {
        count_max: u64,
        age_max: Span,
    },
    None,
}

/// See [`Overlap`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOverlap {
    #[default]
    Queue,
    Skip,
    Replace,
    Allow {
        max: u32,
    },
}

/// See [`Retry`].
#[derive(PartialEq, Serialize, Deserialize)]
struct StoredRetry {
    max: u32,
    /// Always written, as the first versions of this format need it. Some later ones left it out where the job does not say.
    delay: Option<Span>,
    /// The job does not say; the delay is what those first versions take for that.
    #[serde(default, skip_serializing_if = "is_default")]
    delay_unsaid: bool,
    factor_percent: u32,
    delay_max: Span,
}

/// What the first versions of this format had in jobs that do not say.
const DELAY_UNSAID: Duration = Duration::from_secs(60);

/// See [`Guarantee`].
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredGuarantee {
    #[default]
    AtMostOnce,
    AtLeastOnce,
}

/// See [`Progress`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredProgress {
    job: Uid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<StoredSlot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<StoredSlot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    accounted_since: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<StoredPause>,
    #[serde(default, skip_serializing_if = "is_default")]
    sequence: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flags: Vec<(Uid, StoredCycle)>,
    #[serde(default, skip_serializing_if = "is_default")]
    successes: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    errors: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    errors_in_a_row: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quick_failures: Option<StoredQuickFailures>,
    /// Older versions of this format know no such thing, and forget it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    given_up: Vec<StoredGivenUp>,
}

/// See [`GivenUp`].
#[derive(Serialize, Deserialize)]
struct StoredGivenUp {
    run: Key,
    attempt: u32,
    node: Text,
    at: Ms,
}

/// See [`QuickFailures`].
#[derive(Serialize, Deserialize)]
struct StoredQuickFailures {
    count: u32,
    last: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Ms>,
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

fn first() -> u32 {
    1
}

fn is_first(version: &u32) -> bool {
    *version == first()
}

fn is_an_hour(span: &Span) -> bool {
    *span == StoredRules::default().lost_after
}

impl Default for StoredRules {
    fn default() -> Self {
        Self {
            disabled: false,
            high_priority: false,
            catch_up: StoredCatchUp::Latest,
            epsilon: None,
            overlap: StoredOverlap::Queue,
            retry: StoredRetry::default(),
            guarantee: StoredGuarantee::AtMostOnce,
            lost_after: Span(Duration::from_secs(3600)),
            run_max: None,
            soft_error: false,
            jitter: None,
            owner: Shared::default(),
            labels: Vec::new(),
            alerts: None,
        }
    }
}

impl Default for StoredRetry {
    fn default() -> Self {
        let delay_max = Span(Duration::from_secs(3600));
        Self { max: 2, delay: Some(Span(DELAY_UNSAID)), delay_unsaid: true, factor_percent: 100, delay_max }
    }
}

impl From<&Job> for StoredJob {
    fn from(job: &Job) -> Self {
        let Job { uid, version, created, changed, joins_from, name, plan, rules, body } = job;
        let (schedule, parents) = match plan {
            Plan::Schedule(timetable) => (Some(timetable.into()), None),
            Plan::Parents(parents) => (None, Some(parents.iter().copied().map(Uid).collect())),
        };
        let unless_created = |at: &jiff::Timestamp| (at != created).then_some(Ms(*at));
        Self {
            uid: Uid(*uid),
            version: *version,
            name: Name(name.clone()),
            created: Ms(*created),
            changed: unless_created(changed),
            graph: joins_from.0,
            schedule,
            parents,
            rules: (&**rules).into(),
            body: Text(body.clone()),
        }
    }
}

impl TryFrom<StoredJob> for Job {
    type Error = &'static str;

    fn try_from(stored: StoredJob) -> Result<Self, Self::Error> {
        let StoredJob { uid, version, name, created, changed, graph, schedule, parents, rules, body } =
            stored;
        let plan = match (schedule, parents) {
            (Some(timetable), None) => Plan::Schedule(timetable.into()),
            (None, Some(parents)) => Plan::Parents(parents.into_iter().map(|uid| uid.0).collect()),
            _ => return Err("a job has either `schedule` or `parents`"),
        };
        let (rules, body) = lift(rules.into(), body.0);
        Ok(Self {
            uid: uid.0,
            version,
            created: created.0,
            changed: changed.unwrap_or(created).0,
            joins_from: GraphVersion(graph),
            name: name.0,
            plan,
            rules: rules.shared(),
            body,
        })
    }
}

/// Jobs that were stored before the scheduler read owner and labels have them in their body.
fn lift(rules: Rules, body: Arc<str>) -> (Rules, Arc<str>) {
    let may_have = body.contains("\"owner\":") || body.contains("\"labels\":");
    let fields = may_have.then(|| serde_json::from_str::<Map<String, Value>>(&body).ok()).flatten();
    let Some(mut fields) = fields.filter(|_| rules.tags.is_none()) else { return (rules, body) };
    let owner = fields.remove("owner").and_then(|owner| owner.as_str().map(Arc::from)).unwrap_or_default();
    let labels = match fields.remove("labels") {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    };
    let label = |(key, value): (String, Value)| Some((key.into(), value.as_str()?.into()));
    match (Tags { owner, labels: labels.into_iter().filter_map(label).collect() }).kept() {
        None => (rules, body),
        tags => (Rules { tags, ..rules }, Value::Object(fields).to_string().into()),
    }
}

impl From<&Timetable> for StoredTimetable {
    fn from(Timetable { text, zone, dst, anchor, plan }: &Timetable) -> Self {
        Self {
            text: Shared(text.clone()),
            zone: Shared(zone.clone()),
            gap: dst.gap.into(),
            fold: dst.fold.into(),
            anchor: Ms(*anchor),
            plan: *plan,
        }
    }
}

impl From<StoredTimetable> for Timetable {
    fn from(StoredTimetable { text, zone, gap, fold, anchor, plan }: StoredTimetable) -> Self {
        let dst = DstPolicy { gap: gap.into(), fold: fold.into() };
        Self { text: text.0, zone: zone.0, dst, anchor: anchor.0, plan }
    }
}

impl From<Gap> for StoredGap {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::Auto => Self::Auto,
            Gap::Shift => Self::Shift,
            Gap::Skip => Self::Skip,
            Gap::End => Self::End,
        }
    }
}

impl From<StoredGap> for Gap {
    fn from(stored: StoredGap) -> Self {
        match stored {
            StoredGap::Auto => Self::Auto,
            StoredGap::Shift => Self::Shift,
            StoredGap::Skip => Self::Skip,
            StoredGap::End => Self::End,
        }
    }
}

impl From<Fold> for StoredFold {
    fn from(fold: Fold) -> Self {
        match fold {
            Fold::Auto => Self::Auto,
            Fold::First => Self::First,
            Fold::Second => Self::Second,
            Fold::Both => Self::Both,
        }
    }
}

impl From<StoredFold> for Fold {
    fn from(stored: StoredFold) -> Self {
        match stored {
            StoredFold::Auto => Self::Auto,
            StoredFold::First => Self::First,
            StoredFold::Second => Self::Second,
            StoredFold::Both => Self::Both,
        }
    }
}

impl From<&Rules> for StoredRules {
    fn from(rules: &Rules) -> Self {
        let Rules {
            disabled,
            high_priority,
            catch_up,
            epsilon,
            jitter,
            overlap,
            retry,
            guarantee,
            lost_after,
            run_max,
            soft_error,
            ref tags,
            ref alerts,
        } = *rules;
        let Retry { max, delay, factor_percent, delay_max } = retry;
        let tags = tags.as_deref().cloned().unwrap_or_default();
        let label = |(key, value): &Label| (Shared(key.clone()), Shared(value.clone()));
        Self {
            disabled,
            high_priority,
            catch_up: match catch_up {
                CatchUp::Latest => StoredCatchUp::Latest,
                CatchUp::All { count_max, age_max } => {
                    StoredCatchUp::All { count_max, age_max: Span(age_max) }
                }
                CatchUp::None => StoredCatchUp::None,
            },
            epsilon: epsilon.map(Span),
            overlap: match overlap {
                Overlap::Queue => StoredOverlap::Queue,
                Overlap::Skip => StoredOverlap::Skip,
                Overlap::Replace => StoredOverlap::Replace,
                Overlap::Allow { max } => StoredOverlap::Allow { max },
            },
            retry: StoredRetry {
                max,
                delay: Some(Span(delay.unwrap_or(DELAY_UNSAID))),
                delay_unsaid: delay.is_none(),
                factor_percent,
                delay_max: Span(delay_max),
            },
            guarantee: match guarantee {
                Guarantee::AtMostOnce => StoredGuarantee::AtMostOnce,
                Guarantee::AtLeastOnce => StoredGuarantee::AtLeastOnce,
            },
            lost_after: Span(lost_after),
            run_max: run_max.map(Span),
            soft_error,
            jitter: jitter.map(Span),
            owner: Shared(tags.owner),
            labels: tags.labels.iter().map(label).collect(),
            alerts: alerts.as_deref().map(StoredAlertRules::from),
        }
    }
}

impl From<StoredRules> for Rules {
    fn from(stored: StoredRules) -> Self {
        let StoredRetry { max, delay, delay_unsaid, factor_percent, delay_max } = stored.retry;
        let delay = delay.filter(|_| !delay_unsaid);
        Self {
            disabled: stored.disabled,
            high_priority: stored.high_priority,
            catch_up: match stored.catch_up {
                StoredCatchUp::Latest => CatchUp::Latest,
                StoredCatchUp::All { count_max, age_max } => CatchUp::All { count_max, age_max: age_max.0 },
                StoredCatchUp::None => CatchUp::None,
            },
            epsilon: stored.epsilon.map(|span| span.0),
            overlap: match stored.overlap {
                StoredOverlap::Queue => Overlap::Queue,
                StoredOverlap::Skip => Overlap::Skip,
                StoredOverlap::Replace => Overlap::Replace,
                StoredOverlap::Allow { max } => Overlap::Allow { max },
            },
            retry: Retry { max, delay: delay.map(|span| span.0), factor_percent, delay_max: delay_max.0 },
            guarantee: match stored.guarantee {
                StoredGuarantee::AtMostOnce => Guarantee::AtMostOnce,
                StoredGuarantee::AtLeastOnce => Guarantee::AtLeastOnce,
            },
            lost_after: stored.lost_after.0,
            run_max: stored.run_max.map(|span| span.0),
            soft_error: stored.soft_error,
            jitter: stored.jitter.map(|span| span.0),
            tags: Tags {
                owner: stored.owner.0,
                labels: stored.labels.into_iter().map(|(key, value)| (key.0, value.0)).collect(),
            }
            .kept(),
            alerts: stored.alerts.map(|alerts| Arc::new(alerts.into())),
        }
    }
}

impl StoredProgress {
    pub(super) fn of(job: JobUid, progress: &Arc<Progress>) -> Self {
        let Progress {
            mark,
            next,
            remaining,
            accounted_since,
            paused,
            sequence,
            flags,
            successes,
            errors,
            errors_in_a_row,
            last_success,
            last_error,
            quick_failures,
            given_up,
        } = &**progress;
        Self {
            job: Uid(job),
            mark: mark.map(StoredSlot),
            next: next.map(StoredSlot),
            remaining: *remaining,
            accounted_since: Ms(*accounted_since),
            paused: paused.as_deref().map(|Pause { since, reason, until }| StoredPause {
                since: Ms(*since),
                reason: Text(reason.clone()),
                until: until.map(Ms),
            }),
            sequence: *sequence,
            flags: flags.iter().map(|(parent, cycle)| (Uid(*parent), cycle.into())).collect(),
            successes: *successes,
            errors: *errors,
            errors_in_a_row: *errors_in_a_row,
            last_success: last_success.map(|moment| Ms(moment.at())),
            last_error: last_error.map(|moment| Ms(moment.at())),
            quick_failures: quick_failures.as_deref().map(|QuickFailures { count, last, until }| {
                StoredQuickFailures { count: *count, last: Ms(*last), until: until.map(Ms) }
            }),
            given_up: given_up.iter().map(Into::into).collect(),
        }
    }

    pub(super) fn into_parts(self) -> (JobUid, Progress) {
        let flag = |(parent, cycle): (Uid, StoredCycle)| (parent.0, Cycle::from(cycle));
        let progress = Progress {
            mark: self.mark.map(|slot| slot.0),
            next: self.next.map(|slot| slot.0),
            remaining: self.remaining,
            accounted_since: self.accounted_since.0,
            paused: self.paused.map(|StoredPause { since, reason, until }| {
                Box::new(Pause { since: since.0, reason: reason.0, until: until.map(|at| at.0) })
            }),
            sequence: self.sequence,
            flags: self.flags.into_iter().map(flag).collect(),
            successes: self.successes,
            errors: self.errors,
            errors_in_a_row: self.errors_in_a_row,
            last_success: self.last_success.map(|at| at.0.into()),
            last_error: self.last_error.map(|at| at.0.into()),
            quick_failures: self.quick_failures.map(|StoredQuickFailures { count, last, until }| {
                Box::new(QuickFailures { count, last: last.0, until: until.map(|at| at.0) })
            }),
            given_up: self.given_up.into_iter().map(Into::into).collect(),
        };
        (self.job.0, progress)
    }
}

impl From<&GivenUp> for StoredGivenUp {
    fn from(GivenUp { run, attempt, node, at }: &GivenUp) -> Self {
        Self { run: Key(*run), attempt: *attempt, node: Text(node.clone()), at: Ms(*at) }
    }
}

impl From<StoredGivenUp> for GivenUp {
    fn from(StoredGivenUp { run, attempt, node, at }: StoredGivenUp) -> Self {
        Self { run: run.0, attempt, node: node.0, at: at.0 }
    }
}
