//! The slots to come: of one job, or of all of them in the order in which they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use axum::Json;
use axum::extract::State;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use scheduler::ids::JobName;
use scheduler::job::{Job, Plan, Progress};
use scheduler::schedule::{Nominal, Schedule, Slot, Zones};
use serde::{Deserialize, Serialize};
use store::projection::ProjectionHandle;
use utoipa::{IntoParams, ToSchema};

use super::choice::{self, Choice, Chosen};
use super::error::{ApiError, ErrorBody, defect};
use super::extract::{self, Params, limit};
use super::lists::{Field, Key, Order, Page, Way, wrong_cursor};
use super::view::{self, SlotView};
use super::{ApiContext, Found};

/// Which slots.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Coming {
    /// At most so many; 1 to 1000, 10 if absent.
    limit: Option<usize>,
    /// The same, as it was called before.
    count: Option<usize>,
    /// Only those due at or after this.
    from: Option<String>,
    /// Only those due at or before this.
    until: Option<String>,
    /// `due`, the only order there is.
    sort: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The same, read: slots from `after` on, which is where the page before ended.
struct Stretch {
    limit: usize,
    from: Timestamp,
    until: Timestamp,
    after: Option<(Timestamp, JobName)>,
}

/// What lists of slots are sorted by.
#[derive(Clone, Copy, PartialEq)]
enum SlotField {
    Due,
}

impl Field for SlotField {
    const ALL: &'static [(&'static str, Self)] = &[("due", Self::Due)];
}

const BY_DUE: Order<SlotField> = Order { field: SlotField::Due, way: Way::Up };

impl Stretch {
    fn of(coming: &Coming) -> Result<Self, ApiError> {
        let instant = |field, text: &Option<String>, absent| match text {
            Some(text) => extract::instant(field, text),
            None => Ok(absent),
        };
        let order: Order<SlotField> = Order::of(coming.sort.as_deref(), (SlotField::Due, Way::Up))?;
        if order != BY_DUE {
            return Err(ApiError::invalid("sort", "`sort`: slots have no end to begin with; expected due"));
        }
        let limit = limit(coming.limit.or(coming.count), 10, 1000)?;
        let place = BY_DUE.place(coming.cursor.as_deref(), |text| JobName::new(text).ok())?;
        let after = match place {
            None => None,
            Some((Key::Number(ms), name)) => {
                Some((Timestamp::from_millisecond(ms).map_err(|_| wrong_cursor())?, name))
            }
            Some(_) => return Err(wrong_cursor()),
        };
        let from = instant("from", &coming.from, Timestamp::MIN)?;
        let from = after.as_ref().map_or(from, |(due, _)| from.max(*due));
        Ok(Self { limit, from, until: instant("until", &coming.until, Timestamp::MAX)?, after })
    }

    /// Whether a slot is on this page or a later one; those at the place where the page before ended are told by name.
    fn takes(&self, due: Timestamp, name: &JobName) -> bool {
        (self.from..=self.until).contains(&due)
            && self.after.as_ref().is_none_or(|(at, last)| (due, name) > (*at, last))
    }
}

/// Slots that are to come.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slots {
    /// Of one job whose schedule has an `H`: the schedule with each `H` replaced by what it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_resolved: Option<String>,
    /// In the order in which they are due, and at one instant by the name of the job.
    slots: Vec<SlotView>,
    /// Cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The next slots of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{name}/next", tag = "jobs", params(("name" = String, Path), Coming),
    responses((status = 200, body = Slots), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn next(
    State(ctx): State<ApiContext>,
    extract::Job(name): extract::Job,
    Params(coming): Params<Coming>,
) -> Result<Json<Slots>, ApiError> {
    let stretch = Stretch::of(&coming)?;
    let found = ctx.job(&name)?;
    let schedule_resolved =
        schedule(&ctx.node.zones, &found.0).and_then(|schedule| schedule.resolved().map(Into::into));
    let (slots, next) = merged(&ctx.node.zones, &[found], &stretch);
    Ok(Json(Slots { schedule_resolved, slots, next }))
}

/// The next slots of all jobs, or of those that are chosen.
#[utoipa::path(
    get, path = "/v1/next", tag = "jobs", params(Coming, Chosen),
    responses((status = 200, body = Slots), (status = 400, body = ErrorBody))
)]
pub(super) async fn fleet(
    State(ctx): State<ApiContext>,
    Params(coming): Params<Coming>,
    Params(chosen): Params<Chosen>,
) -> Result<Json<Slots>, ApiError> {
    let stretch = Stretch::of(&coming)?;
    let choice = Choice::of(&chosen, Timestamp::now())?;
    let work = move || {
        let jobs = taking_part(&ctx.node.projection, &choice, &stretch);
        let (slots, next) = merged(&ctx.node.zones, &jobs, &stretch);
        Slots { schedule_resolved: None, slots, next }
    };
    tokio::task::spawn_blocking(work).await.map(Json).map_err(|_| defect())
}

