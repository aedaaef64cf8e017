//! Cron expressions: the set of civil seconds that an expression matches, and its slots in a zone.
//!
//! The set knows no zone. The zone is a series of segments of constant offset, each with a gap before it, an
//! overlap with its neighbour, or neither; within a segment, slots are the set moved by the offset. Nothing is
//! searched second by second or day by day: a month is one mask of days, a day three masks.

use croner::{CronComponent, CronPattern, Weekday};
use jiff::Timestamp;

use super::calendar::{self, DAY, Fold, Gap, JUMP_MAX, Place, Resolved, Segment, Zone};
use super::{DstPolicy, Field, Lint, Nominal, ScheduleError, Slot};

/// A mark of a second time around that no longer exists is taken for this much later: no fold is longer in practice.
const LOST_FOLD: i64 = 3 * 3_600;
/// The calendar repeats itself, weekdays included, after 400 years.
const CYCLE_MONTHS: i64 = 4_800;

/// A cron expression with its policy resolved: `Auto` no longer occurs.
#[derive(Clone, Debug)]
pub(super) struct Cron {
    set: CivilSet,
    gap: Gap,
    fold: Fold,
    lint: Option<Lint>,
}

impl Cron {
    /// Reads a cron expression or macro.
    pub(super) fn parse(text: &str, dst: DstPolicy) -> Result<Self, ScheduleError> {
        let expression = if text.trim_start().starts_with('@') { expand(text)? } else { text };
        let (set, hourly, lint) = Expression { text, expression }.read()?;
        if set.is_empty() {
            return Err(ScheduleError::Never { text: text.into() });
        }
        // What runs every so many hours is elapsed time: it runs through both repeated hours and not at all in a gap.
        let (gap, fold) = if hourly { (Gap::Skip, Fold::Both) } else { (Gap::Shift, Fold::First) };
        let gap = if dst.gap == Gap::Auto { gap } else { dst.gap };
        let fold = if dst.fold == Fold::Auto { fold } else { dst.fold };
        Ok(Self { set, gap, fold, lint })
    }

    pub(super) fn lints(&self) -> Vec<Lint> {
        self.lint.into_iter().collect()
    }

    pub(super) fn due(&self, zone: &Zone, civil: i64, fold: u8) -> Option<Timestamp> {
        if !(calendar::CIVIL_MIN..=calendar::CIVIL_MAX).contains(&civil) {
            return None;
        }
        let wanted = if fold == 0 { Fold::First } else { Fold::Second };
        let (Resolved::At(instant) | Resolved::Edge(instant)) = zone.resolve(civil, self.gap, wanted)?;
        Timestamp::from_second(instant).ok()
    }

    pub(super) fn after(&self, zone: &Zone, civil: i64, fold: u8) -> Option<Slot> {
        let civil = civil.clamp(calendar::CIVIL_MIN, calendar::CIVIL_MAX);
        match zone.place(civil) {
            Place::Once(_) if fold != 0 => {
                // The second time around is gone from the zone data. Marks only ever move forward, so this ends.
                let later = civil + LOST_FOLD;
                match zone.place(later) {
                    Place::Fold { second, .. } => self.from_segment(zone, second, Cursor::Plain(later)),
                    _ => self.after(zone, later, 0),
                }
            }
            Place::Gap { .. } if fold != 0 => self.after(zone, civil + LOST_FOLD, 0),
            Place::Once(instant) => match self.near(zone, civil) {
                Some(slot) => Some(slot),
                None => self.from_segment(zone, instant, Cursor::Plain(civil)),
            },
            Place::Fold { first, .. } if fold == 0 => self.from_segment(zone, first, Cursor::Plain(civil)),
            Place::Fold { second, .. } => self.from_segment(zone, second, Cursor::Plain(civil)),
            Place::Gap { earlier, .. } => {
                let end = zone.segment(earlier).end;
                self.from_segment(zone, end, Cursor::Gap(civil))
            }
        }
    }

