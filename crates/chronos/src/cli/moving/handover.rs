//! From where an old Chronos goes on with a job: it keeps in its definition how far the job has come, and knows no pause.

use std::borrow::Cow;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};
use scheduler::schedule::{Schedule, Zones};
use serde_json::{Map, Value, json};

use super::definition;
use crate::cli::backfill::instant;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::queries::columns;
use crate::config::Length;

/// When the old Chronos goes on: what is due until then is not for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Handover {
    Now,
    After(SignedDuration),
    At(Timestamp),
}

impl Handover {
    /// What `--advance` means without a value.
    pub(in crate::cli) const NOW: &str = "now";

    /// The instant that is meant by who says it now: never one that has passed, as its slots have been launched, and a
    /// whole second, as people read that.
    pub(in crate::cli) fn from(self, now: Timestamp) -> Result<Timestamp, Failure> {
        let at = match self {
            Self::Now => return Ok(now),
            Self::At(at) => return Ok(at.max(now)),
            Self::After(length) => now.checked_add(length),
        };
        at.and_then(|at| at.round(TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Ceil)))
            .map_err(|error| Failure::new(Exit::Usage, error).context("--advance is too long"))
    }
}

impl FromStr for Handover {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == Self::NOW {
            return Ok(Self::Now);
        }
        if let Ok(length) = text.parse::<Length>()
            && let Ok(length) = SignedDuration::try_from(length.0)
        {
            return Ok(Self::After(length));
        }
        instant(text).map(Self::At).map_err(|_| "expected a time such as 2030-01-01T06:00:00Z, or 10m".into())
    }
}

/// A job that is to go on elsewhere.
pub(in crate::cli) struct Leaving {
    pub(in crate::cli) definition: Map<String, Value>,
    progress: Progress,
}

/// How far a job has come, which its definition does not say.
struct Progress {
    /// Slots left of `Rn`.
    remaining: Option<u64>,
    /// The next slot; none for a disabled job, and where the schedule is over.
    next: Option<Timestamp>,
    paused: bool,
}

/// Jobs of a server with how far they have come, as it tells them of one moment.
pub(in crate::cli) async fn leaving(
    client: &Client,
    query: Vec<(&str, String)>,
    limit: usize,
) -> Result<Vec<Leaving>, Failure> {
    let lists = ["definitions", "progress"];
    let [definitions, progress] = columns(client, &["v1", "definitions"], query, lists, limit).await?;
    if definitions.len() != progress.len() {
        let message = "this server does not tell how far its jobs have come: it is older than this command";
        return Err(Failure::new(Exit::Refused, anyhow::anyhow!(message)).hint("upgrade it first"));
    }
    let jobs = definitions.into_iter().zip(progress).filter_map(|(definition, progress)| match definition {
        Value::Object(definition) => Some(Leaving { definition, progress: Progress::read(&progress) }),
        _ => None,
    });
    Ok(jobs.collect())
}

impl Progress {
    fn read(told: &Value) -> Self {
        Self {
            remaining: told["remaining"].as_u64(),
            next: told["next"].as_str().and_then(|next| next.parse().ok()),
            paused: !told["paused"].is_null(),
        }
    }
}

impl Leaving {
    /// The definition as an old Chronos would have it by now: with the slots that are left, and disabled where it must not
    /// run. With `until` it also begins behind all slots until then, which are launched here. The notes say what was
    /// written that its author has not said.
    pub(super) fn carried(
        self,
        until: Option<Timestamp>,
        zones: &Zones,
    ) -> (Map<String, Value>, Vec<String>) {
        let Self { mut definition, progress } = self;
        let is_disabled = definition.get("disabled") == Some(&json!(true));
        let (mut is_over, mut notes) = (false, Vec::new());
        if let Some(left) = Left::of(&definition, &progress, until, zones) {
            is_over = left.next.is_none() && !is_disabled;
            if is_over {
                let by =
                    until.filter(|_| progress.next.is_some()).map_or(String::new(), |t| format!(" by {t}"));
                notes.push(format!("its schedule is over{by}, so it is written as disabled"));
            } else {
                notes.extend(left.told());
            }
            let text = left.text();
            definition.insert("schedule".into(), text.into());
        }
        if progress.paused && !is_disabled && !is_over {
            notes.push("it is paused, which the old Chronos does not know: it is written as disabled".into());
        }
        if progress.paused || is_over {
            definition.insert("disabled".into(), json!(true));
        }
        (definition, notes)
    }
}

/// What is left of a repeating interval.
struct Left<'a> {
    /// How often it was to repeat, and how often it still is; none for ever.
    repeats: Option<(u64, u64)>,
    start: Cow<'a, str>,
    period: &'a str,
    /// The first slot that is left, as in [`Progress::next`].
    next: Option<Timestamp>,
}

