//! Laws of schedules, held against models that look at every minute or every index.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Timestamp};
use proptest::prelude::*;
use scheduler::schedule::{DstPolicy, Fold, Gap, Nominal, Schedule, Slot, Spread, Zones};

/// Zones whose clocks jump in unusual ways, and some usual ones.
const ZONES: [&str; 18] = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Sao_Paulo",   // jumped at midnight
    "America/St_Johns",    // jumped at 00:01 until 2011
    "America/Havana",      // jumps at midnight and at 01:00
    "Australia/Lord_Howe", // half an hour
    "Africa/Casablanca",   // back to standard time for Ramadan
    "Asia/Gaza",
    "Asia/Tehran",
    "Pacific/Chatham",  // at 02:45
    "Pacific/Apia",     // left out 30 December 2011
    "Antarctica/Troll", // two hours
    "America/Caracas",  // half hours, for good
    "Atlantic/Azores",
    "America/Ciudad_Juarez", // twice in November 2022
    "America/Metlakatla",
    "UTC",
];

const GAPS: [Gap; 4] = [Gap::Auto, Gap::Shift, Gap::Skip, Gap::End];
const FOLDS: [Fold; 4] = [Fold::Auto, Fold::First, Fold::Second, Fold::Both];

fn zone_of(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn civil_at(second: i64) -> DateTime {
    Offset::UTC.to_datetime(at(second))
}

fn civil_second(time: DateTime) -> i64 {
    Offset::UTC.to_timestamp(time).unwrap().as_second()
}

/// A zone and an instant near one of its jumps, or anywhere if it has none: 1990 to 2040.
fn zone_and_instant() -> impl Strategy<Value = (&'static str, i64)> {
    let range = 631_152_000_i64..2_208_988_800;
    (prop::sample::select(ZONES.to_vec()), range, -90_000..90_000_i64, any::<bool>()).prop_map(
        |(name, base, nudge, near)| {
            let jump = zone_of(name).following(at(base)).next().map(|jump| jump.timestamp().as_second());
            match jump {
                Some(jump) if near => (name, jump + nudge),
                _ => (name, base),
            }
        },
    )
}

/// A cron expression of which a minute-by-minute model knows what it means.
#[derive(Clone, Debug)]
struct Expression {
    minutes: Vec<i8>,
    hours: Vec<i8>,
    hourly: bool,
    text: String,
}

impl Expression {
    fn matches(&self, time: DateTime) -> bool {
        self.minutes.contains(&time.minute()) && self.hours.contains(&time.hour())
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let minutes = prop_oneof![
        prop::collection::btree_set(0..60_i8, 1..4).prop_map(Vec::from_iter),
        Just(vec![0, 15, 30, 45]),
        Just((0..60).collect()),
    ];
    let hours = prop_oneof![
        prop::collection::btree_set(0..24_i8, 1..6).prop_map(Vec::from_iter),
        prop::collection::btree_set(0..4_i8, 1..4).prop_map(Vec::from_iter),
        Just((0..24).collect()),
    ];
    let list = |values: &[i8]| values.iter().map(i8::to_string).collect::<Vec<_>>().join(",");
    (minutes, hours).prop_map(move |(minutes, hours): (Vec<i8>, Vec<i8>)| {
        let text = format!("{} {} * * *", list(&minutes), list(&hours));
        Expression { hourly: hours.len() == 24, minutes, hours, text }
    })
}

/// All slots of a cron expression due in `from..until`, found by looking at every minute.
///
/// What the clock shows, once or twice, is read off the instants; what it does not show, off the civil minutes that
/// the zone calls a gap. Of those that are due out of order the later one is dropped.
fn model(expression: &Expression, zone: &TimeZone, dst: DstPolicy, from: i64, until: i64) -> Vec<Slot> {
    let gap = if dst.gap != Gap::Auto {
        dst.gap
    } else if expression.hourly {
        Gap::Skip
    } else {
        Gap::Shift
    };
    let fold = if dst.fold != Fold::Auto {
        dst.fold
    } else if expression.hourly {
        Fold::Both
    } else {
        Fold::First
    };
    let margin = 2 * 86_400;
    let mut found: Vec<(i64, i64, u8)> = Vec::new(); // due, civil, fold
    for due in ((from - margin)..(until + margin)).step_by(60) {
        let civil = zone.to_datetime(at(due));
        if !expression.matches(civil) {
            continue;
        }
        let wall = civil_second(civil);
        match zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Fold { before, .. } => {
                let second = wall - i64::from(before.seconds()) != due;
                if fold == Fold::Both || (fold == Fold::Second) == second {
                    found.push((due, wall, u8::from(second)));
                }
            }
            _ => found.push((due, wall, 0)),
        }
    }
    if gap != Gap::Skip {
        let mut shifted: Vec<(i64, i64, i64)> = Vec::new(); // due, civil, jump
        for wall in ((from - margin)..(until + margin)).step_by(60) {
            let civil = civil_at(wall);
            let ambiguous = zone.to_ambiguous_timestamp(civil);
            if let (AmbiguousOffset::Gap { after, .. }, true) =
                (ambiguous.offset(), expression.matches(civil))
            {
                let before_jump = at(wall - i64::from(after.seconds()));
                let jump = zone.following(before_jump).next().unwrap().timestamp().as_second();
                let due = if gap == Gap::End { jump } else { ambiguous.compatible().unwrap().as_second() };
                if shifted.last().is_none_or(|last| last.0 != due) {
                    shifted.push((due, wall, jump));
                }
            }
        }
        found.retain(|plain| !shifted.iter().any(|moved| moved.2 <= plain.0 && plain.0 <= moved.0));
        found.extend(shifted.iter().map(|(due, civil, _)| (*due, *civil, 0)));
    }
    found.sort_unstable();
    let inside = found.into_iter().filter(|(due, ..)| (from..until).contains(due));
    inside
        .map(|(due, second, fold)| Slot { nominal: Nominal::Civil { second, fold }, due: at(due) })
        .collect()
}

/// Everything a schedule says between `from` and `until` follows from the list of its slots there.
fn agree(
    schedule: &Schedule,
    slots: &[Slot],
    from: Timestamp,
    until: Timestamp,
) -> Result<(), TestCaseError> {
    let upcoming: Vec<Slot> =
        schedule.upcoming(before(from)).take_while(|slot| slot.due < until).take(slots.len() + 9).collect();
    prop_assert_eq!(&upcoming, &slots);
    for (i, slot) in slots.iter().enumerate() {
        prop_assert_eq!(schedule.due(slot.nominal), Some(slot.due));
        prop_assert_eq!(schedule.last_until(slot.due), Some(*slot));
        prop_assert_eq!(schedule.first_after(before(slot.due)), Some(*slot));
        if let Some(next) = slots.get(i + 1) {
            prop_assert!(slot.due < next.due);
            prop_assert_eq!(schedule.after(slot.nominal), Some(*next));
            prop_assert_eq!(schedule.first_after(slot.due), Some(*next));
            prop_assert_eq!(schedule.last_until(before(next.due)), Some(*slot));
        }
    }
    let (Some(first), Some(last)) = (slots.first(), slots.last()) else {
        prop_assert_eq!(schedule.span_from(before(from), before(until)), None);
        return Ok(());
    };
    let span = schedule.span_from(before(from), before(until));
    prop_assert_eq!(
        span.map(|span| (span.first, span.last, span.count)),
        Some((*first, *last, slots.len() as u64))
    );
    for (i, slot) in slots.iter().enumerate().step_by(1 + slots.len() / 7) {
        let span = schedule.span(slot.nominal, last.due);
        let left = slots.len() - i - 1;
        prop_assert_eq!(span.map_or(0, |span| span.count), left as u64);
        let span = schedule.span_from(before(from), slot.due);
        prop_assert_eq!(span.map(|span| (span.last, span.count)), Some((*slot, i as u64 + 1)));
    }
    Ok(())
}

fn before(t: Timestamp) -> Timestamp {
    t.checked_sub(SignedDuration::from_nanos(1)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cron_is_what_the_clock_shows(
        (zone, instant) in zone_and_instant(),
        expression in expression(),
        gap in prop::sample::select(GAPS.to_vec()),
        fold in prop::sample::select(FOLDS.to_vec()),
        days in 1..4_i64,
    ) {
        let dst = DstPolicy { gap, fold };
        let schedule = Schedule::parse(&Zones::bundled(), &expression.text, zone, dst, Timestamp::UNIX_EPOCH, Spread::of("job")).unwrap();
        let from = instant.div_euclid(60) * 60;
        let until = from + days * 86_400;
        let slots = model(&expression, &zone_of(zone), dst, from, until);
        agree(&schedule, &slots, at(from), at(until))?;
    }

    #[test]
    fn calendar_interval_is_anchor_plus_k_periods(
        (zone, instant) in zone_and_instant(),
        (months, days, minutes) in prop_oneof![
            (0..14_i64, 0..3_i64, Just(0_i64)),
            (Just(0_i64), 1..3_i64, Just(0_i64)),
            (0..3_i64, 0..40_i64, 0..3_000_i64),
        ],
        millis in prop_oneof![Just(0_i64), 0..1_000_i64],
        aim in prop::option::of((-60..60_i64, 0..40_i64)),
        gap in prop::sample::select(GAPS.to_vec()),
        fold in prop::sample::select(FOLDS.to_vec()),
    ) {
        prop_assume!(months + days > 0);
        let name = zone;
        let zone = zone_of(name);
        let mut start = zone.to_datetime(at(instant)).checked_add(SignedDuration::from_millis(millis)).unwrap();
        if let (Some((minutes, k)), Some(jump)) = (aim, zone.following(at(instant)).next()) {
            // Some periods before a time that the clock may leave out or repeat.
            let offset = zone.to_offset(before(jump.timestamp()));
            let wall = offset.to_datetime(jump.timestamp()).checked_add(SignedDuration::from_mins(minutes)).unwrap();
            start = wall.checked_sub(Span::new().months(months * k).days(days * k)).unwrap();
            prop_assume!(start.year() > 1970);
        }
        let text = format!("R/{start}/P{months}M{days}DT{minutes}M");
        let schedule = Schedule::parse(&Zones::bundled(), &text, name, DstPolicy { gap, fold }, Timestamp::UNIX_EPOCH, Spread::of("job")).unwrap();
        let mut slots: Vec<Slot> = Vec::new();
        for k in 0..300_i64 {
            // Months first, then days: as one span jiff does the same.
            let civil = start.checked_add(Span::new().months(months * k).days(days * k)).unwrap();
            let ambiguous = zone.to_ambiguous_timestamp(civil);
            let due = match (ambiguous.offset(), gap, fold) {
                (AmbiguousOffset::Gap { .. }, Gap::Skip, _) => continue,
                (AmbiguousOffset::Gap { after, .. }, Gap::End, _) => {
                    let early = after.to_timestamp(civil).unwrap();
                    zone.following(early).next().unwrap().timestamp()
                }
                (AmbiguousOffset::Fold { .. }, _, Fold::Second) => ambiguous.later().unwrap(),
                _ => ambiguous.compatible().unwrap(),
            };
            let due = due.checked_add(SignedDuration::from_mins(minutes * k)).unwrap();
            if slots.last().is_none_or(|last| last.due < due) {
                slots.push(Slot { nominal: Nominal::Index(k as u64), due });
            }
        }
        let from = slots[0].due;
        let until = slots[slots.len() * 2 / 3].due;
        slots.retain(|slot| slot.due < until);
        agree(&schedule, &slots, from, until)?;
    }

    #[test]
    fn elapsed_interval_is_exact(
        (zone, instant) in zone_and_instant(),
        millis in 1_000..400_000_000_i64,
        skip in 0..1_000_000_000_u64,
    ) {
        let (seconds, fraction) = (millis / 1_000, millis % 1_000);
        let text = format!("R/{}/PT{seconds}.{fraction:03}S", at(instant));
        let schedule = Schedule::parse(&Zones::bundled(), &text, "", DstPolicy::default(), Timestamp::UNIX_EPOCH, Spread::of("job")).unwrap();
        let _ = zone;
        let slots: Vec<Slot> = (skip..skip + 20).map_while(|k| {
            let due = Timestamp::from_millisecond(instant * 1_000 + millis * k as i64).ok()?;
            Some(Slot { nominal: Nominal::Index(k), due })
        }).collect();
        if let (Some(first), Some(last)) = (slots.first(), slots.last()) {
            agree(&schedule, &slots[..slots.len() - 1], first.due, last.due)?;
        }
    }
}

/// What a day field of cron means, said as a test of one date.
type DayTest = fn(jiff::civil::Date, i8) -> bool;

fn is_working_day(date: jiff::civil::Date) -> bool {
    date.weekday().to_monday_one_offset() <= 5
}

/// The working day of the month nearest to its day `n`: on a tie of none, the one before on Saturday, after on Sunday.
fn nearest_working_day(date: jiff::civil::Date, n: i8) -> bool {
    let last = date.days_in_month();
    n <= last && {
        let in_month = (1..=last).filter_map(|day| date.with().day(day).build().ok());
        let nearest = in_month.filter(|day| is_working_day(*day)).min_by_key(|day| (day.day() - n).abs());
        nearest == Some(date)
    }
}

const DAY_FIELDS: [(&str, &str, DayTest); 7] = [
    ("{} {m} *", "day", |date, n| date.day() == n),
    ("*/{} {m} *", "step", |date, n| (date.day() - 1) % n == 0),
    ("L {m} *", "last", |date, _| date.day() == date.days_in_month()),
    ("LW {m} *", "last working day", |date, _| {
        is_working_day(date)
            && (date.day() + 1..=date.days_in_month())
                .all(|day| !is_working_day(date.with().day(day).build().unwrap()))
    }),
    ("{}W {m} *", "nearest working day", nearest_working_day),
    ("* {m} {w}#{k}", "nth weekday", |date, n| {
        date.weekday().to_sunday_zero_offset() == n % 7 && (date.day() - 1) / 7 == n % 4
    }),
    ("{} {m} {w}L", "either", |date, n| {
        date.day() == n
            || (date.weekday().to_sunday_zero_offset() == n % 7 && date.day() + 7 > date.days_in_month())
    }),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn day_fields_match_the_days_they_name(
        field in prop::sample::select(DAY_FIELDS.to_vec()),
        n in 1..=31_i8,
        month in prop_oneof![Just(None), (1..=12_i8).prop_map(Some)],
        from in 0..60_000_i64,
    ) {
        let (form, _, matches) = field;
        let fields = form
            .replace("{}", &n.to_string())
            .replace("{m}", &month.map_or("*".to_owned(), |month| month.to_string()))
            .replace("{w}", &(n % 7).to_string())
            .replace("{k}", &(n % 4 + 1).to_string());
        let text = format!("0 0 {fields}");
        let Ok(schedule) = Schedule::parse(&Zones::bundled(), &text, "", DstPolicy::default(), Timestamp::UNIX_EPOCH, Spread::of("job")) else {
            // 31 April and the like.
            prop_assert!(n > 29 && month.is_some(), "{}", text);
            return Ok(());
        };
        let days = from..from + 800;
        let slots: Vec<Slot> = days.clone().filter_map(|day| {
            let date = civil_at(day * 86_400).date();
            let found = month.is_none_or(|month| month == date.month()) && matches(date, n);
            let nominal = Nominal::Civil { second: day * 86_400, fold: 0 };
            found.then(|| Slot { nominal, due: at(day * 86_400) })
        }).collect();
        agree(&schedule, &slots, at(days.start * 86_400), at(days.end * 86_400))?;
    }
}

/// Text that is often nearly a schedule.
fn any_text() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "R",
        "r",
        "R5",
        "R0",
        "R99999999999999999999",
        "/",
        "//",
        "P",
        "PT",
        "P1D",
        "P1M",
        "PT1H",
        "PT0S",
        "P1Y",
        "T",
        "P9999Y",
        "PT99999999999999999999S",
        "2024-01-31T02:30:00",
        "2024-02-30",
        "2024-W53-7",
        "2024-366",
        "Z",
        "+05:30",
        "-23:59",
        "9999-12-31T23:59:59",
        "1970-01-01",
        "T10:00",
        ".",
        ",",
        "1",
        "0",
        "*",
        "*/15",
        " ",
        " ",
        " ",
        "1-5",
        "FRI#2",
        "MON-SUN",
        "SUNL",
        "L",
        "LW",
        "15W",
        "31",
        "FEB",
        "?",
        "@daily",
        "@every",
        "-",
        "+",
        "é",
        "\0",
        "\t",
        "5L",
        "0/10",
        "60",
        "#",
        "999999",
        "::",
        "Europe/Berlin",
    ]);
    prop_oneof![
        prop::collection::vec(token, 0..9).prop_map(|tokens| tokens.concat()),
        prop::collection::vec("[0-9*,/LW#?A-Z-]{1,6}", 5..7).prop_map(|fields| fields.join(" ")),
        "R[0-9]{0,3}/[0-9T:.+WZ-]{0,24}/P[0-9YMWDTHS.]{0,12}",
        any::<String>(),
        ".{200,400}",
    ]
}