    pub(super) fn first_after(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        let instant = calendar::floor_second(t);
        let civil = instant + zone.offset(instant);
        if matches!(zone.place(civil), Place::Once(_))
            && let Some(slot) = self.near(zone, civil)
        {
            return Some(slot);
        }
        self.from_segment(zone, instant, Cursor::Instant(instant))
    }

    pub(super) fn last_until(&self, zone: &Zone, t: Timestamp) -> Option<Slot> {
        let instant = calendar::floor_second(t);
        let mut segment = zone.segment(instant);
        loop {
            if let Some(slot) = self.last_in(&segment, instant) {
                return slot;
            }
            segment = segment.previous(zone)?;
        }
    }

    /// How many slots there are from `first` to `last`, which are slots.
    pub(super) fn count(&self, zone: &Zone, first: Slot, last: Slot) -> u64 {
        let (from, until) = (first.due.as_second() - 1, last.due.as_second());
        let mut segment = zone.segment(from);
        let mut count = 0;
        loop {
            count += self.count_in(&segment, from, until);
            if segment.end > until {
                return count;
            }
            match segment.next(zone) {
                Some(next) => segment = next,
                None => return count,
            }
        }
    }

    /// The common case, without segments: the next civil time of the set, if the clock does nothing unusual at it
    /// nor in the day before it. `civil` must come once. Then nothing in between can match: a fold or gap lies
    /// wholly after `civil` and, were one of its times in the set, that time would have been found.
    fn near(&self, zone: &Zone, civil: i64) -> Option<Slot> {
        let next = self.set.next(civil + 1)?;
        let Place::Once(due) = zone.place(next) else { return None };
        if self.gap != Gap::Skip && zone.offset(due - JUMP_MAX) != next - due {
            // A gap just before may have shifted its slots up to here or beyond.
            return None;
        }
        slot(next, 0, due)
    }

    /// The first slot after `cursor`, beginning in the segment around `instant`.
    fn from_segment(&self, zone: &Zone, instant: i64, cursor: Cursor) -> Option<Slot> {
        let mut segment = zone.segment(instant);
        let mut cursor = cursor;
        loop {
            if let Some(slot) = self.first_in(&segment, cursor) {
                return slot;
            }
            // A month of the set may be far away: walking there costs a step for each change of offset.
            segment = segment.next(zone)?;
            cursor = Cursor::Start;
        }
    }

    /// The first slot of `segment` after `cursor`. The inner `None` is the end of the calendar.
    fn first_in(&self, segment: &Segment, cursor: Cursor) -> Option<Option<Slot>> {
        let view = self.view(segment);
        let (gap_after, plain_after) = match cursor {
            Cursor::Start => (i64::MIN, i64::MIN),
            Cursor::Gap(civil) => (civil, i64::MIN),
            Cursor::Plain(civil) => (i64::MAX, civil),
            // At the end of a gap nothing is left of it: its one slot is due as the segment starts.
            Cursor::Instant(_) if self.gap == Gap::End => (i64::MAX, cursor.civil(segment.offset)),
            Cursor::Instant(_) => (cursor.civil(segment.before), cursor.civil(segment.offset)),
        };
        let gap = self.set.next_in(view.gap.0.max(gap_after.saturating_add(1)), view.gap.1);
        if let Some(civil) = gap {
            return Some(slot(civil, 0, view.gap_due(civil, segment)));
        }
        let civil = self.set.next_in(view.plain.0.max(plain_after.saturating_add(1)), view.plain.1)?;
        Some(slot(civil, view.fold(civil), civil - segment.offset))
    }

    /// The last slot of `segment` due at or before `until`.
    fn last_in(&self, segment: &Segment, until: i64) -> Option<Option<Slot>> {
        let view = self.view(segment);
        let end = view.plain.1.min(until.saturating_add(segment.offset + 1));
        if let Some(civil) = self.set.previous_in(view.plain.0, end) {
            return Some(slot(civil, view.fold(civil), civil - segment.offset));
        }
        let end = if view.edge.is_some() {
            view.gap.1
        } else {
            view.gap.1.min(until.saturating_add(segment.before + 1))
        };
        let civil = self.set.previous_in(view.gap.0, end)?;
        Some(slot(civil, 0, view.gap_due(civil, segment)))
    }