/// The jobs whose slots may be on the page: those whose next slot lies before it, which have to be looked at, and of the
/// others those that come first, one for each slot of the page at most.
fn taking_part(handle: &ProjectionHandle, choice: &Choice, stretch: &Stretch) -> Vec<Found> {
    let mut before = Vec::new();
    let mut first = Page::new(None, stretch.limit);
    choice::each(handle, |_, of| {
        let next = of.progress.next.filter(|next| next.due <= stretch.until && !of.job.rules.disabled);
        let Some(next) = next.filter(|_| choice.takes(of)) else { return };
        if stretch.takes(next.due, &of.job.name) {
            first.offer(BY_DUE.time(Some(next.due)), &of.job.name, || (of.job.clone(), of.progress.clone()));
        } else {
            before.push((of.job.clone(), of.progress.clone()));
        }
    });
    before.extend(first.rows());
    before
}

/// The earliest slots of all these jobs, and the cursor of what comes after them. Schedules are read only of jobs that
/// take part.
fn merged(zones: &Zones, jobs: &[Found], stretch: &Stretch) -> (Vec<SlotView>, Option<String>) {
    let now = Timestamp::now();
    let mut rows: Vec<_> = Vec::new();
    let mut heads = BinaryHeap::new();
    for (job, progress) in jobs {
        // Most begin at the slot that is known, and need no schedule before it is their turn.
        let head = progress.next.filter(|next| !job.rules.disabled && stretch.takes(next.due, &job.name));
        let mut row = None;
        let head = head.or_else(|| {
            let mut slots = slots_from(zones, job, progress, stretch.from);
            let first = slots.find(|slot| slot.due > stretch.until || stretch.takes(slot.due, &job.name));
            row = Some(slots);
            first
        });
        if let Some(slot) = head.filter(|slot| slot.due <= stretch.until) {
            heads.push(Reverse((slot.due, &job.name, rows.len())));
            rows.push((job, progress, slot, row));
        }
    }
    let (mut slots, mut last) = (Vec::new(), None);
    while let Some(Reverse((due, name, i))) = heads.pop() {
        if slots.len() == stretch.limit {
            let next =
                last.map(|(due, name): (Timestamp, &JobName)| BY_DUE.cursor(&BY_DUE.time(Some(due)), name));
            return (slots, next);
        }
        let (job, progress, slot, row) = &mut rows[i];
        let zone = view::zone(zones, job);
        slots.push(view::slot(job, &zone, slot, note(&zone, progress, slot, now)));
        last = Some((due, name));
        let following = row.get_or_insert_with(|| {
            let mut slots = slots_from(zones, job, progress, due);
            slots.next();
            slots
        });
        if let Some(next) = following.next().filter(|next| next.due <= stretch.until) {
            *slot = next;
            heads.push(Reverse((next.due, name, i)));
        }
    }
    (slots, None)
}

/// The schedule of a job; it was read when it was posted, so it can be read again.
pub(super) fn schedule(zones: &Zones, job: &Job) -> Option<Schedule> {
    match &job.plan {
        Plan::Schedule(timetable) => timetable.schedule(zones, &job.name).ok(),
        Plan::Parents(_) => None,
    }
}

/// The slots that will be, as far as is known now.
pub(super) fn upcoming(
    zones: &Zones,
    job: &Job,
    progress: &Progress,
    now: Timestamp,
) -> impl Iterator<Item = SlotView> {
    let zone = view::zone(zones, job);
    slots_from(zones, job, progress, Timestamp::MIN)
        .map(move |slot| view::slot(job, &zone, &slot, note(&zone, progress, &slot, now)))
}