fn any_instant() -> impl Strategy<Value = Timestamp> {
    let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
    prop_oneof![
        range,
        Just(Timestamp::MIN.as_second()),
        Just(Timestamp::MAX.as_second()),
        0..2_000_000_000_i64
    ]
    .prop_map(at)
}

fn any_nominal() -> impl Strategy<Value = Nominal> {
    let k = prop_oneof![any::<u64>(), Just(u64::MAX), 0..1_000_u64, Just(i64::MAX as u64)];
    let second = prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), 0..2_000_000_000_i64];
    prop_oneof![
        k.prop_map(Nominal::Index),
        (second, any::<u8>()).prop_map(|(second, fold)| Nominal::Civil { second, fold }),
    ]
}

proptest! {
    // Any text; most are refused, which costs little.
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_does_harm(text in any_text(), anchor in any_instant()) {
        if let Err(error) = Schedule::parse(&Zones::bundled(), &text, "", DstPolicy::default(), anchor, Spread::of("job")) {
            prop_assert!(!error.hint().is_empty());
            prop_assert!(error.to_string().len() < 1_500);
        }
    }
}

proptest! {
    // Few: the search for a similar name takes some 10 ms without optimisation.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_zone_does_harm(zone in prop_oneof![any::<String>(), "[A-Za-z/_+:0-9-]{0,80}", "(GMT|UTC)?[+-][0-9:]{1,5}"]) {
        if let Err(error) = Zones::bundled().named(&zone) {
            prop_assert!(!error.hint().is_empty());
            prop_assert!(error.to_string().len() < 500);
        }
    }
}

