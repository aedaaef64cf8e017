//! Backfills: every slot once, whatever befalls the leader, and no harm to what is due now.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use jiff::Timestamp;
use scheduler::backfill::{Backfill, Children, Order, RangeError, Rate};
use scheduler::ids::{BackfillId, Cause, TaskId};
use scheduler::job::{Overlap, Retry, Rules, Tags};
use scheduler::limits::{LabelLimit, Limits};
use scheduler::request::{Answer, BackfillOrder, PlanText, Refusal, Remains, Request};
use scheduler::run::{AttemptEnd, Record};
use scheduler::schedule::DstPolicy;
use scheduler::{Event, TaskNews};

use crate::world::{World, at, job, seconds};

const DAILY: &str = "R/2029-01-01T00:00:00Z/P1D";
const MINUTELY: &str = "R/2030-01-01T00:00:00Z/PT1M";

pub(crate) fn order(name: &str, from: Timestamp, to: Timestamp) -> BackfillOrder {
    BackfillOrder {
        job: job(name),
        from,
        to,
        order: Order::OldestFirst,
        parallel: 1,
        rate: None,
        children: Children::Follow,
        except: Vec::new(),
    }
}

fn once() -> Rules {
    Rules { retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

fn concurrent(max: u32) -> Rules {
    Rules { overlap: Overlap::Allow { max }, ..once() }
}

#[track_caller]
fn begin(w: &mut World, order: BackfillOrder) -> BackfillId {
    match w.ask(Request::Backfill(order)) {
        Ok(Answer::Backfilling { id, .. }) => id,
        other => panic!("{other:?}"),
    }
}

fn days(from: &str, to: &str) -> (Timestamp, Timestamp) {
    (at(&format!("{from}T00:00:00Z")), at(&format!("{to}T00:00:00Z")))
}

/// `a` with a slot a day, the one of today done.
fn daily(rules: Rules) -> World {
    let mut w = World::new();
    w.put("a", DAILY, rules);
    w.succeed("a");
    w.launches.clear();
    w.until("08:00:00");
    w
}

fn record(w: &World, id: BackfillId) -> Backfill {
    (*w.stored.backfills[&id]).clone()
}

fn launched_days(w: &World, name: &str) -> String {
    let of_job = w.launches.iter().filter(|(job, ..)| job == name);
    of_job.map(|(_, due, _)| due.strftime("%m-%d").to_string()).collect::<Vec<_>>().join(" ")
}

/// Ends all that is alive with success, until nothing is.
pub(crate) fn play_out(w: &mut World) {
    for _ in 0..2_000 {
        let Some(task) = w.alive.keys().next().cloned() else { return };
        w.alive.remove(&task);
        w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) });
        let now = w.now.to_string();
        w.until(&now);
    }
    panic!("something begins again and again");
}

#[test]
fn past_slots_run_one_after_the_other_for_their_own_due_times() {
    let mut w = daily(once());
    let (from, to) = days("2029-12-28", "2030-01-01");
    let id = begin(&mut w, order("a", from, to));
    assert_eq!(w.tasks("a").len(), 1, "one at a time");
    assert_eq!(w.tasks("a")[0].as_str(), format!("a-{id}-ia1-0"));
    play_out(&mut w);
    assert_eq!(launched_days(&w, "a"), "12-28 12-29 12-30 12-31");
    let over = record(&w, id);
    assert_eq!((over.begun, over.succeeded, over.left(), over.ended), (4, 4, 0, Some(w.now)));
    w.audit();
}

#[test]
fn the_newest_may_come_first_and_what_has_been_done_is_left_out() {
    let mut w = daily(once());
    let (from, to) = days("2029-12-25", "2030-01-01");
    let except = vec![days("2029-12-26", "2029-12-27"), days("2029-12-31", "2029-12-31")];
    begin(&mut w, BackfillOrder { order: Order::NewestFirst, except, ..order("a", from, to) });
    play_out(&mut w);
    assert_eq!(launched_days(&w, "a"), "12-30 12-29 12-28 12-25");
}