impl<'a> Left<'a> {
    fn of(
        definition: &'a Map<String, Value>,
        progress: &Progress,
        until: Option<Timestamp>,
        zones: &Zones,
    ) -> Option<Self> {
        let (repeats, start, period) =
            definition::interval(definition.get("schedule").and_then(Value::as_str)?)?;
        let said = repeats[1..].parse().ok();
        let repeats = said.map(|said| (said, progress.remaining.unwrap_or(said)));
        let mut left = Self { repeats, start: start.into(), period, next: progress.next };
        if let (Some(until), Some(next)) = (until, progress.next) {
            // An empty start was when the job was posted; from its next slot on the slots are the same.
            left.move_on(until, next, &definition::schedule(definition, zones, next)?);
        }
        Some(left)
    }

    /// Begins with the first slot after `until`, if that is not where it begins anyway.
    fn move_on(&mut self, until: Timestamp, next: Timestamp, schedule: &Schedule) {
        let mut first = Some(next);
        if let Some(passing) = schedule.span_from(next - SignedDuration::from_millis(1), until) {
            self.repeats = self.repeats.map(|(said, left)| (said, left.saturating_sub(passing.count)));
            let is_left = self.repeats.is_none_or(|(_, left)| left > 0);
            first = schedule.first_after(until).map(|slot| slot.due).filter(|_| is_left);
        }
        let begins = schedule.first_after(Timestamp::MIN).map(|slot| slot.due);
        if let Some(first) = first.filter(|first| self.start.is_empty() || begins != Some(*first)) {
            self.start = definition::start(schedule, first).into();
        }
        self.next = first;
    }

    fn text(&self) -> String {
        let repeats = self.repeats.map_or(String::new(), |(_, left)| left.to_string());
        format!("R{repeats}/{}/{}", self.start, self.period)
    }