/// Text that is a schedule.
fn good_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "R/(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|2[0-8])T[01][0-9]:[0-5][0-9]:[0-5][0-9](Z|[+]05:30)?/P[1-9][0-9]{0,3}[YMWD](T[1-9][0-9]{0,4}[HMS])?",
        "R[1-9]//PT[1-9][0-9]{0,11}S",
        "[1-5]?[0-9] ([*]|[1-5]?[0-9]|[*]/[1-9]) ([*]|1?[0-9]|1-9/2) ([*]|1?[1-9]|L|LW|1?[1-9]W|31|30,31) ([*]|[1-9]) ([*]|[0-7]|[0-7]L|[0-7]#[1-5]|MON-SUN)",
    ]
}

proptest! {
    // Few: a span over the whole calendar takes some 100 ms without optimisation.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mark_and_no_instant_does_harm(
        text in good_text(),
        zone in prop::sample::select(ZONES.to_vec()),
        anchor in any_instant(),
        t in any_instant(),
        until in any_instant(),
        nominal in any_nominal(),
        gap in prop::sample::select(GAPS.to_vec()),
        fold in prop::sample::select(FOLDS.to_vec()),
    ) {
        match Schedule::parse(&Zones::bundled(), &text, zone, DstPolicy { gap, fold }, anchor, Spread::of("job")) {
            Err(error) => {
                prop_assert!(!error.hint().is_empty());
                prop_assert!(error.to_string().len() < 1_000);
            }
            Ok(schedule) => {
                let _ = (schedule.lints(), schedule.repeats(), schedule.zone().to_string(), schedule.due(nominal));
                if let (Some(slot), Some(due)) = (schedule.after(nominal), schedule.due(nominal)) {
                    let civil = matches!(nominal, Nominal::Civil { .. });
                    prop_assert!(civil || slot.due > due);
                }
                if let Some(slot) = schedule.first_after(t) {
                    prop_assert!(slot.due > t);
                    prop_assert_eq!(schedule.due(slot.nominal), Some(slot.due));
                }
                if let Some(slot) = schedule.last_until(t) {
                    prop_assert!(slot.due <= t);
                    prop_assert_eq!(schedule.due(slot.nominal), Some(slot.due));
                }
                for span in [schedule.span(nominal, until), schedule.span_from(t, until)].into_iter().flatten() {
                    prop_assert!(span.count > 0 && span.first.due <= span.last.due && span.last.due <= until);
                    prop_assert_eq!(span.count == 1, span.first == span.last);
                }
            }
        }
    }
}

