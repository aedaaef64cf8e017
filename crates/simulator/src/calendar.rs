//! Schedules as the checkers see them: a text for the product, and a naive way to list its slots that shares no
//! code with it. Intervals are stepped, cron expressions are matched second by second, and where a clock jumps every
//! time of day is asked for one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use scheduler::job::Timetable;
use scheduler::schedule::{DstPolicy, Fold, Gap, Nominal};

use crate::random::Random;

/// Milliseconds since 1970.
pub(crate) type Millis = i64;

/// A slot as a checker finds it: what it is called, and when it is due.
pub(crate) type Occurrence = (Nominal, Millis);

pub(crate) fn instant(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A schedule in the words of a user, with its meaning.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) text: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) dst: DstPolicy,
    pub(crate) meaning: Meaning,
}

/// What a schedule means. No policy is [`Gap::Auto`] or [`Fold::Auto`] here.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// `start + k * period` for ever, or `count` times; without a start from when it was posted.
    Every { start: Option<Millis>, period: Millis, count: Option<u64> },
    /// The same time of day, every so many days and months after a date.
    Calendar { start: DateTime, months: i32, days: i32, count: Option<u64>, clock: Clock },
    /// When seconds, minutes and hours of the clock on the wall are among these.
    Cron { seconds: Field, minutes: Field, hours: Field, clock: Clock },
}

/// A clock on a wall, and what becomes of times that it leaves out or shows twice.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    zone: TimeZone,
    gap: Gap,
    fold: Fold,
}

/// Some numbers of a clock, as bits, or what the name of the job makes of an `H`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    These(u64),
    /// One from `first` to `last`, or every `step`th, beginning with one of the first ones.
    Spread {
        /// Seconds, minutes and hours are drawn apart.
        place: u64,
        first: i64,
        last: i64,
        step: Option<i64>,
    },
}

/// All schedules of a history, by what the product stores of them.
#[derive(Default)]
pub(crate) struct Phrasebook(BTreeMap<Phrase, Meaning>);

/// Text, zone and policy.
type Phrase = (Arc<str>, Arc<str>, (u8, u8));

fn phrase(table: &Timetable) -> Phrase {
    (table.text.clone(), table.zone.clone(), policy(table.dst))
}

impl Phrasebook {
    pub(crate) fn learn(&mut self, written: &Written) {
        let Written { text, zone, dst, meaning } = written;
        self.0.insert((text.clone(), zone.clone(), policy(*dst)), meaning.clone());
    }

    /// What a stored schedule means for the job of this name. Nothing, if no user has written it so.
    pub(crate) fn find(&self, table: &Timetable, job: &str) -> Option<Meaning> {
        Some(self.0.get(&phrase(table))?.of(job))
    }

    /// Whether the name of its job plays a part.
    pub(crate) fn spreads(&self, table: &Timetable) -> bool {
        self.0.get(&phrase(table)).is_some_and(Meaning::spreads)
    }
}

fn policy(dst: DstPolicy) -> (u8, u8) {
    (dst.gap as u8, dst.fold as u8)
}

/// A list that is looked through for one that is due gives up after so many: a checker must not hang either.
const STEPS_MAX: u64 = 3_000_000;
const HOUR: i64 = 3_600;

impl Field {
    /// Every n-th of `of`, and all of them.
    fn steps(n: i64, of: i64) -> Self {
        (0..of).step_by(usize::try_from(n).unwrap_or(1)).collect()
    }

    fn has(self, value: i64) -> bool {
        matches!(self, Self::These(bits) if bits >> value & 1 == 1)
    }

    /// What the field is for the job of this name.
    /// # Source
    /// `docs/guides/schedules.md` says what an `H` may be. The numbers are stored, so they are written down once more:
    /// FNV-1a, stirred by the last lines of SplitMix64.
    fn of(self, job: &str) -> Self {
        let Self::Spread { place, first, last, step } = self else { return self };
        let mut hash = 14_695_981_039_346_656_037_u64;
        for byte in job.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
        }
        let mut z = hash.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9_u64), (27, 0x94d0_49bb_1331_11eb), (31, 1)] {
            z = (z ^ z >> shift).wrapping_mul(factor);
        }
        let choice = step.unwrap_or(i64::MAX).min(last - first + 1);
        let begin = first + i64::try_from(z % choice.unsigned_abs()).unwrap_or(0);
        match step {
            None => std::iter::once(begin).collect(),
            Some(step) => (begin..=last).step_by(usize::try_from(step).unwrap_or(1)).collect(),
        }
    }
}