/// The slots of a job that are due at or after an instant, without a walk through those before it.
fn slots_from(
    zones: &Zones,
    job: &Job,
    progress: &Progress,
    from: Timestamp,
) -> impl Iterator<Item = Slot> + use<> {
    let schedule = schedule(zones, job);
    let mut left = progress.remaining.unwrap_or(u64::MAX);
    let mut first = progress.next.filter(|_| !job.rules.disabled);
    if let (Some(next), Some(schedule)) = (first.filter(|next| next.due < from), &schedule) {
        let just_before = from.checked_sub(SignedDuration::from_millis(1)).unwrap_or(from);
        first = schedule.first_after(just_before);
        if progress.remaining.is_some() {
            let passed = schedule.span(next.nominal, just_before).map_or(0, |span| span.count) + 1;
            left = left.saturating_sub(passed);
        }
    }
    std::iter::successors(first, move |slot: &Slot| schedule.as_ref()?.after(slot.nominal))
        .take(usize::try_from(left).unwrap_or(usize::MAX))
}

fn note(zone: &TimeZone, progress: &Progress, slot: &Slot, now: Timestamp) -> Option<String> {
    let paused =
        progress.paused.as_ref().is_some_and(|p| p.until.is_none_or(|until| until > slot.due && until > now));
    let kept = match paused {
        true => Some("the job is paused".into()),
        false => (slot.due <= now).then(|| "due now".into()),
    };
    let notes: Vec<String> = kept.into_iter().chain(moved(zone, slot)).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// What the clock of the zone does to a slot of a cron expression: it leaves its time out, or shows it twice. Slots of
/// intervals are known by number, not by what the clock shows.
fn moved(zone: &TimeZone, slot: &Slot) -> Option<String> {
    let Nominal::Civil { second, .. } = slot.nominal else { return None };
    let civil = Offset::UTC.to_datetime(Timestamp::from_second(second).ok()?);
    let shown = civil.strftime("%H:%M");
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { .. } => None,
        AmbiguousOffset::Gap { .. } => Some(format!("moved: the clock leaves out {shown} on this day")),
        AmbiguousOffset::Fold { before, .. } => {
            let first = before.to_timestamp(civil).is_ok_and(|first| first == slot.due);
            let which = if first { "first" } else { "second" };
            Some(format!("the clock shows {shown} twice on this day: this is the {which} time"))
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler::job::Pause;
    use scheduler::schedule::{DstPolicy, Spread};

    use super::*;

    #[test]
    fn a_slot_that_a_change_of_clocks_touches_says_so() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let zones = Zones::bundled();
        let notes = |cron: &str, after: &str, count: usize| -> Vec<_> {
            let dst = DstPolicy::default();
            let schedule = Schedule::parse(&zones, cron, "Europe/Berlin", dst, at(after), Spread::of("a"));
            let schedule = schedule.expect("a schedule");
            let zone = schedule.zone().time_zone();
            let progress = Progress::new(at(after));
            let slots = schedule.upcoming(at(after)).take(count);
            slots.map(|slot| note(zone, &progress, &slot, at(after)).unwrap_or_default()).collect()
        };
        let daily = notes("30 2 * * *", "2030-03-29T12:00:00Z", 3);
        assert_eq!(daily, ["", "moved: the clock leaves out 02:30 on this day", ""]);
        let twice = |which| format!("the clock shows 02:30 twice on this day: this is the {which} time");
        let half_past = notes("30 * * * *", "2030-10-26T23:31:00Z", 3);
        assert_eq!(half_past, [twice("first"), twice("second"), String::new()]);
    }

    #[test]
    fn a_note_says_all_there_is_to_say() {
        let zone = TimeZone::UTC;
        let slot = Slot { nominal: Nominal::Index(0), due: Timestamp::UNIX_EPOCH };
        let mut progress = Progress::new(slot.due);
        assert_eq!(note(&zone, &progress, &slot, slot.due).as_deref(), Some("due now"));
        let pause = Pause { since: slot.due, reason: "".into(), until: None };
        progress.paused = Some(Box::new(pause));
        assert_eq!(note(&zone, &progress, &slot, slot.due).as_deref(), Some("the job is paused"));
    }
}