/// How unevenly `names` jobs fall into `buckets`: the chi-square statistic, whose mean is one less than the buckets.
fn unevenness(
    buckets: &std::collections::BTreeMap<u64, u32>,
    bounds: std::ops::RangeInclusive<u64>,
    names: u32,
) -> f64 {
    assert!(buckets.keys().all(|value| bounds.contains(value)), "{buckets:?}");
    let expected = f64::from(names) / bounds.clone().count() as f64;
    bounds.map(|value| (f64::from(*buckets.get(&value).unwrap_or(&0)) - expected).powi(2) / expected).sum()
}

#[test]
fn ten_thousand_names_are_spread_evenly() {
    let names: Vec<String> = (0..5_000)
        .map(|n| format!("job{n}"))
        .chain((0..5_000).map(|n| format!("etl.{n:05}.daily")))
        .collect();
    // The bounds are the statistic's 99.9th percentile for so many buckets.
    for (text, field, bounds, most) in [
        ("H * * * * *", 0, 0..=59, 98.3),
        ("H * * * *", 0, 0..=59, 98.3),
        ("0 H * * *", 1, 0..=23, 49.7),
        ("0 0 H * *", 2, 1..=28, 55.5),
        ("0 0 1 H *", 3, 1..=12, 31.3),
        ("0 0 * * H", 4, 0..=6, 22.5),
        ("H(10-19) * * * *", 0, 10..=19, 27.9),
    ] {
        let mut buckets = std::collections::BTreeMap::new();
        for name in &names {
            let schedule = spread(text, name);
            let value = schedule.resolved().unwrap().split(' ').nth(field).unwrap();
            *buckets.entry(value.parse().unwrap()).or_insert(0) += 1;
        }
        let found = unevenness(&buckets, bounds, 10_000);
        assert!(found < most, "{text}: {found} {buckets:?}");
    }
    // Fields are drawn apart: minute and hour together fall anywhere in the day.
    let mut buckets = std::collections::BTreeMap::new();
    for name in &names {
        let slot = spread("H H * * *", name).first_after(at(0)).unwrap();
        *buckets.entry(u64::try_from(slot.due.as_second()).unwrap() % 86_400 / 900).or_insert(0) += 1;
    }
    assert!(unevenness(&buckets, 0..=95, 10_000) < 144.6, "{buckets:?}");
}