#[test]
fn cycles_are_those_of_the_slots_and_children_follow_in_them() {
    let mut w = daily(once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], once());
    w.put_child("d", &["b", "c"], once());
    let (from, to) = days("2029-12-30", "2030-01-01");
    begin(&mut w, order("a", from, to));
    w.succeed("a");
    assert_eq!(w.tasks("a").len(), 0, "the next slot waits until all of this one is over");
    w.succeed("b");
    w.succeed("c");
    w.succeed("d");
    assert_eq!(w.tasks("a").len(), 1);
    play_out(&mut w);
    assert_eq!(w.ledger_of("d"), "succeeded, succeeded");
    for record in &w.ledger {
        if let Record::Run(run) = record
            && run.job.as_str() == "d"
        {
            assert!(run.cycle.due < at("00:00:00"), "{run:?}");
        }
    }
    assert!(w.stored.joins.is_empty());
}

#[test]
fn children_may_stay() {
    let mut w = daily(once());
    w.put_child("b", &["a"], once());
    let (from, to) = days("2029-12-30", "2030-01-01");
    begin(&mut w, BackfillOrder { children: Children::Stay, ..order("a", from, to) });
    play_out(&mut w);
    assert_eq!((launched_days(&w, "a").as_str(), w.ledger_of("b").as_str()), ("12-30 12-31", ""));
}

#[test]
fn a_child_whose_parents_were_edited_after_the_slots_were_due_takes_part() {
    let mut w = daily(once());
    w.put("x", DAILY, once());
    w.put_child("b", &["a"], once());
    w.put_child("c", &["a"], once());
    w.put_child("d", &["b"], once());
    w.put_child("e", &["d"], once());
    // `d` becomes scheduled and a dependent again: its joins count from now.
    w.put("d", DAILY, once());
    w.put_child("d", &["b", "c"], once());
    play_out(&mut w);
    w.ledger.clear();
    let (from, to) = days("2029-12-30", "2030-01-01");
    begin(&mut w, order("a", from, to));
    play_out(&mut w);
    assert_eq!(w.ledger_of("d"), "succeeded, succeeded");
    assert_eq!(w.ledger_of("e"), "succeeded, succeeded");
}

#[test]
fn what_is_due_now_is_not_disturbed() {
    for overlap in [Overlap::Queue, Overlap::Skip, Overlap::Replace] {
        let mut w = World::new();
        w.put("a", MINUTELY, Rules { overlap, ..once() });
        w.succeed("a");
        w.until("00:10:30");
        play_out(&mut w);
        w.ledger.clear();
        w.kills.clear();
        begin(&mut w, order("a", at("00:00:00"), at("00:05:00")));
        assert_eq!(w.tasks("a").len(), 1);
        w.until("00:11:30");
        assert_eq!(w.tasks("a").len(), 1, "{overlap:?}: never two at once, and the past one is not killed");
        assert!(w.kills.is_empty());
        w.succeed("a");
        assert_eq!(
            w.launched_of("a").split(' ').next_back(),
            Some("00:11:00"),
            "{overlap:?}: the present first"
        );
        w.succeed("a");
        play_out(&mut w);
        assert_eq!(w.ledger_of("a"), ["succeeded"; 6].join(", "), "{overlap:?}");
        w.audit();
    }
}

/// A label has room for one task, and another job has it.
fn behind_a_label(overlap: Overlap) -> World {
    let label = LabelLimit { key: "team".into(), value: None, max: NonZeroU32::MIN };
    let mut w = World::limited(Limits { running_max_by_label: vec![label], ..Limits::default() });
    let tags = Tags { owner: "".into(), labels: [("team".into(), "etl".into())].into() }.kept();
    w.put("a", MINUTELY, Rules { overlap, tags: tags.clone(), ..once() });
    w.succeed("a");
    w.put("b", DAILY, Rules { tags, ..once() });
    w.until("00:10:30");
    play_out(&mut w);
    w.trigger("b").unwrap();
    w.launches.clear();
    w
}

#[test]
fn a_past_slot_that_a_label_holds_makes_way_for_what_is_due() {
    for overlap in [Overlap::Queue, Overlap::Skip, Overlap::Replace, Overlap::Allow { max: 2 }] {
        for fails_over in [false, true] {
            let mut w = behind_a_label(overlap);
            begin(&mut w, order("a", at("00:03:00"), at("00:05:00")));
            assert_eq!((w.stored.runs.len(), w.tasks("a").len()), (2, 0), "the first past slot waits");
            w.until("00:11:30");
            if fails_over {
                w.fail_over("00:11:40");
            }
            w.succeed("b");
            assert_eq!(w.launched_of("a"), "00:11:00", "{overlap:?}: the present first");
            w.succeed("a");
            assert_eq!(w.launched_of("a"), "00:11:00 00:03:00", "{overlap:?}");
            play_out(&mut w);
            assert_eq!(w.launched_of("a"), "00:11:00 00:03:00 00:04:00", "{overlap:?}");
            w.audit();
        }
    }
}