    /// How many slots of `segment` are due after `from`, at or before `until`.
    fn count_in(&self, segment: &Segment, from: i64, until: i64) -> u64 {
        let view = self.view(segment);
        let within = |range: (i64, i64), offset: i64| {
            let begin = range.0.max(from.saturating_add(offset + 1));
            self.set.count(begin, range.1.min(until.saturating_add(offset + 1)))
        };
        let gap = match view.edge {
            Some(edge) => u64::from(from < edge && edge <= until),
            None => within(view.gap, segment.before),
        };
        gap + within(view.plain, segment.offset)
    }

    /// Which civil times are slots of `segment` under the policy.
    fn view(&self, segment: &Segment) -> View {
        let (start, offset) = (segment.start, segment.offset);
        let mut view = View {
            gap: (0, 0),
            edge: None,
            plain: (start + offset, segment.end + offset),
            repeated_until: i64::MIN,
        };
        if segment.before > offset {
            if self.fold == Fold::First {
                view.plain.0 = start + segment.before;
            }
            view.repeated_until = start + segment.before;
        }
        if segment.after < offset && self.fold == Fold::Second {
            view.plain.1 = segment.end + segment.after;
        }
        if segment.before < offset && self.gap != Gap::Skip {
            // Slots of the gap come first; what the clock says at or before the last of them is dropped.
            let end = (start + offset).min(segment.end + segment.before);
            match (self.gap, self.set.next_in(start + segment.before, end)) {
                (_, None) => {}
                (Gap::End, Some(first)) => {
                    view.gap = (first, first + 1);
                    view.edge = Some(start);
                    view.plain.0 = start + offset + 1;
                }
                (_, Some(first)) => {
                    view.gap = (first, end);
                    let last = self.set.previous_in(first, end).unwrap_or(first);
                    view.plain.0 = last - segment.before + offset + 1;
                }
            }
        }
        view
    }
}

/// Where a search begins.
#[derive(Clone, Copy)]
enum Cursor {
    /// With the first slot of the segment.
    Start,
    /// After a civil time in the gap before the segment.
    Gap(i64),
    /// After a civil time in the segment.
    Plain(i64),
    /// After an instant.
    Instant(i64),
}

impl Cursor {
    fn civil(self, offset: i64) -> i64 {
        match self {
            Self::Start => i64::MIN,
            Self::Gap(civil) | Self::Plain(civil) => civil,
            Self::Instant(instant) => instant.saturating_add(offset),
        }
    }
}

/// The civil times that are slots of one segment, as half-open ranges. All of `gap` is due before all of `plain`.
struct View {
    /// In the gap before the segment.
    gap: (i64, i64),
    /// The one instant at which they are due, if it is one.
    edge: Option<i64>,
    /// In the segment itself.
    plain: (i64, i64),
    /// Times before this one come around the second time.
    repeated_until: i64,
}

impl View {
    fn gap_due(&self, civil: i64, segment: &Segment) -> i64 {
        self.edge.unwrap_or(civil - segment.before)
    }

    fn fold(&self, civil: i64) -> u8 {
        u8::from(civil < self.repeated_until)
    }
}

/// A slot, unless it is past the end of the calendar.
fn slot(civil: i64, fold: u8, due: i64) -> Option<Slot> {
    let due = Timestamp::from_second(due).ok()?;
    Some(Slot { nominal: Nominal::Civil { second: civil, fold }, due })
}

/// The civil seconds that an expression matches.
#[derive(Clone, Debug)]
struct CivilSet {
    seconds: u64,
    minutes: u64,
    hours: u32,
    /// Bit 1 is January.
    months: u16,
    /// Days of a month, bit 1 is the first: by length of the month (28 to 31), then weekday of its first (0 is Sunday).
    days: [[u32; 7]; 4],
}