    /// Whether slots have been used up.
    fn told(&self) -> Option<String> {
        let (said, left) = self.repeats.filter(|(said, left)| left < said)?;
        Some(format!("{left} of its {said} slots {} left", if left == 1 { "is" } else { "are" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2030-06-15T12:00:00Z";
    const DAILY: &str = "R5/2030-06-13T02:00:00.000Z/P1D";

    fn at(text: &str) -> Timestamp {
        text.parse().expect("an instant")
    }

    /// What is written of a job with this schedule and whatever else, of which the server tells this.
    fn carried(schedule: &str, more: Value, progress: &Value, until: Option<&str>) -> (Value, Vec<String>) {
        let mut definition = Map::from_iter([("name".to_owned(), json!("a"))]);
        if !schedule.is_empty() {
            definition.insert("schedule".into(), schedule.into());
        }
        if let Value::Object(more) = more {
            definition.extend(more);
        }
        let leaving = Leaving { definition, progress: Progress::read(progress) };
        let (mut definition, notes) = leaving.carried(until.map(at), &Zones::bundled());
        definition.shift_remove("name");
        definition.shift_remove("scheduleTimeZone");
        (definition.into(), notes)
    }

    #[track_caller]
    fn check(schedule: &str, progress: &Value, until: Option<&str>, written: &str, note: Option<&str>) {
        let (definition, notes) = carried(schedule, json!({}), progress, until);
        let is_disabled = note.is_some_and(|note| note.contains("disabled"));
        let mut expected = json!({ "schedule": written });
        if is_disabled {
            expected["disabled"] = json!(true);
        }
        assert_eq!(definition, expected);
        assert_eq!(
            notes.iter().map(String::as_str).collect::<Vec<_>>(),
            note.into_iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_has_been_launched_is_not_written_again() {
        let over = "its schedule is over, so it is written as disabled";
        let once = "R1/2020-01-01T02:00:00Z/P1D";
        for until in [None, Some(NOW)] {
            check(once, &json!({ "remaining": 0 }), until, "R0/2020-01-01T02:00:00Z/P1D", Some(over));
        }
        let partly = json!({ "remaining": 2, "next": "2030-06-16T02:00:00.000Z" });
        let two = Some("2 of its 5 slots are left");
        check(DAILY, &partly, None, "R2/2030-06-13T02:00:00.000Z/P1D", two);
        check(DAILY, &partly, Some(NOW), "R2/2030-06-16T02:00:00.000Z/P1D", two);
        let fresh = json!({ "remaining": 5, "next": "2030-06-17T02:00:00.000Z" });
        let later = "R5/2030-06-17T02:00:00Z/P1D";
        check(later, &fresh, None, later, None);
        check(later, &fresh, Some(NOW), later, None);
    }

    #[test]
    fn slots_until_the_handover_are_launched_here() {
        let partly = json!({ "remaining": 2, "next": "2030-06-16T02:00:00.000Z" });
        let one = Some("1 of its 5 slots is left");
        // A slot at the very moment is one of ours: the old Chronos launches what is strictly past.
        check(DAILY, &partly, Some("2030-06-16T02:00:00Z"), "R1/2030-06-17T02:00:00.000Z/P1D", one);
        let over = "its schedule is over by 2030-06-17T02:00:00Z, so it is written as disabled";
        check(DAILY, &partly, Some("2030-06-17T02:00:00Z"), "R0/2030-06-13T02:00:00.000Z/P1D", Some(over));
        // One that nobody has launched so far, as nobody leads, is left out like those that come.
        let late = json!({ "remaining": 4, "next": "2030-06-14T02:00:00.000Z" });
        check(DAILY, &late, Some(NOW), "R2/2030-06-16T02:00:00.000Z/P1D", Some("2 of its 5 slots are left"));
        let endless = json!({ "next": "2030-06-15T13:00:00.000Z" });
        let hourly = "R/2020-01-01T00:00:00Z/PT1H";
        check(hourly, &endless, Some("2030-06-15T14:30:00Z"), "R/2030-06-15T15:00:00.000Z/PT1H", None);
        check(hourly, &endless, None, hourly, None);
        check("R//PT1H", &endless, Some(NOW), "R/2030-06-15T13:00:00.000Z/PT1H", None);
        check("R//PT1H", &endless, Some("2030-06-15T13:00:00Z"), "R/2030-06-15T14:00:00.000Z/PT1H", None);
        // The day of the month is that of the wall clock where the author wrote it.
        let monthly = json!({ "next": "2030-06-30T22:30:00.000Z" });
        let written = "R/2030-07-01T00:30:00.000+02:00/P1M";
        check("R/2020-01-01T00:30:00+02:00/P1M", &monthly, Some(NOW), written, None);
    }

    #[test]
    fn what_does_not_run_here_does_not_run_there() {
        let paused = json!({ "next": "2030-06-16T02:00:00.000Z", "paused": { "since": NOW, "reason": "" } });
        let told = "it is paused, which the old Chronos does not know: it is written as disabled";
        check("R/2030-06-16T02:00:00Z/P1D", &paused, None, "R/2030-06-16T02:00:00Z/P1D", Some(told));
        let (child, notes) = carried("", json!({ "parents": ["b"] }), &paused, Some(NOW));
        assert_eq!((child, notes), (json!({ "parents": ["b"], "disabled": true }), vec![told.to_owned()]));
        let (child, notes) = carried("", json!({ "parents": ["b"] }), &json!({}), Some(NOW));
        assert_eq!((child, notes), (json!({ "parents": ["b"] }), vec![]));
        // Of a disabled job there is no next slot, but some may be used up.
        let disabled = json!({ "disabled": true });
        let (job, notes) = carried(DAILY, disabled.clone(), &json!({ "remaining": 3 }), Some(NOW));
        assert_eq!(job, json!({ "disabled": true, "schedule": "R3/2030-06-13T02:00:00.000Z/P1D" }));
        assert_eq!(notes, ["3 of its 5 slots are left"]);
        let (job, notes) = carried("R/2020-01-01T00:00:00Z/PT1H", disabled, &json!({}), Some(NOW));
        assert_eq!(job, json!({ "disabled": true, "schedule": "R/2020-01-01T00:00:00Z/PT1H" }));
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn a_cron_expression_stays_for_those_who_tell_that_it_cannot_be_read() {
        let (job, notes) =
            carried("0 3 * * *", json!({}), &json!({ "next": "2030-06-16T03:00:00.000Z" }), Some(NOW));
        assert_eq!((job, notes), (json!({ "schedule": "0 3 * * *" }), vec![]));
    }

    #[test]
    fn a_handover_is_a_whole_second_that_has_not_passed() {
        let now = at("2030-06-15T12:00:00.250Z");
        let from = |text: &str| {
            let handover: Handover = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            handover.from(now).ok().map(|at| at.to_string())
        };
        assert_eq!(from("now").as_deref(), Some("2030-06-15T12:00:00.25Z"));
        assert_eq!(from("10m").as_deref(), Some("2030-06-15T12:10:01Z"));
        assert_eq!(from("2030-06-15T13:00:00Z").as_deref(), Some("2030-06-15T13:00:00Z"));
        assert_eq!(from("2020-01-01T00:00:00Z").as_deref(), Some("2030-06-15T12:00:00.25Z"));
        assert!("soon".parse::<Handover>().is_err());
    }
}