#[test]
fn a_past_slot_that_is_tried_again_keeps_its_place() {
    let mut w = behind_a_label(Overlap::Queue);
    w.succeed("b");
    w.put("c", "R1/2030-01-01T00:10:35Z/PT1H", w.stored.jobs.values().next().unwrap().rules.as_ref().clone());
    let again = Retry { max: 1, delay: Some(seconds(10)), ..Retry::default() };
    w.put("a", MINUTELY, Rules { retry: again, ..(*w.stored.jobs.values().next().unwrap().rules).clone() });
    begin(&mut w, order("a", at("00:03:00"), at("00:04:00")));
    w.until("00:10:50");
    w.fail("a");
    w.until("00:11:30");
    assert_eq!(w.launched_of("a"), "00:03:00", "the label is taken");
    w.succeed("c");
    assert_eq!(w.launched_of("a"), "00:03:00 00:03:00#1", "the job has no room for another one before");
}

#[test]
fn a_job_that_is_always_busy_keeps_its_past_slots_waiting() {
    let mut w = World::new();
    w.put("a", MINUTELY, once());
    w.until("00:10:30");
    let id = begin(&mut w, order("a", at("00:03:00"), at("00:05:00")));
    for _ in 0..30 {
        let later = w.now.checked_add(seconds(60)).unwrap().to_string();
        w.until(&later);
        w.succeed("a");
    }
    assert_eq!(record(&w, id).begun, 0, "what is due now always comes first");
    play_out(&mut w);
    assert_eq!(record(&w, id).begun, 2);
}

#[test]
fn a_backfill_that_is_complete_ends_also_where_there_is_always_more_to_do() {
    let limits = Limits { running_max: NonZeroU32::new(1), ..Limits::default() };
    let mut w = World::limited(limits);
    w.put("a", DAILY, once());
    w.succeed("a");
    let id = begin(&mut w, order("a", at("2029-12-30T00:00:00Z"), at("2029-12-30T00:00:01Z")));
    w.put("b", MINUTELY, concurrent(100));
    w.until("00:05:00");
    w.succeed("a");
    assert_ne!(w.tasks("b").len(), 0);
    assert_eq!(record(&w, id).ended, Some(at("2030-01-01T00:05:00Z")));
    w.audit();
}

#[test]
fn a_job_that_may_run_several_at_once_keeps_a_place_free() {
    let mut w = daily(concurrent(4));
    let (from, to) = days("2029-12-01", "2030-01-01");
    begin(&mut w, BackfillOrder { parallel: 64, ..order("a", from, to) });
    assert_eq!(w.tasks("a").len(), 3);
    w.trigger("a").unwrap();
    assert_eq!(w.tasks("a").len(), 4);
    play_out(&mut w);
    assert_eq!(w.ledger_of("a").matches("succeeded").count(), 33);
}

#[test]
fn parallel_is_a_bound() {
    let mut w = daily(concurrent(100));
    let (from, to) = days("2029-12-01", "2030-01-01");
    begin(&mut w, BackfillOrder { parallel: 5, ..order("a", from, to) });
    for _ in 0..20 {
        assert_eq!(w.tasks("a").len(), 5);
        w.succeed("a");
    }
}

#[test]
fn a_rate_spreads_the_beginnings_and_survives_a_fail_over() {
    let mut w = daily(concurrent(100));
    let (from, to) = days("2029-12-01", "2030-01-01");
    let rate = Some(Rate { count: 6, per: seconds(60) });
    let id = begin(&mut w, BackfillOrder { parallel: 64, rate, ..order("a", from, to) });
    w.until("08:00:09");
    assert_eq!(w.tasks("a").len(), 1);
    w.until("08:00:10");
    assert_eq!(w.tasks("a").len(), 2);
    w.fail_over("08:00:15");
    assert_eq!(w.tasks("a").len(), 2);
    w.until("08:01:00");
    assert_eq!((w.tasks("a").len(), record(&w, id).begun), (7, 7));
    // The clock goes back by an hour: nothing waits for an hour.
    w.now = at("07:01:00");
    w.event(Event::Tick);
    w.until("07:01:10");
    assert_eq!(record(&w, id).begun, 8);
}

