//! Golden file of every change of clocks in ten zones from 2024 to 2030, and what schedules make of it.
//!
//! `UPDATE_GOLDEN=1` rewrites it. A new version of the zone data may change it: read the difference.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fmt::Write;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase, TimeZoneTransition};
use jiff::{SignedDuration, Timestamp};
use scheduler::schedule::{DstPolicy, Fold, Gap, Schedule, Spread, Zones};

const ZONES: [&str; 10] = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Sao_Paulo", // none since 2019
    "America/St_Johns",
    "Australia/Lord_Howe", // half an hour
    "Africa/Casablanca",   // back for Ramadan
    "Asia/Gaza",
    "Pacific/Chatham",
    "Antarctica/Troll", // two hours
];

#[test]
fn what_schedules_make_of_every_change_of_clocks() {
    let mut text = String::new();
    for name in ZONES {
        let zone = TimeZoneDatabase::bundled().get(name).unwrap();
        writeln!(text, "# {name}").unwrap();
        let (from, until) =
            ("2024-01-01T00:00:00Z".parse().unwrap(), "2031-01-01T00:00:00Z".parse().unwrap());
        for jump in zone.following(from).take_while(|jump| jump.timestamp() < until) {
            write_jump(&mut text, name, &zone, &jump);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dst.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let line = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(golden == text, "line {:?} of tests/golden/dst.txt differs; UPDATE_GOLDEN=1 rewrites it", line);
}

fn write_jump(text: &mut String, name: &str, zone: &TimeZone, jump: &TimeZoneTransition<'_>) {
    let (t, after) = (jump.timestamp(), jump.offset());
    let before = zone.to_offset(t.checked_sub(SignedDuration::from_secs(1)).unwrap());
    if before == after {
        return; // other initials, same clock
    }
    let (from, to) = (before.to_datetime(t), after.to_datetime(t));
    // The middle of what is left out or repeated, in whole minutes.
    let width = i64::from(after.seconds() - before.seconds());
    let middle = from.min(to).checked_add(SignedDuration::from_secs(width.abs() / 120 * 60)).unwrap();
    let is_gap = width > 0;
    let kind = if is_gap { "gap" } else { "fold" };
    writeln!(text, "\n{t} {before} -> {after}: {kind}, {} -> {}", clock(from), clock(to)).unwrap();
    let policies: &[(&str, Gap, Fold)] = if is_gap {
        &[
            ("auto", Gap::Auto, Fold::Auto),
            ("shift", Gap::Shift, Fold::Auto),
            ("skip", Gap::Skip, Fold::Auto),
            ("end", Gap::End, Fold::Auto),
        ]
    } else {
        &[
            ("auto", Gap::Auto, Fold::Auto),
            ("first", Gap::Auto, Fold::First),
            ("second", Gap::Auto, Fold::Second),
            ("both", Gap::Auto, Fold::Both),
        ]
    };
    let two_days = middle.checked_sub(SignedDuration::from_hours(48)).unwrap();
    let daily = format!("R/{two_days}/P1D");
    let hourly = format!("R/{two_days}/PT1H");
    let nightly = format!("{} {} * * *", middle.minute(), middle.hour());
    for (policy, gap, fold) in policies {
        let mut row = |schedule: &str, hours_before: i64, hours_after: i64| {
            let dst = DstPolicy { gap: *gap, fold: *fold };
            let parsed = Schedule::parse(
                &Zones::bundled(),
                schedule,
                name,
                dst,
                Timestamp::UNIX_EPOCH,
                Spread::of(""),
            )
            .unwrap();
            let from = t.checked_sub(SignedDuration::from_hours(hours_before)).unwrap();
            let until = t.checked_add(SignedDuration::from_hours(hours_after)).unwrap();
            let slots = parsed.upcoming(from).take_while(|slot| slot.due <= until);
            let slots: Vec<String> = slots.map(|slot| wall(zone, slot.due)).collect();
            writeln!(text, "  {policy:6} {schedule:27} {}", slots.join(" ")).unwrap();
        };
        row(&daily, 25, 27);
        row(&nightly, 25, 27);
        row("*/15 * * * *", 1, 2);
        if *policy == "auto" {
            row(&hourly, 2, 3);
        }
    }
}

/// Hour and minute.
fn clock(time: DateTime) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

/// Day, hour, minute and offset as the clock shows them.
fn wall(zone: &TimeZone, t: Timestamp) -> String {
    let offset: Offset = zone.to_offset(t);
    let time = offset.to_datetime(t);
    format!("{:02}T{}{}", time.day(), clock(time), offset)
}