impl FromIterator<i64> for Field {
    fn from_iter<I: IntoIterator<Item = i64>>(values: I) -> Self {
        Self::These(values.into_iter().fold(0, |bits, value| bits | 1 << value))
    }
}

/// A slot on its way into the calendar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Where it stands among the others: slots that a jump has left out come as it happens, in the order of the day.
    turn: (i64, i64),
    fold: u8,
    due: i64,
}

impl Clock {
    /// Seconds by which the clock is ahead of UTC.
    fn ahead(&self, at: i64) -> i64 {
        self.zone.to_offset(instant(at.saturating_mul(1000))).seconds().into()
    }

    /// The slots that a time of day becomes: none, one or two.
    fn places(&self, wall: i64) -> [Option<Candidate>; 2] {
        let civil = Offset::UTC.to_datetime(instant(wall.saturating_mul(1000)));
        let due = |offset: Offset| wall - i64::from(offset.seconds());
        let at = |due, fold| Some(Candidate { turn: (due, wall), fold, due });
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => [at(due(offset), 0), None],
            AmbiguousOffset::Fold { before, after } => match self.fold {
                Fold::Second => [at(due(after), 1), None],
                Fold::Both => [at(due(before), 0), at(due(after), 1)],
                _ => [at(due(before), 0), None],
            },
            AmbiguousOffset::Gap { before, after } => {
                let jump = self.jump(due(after), due(before));
                let due = match self.gap {
                    Gap::Skip => return [None, None],
                    Gap::End => jump,
                    _ => due(before),
                };
                [Some(Candidate { turn: (jump, wall), fold: 0, due }), None]
            }
        }
    }

    /// The instant between the two at which the clock is another for the first time.
    fn jump(&self, mut before: i64, mut after: i64) -> i64 {
        let ahead = self.ahead(before);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if self.ahead(middle) == ahead { before = middle } else { after = middle }
        }
        after
    }

    /// When a time of day is due that is due once, or never.
    fn due(&self, wall: i64) -> Option<i64> {
        let places = self.places(wall);
        places[0].map(|place| place.due)
    }
}