fn spread(text: &str, name: &str) -> Schedule {
    Schedule::parse(
        &Zones::bundled(),
        text,
        "",
        DstPolicy::default(),
        Timestamp::UNIX_EPOCH,
        Spread::of(name),
    )
    .unwrap_or_else(|error| panic!("{text}: {error}"))
}

proptest! {
    /// Whatever the name and the bounds, an `H` names at least one value, all of them within its bounds.
    #[test]
    fn a_spread_is_never_empty_and_stays_in_bounds(
        name in "[a-z0-9._-]{0,40}",
        field in 0..6_usize,
        (a, b) in (0..60_u8, 0..60_u8),
        step in prop::option::of(1..100_u8),
        bounded in any::<bool>(),
    ) {
        let (min, max) = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)][field];
        let (a, b) = (a.clamp(min, max).min(b.clamp(min, max)), a.clamp(min, max).max(b.clamp(min, max)));
        let mut item = if bounded { format!("H({a}-{b})") } else { "H".into() };
        if let Some(step) = step {
            item += &format!("/{step}");
        }
        let mut fields = ["0", "0", "0", "*", "*", "*"].map(String::from);
        fields[field] = item;
        let schedule = spread(&fields.join(" "), &name);
        let again = spread(&fields.join(" "), &name);
        prop_assert_eq!(schedule.resolved(), again.resolved());
        let resolved = schedule.resolved().unwrap().split(' ').nth(field).unwrap();
        let first: u8 = resolved.split(['-', '/']).next().unwrap().parse().unwrap();
        let free = [(0, 59), (0, 59), (0, 23), (1, 28), (1, 12), (0, 6)][field];
        let (low, high) = if bounded { (a, b) } else { free };
        prop_assert!((low..=high).contains(&first), "{} in {}", first, resolved);
        prop_assert!(step.is_none_or(|step| first - low < step));
        prop_assert!(schedule.first_after(at(0)).is_some());
    }
}
