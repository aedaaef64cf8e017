//! What schedule arithmetic costs: `cargo bench -p scheduler --bench schedules`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::{Timestamp, ToSpan};
use scheduler::schedule::{DstPolicy, Nominal, Schedule, Spread, Zones};

/// Name, text, zone.
const SCHEDULES: [(&str, &str, &str); 6] = [
    ("iso time", "R/2020-01-01T00:00:00Z/PT15M", ""),
    ("iso calendar", "R/2020-01-31T02:30:00/P1M", "Europe/Berlin"),
    ("cron dense", "*/5 * * * *", ""),
    ("cron zone", "30 2 * * *", "Europe/Berlin"),
    ("cron workdays", "0 9-17 * * 1-5", "America/New_York"),
    ("cron sparse", "0 0 29 2 *", ""),
];

fn read(text: &str, zone: &str) -> Schedule {
    let at = Timestamp::UNIX_EPOCH;
    let read = Schedule::parse(&Zones::bundled(), text, zone, DstPolicy::default(), at, Spread::of("bench"));
    read.expect("a schedule")
}

fn schedules() -> impl Iterator<Item = (&'static str, Schedule, Timestamp)> {
    let now: Timestamp = "2030-03-30T23:59:59Z".parse().expect("an instant");
    SCHEDULES.into_iter().map(move |(name, text, zone)| (name, read(text, zone), now))
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, text, zone) in SCHEDULES {
        group.bench_function(name, |b| b.iter(|| read(black_box(text), black_box(zone))));
    }
}

fn next(c: &mut Criterion) {
    let mut group = c.benchmark_group("next slot");
    for (name, schedule, now) in schedules() {
        let mark: Nominal = schedule.last_until(now).expect("it has begun").nominal;
        group.bench_function(name, |b| b.iter(|| schedule.after(black_box(mark))));
    }
}

fn year(c: &mut Criterion) {
    let mut group = c.benchmark_group("span over a year");
    for (name, schedule, now) in schedules() {
        let until = now + (365 * 24).hours();
        group.bench_function(name, |b| b.iter(|| schedule.span_from(black_box(now), until)));
    }
}

criterion_group!(all, parse, next, year);
criterion_main!(all);