impl Meaning {
    /// `n` of `Rn`.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Every { count, .. } | Self::Calendar { count, .. } => *count,
            Self::Cron { .. } => None,
        }
    }

    /// Whether there is an `H` in it.
    fn spreads(&self) -> bool {
        let Self::Cron { seconds, minutes, hours, .. } = self else { return false };
        [seconds, minutes, hours].iter().any(|field| matches!(field, Field::Spread { .. }))
    }

    /// What it means for the job of this name.
    fn of(&self, job: &str) -> Self {
        match self {
            Self::Cron { seconds, minutes, hours, clock } if self.spreads() => Self::Cron {
                seconds: seconds.of(job),
                minutes: minutes.of(job),
                hours: hours.of(job),
                clock: clock.clone(),
            },
            same => same.clone(),
        }
    }

    /// The first slot due after `after`.
    pub(crate) fn next(&self, anchor: Millis, after: Millis) -> Option<Occurrence> {
        match self {
            Self::Every { start, period, .. } => {
                let start = start.unwrap_or(anchor);
                let k = if after < start { 0 } else { (after - start) / period + 1 };
                Some((Nominal::Index(k.unsigned_abs()), start + k * period))
            }
            Self::Calendar { .. } => {
                for k in 0.. {
                    if let Some(due) = self.on_calendar(k)?.filter(|due| *due > after) {
                        return Some((Nominal::Index(k), due));
                    }
                }
                None
            }
            Self::Cron { clock, .. } => {
                let after = after.div_euclid(1000);
                let candidate = self.plain(clock, after).or_else(|| self.around_jumps(clock, after))?;
                let Candidate { turn: (_, wall), fold, due } = candidate;
                Some((Nominal::Civil { second: wall, fold }, due * 1000))
            }
        }
    }

    /// The first time of day of a cron expression after `wall`.
    fn matching(&self, wall: i64) -> Option<i64> {
        let Self::Cron { seconds, minutes, hours, .. } = self else { return None };
        let mut wall = wall + 1;
        for _ in 0..STEPS_MAX {
            let (second, minute, hour) = (wall.rem_euclid(60), wall.div_euclid(60) % 60, wall / HOUR % 24);
            if !hours.has(hour) {
                wall += HOUR - wall % HOUR;
            } else if !minutes.has(minute) {
                wall += 60 - wall % 60;
            } else if !seconds.has(second) {
                wall += 1;
            } else {
                return Some(wall);
            }
        }
        None
    }

    /// The next slot where the clock goes evenly for hours around it.
    fn plain(&self, clock: &Clock, after: i64) -> Option<Candidate> {
        let ahead = clock.ahead(after);
        let even = [-2 * HOUR, 3 * HOUR].iter().all(|by| clock.ahead(after + by) == ahead);
        let wall = self.matching(after + ahead).filter(|wall| even && wall - after - ahead <= 2 * HOUR)?;
        Some(Candidate { turn: (wall - ahead, wall), fold: 0, due: wall - ahead })
    }

    /// The next slot wherever it is: all of some hours or days, in their order, but those due no later than one before.
    fn around_jumps(&self, clock: &Clock, after: i64) -> Option<Candidate> {
        let begin = after + clock.ahead(after) - 2 * HOUR;
        for hours in [5, 30, 24 * 40] {
            let (mut all, mut wall) = (Vec::new(), begin);
            while let Some(next) = self.matching(wall).filter(|next| *next < begin + hours * HOUR) {
                all.extend(clock.places(next).into_iter().flatten());
                wall = next;
            }
            all.sort();
            let mut latest = i64::MIN;
            all.retain(|slot| {
                let later = slot.due > latest;
                latest = latest.max(slot.due);
                later
            });
            // What is due near the end of the list may have a neighbour beyond it.
            let whole = |slot: &&Candidate| slot.turn.1 < begin + (hours - 2) * HOUR;
            if let Some(found) = all.iter().find(|slot| slot.due > after).filter(whole) {
                return Some(*found);
            }
        }
        None
    }

    /// The latest slot due by `until`; only intervals have a first one to count from.
    pub(crate) fn latest(&self, anchor: Millis, until: Millis) -> Option<Occurrence> {
        match self {
            Self::Every { start, period, .. } => {
                let start = start.unwrap_or(anchor);
                let k = (until - start).div_euclid(*period);
                (k >= 0).then(|| (Nominal::Index(k.unsigned_abs()), start + k * period))
            }
            Self::Calendar { .. } => {
                let all = (0..).map_while(|k| Some((k, self.on_calendar(k)?)));
                let by_then = all.take_while(|(_, due)| due.is_none_or(|due| due <= until));
                by_then.filter_map(|(k, due)| Some((Nominal::Index(k), due?))).last()
            }
            Self::Cron { .. } => None,
        }
    }

    /// When slot `k` is due, if its time of day is not left out; `None` at the end of the calendar.
    fn on_calendar(&self, k: u64) -> Option<Option<Millis>> {
        let Self::Calendar { start, months, days, clock, .. } = self else { return None };
        let k = i32::try_from(k).ok()?;
        let span = Span::new().try_months(months * k).ok()?.try_days(days * k).ok()?;
        let wall = seconds_of(start.checked_add(span).ok()?)?;
        Some(clock.due(wall).map(|due| due * 1000))
    }
}

/// A time of day and its date as seconds, as if it were in UTC.
fn seconds_of(wall: DateTime) -> Option<i64> {
    Some(Offset::UTC.to_timestamp(wall).ok()?.as_second())
}

fn zone_named(name: &str) -> TimeZone {
    if name.is_empty() {
        return TimeZone::UTC;
    }
    TimeZoneDatabase::bundled().get(name).unwrap_or(TimeZone::UTC)
}

/// Zones in which days have 23 and 25 hours, or half an hour less and more.
const JUMPING: [&str; 3] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];
/// Some in which they never do.
const EVEN: [&str; 4] = ["", "UTC", "Asia/Kolkata", "America/Phoenix"];

/// A zone, and when its clock jumps.
pub(crate) fn any_jump(random: &mut Random) -> (&'static str, Millis) {
    let zone = random.pick(&JUMPING);
    let (named, year) = (zone_named(zone), instant(1_735_689_600_000));
    let at = usize::try_from(random.below(4)).unwrap_or(0);
    let jump = named.following(year).nth(at).map_or(year, |jump| jump.timestamp());
    (zone, jump.as_millisecond())
}