impl CivilSet {
    /// Whether no day ever matches. All combinations of length and first weekday do occur in every month.
    fn is_empty(&self) -> bool {
        let lengths = |month: i64| match month {
            2 => 0..2,
            4 | 6 | 9 | 11 => 2..3,
            _ => 3..4,
        };
        !(1..=12).any(|month| {
            self.months >> month & 1 == 1 && self.days[lengths(month)].iter().flatten().any(|days| *days != 0)
        })
    }

    /// The first member in `from..end`.
    fn next_in(&self, from: i64, end: i64) -> Option<i64> {
        if from >= end {
            return None;
        }
        self.next(from).filter(|civil| *civil < end)
    }

    /// The last member in `from..end`.
    fn previous_in(&self, from: i64, end: i64) -> Option<i64> {
        if from >= end {
            return None;
        }
        self.previous(end - 1).filter(|civil| *civil >= from)
    }

    /// The first member at or after `from`, up to the year 9999.
    fn next(&self, from: i64) -> Option<i64> {
        let from = from.max(calendar::CIVIL_MIN);
        if from > calendar::CIVIL_MAX {
            return None;
        }
        let day = from.div_euclid(DAY);
        let (year, month, of_month) = calendar::civil_from_days(day);
        if self.has_day(year, month, of_month)
            && let Some(second) = self.time_from(from.rem_euclid(DAY))
        {
            return Some(day * DAY + second);
        }
        let day = self.day_from(year, month, of_month + 1)?;
        Some(day * DAY + self.time_from(0)?)
    }

    /// The last member at or before `to`.
    fn previous(&self, to: i64) -> Option<i64> {
        let to = to.min(calendar::CIVIL_MAX);
        if to < calendar::CIVIL_MIN {
            return None;
        }
        let day = to.div_euclid(DAY);
        let (year, month, of_month) = calendar::civil_from_days(day);
        if self.has_day(year, month, of_month)
            && let Some(second) = self.time_until(to.rem_euclid(DAY))
        {
            return Some(day * DAY + second);
        }
        let day = self.day_until(year, month, of_month - 1)?;
        Some(day * DAY + self.time_until(DAY - 1)?)
    }

    /// How many members there are in `from..end`.
    fn count(&self, from: i64, end: i64) -> u64 {
        let (from, end) = (from.max(calendar::CIVIL_MIN), end.min(calendar::CIVIL_MAX + 1));
        if from >= end {
            return 0;
        }
        self.count_before(end, from.div_euclid(DAY)) - self.count_before(from, from.div_euclid(DAY))
    }

    /// How many members there are from the day `since` to before the civil second `end`.
    fn count_before(&self, end: i64, since: i64) -> u64 {
        let last = end.div_euclid(DAY);
        let per_day =
            u64::from(self.hours.count_ones() * self.minutes.count_ones() * self.seconds.count_ones());
        let (year, month, of_month) = calendar::civil_from_days(last);
        let mut count =
            if self.has_day(year, month, of_month) { self.times_before(end.rem_euclid(DAY)) } else { 0 };
        // Whole days, a month at a time: the first of them may begin late, the last end early.
        let (mut year, mut month, from) = calendar::civil_from_days(since);
        let mut first_day = since - (from - 1);
        let mut skip = from;
        while first_day < last {
            let before = (last - first_day + 1).min(32);
            let mask = self.days_of(year, month) & below(before) & !below(skip);
            count += u64::from(mask.count_ones()) * per_day;
            first_day += calendar::days_in_month(year, month);
            (year, month) = following(year, month);
            skip = 0;
        }
        count
    }