#[test]
fn two_backfills_of_one_job_take_turns() {
    let mut w = daily(once());
    let (from, to) = days("2029-12-01", "2029-12-04");
    begin(&mut w, order("a", from, to));
    let (from, to) = days("2029-12-11", "2029-12-14");
    begin(&mut w, order("a", from, to));
    for _ in 0..100 {
        let Some(task) = w.alive.keys().next().cloned() else { break };
        w.alive.remove(&task);
        w.now = w.now.checked_add(seconds(1)).unwrap();
        w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) });
    }
    assert_eq!(launched_days(&w, "a"), "12-01 12-11 12-02 12-12 12-03 12-13");
}

#[test]
fn a_pause_or_disabling_holds_it_and_deletion_ends_it() {
    let mut w = daily(once());
    let (from, to) = days("2029-12-01", "2029-12-04");
    let id = begin(&mut w, order("a", from, to));
    w.ask(Request::Pause { job: job("a"), reason: "".into(), until: None }).unwrap();
    w.succeed("a");
    assert_eq!(w.tasks("a").len(), 0);
    w.ask(Request::Resume(job("a"))).unwrap();
    assert_eq!(w.tasks("a").len(), 1);
    w.put("a", DAILY, Rules { disabled: true, ..once() });
    w.succeed("a");
    assert_eq!(w.tasks("a").len(), 0);
    assert_eq!(record(&w, id).left(), 1);
    w.put("a", "@hourly", once());
    play_out(&mut w);
    assert_eq!(launched_days(&w, "a"), "12-01 12-02 12-03", "it goes through the schedule it was made for");
    begin(&mut w, order("a", from, to));
    w.ask(Request::Delete(job("a"))).unwrap();
    assert!(w.stored.backfills.is_empty());
}

#[test]
fn a_cancelled_one_begins_nothing_more_and_kills_if_asked() {
    for (remains, kills) in [(Remains::GoOn, 0), (Remains::Die, 2)] {
        let mut w = daily(concurrent(9));
        let (from, to) = days("2029-12-01", "2029-12-09");
        let id = begin(&mut w, BackfillOrder { parallel: 2, ..order("a", from, to) });
        assert_eq!(w.ask(Request::CancelBackfill { id, remains }), Ok(Answer::Cancelled { runs: kills }));
        assert_eq!(w.kills.len(), kills);
        assert_eq!(record(&w, id).ended, None);
        play_out(&mut w);
        let over = record(&w, id);
        assert_eq!((over.begun, over.cancelled, over.ended.is_some()), (2, true, true));
        let none = BackfillId { number: 99, ..id };
        let asked = w.ask(Request::CancelBackfill { id: none, remains });
        assert_eq!(asked, Err(Refusal::NoSuchBackfill(none)));
    }
}