/// What a user says of such days: mostly nothing.
fn any_policy(random: &mut Random) -> DstPolicy {
    if random.permille(300) {
        return DstPolicy::default();
    }
    DstPolicy {
        gap: random.pick(&[Gap::Auto, Gap::Shift, Gap::Skip, Gap::End]),
        fold: random.pick(&[Fold::Auto, Fold::First, Fold::Second, Fold::Both]),
    }
}

/// The policy that is meant where none is given.
fn resolved(dst: DstPolicy, gap: Gap, fold: Fold) -> (Gap, Fold) {
    let gap = if dst.gap == Gap::Auto { gap } else { dst.gap };
    let fold = if dst.fold == Fold::Auto { fold } else { dst.fold };
    (gap, fold)
}

impl Written {
    /// Some schedule for a job of a history that begins at `now`, often in the zone where the clock jumps meanwhile.
    pub(crate) fn any(random: &mut Random, now: Millis, home: Option<&'static str>) -> Self {
        match random.below(12) {
            0..=4 => Self::interval(random, now),
            5 => Self::local_interval(random, now, home),
            6 | 7 => Self::calendar(random, now, home),
            _ => Self::cron(random, now, home),
        }
    }

    /// Every so many milliseconds from `start`.
    pub(crate) fn every(start: Option<Millis>, period: Millis, count: Option<u64>) -> Self {
        let count_text = count.map_or(String::new(), |n| n.to_string());
        let start_text = start.map_or(String::new(), |at| instant(at).to_string());
        let text = format!("R{count_text}/{start_text}/{}", period_text(period)).into();
        let meaning = Meaning::Every { start, period, count };
        Self { text, zone: "".into(), dst: DstPolicy::default(), meaning }
    }

    fn interval(random: &mut Random, now: Millis) -> Self {
        let period = 1000 * random.pick(&[2, 5, 7, 10, 20, 30, 45, 60, 60, 120, 300, 600]);
        let start = match random.below(4) {
            0 => None,
            // Long ago, just now, soon.
            1 => Some(now - random.between(0, 400) * 86_400_000 - random.between(0, 86_400) * 1000),
            2 => Some(now - random.between(0, 300_000)),
            _ => Some(now + random.between(0, 300_000)),
        };
        let count = random.permille(250).then(|| random.below(20));
        Self::every(start, period, count)
    }

    /// A time of day from which on seconds are counted: the policy says when that was.
    fn local_interval(random: &mut Random, now: Millis, home: Option<&'static str>) -> Self {
        let (zone, dst) = (any_zone(random, home), any_policy(random));
        let (gap, fold) = resolved(dst, Gap::Shift, Fold::First);
        // Something has to be counted from.
        let gap = if gap == Gap::Skip { Gap::Shift } else { gap };
        let clock = Clock { zone: zone_named(zone), gap, fold };
        let near = now.div_euclid(1000) + random.between(-70, 20) * 60;
        // A time of day that may be left out: taken from the clock as it was before the jump, or as it is after it.
        let wall = near + clock.ahead(near + random.pick(&[-2, 0, 2]) * HOUR);
        let period = 1000 * random.pick(&[20, 60, 300, 900]);
        let start = clock.due(wall).map(|due| due * 1000);
        let civil = Offset::UTC.to_datetime(instant(wall * 1000));
        let text = format!("R/{}Z/{}", civil.strftime("%Y-%m-%dT%H:%M:%S"), period_text(period)).into();
        Self { text, zone: zone.into(), dst, meaning: Meaning::Every { start, period, count: None } }
    }

    fn calendar(random: &mut Random, now: Millis, home: Option<&'static str>) -> Self {
        let (zone, dst) = (any_zone(random, home), any_policy(random));
        let (gap, fold) = resolved(dst, Gap::Shift, Fold::First);
        // Slots are known by their number, so each comes once.
        let fold = if fold == Fold::Both { Fold::First } else { fold };
        let clock = Clock { zone: zone_named(zone), gap, fold };
        // Some minutes from now in the day, so that histories of an hour meet it; today that may be a time that never was.
        let near = now.div_euclid(1000) + random.between(-20, 60) * 60;
        let wall = near + clock.ahead(near - random.pick(&[0, 0, 2]) * HOUR);
        let near = Offset::UTC.to_datetime(instant(wall * 1000));
        let days_ago = random.between(0, 40);
        let start = near.checked_sub(Span::new().days(days_ago)).unwrap_or(near);
        let (months, days, period) =
            random.pick(&[(0, 1, "P1D"), (0, 1, "P1D"), (0, 7, "P1W"), (1, 0, "P1M")]);
        let count = random.permille(200).then(|| random.below(5));
        let count_text = count.map_or(String::new(), |n| n.to_string());
        let text = format!("R{count_text}/{}Z/{period}", start.strftime("%Y-%m-%dT%H:%M:%S")).into();
        Self {
            text,
            zone: zone.into(),
            dst,
            meaning: Meaning::Calendar { start, months, days, count, clock },
        }
    }