    /// How many times of a matching day are before `second` of the day.
    fn times_before(&self, second: i64) -> u64 {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (seconds, minutes) = (u64::from(self.seconds.count_ones()), u64::from(self.minutes.count_ones()));
        let mut count = u64::from((self.hours & below(hour)).count_ones()) * minutes * seconds;
        if self.hours >> hour & 1 == 1 {
            count += u64::from((self.minutes & below_64(minute)).count_ones()) * seconds;
            if self.minutes >> minute & 1 == 1 {
                count += u64::from((self.seconds & below_64(second)).count_ones());
            }
        }
        count
    }

    /// The first time of a matching day at or after `second` of the day.
    fn time_from(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (first_second, first_minute) = (lowest(self.seconds)?, lowest(self.minutes)?);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = lowest(self.seconds & !below_64(second))
            {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = lowest(self.minutes & !below_64(minute + 1)) {
                return Some(hour * 3_600 + minute * 60 + first_second);
            }
        }
        let hour = lowest(u64::from(self.hours) & !below_64(hour + 1))?;
        Some(hour * 3_600 + first_minute * 60 + first_second)
    }

    /// The last time of a matching day at or before `second` of the day.
    fn time_until(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let (last_second, last_minute) = (highest(self.seconds)?, highest(self.minutes)?);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = highest(self.seconds & below_64(second + 1))
            {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = highest(self.minutes & below_64(minute)) {
                return Some(hour * 3_600 + minute * 60 + last_second);
            }
        }
        let hour = highest(u64::from(self.hours & below(hour)))?;
        Some(hour * 3_600 + last_minute * 60 + last_second)
    }

    fn has_day(&self, year: i64, month: i64, of_month: i64) -> bool {
        self.days_of(year, month) >> of_month & 1 == 1
    }

    /// The first matching day at or after a day of a month, which may be one past its last.
    fn day_from(&self, year: i64, month: i64, of_month: i64) -> Option<i64> {
        let (mut year, mut month, mut skip) = (year, month, of_month);
        for _ in 0..=CYCLE_MONTHS {
            if year > 9_999 {
                return None;
            }
            if let Some(day) = lowest(u64::from(self.days_of(year, month) & !below(skip))) {
                return Some(calendar::days_from_civil(year, month, day));
            }
            (year, month) = following(year, month);
            skip = 0;
        }
        None
    }

    /// The last matching day at or before a day of a month, which may be 0.
    fn day_until(&self, year: i64, month: i64, of_month: i64) -> Option<i64> {
        let (mut year, mut month, mut before) = (year, month, of_month + 1);
        for _ in 0..=CYCLE_MONTHS {
            if year < -9_999 {
                return None;
            }
            if let Some(day) = highest(u64::from(self.days_of(year, month) & below(before))) {
                return Some(calendar::days_from_civil(year, month, day));
            }
            (year, month) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
            before = 32;
        }
        None
    }

    /// The matching days of a month.
    fn days_of(&self, year: i64, month: i64) -> u32 {
        if self.months >> month & 1 == 0 {
            return 0;
        }
        // 1970-01-01 was a Thursday.
        let weekday = (calendar::days_from_civil(year, month, 1) + 4).rem_euclid(7);
        self.days[(calendar::days_in_month(year, month) - 28) as usize][weekday as usize]
    }
}

fn following(year: i64, month: i64) -> (i64, i64) {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

/// The bits below `n`, which is at most 32.
fn below(n: i64) -> u32 {
    u32::try_from((1_u64 << n) - 1).unwrap_or(u32::MAX)
}

/// The bits below `n`, which is at most 60.
fn below_64(n: i64) -> u64 {
    (1 << n) - 1
}

fn lowest(mask: u64) -> Option<i64> {
    (mask != 0).then(|| mask.trailing_zeros().into())
}

fn highest(mask: u64) -> Option<i64> {
    mask.checked_ilog2().map(i64::from)
}

/// The five fields that a macro stands for.
fn expand(text: &str) -> Result<&'static str, ScheduleError> {
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => return Err(ScheduleError::Macro { text: text.into() }),
    })
}

/// Reads an expression: croner reads single fields and knows which days they match; names, stars and what croner
/// would let pass are seen to here.
struct Expression<'t> {
    /// As written, for messages.
    text: &'t str,
    /// With macros expanded.
    expression: &'t str,
}

