//! What schedules mean, case by case. Expected instants are worked out by hand or with Python's zoneinfo.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use jiff::Timestamp;
use scheduler::schedule::{
    DstPolicy, Fold, Gap, Lint, Nominal, Schedule, ScheduleError, Spread, Zone, Zones,
};

const POSTED: &str = "2024-05-01T12:00:00.250Z";

fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn parse(text: &str, zone: &str) -> Result<Schedule, ScheduleError> {
    parse_dst(text, zone, DstPolicy::default())
}

fn parse_dst(text: &str, zone: &str, dst: DstPolicy) -> Result<Schedule, ScheduleError> {
    Schedule::parse(&Zones::bundled(), text, zone, dst, instant(POSTED), Spread::of("job"))
}

/// The due times after `after` are `due`, separated by blanks; a closing `-` says that there is none after them.
#[track_caller]
fn check(text: &str, zone: &str, after: &str, due: &str) {
    check_dst(text, zone, DstPolicy::default(), after, due);
}

#[track_caller]
fn check_dst(text: &str, zone: &str, dst: DstPolicy, after: &str, due: &str) {
    let schedule = parse_dst(text, zone, dst).unwrap();
    let mut upcoming = schedule.upcoming(instant(after)).map(|slot| slot.due.to_string());
    let found: Vec<String> =
        due.split_whitespace().map(|_| upcoming.next().unwrap_or_else(|| "-".into())).collect();
    assert_eq!(found.join(" "), due.split_whitespace().collect::<Vec<_>>().join(" "), "{text}");
}

/// The text is refused; the message contains `message` and the hint `hint`.
#[track_caller]
fn refuse(text: &str, message: &str, hint: &str) {
    refuse_in(text, "", message, hint);
}

#[track_caller]
fn refuse_in(text: &str, zone: &str, message: &str, hint: &str) {
    match parse(text, zone) {
        Ok(schedule) => panic!("{text} was accepted: {schedule:?}"),
        Err(error) => {
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().contains(hint), "{}", error.hint());
        }
    }
}

#[test]
fn starts_are_read_in_every_form_that_chronos_read() {
    let check = |start: &str, due: &str| check(&format!("R/{start}/P1000Y"), "", "1970-01-01T00:00:00Z", due);
    check("2024-02-29T13:14:15Z", "2024-02-29T13:14:15Z");
    check("2024-02-29T13:14:15z", "2024-02-29T13:14:15Z");
    check("2024-02-29T13:14:15", "2024-02-29T13:14:15Z");
    check("2024-02-29T13:14:15.1234Z", "2024-02-29T13:14:15.123Z");
    check("2024-02-29T13:14:15,5", "2024-02-29T13:14:15.5Z");
    check("2024-02-29T13:14", "2024-02-29T13:14:00Z");
    check("2024-02-29T13", "2024-02-29T13:00:00Z");
    check("2024-02-29", "2024-02-29T00:00:00Z");
    check("2024-02", "2024-02-01T00:00:00Z");
    check("2024", "2024-01-01T00:00:00Z");
    check("2024-060", "2024-02-29T00:00:00Z");
    check("2023-365T01:00", "2023-12-31T01:00:00Z");
    check("2020-W53-7", "2021-01-03T00:00:00Z");
    check("2021-W01", "2021-01-04T00:00:00Z");
    check("2018-W01-1T10:00+02", "2018-01-01T08:00:00Z");
    check("T10:00", "1970-01-01T10:00:00Z");
    check("2024-02-29T13:14:15+05:30", "2024-02-29T07:44:15Z");
    check("2024-02-29T13:14:15-0330", "2024-02-29T16:44:15Z");
    check("1970-01-01T00:00:01Z", "1970-01-01T00:00:01Z");
}

#[test]
fn an_empty_start_is_the_moment_of_the_post() {
    check("R//PT1H", "", POSTED, "2024-05-01T13:00:00.25Z 2024-05-01T14:00:00.25Z");
    check("R//PT1H", "", "2024-05-01T12:00:00Z", "2024-05-01T12:00:00.25Z");
    check("R3//P1D", "Asia/Tokyo", "2024-01-01T00:00:00Z", "2024-05-01T12:00:00.25Z 2024-05-02T12:00:00.25Z");
}

#[test]
fn a_zone_relabels_the_local_fields_of_the_start() {
    // The example of the Chronos documentation.
    check(
        "R/2014-10-10T18:32:00Z/PT60M",
        "America/Los_Angeles",
        "2014-10-01T00:00:00Z",
        "2014-10-11T01:32:00Z",
    );
    check("R/2014-10-10T18:32:00+09:00/PT60M", "utc", "2014-10-01T00:00:00Z", "2014-10-10T18:32:00Z");
    check("R/2014-10-10T18:32:00/PT60M", "+05:30", "2014-10-01T00:00:00Z", "2014-10-10T13:02:00Z");
    // Without a zone the offset is one: no daylight saving time.
    check(
        "R/2024-03-30T02:30:00+01:00/P1D",
        "",
        "2024-03-30T12:00:00Z",
        "2024-03-31T01:30:00Z 2024-04-01T01:30:00Z",
    );
}

