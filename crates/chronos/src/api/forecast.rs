//! Forecast: how many runs the next hours will bring, when they come together, and which jobs bring none.
//!
//! Slots are counted, each schedule once however many jobs share it. What follows from them, the starts of dependents, is
//! estimated: a child starts when its parents, started when their root is due, have taken as long as they lately did.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use scheduler::ids::JobUid;
use scheduler::job::{Job, Overlap, Plan, Progress, Timetable};
use scheduler::run::Record;
use scheduler::schedule::{Schedule, Zones};
use serde::{Deserialize, Serialize};
use store::projection::ProjectionHandle;
use store::{HistoryQuery, OutcomeKind};
use utoipa::{IntoParams, ToSchema};

use crate::wire::duration;
use crate::wire::job::instant;

use super::ApiContext;
use super::backfills::length;
use super::choice::{self, Choice, Chosen};
use super::error::{ApiError, ErrorBody, defect};
use super::extract::Params;

/// Longest forecast: a week.
const HOURS_MAX: u32 = 168;
/// Most buckets: a week of five minutes.
const BUCKETS_MAX: i64 = 2016;
/// Slots that are looked at one by one, and pieces of denser schedules, in all: about a second of work. What is left
/// is spread evenly.
const STEPS_MAX: u64 = 2_000_000;
/// Slots of one schedule that are looked at one by one; denser ones are counted bucket by bucket.
const WALKED_MAX: u64 = 2016;
/// The newest successes that say how long jobs take.
const HISTORY_MAX: usize = 5000;
/// Names in each list.
const NAMED_MAX: usize = 100;
/// Busy buckets and instants that are told.
const BUSIEST: usize = 5;

/// How far and how fine.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// How many hours; 1 to 168, 24 if absent.
    hours: Option<u32>,
    /// Length of a bucket, such as `15m`; at least a minute, at most 2016 of them; `15m` if absent.
    bucket: Option<String>,
}

/// What the next hours will bring.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Forecast {
    /// Now.
    from: String,
    /// How far it looks.
    to: String,
    /// Length of a bucket.
    bucket: String,
    /// In order.
    buckets: Vec<Bucket>,
    /// Starts of slots in all; counted, not estimated, unless a note says otherwise.
    slots: u64,
    /// Starts of dependents in all; estimated.
    dependents: u64,
    /// The busiest buckets, the busiest first.
    busiest: Vec<Bucket>,
    /// Instants at which most jobs are due together.
    together: Vec<Together>,
    /// Jobs whose runs usually take longer than it is to their next slot; at most 100.
    overlapping: Vec<Overlapping>,
    /// Scheduled jobs without a slot in this time, by reason.
    silent: Silent,
    /// Past slots that backfills have still to begin; they run when there is room, and are in no bucket.
    backfill_slots: u64,
    /// What is estimated, and by what.
    notes: Vec<String>,
}

/// Starts in a stretch of time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Bucket {
    /// When it begins.
    from: String,
    /// Starts of slots.
    slots: u64,
    /// Starts of dependents, estimated.
    dependents: u64,
}

/// Jobs that are due at one instant.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Together {
    /// When.
    at: String,
    /// How many.
    jobs: u64,
}

/// A job that will be in its own way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Overlapping {
    /// Its name.
    job: String,
    /// How long a run lately took.
    takes: String,
    /// The shortest time between two slots.
    every: String,
}

/// Jobs that bring nothing.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Silent {
    /// Disabled by their owners, or because they failed too often.
    disabled: u64,
    /// Paused beyond the end of the forecast.
    paused: u64,
    /// Their schedule is over.
    exhausted: u64,
    /// Their next slot is later.
    later: u64,
    /// Names of those that are disabled or paused; at most 100.
    jobs: Vec<String>,
}

/// Expected starts of the fleet's next hours.
#[utoipa::path(
    get, path = "/v1/forecast", tag = "jobs", params(Wanted, Chosen),
    responses((status = 200, body = Forecast), (status = 400, body = ErrorBody))
)]
pub(super) async fn forecast(
    State(ctx): State<ApiContext>,
    Params(wanted): Params<Wanted>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Forecast>, ApiError> {
    let now = Timestamp::now();
    let choice = Choice::of(&chosen, now)?;
    let grid = Grid::of(&wanted, Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now))?;
    let lengths = lengths(&ctx).await?;
    let (handle, zones) = (ctx.node.projection.clone(), ctx.node.zones.clone());
    let work = move || {
        let mut outlook = Outlook::new(grid, zones, lengths);
        outlook.look(&handle, &choice);
        outlook.told(&handle)
    };
    tokio::task::spawn_blocking(work).await.map(Json).map_err(|_| defect())
}