    fn cron(random: &mut Random, now: Millis, home: Option<&'static str>) -> Self {
        let (zone, dst) = (any_zone(random, home), any_policy(random));
        let named = zone_named(zone);
        let local: i64 = named.to_datetime(instant(now)).hour().into();
        let (text, [seconds, minutes, hours]) = any_fields(random, local);
        // What steps through the hours goes on through those that come twice, and leaves out what never was.
        let steps =
            text.split(' ').rev().nth(3).is_some_and(|hour| hour.starts_with(['*', 'H']) && hour != "H");
        let (gap, fold) = if steps { (Gap::Skip, Fold::Both) } else { (Gap::Shift, Fold::First) };
        let (gap, fold) = resolved(dst, gap, fold);
        let clock = Clock { zone: named, gap, fold };
        let meaning = Meaning::Cron { seconds, minutes, hours, clock };
        Self { text: text.into(), zone: zone.into(), dst, meaning }
    }
}

fn period_text(period: Millis) -> String {
    let seconds = period / 1000;
    if seconds % 60 == 0 { format!("PT{}M", seconds / 60) } else { format!("PT{seconds}S") }
}

fn any_zone(random: &mut Random, home: Option<&'static str>) -> &'static str {
    match home.filter(|_| random.permille(800)) {
        Some(home) => home,
        None if random.permille(500) => random.pick(&JUMPING),
        None => random.pick(&EVEN),
    }
}

/// An expression of three fields that count, and what they are: seconds, minutes, hours. `local` is the hour now.
fn any_fields(random: &mut Random, local: i64) -> (String, [Field; 3]) {
    let all = |of| Field::steps(1, of);
    let only = |values: &[i64]| values.iter().copied().collect::<Field>();
    let spread = |place, first, last, step| Field::Spread { place, first, last, step };
    match random.below(9) {
        0 => {
            let n = random.pick(&[5, 10, 15, 20, 30]);
            (format!("*/{n} * * * * *"), [Field::steps(n, 60), all(60), all(24)])
        }
        1 => {
            let n = random.pick(&[1, 2, 3, 5, 7, 10]);
            (format!("*/{n} * * * *"), [only(&[0]), Field::steps(n, 60), all(24)])
        }
        2 => {
            let (a, b) = (random.between(0, 29), random.between(30, 59));
            (format!("{a},{b} * * * *"), [only(&[0]), only(&[a, b]), all(24)])
        }
        3 => {
            let (minute, n) = (random.between(0, 59), random.pick(&[2, 3, 4, 6]));
            (format!("{minute} */{n} * * *"), [only(&[0]), only(&[minute]), Field::steps(n, 24)])
        }
        // Some hours of a day: these keep to the clock on the wall.
        4 | 5 => {
            let hours: Vec<i64> = (-1..=2).map(|by| (local + by).rem_euclid(24)).collect();
            let list: Vec<String> = hours.iter().map(ToString::to_string).collect();
            let n = random.pick(&[1, 3, 10]);
            let text = format!("*/{n} {} * * *", list.join(","));
            (text, [only(&[0]), Field::steps(n, 60), only(&hours)])
        }
        6 => {
            let n = random.pick(&[10, 20, 25]);
            (format!("H/{n} * * * * *"), [spread(1, 0, 59, Some(n)), all(60), all(24)])
        }
        7 => {
            let (last, n) = (random.pick(&[29, 59]), random.pick(&[2, 5, 7]));
            let text = format!("H H(0-{last})/{n} * * * *");
            (text, [spread(1, 0, 59, None), spread(2, 0, last, Some(n)), all(24)])
        }
        _ => {
            let n = random.pick(&[1, 2, 3]);
            let text = format!("H H(10-50) H/{n} * * *");
            (text, [spread(1, 0, 59, None), spread(2, 10, 50, None), spread(3, 0, 23, Some(n))])
        }
    }
}