#[test]
fn months_are_added_to_the_anchor_so_that_its_day_is_never_lost() {
    check(
        "R/2024-01-31T08:00:00Z/P1M",
        "",
        "2024-01-31T08:00:00Z",
        "2024-02-29T08:00:00Z 2024-03-31T08:00:00Z 2024-04-30T08:00:00Z 2024-05-31T08:00:00Z",
    );
    check(
        "R/2024-02-29T00:00:00Z/P1Y",
        "",
        "2024-03-01T00:00:00Z",
        "2025-02-28T00:00:00Z 2026-02-28T00:00:00Z 2027-02-28T00:00:00Z 2028-02-29T00:00:00Z",
    );
    // 2012 to 2024: what Chronos got wrong by one month length for all.
    check("R/2012-01-01T00:00:01Z/P1M", "", "2024-03-15T00:00:00Z", "2024-04-01T00:00:01Z");
    check(
        "R/2024-01-01T00:00:00Z/P1M2W3D",
        "",
        "2024-01-01T00:00:00Z",
        "2024-02-18T00:00:00Z 2024-04-04T00:00:00Z",
    );
}

#[test]
fn days_keep_the_time_of_day_and_hours_do_not() {
    let berlin = "Europe/Berlin";
    let (spring, autumn) = ("2024-03-30T12:00:00Z", "2024-10-26T12:00:00Z");
    check("R/2024-01-01T09:00:00/P1D", berlin, spring, "2024-03-31T07:00:00Z 2024-04-01T07:00:00Z");
    check("R/2024-01-01T09:00:00/PT24H", berlin, spring, "2024-03-31T08:00:00Z 2024-04-01T08:00:00Z");
    check("R/2024-01-01T09:00:00/P1W", berlin, spring, "2024-04-01T07:00:00Z 2024-04-08T07:00:00Z");
    check("R/2024-01-01T02:30:00/P1D", berlin, spring, "2024-03-31T01:30:00Z 2024-04-01T00:30:00Z");
    check("R/2024-01-01T02:30:00/P1D", berlin, autumn, "2024-10-27T00:30:00Z 2024-10-28T01:30:00Z");
    // One day on the calendar, then twelve hours, twice, and so on.
    check("R/2024-03-30T09:00:00/P1DT12H", berlin, spring, "2024-03-31T19:00:00Z 2024-04-02T07:00:00Z");
    check(
        "R/2024-03-31T00:30:00/PT1H",
        berlin,
        "2024-03-30T23:30:00Z",
        "2024-03-31T00:30:00Z 2024-03-31T01:30:00Z",
    );
}

#[test]
fn fractions_of_a_second_count_exactly() {
    check(
        "R/2024-01-01T00:00:00Z/PT1.5S",
        "",
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:01.5Z 2024-01-01T00:00:03Z",
    );
    check("R/2024-01-01T00:00:00Z/PT1.0009S", "", "2024-01-01T00:00:00Z", "2024-01-01T00:00:01Z");
    check("R/2024-01-01T00:00:00Z/P1m1dt1h1m1,001s", "", "2024-01-01T00:00:00Z", "2024-02-02T01:01:01.001Z");
}

#[test]
fn repetitions_are_read_and_left_to_the_caller() {
    let repeats = |text: &str| parse(text, "").unwrap().repeats();
    assert_eq!(repeats("R/2024-01-01/P1D"), None);
    assert_eq!(repeats("R5/2024-01-01/P1D"), Some(5));
    assert_eq!(repeats("R18446744073709551615/2024-01-01/P1D"), Some(u64::MAX));
    assert_eq!(repeats("@daily"), None);
    check("R1/2024-01-01T00:00:00Z/P1D", "", "2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z");
    let none = parse("R0/2024-01-01/P1D", "").unwrap();
    assert_eq!(none.repeats(), Some(0));
    assert_eq!(none.first_after(instant("2023-01-01T00:00:00Z")), None);
    assert_eq!(none.last_until(instant("9000-01-01T00:00:00Z")), None);
    assert_eq!(none.after(Nominal::Index(3)), None);
}