#[test]
fn failures_of_the_past_are_tried_again_and_do_not_count_as_a_row() {
    let mut w = daily(Rules {
        retry: Retry { max: 1, delay: Some(seconds(5)), ..Retry::default() },
        ..Rules::default()
    });
    let (from, to) = days("2029-12-01", "2029-12-03");
    let id = begin(&mut w, order("a", from, to));
    w.fail("a");
    w.until("08:00:05");
    w.fail("a");
    assert_eq!(w.tasks("a").len(), 1, "the next slot has begun");
    play_out(&mut w);
    let (over, progress) = (record(&w, id), w.stored.progress.values().next().unwrap());
    assert_eq!((over.succeeded, over.failed), (1, 1));
    assert_eq!((progress.successes, progress.errors, progress.errors_in_a_row), (2, 1, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut w = daily(once());
    w.put_child("b", &["a"], once());
    w.put("s", "R/2029-01-01T00:00:00Z/PT1S", once());
    let range = |w: &mut World, name: &str, from: &str, to: &str| match w.ask(Request::Backfill(order(
        name,
        at(from),
        at(to),
    ))) {
        Err(Refusal::Range { cause, .. }) => Some(cause),
        Ok(_) => None,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(range(&mut w, "a", "00:00:00", "00:00:00"), Some(RangeError::Empty));
    assert_eq!(range(&mut w, "a", "23:00:00", "23:30:00"), Some(RangeError::Future));
    assert_eq!(range(&mut w, "a", "2028-01-01T00:00:00Z", "2028-02-01T00:00:00Z"), Some(RangeError::NoSlots));
    assert_eq!(range(&mut w, "a", "1969-01-01T00:00:00Z", "2028-02-01T00:00:00Z"), Some(RangeError::TooOld));
    w.put("none", "R0/2029-01-01T00:00:00Z/PT1S", once());
    assert_eq!(
        range(&mut w, "none", "2029-06-01T00:00:00Z", "2029-06-03T00:00:00Z"),
        Some(RangeError::NoSlots)
    );
    let many = range(&mut w, "s", "2029-06-01T00:00:00Z", "2029-06-03T00:00:00Z");
    assert_eq!(many, Some(RangeError::TooMany { slots: 172_800 }));
    assert_eq!(range(&mut w, "a", "2029-12-31T00:00:00Z", "2099-01-01T00:00:00Z"), None, "cut at now");
    let none = w.ask(Request::Backfill(order("b", at("00:00:00"), at("01:00:00"))));
    assert_eq!(none, Err(Refusal::NoSchedule(job("b"))));
    let wide = BackfillOrder { parallel: 65, ..order("a", at("00:00:00"), at("01:00:00")) };
    assert_eq!(w.ask(Request::Backfill(wide)), Err(Refusal::Pace(job("a"))));
}

#[test]
fn those_that_are_over_give_way_and_those_under_way_do_not() {
    let mut w = daily(once());
    let (from, to) = days("2029-12-01", "2029-12-03");
    begin(&mut w, order("a", from, to));
    play_out(&mut w);
    for _ in 0..Backfill::KEPT_MAX {
        begin(&mut w, order("a", from, to));
    }
    assert_eq!(w.stored.backfills.len(), Backfill::KEPT_MAX);
    assert_eq!(w.ask(Request::Backfill(order("a", from, to))), Err(Refusal::TooManyBackfills));
}

/// The leader dies after every single commit, and what it had not yet told the engine is told by the next one.
#[test]
fn cut_after_every_commit_every_slot_runs_once() {
    for (rules, parallel, newest) in [(once(), 1, false), (concurrent(9), 4, true)] {
        let mut w = World::new();
        w.put("a", "R/2029-12-31T00:00:00Z/PT1M", rules);
        w.put_child("b", &["a"], once());
        play_out(&mut w);
        w.until("00:00:30");
        w.ledger.clear();
        w.launches.clear();
        let sides = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let from = at("2029-12-31T06:00:00Z");
        let order = BackfillOrder { parallel, order: sides, ..order("a", from, at("2029-12-31T14:20:00Z")) };
        begin(&mut w, order);
        let mut cuts = 0;
        while let Some(task) = w.alive.keys().next().cloned() {
            assert!(cuts < 2_000, "something begins again and again");
            let now = w.now.to_string();
            w.fail_over(&now);
            cuts += 1;
            // The engine knows what it has, and nothing is launched that it has.
            let known: BTreeMap<TaskId, _> = w.alive.clone();
            w.core
                .open_tasks()
                .iter()
                .for_each(|task| assert!(known.contains_key(task), "{task} is nowhere"));
            w.alive.remove(&task);
            w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) });
        }
        let of = |name: &str| -> BTreeMap<Timestamp, usize> {
            let mut counts = BTreeMap::new();
            w.launches.iter().filter(|(job, ..)| job == name).for_each(|(_, due, _)| {
                *counts.entry(*due).or_default() += 1;
            });
            counts
        };
        let (a, b) = (of("a"), w.launches.iter().filter(|(job, ..)| job == "b").count());
        assert_eq!((a.len(), b), (500, 500), "after {cuts} cuts");
        assert!(a.values().all(|count| *count == 1) && cuts >= 1000, "{cuts} cuts");
        let slots = w.ledger.iter().filter(
            |record| matches!(record, Record::Run(run) if matches!(run.key.cause, Cause::Backfill { .. })),
        );
        assert_eq!(slots.count(), 500);
        w.audit();
    }
}

#[test]
fn a_slot_of_cron_in_a_zone_runs_for_its_own_hour() {
    let mut w = World::new();
    let plan = PlanText::Schedule {
        text: "30 2 * * *".into(),
        zone: "Europe/Berlin".into(),
        dst: DstPolicy::default(),
    };
    w.define("a", plan, once()).unwrap();
    w.until("08:00:00");
    play_out(&mut w);
    let (from, to) = days("2029-03-24", "2029-03-27");
    begin(&mut w, order("a", from, to));
    play_out(&mut w);
    // On the 25th 02:30 does not exist: it is due as far from midnight.
    let dues: Vec<String> = w.launches.iter().rev().take(3).map(|(_, due, _)| due.to_string()).collect();
    assert_eq!(dues, ["2029-03-26T00:30:00Z", "2029-03-25T01:30:00Z", "2029-03-24T01:30:00Z"]);
}