/// How long jobs took lately: the mean of their newest successes, as far as a look at the history reaches.
async fn lengths(ctx: &ApiContext) -> Result<HashMap<JobUid, Duration>, ApiError> {
    let outcomes = vec![OutcomeKind::Succeeded];
    let mut query = HistoryQuery { outcomes, limit: HistoryQuery::LIMIT_MAX, ..HistoryQuery::default() };
    let mut sums: HashMap<JobUid, (Duration, u32)> = HashMap::new();
    for _ in 0..HISTORY_MAX / HistoryQuery::LIMIT_MAX {
        let page = ctx.node.store.history(&query).await?;
        for record in &page.records {
            if let (Record::Run(run), Some(length)) = (record, length(record)) {
                let sum = sums.entry(run.key.job).or_default();
                *sum = (sum.0 + length, sum.1 + 1);
            }
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    Ok(sums.into_iter().map(|(job, (sum, count))| (job, sum / count.max(1))).collect())
}

/// Buckets of one length, from now on.
#[derive(Clone, Copy, Debug)]
struct Grid {
    from: Timestamp,
    to: Timestamp,
    bucket_ms: i64,
    buckets: usize,
}

impl Grid {
    fn of(wanted: &Wanted, from: Timestamp) -> Result<Self, ApiError> {
        let hours = wanted.hours.unwrap_or(24);
        if !(1..=HOURS_MAX).contains(&hours) {
            return Err(ApiError::invalid("hours", format!("`hours` is {hours}: expected 1 to {HOURS_MAX}")));
        }
        let text = wanted.bucket.as_deref().unwrap_or("15m");
        let wrong = |what: String| ApiError::invalid("bucket", format!("`bucket`: {what}"));
        let bucket =
            duration::parse(text).ok_or_else(|| wrong(format!("expected {}", duration::EXPECTED)))?;
        let bucket_ms = i64::try_from(bucket.as_millis()).unwrap_or(i64::MAX);
        let all_ms = i64::from(hours) * 3_600_000;
        if bucket_ms < 60_000 || bucket_ms > all_ms {
            return Err(wrong("expected at least a minute, and not more than `hours`".into()));
        }
        let buckets = (all_ms + bucket_ms - 1) / bucket_ms;
        if buckets > BUCKETS_MAX {
            return Err(wrong(format!("that makes {buckets} buckets, more than {BUCKETS_MAX}")));
        }
        let to = from.checked_add(SignedDuration::from_millis(all_ms)).unwrap_or(Timestamp::MAX);
        Ok(Self { from, to, bucket_ms, buckets: usize::try_from(buckets).unwrap_or(0) })
    }

    fn at(&self, bucket: usize) -> Timestamp {
        let offset = i64::try_from(bucket).unwrap_or(i64::MAX).saturating_mul(self.bucket_ms);
        self.from.checked_add(SignedDuration::from_millis(offset)).unwrap_or(Timestamp::MAX).min(self.to)
    }

    fn bucket(&self, at: Timestamp) -> Option<usize> {
        let offset = at.as_millisecond() - self.from.as_millisecond();
        usize::try_from(offset / self.bucket_ms).ok().filter(|bucket| *bucket < self.buckets && offset >= 0)
    }
}

/// The slots of a schedule in the buckets of a grid.
#[derive(Debug, Default)]
struct Shape {
    counts: Vec<u32>,
    total: u64,
    /// Shortest time between two slots.
    gap: Option<Duration>,
    /// Each slot, where they are few.
    dues: Vec<Timestamp>,
    /// Whether they were spread evenly because there was no time to count.
    even: bool,
}

/// What schedules have in common that are the same to the last slot.
type Key = (Arc<str>, Arc<str>, Option<Timestamp>, String);

struct Outlook {
    grid: Grid,
    zones: Zones,
    lengths: HashMap<JobUid, Duration>,
    steps: u64,
    shapes: HashMap<Key, Arc<Shape>>,
    slots: Vec<u64>,
    dependents: Vec<u64>,
    together: HashMap<Timestamp, u64>,
    overlapping: Vec<Overlapping>,
    silent: Silent,
    /// Where the starts of a job come from: the slots of its root, so much later.
    sources: BTreeMap<JobUid, (Arc<Shape>, Duration)>,
    waiting: BTreeMap<JobUid, Vec<JobUid>>,
    /// Jobs that are not counted, only followed.
    others: HashSet<JobUid>,
    even: u64,
    unknown: u64,
}

impl Outlook {
    fn new(grid: Grid, zones: Zones, lengths: HashMap<JobUid, Duration>) -> Self {
        Self {
            grid,
            zones,
            lengths,
            steps: 0,
            shapes: HashMap::new(),
            slots: vec![0; grid.buckets],
            dependents: vec![0; grid.buckets],
            together: HashMap::new(),
            overlapping: Vec::new(),
            silent: Silent::default(),
            sources: BTreeMap::new(),
            waiting: BTreeMap::new(),
            others: HashSet::new(),
            even: 0,
            unknown: 0,
        }
    }

    /// Counts what is chosen. A parent that is not chosen still says when its children start.
    fn look(&mut self, handle: &ProjectionHandle, choice: &Choice) {
        let mut jobs: Vec<(Arc<Job>, Arc<Progress>, bool)> = Vec::new();
        choice::each(handle, |projection, of| {
            let has_children = projection.children(of.job.uid).next().is_some();
            let chosen = choice.takes(of);
            if !chosen {
                self.others.insert(of.job.uid);
            }
            if chosen || has_children {
                jobs.push((of.job.clone(), of.progress.clone(), has_children));
            }
        });
        for (job, progress, has_children) in &jobs {
            match &job.plan {
                Plan::Schedule(table) => self.scheduled(job, progress, table, *has_children),
                Plan::Parents(parents) if !self.silences(job, progress) => {
                    self.waiting.insert(job.uid, parents.clone());
                }
                Plan::Parents(_) => {}
            }
        }
        self.follow();
    }

    /// Whether the job is disabled, or paused until after all this.
    fn silences(&mut self, job: &Job, progress: &Progress) -> bool {
        let paused =
            progress.paused.as_ref().is_some_and(|p| p.until.is_none_or(|until| until >= self.grid.to));
        if self.others.contains(&job.uid) {
            return job.rules.disabled || paused;
        }
        match (job.rules.disabled, paused) {
            (true, _) => self.silent.disabled += 1,
            (_, true) => self.silent.paused += 1,
            _ => return false,
        }
        if self.silent.jobs.len() < NAMED_MAX {
            self.silent.jobs.push(job.name.to_string());
        }
        true
    }

    fn scheduled(&mut self, job: &Job, progress: &Progress, table: &Timetable, has_children: bool) {
        if self.silences(job, progress) {
            return;
        }
        let counted = !self.others.contains(&job.uid);
        let Some(next) = progress.next else { return self.silent.exhausted += u64::from(counted) };
        if next.due >= self.grid.to {
            return self.silent.later += u64::from(counted);
        }
        let Some(shape) = self.shape(job, progress, table) else { return };
        if has_children {
            self.sources.insert(job.uid, (shape.clone(), Duration::ZERO));
        }
        if !counted {
            return;
        }
        self.even += u64::from(shape.even);
        for (sum, count) in self.slots.iter_mut().zip(&shape.counts) {
            *sum += u64::from(*count);
        }
        for due in &shape.dues {
            *self.together.entry(*due).or_default() += 1;
        }
        if let (Some(takes), Some(every)) = (self.lengths.get(&job.uid), shape.gap)
            && *takes > every
            && !matches!(job.rules.overlap, Overlap::Allow { max } if max > 1)
            && self.overlapping.len() < NAMED_MAX
        {
            let (takes, every) = (duration::text(seconds(*takes)), duration::text(every));
            self.overlapping.push(Overlapping { job: job.name.to_string(), takes, every });
        }
    }

    /// The slots of a job. Those that share a schedule share its shape, unless something of their own cuts it.
    fn shape(&mut self, job: &Job, progress: &Progress, table: &Timetable) -> Option<Arc<Shape>> {
        let resumes = progress.paused.as_ref().and_then(|pause| pause.until);
        let own = progress.remaining.is_some() || resumes.is_some_and(|until| until > self.grid.from);
        // `H` in a cron expression means something else for every job. An interval may have one as its unit.
        let cron = !table.text.trim_start().starts_with(['R', 'r']);
        let own = own || (cron && table.text.contains(['H', 'h']));
        // An empty start means the moment at which the job was posted.
        let anchor = table.text.contains("//").then_some(table.anchor);
        let key = (table.text.clone(), table.zone.clone(), anchor, format!("{:?}", table.dst));
        if let Some(shape) = self.shapes.get(&key).filter(|_| !own) {
            return Some(shape.clone());
        }
        let schedule = table.schedule(&self.zones, &job.name).ok()?;
        let from = resumes.unwrap_or(self.grid.from).max(self.grid.from);
        let shape = Arc::new(self.count(&schedule, from, progress.remaining));
        if !own {
            self.shapes.insert(key, shape.clone());
        }
        Some(shape)
    }

    fn count(&mut self, schedule: &Schedule, from: Timestamp, remaining: Option<u64>) -> Shape {
        let grid = self.grid;
        let mut shape = Shape { counts: vec![0; grid.buckets], ..Shape::default() };
        let Some(span) = schedule.span_from(from, grid.to) else { return shape };
        shape.total = span.count.min(remaining.unwrap_or(u64::MAX));
        let length = |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).ok();
        let walks = shape.total <= WALKED_MAX;
        self.steps += if walks { shape.total } else { grid.buckets as u64 };
        if self.steps > STEPS_MAX {
            spread(&mut shape);
            return shape;
        }
        if walks {
            let slots = std::iter::successors(Some(span.first), |slot| schedule.after(slot.nominal));
            shape.dues = slots.take(usize::try_from(shape.total).unwrap_or(0)).map(|slot| slot.due).collect();
            shape.gap = shape.dues.windows(2).filter_map(|pair| length(pair[0], pair[1])).min();
            for bucket in shape.dues.iter().filter_map(|due| grid.bucket(*due)) {
                shape.counts[bucket] += 1;
            }
            return shape;
        }
        let mut left = shape.total;
        for bucket in 0..grid.buckets {
            let (begin, end) = (grid.at(bucket).max(from), grid.at(bucket + 1));
            let before = |at: Timestamp| at.checked_sub(SignedDuration::from_millis(1)).unwrap_or(at);
            let count = schedule
                .span_from(before(begin).max(from), before(end))
                .map_or(0, |span| span.count)
                .min(left);
            left -= count;
            shape.counts[bucket] = u32::try_from(count).unwrap_or(u32::MAX);
        }
        let second = schedule.after(span.first.nominal);
        shape.gap = second.and_then(|second| length(span.first.due, second.due));
        shape
    }

    /// Dependents, parents before children. Those of jobs that bring nothing bring nothing.
    fn follow(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut children: BTreeMap<JobUid, Vec<JobUid>> = BTreeMap::new();
        for (job, parents) in &waiting {
            parents.iter().for_each(|parent| children.entry(*parent).or_default().push(*job));
        }
        let mut missing: BTreeMap<JobUid, usize> =
            waiting.iter().map(|(job, parents)| (*job, parents.len())).collect();
        let mut done: Vec<JobUid> = self.sources.keys().copied().collect();
        while let Some(parent) = done.pop() {
            for child in children.get(&parent).into_iter().flatten() {
                let Some(left) = missing.get_mut(child) else { continue };
                *left -= 1;
                if *left == 0 {
                    self.descend(*child, &waiting[child]);
                    done.push(*child);
                }
            }
        }
    }

    /// A child starts when its slowest parent has ended; of several roots the one with the fewest slots decides how often.
    fn descend(&mut self, job: JobUid, parents: &[JobUid]) {
        let known = parents.iter().filter(|parent| self.lengths.contains_key(parent)).count();
        self.unknown += (parents.len() - known) as u64;
        let ready = |parent: &JobUid| {
            let (shape, offset) = self.sources.get(parent)?;
            Some((shape.clone(), *offset + self.lengths.get(parent).copied().unwrap_or_default()))
        };
        let latest = parents.iter().filter_map(ready).map(|(_, offset)| offset).max();
        let rarest = parents.iter().filter_map(ready).map(|(shape, _)| shape).min_by_key(|shape| shape.total);
        let (Some(offset), Some(shape)) = (latest, rarest) else { return };
        let later = i64::try_from(offset.as_millis()).unwrap_or(i64::MAX) / self.grid.bucket_ms;
        let later = usize::try_from(later).unwrap_or(usize::MAX);
        if !self.others.contains(&job) {
            for (sum, count) in self.dependents.iter_mut().skip(later).zip(&shape.counts) {
                *sum += u64::from(*count);
            }
        }
        self.sources.insert(job, (shape, offset));
    }

    fn told(self, handle: &ProjectionHandle) -> Forecast {
        let bucket = |n: usize| Bucket {
            from: instant(self.grid.at(n)),
            slots: self.slots[n],
            dependents: self.dependents[n],
        };
        let buckets: Vec<Bucket> = (0..self.grid.buckets).map(bucket).collect();
        let mut busiest = buckets.clone();
        busiest.sort_by_key(|bucket| std::cmp::Reverse(bucket.slots + bucket.dependents));
        busiest.retain(|bucket| bucket.slots + bucket.dependents > 0);
        busiest.truncate(BUSIEST);
        let mut together: Vec<(u64, Timestamp)> =
            self.together.into_iter().map(|(at, jobs)| (jobs, at)).filter(|(jobs, _)| *jobs > 1).collect();
        together.sort_by_key(|(jobs, at)| (std::cmp::Reverse(*jobs), *at));
        together.truncate(BUSIEST);
        let mut notes = Vec::new();
        if self.dependents.iter().any(|count| *count > 0) {
            notes.push(
                "starts of dependents are estimated: every run succeeds and takes as long as lately"
                    .to_owned(),
            );
        }
        if self.unknown > 0 {
            notes.push(format!("for {} parents no duration is known: they count as no time", self.unknown));
        }
        if self.even > 0 {
            notes.push(format!("the slots of {} jobs are spread evenly: too many to count", self.even));
        }
        let backfill_slots = handle.read().state().backfills.values().map(|backfill| backfill.left()).sum();
        Forecast {
            from: instant(self.grid.from),
            to: instant(self.grid.to),
            bucket: duration::text(Duration::from_millis(self.grid.bucket_ms.unsigned_abs())),
            buckets,
            slots: self.slots.iter().sum(),
            dependents: self.dependents.iter().sum(),
            busiest,
            together: together.into_iter().map(|(jobs, at)| Together { at: instant(at), jobs }).collect(),
            overlapping: self.overlapping,
            silent: self.silent,
            backfill_slots,
            notes,
        }
    }
}

/// Spreads the slots evenly, the remainder over the first buckets.
fn spread(shape: &mut Shape) {
    let buckets = shape.counts.len().max(1) as u64;
    let (each, rest) = (shape.total / buckets, shape.total % buckets);
    for (n, count) in (0..).zip(shape.counts.iter_mut()) {
        *count = u32::try_from(each + u64::from(n < rest)).unwrap_or(u32::MAX);
    }
    shape.even = true;
}

fn seconds(length: Duration) -> Duration {
    Duration::from_secs(length.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use scheduler::schedule::{DstPolicy, Spread};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_800 + second).expect("a time")
    }

    fn outlook(hours: u32, bucket: &str) -> Outlook {
        let wanted = Wanted { hours: Some(hours), bucket: Some(bucket.into()) };
        Outlook::new(Grid::of(&wanted, at(0)).expect("a grid"), Zones::bundled(), HashMap::new())
    }

    fn schedule(text: &str) -> Schedule {
        let (zones, spread) = (Zones::bundled(), Spread::of("job"));
        Schedule::parse(&zones, text, "", DstPolicy::default(), at(0), spread).expect("a schedule")
    }

    #[test]
    fn few_slots_are_walked_and_many_are_counted() {
        let mut outlook = outlook(2, "30m");
        let shape = outlook.count(&schedule("R//PT1H"), at(0), None);
        assert_eq!(
            (shape.counts, shape.total, shape.gap),
            (vec![0, 0, 1, 0], 2, Some(Duration::from_secs(3600)))
        );
        let shape = outlook.count(&schedule("R//PT1S"), at(0), None);
        assert_eq!((shape.counts, shape.gap), (vec![1799, 1800, 1800, 1800], Some(Duration::from_secs(1))));
        assert!(outlook.steps < 10, "a dense schedule costs a step for each bucket");
        let shape = outlook.count(&schedule("R//PT1S"), at(0), Some(2000));
        assert_eq!(shape.counts, [1799, 201, 0, 0]);
    }

    #[test]
    fn beyond_the_bound_slots_are_spread_evenly() {
        let mut outlook = outlook(1, "20m");
        outlook.steps = STEPS_MAX;
        let shape = outlook.count(&schedule("R//PT6M"), at(0), None);
        assert_eq!((shape.counts, shape.even), (vec![4, 3, 3], true));
    }

    #[test]
    fn grids_have_bounds() {
        let grid = |hours: u32, bucket: &str| {
            Grid::of(&Wanted { hours: Some(hours), bucket: Some(bucket.into()) }, at(0))
                .map(|grid| grid.buckets)
        };
        assert_eq!(grid(24, "15m").ok(), Some(96));
        assert_eq!(grid(1, "7m").ok(), Some(9));
        for (hours, bucket) in [(0, "15m"), (169, "15m"), (24, "10s"), (1, "2h"), (168, "1m"), (24, "x")] {
            assert!(grid(hours, bucket).is_err(), "{hours} {bucket}");
        }
    }
}