#[test]
fn every_schedule_ends_with_the_year_9999() {
    check(
        "R/9999-06-01T00:00:00Z/P3M",
        "",
        "9999-05-01T00:00:00Z",
        "9999-06-01T00:00:00Z 9999-09-01T00:00:00Z 9999-12-01T00:00:00Z -",
    );
    check("R/2024-01-01T00:00:00Z/P9000Y", "", "2024-01-01T00:00:00Z", "-");
    check("0 0 1 12 *", "Europe/Berlin", "9998-12-24T00:00:00Z", "9999-11-30T23:00:00Z -");
    check("0 0 29 2 MON", "", "9996-03-01T00:00:00Z", "9997-02-03T00:00:00Z");
    let schedule = parse("R/2024-01-01/P1M", "").unwrap();
    assert_eq!(schedule.after(Nominal::Index(u64::MAX)), None);
    assert_eq!(schedule.due(Nominal::Index(u64::MAX)), None);
    assert_eq!(schedule.after(Nominal::Civil { second: 0, fold: 0 }), None);
    let cron = parse("* * * * * *", "America/New_York").unwrap();
    assert_eq!(cron.after(Nominal::Civil { second: i64::MAX, fold: 255 }), None);
    assert_eq!(cron.after(Nominal::Index(0)), None);
}

#[test]
fn intervals_are_refused_with_the_reason_and_the_place() {
    refuse("R-1/2024-01-01/P1D", "the number of repetitions: it is negative", "R for ever");
    refuse("r/2024-01-01/P1D", "the R must be a capital letter", "R[n]/[start]/period");
    refuse("R99999999999999999999/2024-01-01/P1D", "does not fit 64 bits", "R5");
    refuse("Rx/2024-01-01/P1D", "it is not a number", "R5");
    refuse("R/P1D", "fewer than three parts", "R[n]/[start]/period");
    refuse("2024-01-01T00:00:00Z/P1D", "does not begin with R", "R[n]/[start]/period");
    refuse("PT1H", "does not begin with R", "R[n]/[start]/period");
    refuse(" R//P1D", "there is a blank before it", "");
    refuse("R/2024-01-01/2024-02-01", "an end date is not supported", "");
    refuse("R/P1D/2024-02-01", "the period must come last", "");
    refuse("R/2024-01-01/P1D/P1D", "more than three parts", "");
    refuse("R/2024-13-01/P1D", "the start: the month is not 01 to 12 (at character 8)", "YYYY-MM-DD");
    refuse("R/2023-02-29/P1D", "the month has no such day (at character 11)", "");
    refuse("R/2023-366/P1D", "the year has no such day", "");
    refuse("R/2021-W53/P1D", "the year has no such week", "");
    refuse("R/2024-01-01T24:00/P1D", "the hour is not 00 to 23", "");
    refuse("R/2024-01-01T00:60/P1D", "the minute is not 00 to 59", "");
    refuse("R/2024-01-01T00:00:60/P1D", "the second is not 00 to 59", "");
    refuse("R/2024-01-01T00:00:00+24:00/P1D", "the offset is not", "");
    refuse("R/2024-01-01 00:00:00/P1D", "joined by T", "");
    refuse("R/20240101T000000/P1D", "basic format", "");
    refuse("R/2024-01-01T00:00[Europe/Berlin]/P1D", "more than three parts", "");
    refuse("R/2024-01-01T00:00[UTC]/P1D", "a zone in brackets", "zone field");
    refuse("R/1970-01-01T00:00:00Z/P1D", "before 1970-01-01T00:00:01Z", "1970 to 9999");
    refuse("R/1969/P1D", "before 1970-01-01T00:00:01Z", "");
    refuse_in("R/T08:00/P1D", "Asia/Tokyo", "before 1970-01-01T00:00:01Z", "first day of 1970");
    refuse("R/12024-01-01/P1D", "the year is after 9999", "");
    refuse("R/9999-12-31T23:59:59-10:00/P1D", "after the year 9999", "");
    refuse("R/2024-01-01/P0D", "shortest period is one second", "PnYnMnW");
    refuse("R/2024-01-01/P", "it is zero", "");
    refuse("R/2024-01-01/PT0.999S", "shortest period is one second", "");
    refuse("R/2024-01-01/P-1D", "the period: it is negative (at character 15)", "");
    refuse("R/2024-01-01/-P1D", "it is negative", "");
    refuse("R/2024-01-01/PT", "nothing follows the T", "");
    refuse("R/2024-01-01/P1DT", "nothing follows the T", "");
    refuse("R/2024-01-01/P1H", "after a T, as in PT1H", "");
    refuse("R/2024-01-01/P1D1M", "repeated or out of order", "");
    refuse("R/2024-01-01/P1D1D", "repeated or out of order", "");
    refuse("R/2024-01-01/P1.5D", "only seconds can have a fraction", "");
    refuse("R/2024-01-01/PT1", "the unit is missing", "");
    refuse("R/2024-01-01/p1D", "the P must be a capital letter", "");
    refuse("R/2024-01-01/P1D ", "there is a blank", "");
    refuse("R/2024-01-01/", "it is missing", "");
    refuse("R/2024-01-01/P99999999999999999999Y", "longer than the calendar", "");
    refuse("R/2024-01-01/PT999999999999999S", "longer than the calendar", "");
    refuse("", "empty", "R/");
    refuse(" \t", "empty", "30 2 * * *");
    refuse(&"*".repeat(257), "257 bytes; at most 256", "");
}