impl Expression<'_> {
    fn read(&self) -> Result<(CivilSet, bool, Option<Lint>), ScheduleError> {
        let fields: Vec<&str> = self.expression.split_ascii_whitespace().collect();
        let (second, [minute, hour, day, month, weekday]) = match *fields.as_slice() {
            [a, b, c, d, e] => ("0", [a, b, c, d, e]),
            [s, a, b, c, d, e] => (s, [a, b, c, d, e]),
            _ => return Err(ScheduleError::FieldCount { text: self.text.into(), fields: fields.len() }),
        };
        let mut pattern = CronPattern::new("");
        self.field(&mut pattern.seconds, Field::Second, second)?;
        self.field(&mut pattern.minutes, Field::Minute, minute)?;
        self.field(&mut pattern.hours, Field::Hour, hour)?;
        self.field(&mut pattern.months, Field::Month, month)?;
        let (days, lint) = self.days(day, weekday)?;
        let mask = |component: &CronComponent| {
            component.values().iter().fold(0_u64, |mask, value| mask | 1 << value)
        };
        let hours = mask(&pattern.hours) as u32;
        let set = CivilSet {
            seconds: mask(&pattern.seconds),
            minutes: mask(&pattern.minutes),
            hours,
            months: mask(&pattern.months) as u16,
            days,
        };
        Ok((set, hour.starts_with('*') && !hour.contains(',') || hours == below(24), lint))
    }

    /// The matching days of all kinds of months.
    ///
    /// As in Vixie's cron a field that begins with `*` is no restriction of its own: if neither field does, a day
    /// matches when either matches it, else when both do.
    fn days(&self, day: &str, weekday: &str) -> Result<([[u32; 7]; 4], Option<Lint>), ScheduleError> {
        let every = |field: &str| matches!(field, "*" | "?");
        let starred = day.starts_with('*') || weekday.starts_with('*');
        Ok(match (every(day), every(weekday)) {
            (true, true) => (ALL_DAYS, None),
            (false, true) => (self.days_by(Field::Day, day)?, None),
            (true, false) => (self.days_by(Field::Weekday, weekday)?, None),
            (false, false) => {
                let (days, weekdays) =
                    (self.days_by(Field::Day, day)?, self.days_by(Field::Weekday, weekday)?);
                let join = |length: usize, first: usize| {
                    let (a, b) = (days[length][first], weekdays[length][first]);
                    if starred { a & b } else { a | b }
                };
                let joined = std::array::from_fn(|length| std::array::from_fn(|first| join(length, first)));
                (joined, Some(if starred { Lint::BothDaysMatch } else { Lint::EitherDayMatches }))
            }
        })
    }

    /// The days that one of the two day fields matches by itself.
    fn days_by(&self, field: Field, text: &str) -> Result<[[u32; 7]; 4], ScheduleError> {
        // The other field stays empty and so matches nothing: either is then this one.
        let mut pattern = CronPattern::new("");
        match field {
            Field::Day => self.field(&mut pattern.days, field, text)?,
            _ => self.field(&mut pattern.days_of_week, field, text)?,
        }
        const WEEK: [Weekday; 7] = [
            Weekday::Sunday,
            Weekday::Monday,
            Weekday::Tuesday,
            Weekday::Wednesday,
            Weekday::Thursday,
            Weekday::Friday,
            Weekday::Saturday,
        ];
        // A month of each length; croner takes the weekday on trust.
        const MONTHS: [(i32, u32); 4] = [(2023, 2), (2024, 2), (2023, 4), (2023, 1)];
        let mut days = [[0; 7]; 4];
        for (length, (year, month)) in MONTHS.into_iter().enumerate() {
            for (first, mask) in days[length].iter_mut().enumerate() {
                for day in 1..=28 + length {
                    let weekday = WEEK[(first + day - 1) % 7];
                    if pattern.day_match(year, month, day as u32, weekday).unwrap_or(false) {
                        *mask |= 1 << day;
                    }
                }
            }
        }
        Ok(days)
    }

    /// Reads one field into `component`.
    fn field(&self, component: &mut CronComponent, field: Field, found: &str) -> Result<(), ScheduleError> {
        let refuse = |problem: &str| ScheduleError::Cron {
            text: self.text.into(),
            field,
            found: found.into(),
            problem: problem.into(),
        };
        let items: Result<Vec<String>, &str> = found.split(',').map(|item| self.item(field, item)).collect();
        let items = items.map_err(refuse)?;
        if items.iter().any(|item| item == "L") && items.iter().any(|item| item == "LW") {
            return Err(refuse("L and LW cannot be combined"));
        }
        component.parse(&items.join(",")).map_err(|error| {
            let error = error.to_string();
            refuse(
                error
                    .rsplit_once("error: ")
                    .map_or(error.as_str(), |(_, reason)| reason)
                    .trim_end_matches('.'),
            )
        })?;
        if field == Field::Weekday {
            // Sunday is 0 and 7, plain and in every ordinal.
            for bit in (0..7).map(|bit| 1 << bit) {
                if component.is_bit_set(7, bit).unwrap_or(false) {
                    component.set_bit(0, bit).map_err(|error| refuse(&error.to_string()))?;
                }
            }
        }
        Ok(())
    }

    /// One item of a list, with names replaced by numbers.
    fn item(&self, field: Field, item: &str) -> Result<String, &'static str> {
        let item = item.to_ascii_uppercase();
        if item.is_empty() {
            return Err("nothing stands beside a comma");
        }
        if !item.bytes().all(|b| b.is_ascii_alphanumeric() || b"*-/#?".contains(&b)) {
            return Err("a character cannot stand in a cron expression");
        }
        if item.contains('?') {
            return Err("? can only stand alone, for day of month or day of week");
        }
        let mut out = String::with_capacity(item.len());
        let mut rest = item.as_str();
        while !rest.is_empty() {
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (word, tail) = rest.split_at(letters);
            if !word.is_empty() {
                out.push_str(&number(field, word, out.ends_with('-'))?);
                rest = tail;
                continue;
            }
            let other = rest.bytes().take_while(|b| !b.is_ascii_alphabetic()).count();
            let (plain, tail) = rest.split_at(other);
            out.push_str(plain);
            rest = tail;
        }
        if out.find('W').is_some_and(|at| at + 1 < out.len()) {
            return Err("nothing can follow a W");
        }
        if field == Field::Weekday && out == "L" {
            return Err("L needs a day before it, such as 5L for the last Friday");
        }
        Ok(out)
    }
}

/// A name as a number; `L` and `W` as they are.
fn number(field: Field, word: &str, ends_range: bool) -> Result<String, &'static str> {
    const MONTHS: [&str; 12] =
        ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let of = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
    match (field, word) {
        (Field::Day, "L" | "W" | "LW") | (Field::Weekday, "L") => Ok(word.into()),
        (Field::Month, name) => of(&MONTHS, name)
            .map(|at| (at + 1).to_string())
            .ok_or("a month has its first three letters: JAN to DEC"),
        (Field::Weekday, name) => {
            let (name, last) = if name.len() == 4 { (name.trim_end_matches('L'), "L") } else { (name, "") };
            let at = of(&DAYS, name).ok_or("a day has its first three letters: SUN to SAT")?;
            // A range that ends on Sunday ends the week.
            let at = if at == 0 && ends_range { 7 } else { at };
            Ok(format!("{at}{last}"))
        }
        _ => Err("letters cannot stand here"),
    }
}

/// Every day of every month.
const ALL_DAYS: [[u32; 7]; 4] = {
    let mut days = [[0; 7]; 4];
    let mut length = 0;
    while length < 4 {
        days[length] = [((1_u64 << (29 + length)) - 2) as u32; 7];
        length += 1;
    }
    days
};