#[test]
fn cron_fields_mean_what_they_say() {
    let utc = |text: &str, after: &str, due: &str| check(text, "", after, due);
    utc("30 2 * * *", "2024-01-01T02:30:00Z", "2024-01-02T02:30:00Z 2024-01-03T02:30:00Z");
    utc(
        "*/20 9-10 * * *",
        "2024-01-01T09:20:00Z",
        "2024-01-01T09:40:00Z 2024-01-01T10:00:00Z 2024-01-01T10:20:00Z",
    );
    utc("*/30 * * * * *", "2024-01-01T00:00:00.5Z", "2024-01-01T00:00:30Z 2024-01-01T00:01:00Z");
    utc("59 59 23 31 12 *", "2024-01-01T00:00:00Z", "2024-12-31T23:59:59Z 2025-12-31T23:59:59Z");
    utc("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"); // 2100 is no leap year
    utc("0 0 31 * *", "2024-03-31T00:00:00Z", "2024-05-31T00:00:00Z 2024-07-31T00:00:00Z");
    utc("0 12 * * mon-fri", "2024-05-03T12:00:00Z", "2024-05-06T12:00:00Z");
    utc(
        "0 12 * * FRI-SUN",
        "2024-05-05T12:00:00Z",
        "2024-05-10T12:00:00Z 2024-05-11T12:00:00Z 2024-05-12T12:00:00Z",
    );
    utc("0 12 * * 7", "2024-05-01T00:00:00Z", "2024-05-05T12:00:00Z");
    utc("0 12 * * 0", "2024-05-01T00:00:00Z", "2024-05-05T12:00:00Z");
    utc("0 0 1 JAN,jul *", "2024-01-01T00:00:00Z", "2024-07-01T00:00:00Z 2025-01-01T00:00:00Z");
    utc("0 0 L * *", "2024-02-01T00:00:00Z", "2024-02-29T00:00:00Z 2024-03-31T00:00:00Z");
    utc("0 0 LW * *", "2024-03-01T00:00:00Z", "2024-03-29T00:00:00Z 2024-04-30T00:00:00Z");
    utc("0 0 15W * *", "2024-06-01T00:00:00Z", "2024-06-14T00:00:00Z 2024-07-15T00:00:00Z");
    utc("0 0 1W * *", "2024-05-31T00:00:00Z", "2024-06-03T00:00:00Z"); // 1 June is a Saturday; W never leaves the month
    utc("0 0 31W * *", "2025-07-31T00:00:00Z", "2025-08-29T00:00:00Z 2025-10-31T00:00:00Z"); // 31 August is a Sunday
    utc("0 0 29W 2 *", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
    utc("0 0 L,15W * *", "2024-06-01T00:00:00Z", "2024-06-14T00:00:00Z 2024-06-30T00:00:00Z");
    utc("0 0 * * SAT-SUN#1", "2024-06-02T00:00:00Z", "2024-07-06T00:00:00Z 2024-07-07T00:00:00Z");
    utc("0 0 * * 5#5", "2024-05-01T00:00:00Z", "2024-05-31T00:00:00Z 2024-08-30T00:00:00Z");
    utc("0 0 * * 7L,1#1", "2024-05-01T00:00:00Z", "2024-05-06T00:00:00Z 2024-05-26T00:00:00Z");
    utc("0 0 * * 5L", "2024-05-01T00:00:00Z", "2024-05-31T00:00:00Z 2024-06-28T00:00:00Z");
    utc("0 0 * * FRIL", "2024-05-01T00:00:00Z", "2024-05-31T00:00:00Z");
    utc("0 0 * * MON#2", "2024-05-01T00:00:00Z", "2024-05-13T00:00:00Z 2024-06-10T00:00:00Z");
    utc("0 0 ? * MON", "2024-05-01T00:00:00Z", "2024-05-06T00:00:00Z");
    utc(
        "0 0 13 * FRI",
        "2024-05-01T00:00:00Z",
        "2024-05-03T00:00:00Z 2024-05-10T00:00:00Z 2024-05-13T00:00:00Z",
    );
    // As Vixie: a step of * is no restriction that the weekday could be an alternative to.
    utc(
        "0 0 */2 * MON",
        "2024-05-01T00:00:00Z",
        "2024-05-13T00:00:00Z 2024-05-27T00:00:00Z 2024-06-03T00:00:00Z",
    );
    utc("@hourly", "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z");
    utc("@Daily", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    utc("@midnight", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    utc("@weekly", "2024-05-01T00:00:00Z", "2024-05-05T00:00:00Z");
    utc("@monthly", "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z");
    utc("@yearly", "2024-05-01T00:00:00Z", "2025-01-01T00:00:00Z");
    utc(" @annually ", "2024-05-01T00:00:00Z", "2025-01-01T00:00:00Z");
}

#[test]
fn cron_is_refused_with_the_field_and_the_reason() {
    refuse("* * * *", "4 fields; a cron expression has 5", "minute, hour");
    refuse("0 0 0 1 1 * 2024", "7 fields", "");
    refuse("hourly", "1 field; a cron expression has 5", "");
    refuse("0 25 * * *", "hour `25`: 25 is not within 0-23", "0-23");
    refuse("0 1,25 * * *", "hour `1,25`: 25 is not within 0-23", "0-23");
    refuse("0 0 1-99 * *", "day of month `1-99`: 99 is not within 1-31", "");
    refuse("0 0 L-3 * *", "L stands alone", "");
    refuse("0 0 W * *", "W needs one day before it", "15W");
    refuse("0 0 * 1#2 *", "# can only stand in day of week", "");
    refuse("0 0 * 1JAN *", "month `1JAN`: `1JAN`: a month has its first three letters", "JAN-DEC");
    refuse("0 0 * * FRI-MON", "the range FRI-MON ends before it begins", "");
    refuse("0 0 * * 1#L#2", "after # comes the week of the month", "");
    refuse("*,5 * * * *", "* stands alone", "");
    refuse("60 * * * *", "minute `60`", "0-59");
    refuse("0 0 0 * *", "day of month `0`", "1-31");
    refuse("0 0 * 13 *", "month `13`", "1-12");
    refuse("0 0 * * 8", "day of week `8`", "SUN-SAT");
    refuse("0/5 * * * *", "minute `0/5`", "`*/15`");
    refuse("*/0 * * * *", "step cannot be zero", "");
    refuse("5-1 * * * *", "minute `5-1`", "");
    refuse("1,,2 * * * *", "beside a comma", "");
    refuse(", * * * *", "beside a comma", "");
    refuse("0 0 * * MONDAY", "first three letters", "");
    refuse("0 0 * MARCH *", "first three letters", "");
    refuse("0 0 * * L", "such as 5L", "");
    refuse("0 0 L,LW * *", "L and LW cannot be combined", "");
    refuse("0 0 15W3 * *", "nothing can follow a W", "");
    refuse("0 0 * * 1#6", "day of week `1#6`", "second Monday");
    refuse("L * * * *", "letters cannot stand here", "");
    refuse("0 0 ?/2 * *", "? can only stand alone", "");
    refuse("0 0 * * +1", "cannot stand in a cron expression", "");
    refuse("0 0 30 2 *", "no day ever matches", "30 February");
    refuse("0 0 31 4,6,9,11 *", "no day ever matches", "");
    refuse("@reboot", "not supported", "by hand");
    refuse("@every 5m", "not supported", "R//PT5M");
    refuse("@fortnightly", "not supported", "@monthly");
}

/// What the schedule `text` means for the job `name`.
#[track_caller]
fn resolve(text: &str, name: &str) -> String {
    let schedule =
        Schedule::parse(&Zones::bundled(), text, "", DstPolicy::default(), instant(POSTED), Spread::of(name));
    schedule.unwrap().resolved().unwrap_or("-").into()
}

/// These numbers are kept for ever: a job's schedule means what its name makes of it.
#[test]
fn h_follows_from_the_name_of_the_job() {
    let report = |text: &str, resolved: &str| assert_eq!(resolve(text, "report"), resolved, "{text}");
    report("H H * * *", "50 19 * * *");
    report("H H H * * *", "34 50 19 * * *");
    report("H * H H H", "50 * 2 11 1");
    report("H/15 * * * *", "5-59/15 * * * *");
    report("H(0-29) H(1-5) * * *", "20 4 * * *");
    report("H(0-29)/10 * * * *", "0-29/10 * * * *");
    report("0 0 H/7 * *", "0 0 2-28/7 * *");
    report("0 0 * * H(MON-FRI)", "0 0 * * 1");
    report("h,59 2 * * *", "50,59 2 * * *");
    report("H/100 * * * *", "50-59/100 * * * *");
    report("0 2 * * *", "-");
    report("@daily", "-");
    assert_eq!(resolve("H H * * *", "report2"), "25 5 * * *");
    assert_eq!(resolve("H H * * *", ""), "22 11 * * *");
}

#[test]
fn h_is_refused_where_it_says_nothing() {
    refuse("H-5 * * * *", "minute `H-5`: `H-5`: H stands alone or as in H/15", "`H`");
    refuse("H(5) * * * *", "H stands alone or as in", "");
    refuse("H(5-1) * * * *", "the range 5-1 ends before it begins", "");
    refuse("H(0-60) * * * *", "60 is not within 0-59", "");
    refuse("H(0-29 * * * *", "H stands alone or as in", "");
    refuse("H/0 * * * *", "step cannot be zero", "");
    refuse("H/x * * * *", "the step `X` is not a number", "");
    refuse("0 0 * * H#2", "H stands alone or as in", "");
    refuse("0 0 HW * *", "H stands alone or as in", "");
    refuse("1(2-3) * * * *", "a character cannot stand", "");
}

const fn dst(gap: Gap, fold: Fold) -> DstPolicy {
    DstPolicy { gap, fold }
}

#[test]
fn a_gap_moves_drops_or_joins_slots() {
    let nightly = |gap: Gap, due: &str| {
        check_dst("30 2 * * *", "Europe/Berlin", dst(gap, Fold::Auto), "2024-03-30T12:00:00Z", due);
        let interval = "R/2024-01-01T02:30:00/P1D";
        check_dst(interval, "Europe/Berlin", dst(gap, Fold::Auto), "2024-03-30T12:00:00Z", due);
    };
    nightly(Gap::Auto, "2024-03-31T01:30:00Z 2024-04-01T00:30:00Z");
    nightly(Gap::Shift, "2024-03-31T01:30:00Z 2024-04-01T00:30:00Z");
    nightly(Gap::End, "2024-03-31T01:00:00Z 2024-04-01T00:30:00Z");
    nightly(Gap::Skip, "2024-04-01T00:30:00Z");
    for text in ["R/2024-01-01T02:30:00/P1D", "30 2 * * *"] {
        let end = parse_dst(text, "Europe/Berlin", dst(Gap::End, Fold::Auto)).unwrap();
        let last = end.last_until(instant("2024-03-31T01:10:00Z")).unwrap();
        assert_eq!(last.due, instant("2024-03-31T01:00:00Z"), "{text}");
    }
    // 02:30 moves to where 03:30 is: one slot, and it is the earlier of the two by name.
    let schedule = parse("30 2,3 * * *", "Europe/Berlin").unwrap();
    let slots: Vec<_> = schedule.upcoming(instant("2024-03-30T12:00:00Z")).take(2).collect();
    assert_eq!(slots[0].due, instant("2024-03-31T01:30:00Z"));
    assert_eq!(slots[0].nominal, Nominal::Civil { second: 1_711_852_200, fold: 0 }); // 2024-03-31T02:30
    assert_eq!(slots[1].due, instant("2024-04-01T00:30:00Z"));
    // Lord Howe leaves out half an hour at 02:00: 02:20 is due at 02:50, so 02:40 would come before it.
    check(
        "20,40 2 * * *",
        "Australia/Lord_Howe",
        "2024-10-05T00:00:00Z",
        "2024-10-05T15:50:00Z 2024-10-06T15:20:00Z",
    );
    // Samoa left out 30 December 2011.
    check(
        "R/2011-12-29T10:00:00/P1D",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2011-12-29T20:00:00Z 2011-12-30T20:00:00Z 2011-12-31T20:00:00Z",
    );
}

#[test]
fn a_repeated_hour_runs_once_or_twice() {
    let nightly = |fold: Fold, due: &str| {
        check_dst("30 2 * * *", "Europe/Berlin", dst(Gap::Auto, fold), "2024-10-26T12:00:00Z", due);
    };
    nightly(Fold::Auto, "2024-10-27T00:30:00Z 2024-10-28T01:30:00Z");
    nightly(Fold::First, "2024-10-27T00:30:00Z 2024-10-28T01:30:00Z");
    nightly(Fold::Second, "2024-10-27T01:30:00Z 2024-10-28T01:30:00Z");
    nightly(Fold::Both, "2024-10-27T00:30:00Z 2024-10-27T01:30:00Z 2024-10-28T01:30:00Z");
    check_dst(
        "R/2024-01-01T02:30:00/P1D",
        "Europe/Berlin",
        dst(Gap::Auto, Fold::Second),
        "2024-10-26T12:00:00Z",
        "2024-10-27T01:30:00Z 2024-10-28T01:30:00Z",
    );
    // What covers every hour or steps through them is elapsed time; a list is not.
    let hourly = "2024-10-27T00:00:00Z 2024-10-27T01:00:00Z 2024-10-27T02:00:00Z";
    check("0 * * * *", "Europe/Berlin", "2024-10-26T23:30:00Z", hourly);
    check("0 0-23 * * *", "Europe/Berlin", "2024-10-26T23:30:00Z", hourly);
    check(
        "0 */2 * * *",
        "Europe/Berlin",
        "2024-10-26T23:30:00Z",
        "2024-10-27T00:00:00Z 2024-10-27T01:00:00Z 2024-10-27T03:00:00Z",
    );
    check(
        "0 0-22 * * *",
        "Europe/Berlin",
        "2024-10-26T23:30:00Z",
        "2024-10-27T00:00:00Z 2024-10-27T02:00:00Z",
    );
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2024-03-31T00:30:00Z",
        "2024-03-31T01:00:00Z 2024-03-31T01:30:00Z",
    );
}

#[test]
fn a_jump_that_ends_the_table_of_a_zone_is_not_missed() {
    // Ciudad Juárez went back an hour at midnight of 30 November 2022, a month after the last regular change.
    check(
        "30 23 * * *",
        "America/Ciudad_Juarez",
        "2022-11-29T12:00:00Z",
        "2022-11-30T05:30:00Z 2022-12-01T06:30:00Z",
    );
    let schedule = parse("30 * * * *", "America/Ciudad_Juarez").unwrap();
    let slot = schedule.last_until(instant("2022-11-30T06:40:00Z")).unwrap();
    assert_eq!(slot.nominal, Nominal::Civil { second: 1_669_764_600, fold: 1 }); // 2022-11-29T23:30, again
    let span = schedule.span_from(instant("2022-11-29T06:00:00Z"), instant("2022-12-01T06:00:00Z")).unwrap();
    assert_eq!(span.count, 48);
}

#[test]
fn other_zone_data_moves_slots_but_repeats_none() {
    let schedule = parse("*/15 * * * *", "Europe/Berlin").unwrap();
    let june = |hour: i64, minute: i64| 1_717_200_000 + hour * 3_600 + minute * 60; // 2024-06-01 on the wall
    // A second time around that today's data does not have: three hours are left out.
    let slot = schedule.after(Nominal::Civil { second: june(2, 30), fold: 1 }).unwrap();
    assert_eq!(slot.nominal, Nominal::Civil { second: june(5, 45), fold: 0 });
    // A mark in a gap: the clock shows 03:00 next.
    let gap = 1_711_852_200; // 2024-03-31T02:30
    let slot = schedule.after(Nominal::Civil { second: gap, fold: 0 }).unwrap();
    assert_eq!(slot.due, instant("2024-03-31T01:00:00Z"));
    assert_eq!(schedule.due(Nominal::Civil { second: gap, fold: 0 }), None);
    // A mark the first time around: the hour comes again.
    let fold = 1_729_997_100; // 2024-10-27T02:45
    let slot = schedule.after(Nominal::Civil { second: fold, fold: 0 }).unwrap();
    assert_eq!(slot.due, instant("2024-10-27T01:00:00Z"));
    assert_eq!(slot.nominal, Nominal::Civil { second: fold - 45 * 60, fold: 1 });
}

#[test]
fn spans_count_without_counting() {
    let count = |text: &str, zone: &str, from: &str, until: &str| {
        parse(text, zone).unwrap().span_from(instant(from), instant(until)).map_or(0, |span| span.count)
    };
    let (from, until) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    assert_eq!(count("R/2020-01-01T00:00:00Z/PT1S", "", from, until), 366 * 86_400);
    assert_eq!(count("* * * * * *", "", from, until), 366 * 86_400);
    assert_eq!(count("* * * * *", "Europe/Berlin", from, until), 366 * 1_440);
    assert_eq!(count("30 2 * * *", "Europe/Berlin", from, until), 366);
    assert_eq!(count("R/2020-01-01T02:30:00/P1D", "Europe/Berlin", from, until), 366);
    assert_eq!(count("0 0 * * MON", "", from, until), 52);
    assert_eq!(count("@monthly", "", from, until), 12);
    assert_eq!(count("@monthly", "", from, from), 0);
    let skip = parse_dst("R/2020-01-01T02:30:00/P1D", "Europe/Berlin", dst(Gap::Skip, Fold::Auto));
    assert_eq!(skip.unwrap().span_from(instant(from), instant(until)).unwrap().count, 365);
    let span = parse("R/2024-01-01T00:00:00Z/PT1H", "")
        .unwrap()
        .span(Nominal::Index(4), instant("2024-01-01T08:30:00Z"));
    let span = span.unwrap();
    assert_eq!(
        (span.first.nominal, span.last.nominal, span.count),
        (Nominal::Index(5), Nominal::Index(8), 4)
    );
}

#[test]
fn a_day_that_a_zone_left_out_is_counted_once() {
    // The slots of 30 and 31 December 2011 are due at one instant: the second of them is none.
    let daily = parse("R/2011-12-28T00:00:00/P1D", "Pacific/Apia").unwrap();
    let until = instant("2012-01-02T12:00:00Z");
    let count = |after: u64| daily.span(Nominal::Index(after), until).map_or(0, |span| span.count);
    let walked = |after: u64| {
        let next =
            |slot: &scheduler::schedule::Slot| daily.after(slot.nominal).filter(|slot| slot.due <= until);
        let first = daily.after(Nominal::Index(after)).filter(|slot| slot.due <= until);
        std::iter::successors(first, next).count() as u64
    };
    for after in 0..5 {
        assert_eq!(count(after), walked(after), "after index {after}");
    }
    assert_eq!((count(0), count(1)), (5, 4));
}

#[test]
fn nothing_is_due_before_the_start() {
    let schedule = parse("R/2024-06-01T00:00:00Z/P1D", "").unwrap();
    assert_eq!(schedule.last_until(instant("2024-05-31T23:59:59.999Z")), None);
    assert_eq!(schedule.last_until(instant("2024-06-01T00:00:00Z")).unwrap().nominal, Nominal::Index(0));
    assert_eq!(schedule.first_after(Timestamp::MIN).unwrap().nominal, Nominal::Index(0));
    // Cron has no start.
    let leap = parse("0 0 29 2 *", "Europe/Berlin").unwrap();
    let last = leap.last_until(instant("2104-02-28T00:00:00Z")).unwrap();
    assert_eq!(last.due, instant("2096-02-28T23:00:00Z"));
}

#[test]
fn zones_are_found_or_a_similar_one_is_named() {
    let found = |name: &str| Zones::bundled().named(name).unwrap().to_string();
    assert_eq!(found(""), "UTC");
    assert_eq!(found("Z"), "UTC");
    assert_eq!(found("utc"), "UTC");
    assert_eq!(found("europe/berlin"), "Europe/Berlin");
    assert_eq!(found("+05:30"), "+05:30");
    assert_eq!(found("-0800"), "-08");
    assert_eq!(found("GMT+05:30"), "+05:30");
    assert_eq!(found("UTC-3"), "-03");
    let nearest = |name: &str| match Zones::bundled().named(name) {
        Err(ScheduleError::Zone { suggestion, .. }) => suggestion,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(nearest("Europe/Berlon").as_deref(), Some("Europe/Berlin"));
    assert_eq!(nearest("Berlin").as_deref(), Some("Europe/Berlin"));
    assert_eq!(nearest("new york").as_deref(), Some("America/New_York"));
    assert_eq!(nearest("PST").as_deref(), Some("America/Los_Angeles"));
    assert_eq!(nearest("Atlantis/Poseidonis"), None);
    assert_eq!(nearest("+5"), None);
    assert_eq!(nearest("+24:00"), None);
    assert!(Zones::bundled().named("Etc/Unknown").is_err());
    assert_eq!(Zone::classic("IST"), Some("Asia/Kolkata"));
    assert_eq!(Zone::classic("Europe/Berlin"), None);
    refuse_in(
        "@daily",
        "Europe/Berlon",
        "time zone `Europe/Berlon` is not known",
        "did you mean Europe/Berlin?",
    );
}

#[test]
fn advice_is_given_where_a_schedule_may_surprise() {
    let lints = |text: &str, zone: &str| parse(text, zone).unwrap().lints();
    assert_eq!(lints("R/2024-01-01T02:00:00Z/P1D", "Europe/Berlin"), [Lint::OffsetIgnored]);
    assert_eq!(lints("R/2024-01-01T02:00:00/PT24H", "Europe/Berlin"), [Lint::ElapsedDays]);
    assert_eq!(lints("R/2024-01-01T02:00:00/PT24H", "Asia/Tokyo"), []); // no change since 1951
    assert_eq!(lints("R/2024-01-01T02:00:00Z/PT24H", ""), []);
    assert_eq!(lints("R/2024-01-01T02:00:00/PT1H", "Europe/Berlin"), []);
    assert_eq!(lints("R/2024-01-31/P1M", ""), [Lint::MonthEnd { day: 31 }]);
    assert_eq!(lints("R/2024-01-28/P1M", ""), []);
    assert_eq!(lints("0 0 13 * FRI", ""), [Lint::EitherDayMatches]);
    assert_eq!(lints("0 0 */2 * FRI", ""), [Lint::BothDaysMatch]);
    assert_eq!(lints("0 0 * * FRI", ""), []);
    assert_eq!(lints("* H * * *", ""), [Lint::SpreadAfterEvery]);
    assert_eq!(lints("0 * H * *", ""), [Lint::SpreadAfterEvery]);
    assert_eq!(lints("H * * * *", ""), []);
    assert_eq!(lints("H H/3 H * MON", ""), [Lint::EitherDayMatches]);
    assert_eq!(lints("H H H/3 * MON", ""), [Lint::BothDaysMatch]);
}
