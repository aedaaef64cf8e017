//! Herds: many runs at one instant, under limits that are never exceeded, never idle, and fair.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::ids::{Cause, JobUid, RunKey};
use scheduler::job::{Job, Overlap, Retry, Rules, Tags};
use scheduler::limits::{LabelLimit, Limits};
use scheduler::run::{Attempt, AttemptEnd, RunState};
use scheduler::state::{Change, State};
use scheduler::{Event, GivenUp, Scheduler, TaskNews};

use crate::world::{World, at, seconds};

/// Once, at a minute past midnight.
const ONCE: &str = "R1/2030-01-01T00:01:00Z/PT1H";

fn limits(running: u32, rate: u32, labels: &[(&str, Option<&str>, u32)]) -> Limits {
    let label = |(key, value, max): &(&str, Option<&str>, u32)| LabelLimit {
        key: (*key).into(),
        value: value.map(Into::into),
        max: NonZeroU32::new(*max).unwrap(),
    };
    Limits {
        running_max: NonZeroU32::new(running),
        launch_rate_max: NonZeroU32::new(rate),
        running_max_by_label: labels.iter().map(label).collect(),
    }
}

fn of(owner: &str, labels: &[(&str, &str)]) -> Rules {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let tags = Tags { owner: owner.into(), labels }.kept();
    Rules { tags, retry: Retry { max: 0, ..Retry::default() }, ..Rules::default() }
}

fn launched(w: &World) -> String {
    w.launches.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(" ")
}

fn end_all(w: &mut World) {
    while let Some(task) = w.alive.keys().next().cloned() {
        w.alive.remove(&task);
        w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) });
    }
}

#[test]
fn a_server_runs_no_more_tasks_than_it_may() {
    let mut w = World::limited(limits(2, 0, &[]));
    for name in ["a", "b", "c", "d"] {
        w.put(name, ONCE, of("", &[]));
    }
    w.until("00:02:00");
    assert_eq!(launched(&w), "a b");
    assert_eq!(w.core.wake_at(), None, "nothing is to be done until a task ends");
    w.succeed("b");
    assert_eq!(launched(&w), "a b c");
    w.fail_over("00:03:00");
    assert_eq!(launched(&w), "a b c");
    w.succeed("a");
    assert_eq!(launched(&w), "a b c d");
}

#[test]
fn a_label_holds_its_own_and_nobody_else() {
    let mut w = World::limited(limits(0, 0, &[("team", Some("etl"), 2), ("team", None, 1)]));
    for n in 0..4 {
        w.put(&format!("etl{n}"), ONCE, of("", &[("team", "etl"), ("tier", "1")]));
    }
    w.put("web0", ONCE, of("", &[("team", "web")]));
    w.put("web1", ONCE, of("", &[("team", "web")]));
    w.put("free", ONCE, of("", &[]));
    w.until("00:02:00");
    assert_eq!(launched(&w), "etl0 etl1 web0 free");
    assert_eq!(w.core.wake_at(), None);
    w.succeed("web0");
    w.succeed("etl1");
    assert_eq!(launched(&w), "etl0 etl1 web0 free web1 etl2");
    w.fail_over("00:03:00");
    w.succeed("etl0");
    assert_eq!(launched(&w), "etl0 etl1 web0 free web1 etl2 etl3");
}

#[test]
fn two_labels_must_both_have_room() {
    let mut w = World::limited(limits(0, 0, &[("team", None, 1), ("region", None, 1)]));
    w.put("a", ONCE, of("", &[("team", "x"), ("region", "1")]));
    w.put("b", ONCE, of("", &[("team", "x"), ("region", "2")]));
    w.put("c", ONCE, of("", &[("team", "y"), ("region", "1")]));
    w.put("d", ONCE, of("", &[("team", "y"), ("region", "2")]));
    w.until("00:02:00");
    assert_eq!(launched(&w), "a d");
    w.succeed("a");
    assert_eq!(launched(&w), "a d");
    w.succeed("d");
    assert_eq!(launched(&w), "a d b c");
}

#[test]
fn launches_keep_to_their_rate_and_wake_in_time() {
    let mut w = World::limited(limits(0, 10, &[]));
    for n in 0..25 {
        w.put(&format!("j{n}"), ONCE, of("", &[]));
    }
    w.until("00:01:00");
    assert_eq!(w.launches.len(), 10, "a second's worth at once");
    w.until("00:01:00.100");
    assert_eq!(w.launches.len(), 11);
    w.until("00:01:00.950");
    assert_eq!(w.launches.len(), 19);
    // What the leader before has launched is not known exactly, so the next one begins with nothing in hand.
    w.fail_over("00:01:01");
    assert_eq!(w.launches.len(), 19);
    w.until("00:01:01.100");
    assert_eq!(w.launches.len(), 20);
    // A clock that goes back makes nobody wait for longer than that.
    w.now = crate::world::at("00:00:00");
    w.event(Event::Tick);
    w.until("00:00:00.600");
    assert_eq!(w.launches.len(), 25);
}

#[test]
fn where_a_limit_binds_the_owner_with_the_fewest_tasks_goes_first() {
    let mut w = World::limited(limits(3, 0, &[]));
    for n in 0..50 {
        w.put(&format!("greedy{n:02}"), ONCE, of("greedy", &[]));
    }
    w.put("modest0", ONCE, of("modest", &[]));
    w.put("modest1", ONCE, of("modest", &[]));
    w.put("vip", ONCE, Rules { high_priority: true, ..of("greedy", &[]) });
    w.until("00:02:00");
    assert_eq!(launched(&w), "vip modest0 greedy00");
    w.succeed("vip");
    assert_eq!(launched(&w), "vip modest0 greedy00 modest1");
    w.succeed("greedy00");
    w.succeed("modest0");
    assert_eq!(launched(&w), "vip modest0 greedy00 modest1 greedy01 greedy02");
}

#[test]
fn a_label_is_shared_fairly_too() {
    let mut w = World::limited(limits(0, 0, &[("db", None, 2)]));
    let db = [("db", "main")];
    for n in 0..20 {
        w.put(&format!("greedy{n:02}"), ONCE, of("greedy", &db));
    }
    w.put("modest", ONCE, of("modest", &db));
    w.until("00:02:00");
    assert_eq!(launched(&w), "greedy00 greedy01");
    w.succeed("greedy00");
    assert_eq!(launched(&w), "greedy00 greedy01 modest");
    w.succeed("greedy01");
    w.succeed("modest");
    assert_eq!(launched(&w), "greedy00 greedy01 modest greedy02 greedy03");
}

#[test]
fn with_room_for_all_the_order_is_that_of_due_times() {
    let mut w = World::limited(limits(100, 0, &[]));
    for (n, owner) in ["x", "x", "y", "x", "z"].iter().enumerate() {
        w.put(&format!("j{n}"), &format!("R1/2030-01-01T00:01:0{n}Z/PT1H"), of(owner, &[]));
    }
    w.event(Event::Engine { ready: false });
    w.until("00:02:00");
    w.event(Event::Engine { ready: true });
    assert_eq!(launched(&w), "j0 j1 j2 j3 j4");
}

#[test]
fn a_label_that_is_taken_away_lets_its_jobs_go() {
    let mut w = World::limited(limits(0, 0, &[("team", None, 1)]));
    for name in ["a", "b", "c"] {
        w.put(name, ONCE, of("", &[("team", "x")]));
    }
    w.until("00:02:00");
    assert_eq!(launched(&w), "a");
    w.put("b", ONCE, of("", &[]));
    assert_eq!(launched(&w), "a b");
    w.put("a", ONCE, of("", &[("team", "y")]));
    assert_eq!(launched(&w), "a b c");
    w.core.check().unwrap();
}

/// So many jobs that are due at one instant, as a store would have them: putting them one by one would take most of the time of
/// a test.
fn herd(count: usize) -> State {
    let mut w = World::new();
    w.event(Event::Engine { ready: false });
    let mut stored = w.stored.clone();
    w.put("j0", ONCE, of("o", &[]));
    let (job, progress) =
        (w.stored.jobs.values().next().unwrap().clone(), w.stored.progress.values().next().unwrap().clone());
    for n in 0..count {
        let uid = JobUid(n as u64 + 1);
        let job = Job { uid, name: crate::world::job(&format!("j{n}")), ..(*job).clone() };
        stored.jobs.insert(uid, Arc::new(job));
        stored.progress.insert(uid, progress.clone());
    }
    stored.meta = w.stored.meta;
    stored
}

fn lead(stored: State) -> Scheduler {
    let settings = scheduler::Settings {
        node: "n1".into(),
        zones: scheduler::schedule::Zones::bundled(),
        disable_after_failures: 0,
        retry_delay: scheduler::job::Retry::DELAY,
        limits: Limits::default(),
        set_batch: scheduler::SET_BATCH,
        channels: Default::default(),
    };
    Scheduler::new(stored, settings)
}

/// The herd of the design: all of them, in order, in steps that are bounded.
#[test]
fn a_hundred_thousand_at_one_instant_go_in_order() {
    const HERD: usize = 100_000;
    let mut core = lead(herd(HERD));
    let now = at("00:01:00");
    let mut launched = Vec::new();
    let mut event = Event::Engine { ready: true };
    let mut steps = 0;
    while launched.len() < HERD {
        let step = core.step(now, std::mem::replace(&mut event, Event::Tick));
        assert!(step.effects.len() <= Scheduler::STEP_MAX && step.changes.len() <= 4 * Scheduler::STEP_MAX);
        launched.extend(step.effects.into_iter().filter_map(|effect| match effect {
            scheduler::Effect::Launch { run, .. } => Some(run.key.job.0),
            _ => None,
        }));
        steps += 1;
        assert!(steps < 4 * HERD / Scheduler::STEP_MAX, "{} of the herd after {steps} steps", launched.len());
        assert!(launched.len() == HERD || core.wake_at() == Some(now));
    }
    assert!(launched.is_sorted(), "of one due time, the older job goes first");
}

/// Whatever the jobs of a herd carry along, a step weighs no more than a batch may hold.
#[test]
fn a_herd_with_a_past_is_taken_in_small_steps() {
    const HERD: usize = 600;
    let now = at("00:01:00");
    let mut given_up = herd(HERD);
    for (uid, progress) in &mut given_up.progress {
        let one = |n| {
            let run = RunKey { job: *uid, cause: Cause::Trigger(n) };
            GivenUp { run, attempt: 3, node: "0123456789abcdef".into(), at: at("00:00:00") }
        };
        Arc::make_mut(progress).given_up = (0..GivenUp::COUNT_MAX as u32).map(one).collect();
    }
    // They wait for an engine, and have been tried often.
    let mut core = lead(herd(HERD));
    while core.state().runs.len() < HERD {
        let _ = core.step(now, Event::Tick);
    }
    let mut retried = core.state().clone();
    for run in retried.runs.values_mut() {
        let end = AttemptEnd::failed("x".repeat(500));
        let (node, launched, started) = ("n1".into(), now, Some(now));
        let attempt = Attempt { number: 0, launched, started, ended: now, node, end, elements: 0 };
        Arc::make_mut(run).attempts = vec![attempt; 20];
    }
    for stored in [given_up, retried] {
        let mut core = lead(stored);
        let mut event = Event::Engine { ready: true };
        let mut launched = 0;
        while launched < HERD {
            let step = core.step(now, std::mem::replace(&mut event, Event::Tick));
            let weight: usize = step.changes.iter().map(Change::weight).sum();
            assert!(weight < Scheduler::STEP_WEIGHT_MAX + 64 * 1024, "{weight}");
            launched += step.effects.len();
            assert!(launched == HERD || core.wake_at() == Some(now));
        }
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Wait(u64),
    Trigger(usize),
    End(usize, bool),
    NeverBegan(usize),
    Relabel(usize, usize, usize),
    FailOver,
    Engine(bool),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (1u64..30).prop_map(Deed::Wait),
        4 => (0usize..JOBS).prop_map(Deed::Trigger),
        6 => (0usize..12, any::<bool>()).prop_map(|(n, good)| Deed::End(n, good)),
        1 => (0usize..12).prop_map(Deed::NeverBegan),
        2 => (0usize..JOBS, 0usize..3, 0usize..9).prop_map(|(n, o, l)| Deed::Relabel(n, o, l)),
        1 => Just(Deed::FailOver),
        1 => any::<bool>().prop_map(Deed::Engine),
    ]
}

const JOBS: usize = 8;
const LABELS: [&[(&str, &str)]; 9] = [
    &[],
    &[("team", "a")],
    &[("team", "b")],
    &[("team", "a"), ("zone", "1")],
    &[("team", "a"), ("zone", "2")],
    &[("team", "b"), ("zone", "1")],
    &[("team", "b"), ("zone", "2")],
    &[("zone", "1")],
    &[("colour", "red")],
];

fn put(w: &mut World, n: usize, owner: usize, labels: usize) {
    let rules = Rules {
        overlap: Overlap::Allow { max: 3 },
        high_priority: n == 7,
        ..of(["", "x", "y"][owner], LABELS[labels])
    };
    w.put(&format!("j{n}"), "R/2030-01-01T00:00:00Z/PT10S", rules);
}

/// Tasks by label, and all of them.
fn running(w: &World) -> (BTreeMap<(String, String), u32>, u32) {
    let (mut by_label, mut all) = (BTreeMap::new(), 0);
    for run in w.stored.runs.values().filter(|run| matches!(run.state, RunState::Running(_))) {
        all += 1;
        for (key, value) in w.stored.jobs.get(&run.key.job).map_or(&[][..], |job| job.rules.labels()) {
            *by_label.entry((key.to_string(), value.to_string())).or_default() += 1;
        }
    }
    (by_label, all)
}

fn max_of(limits: &Limits, key: &str, value: &str) -> u32 {
    limits.of_label(&(key.into(), value.into())).map_or(u32::MAX, |limit| limit.max.get())
}

/// No launch takes a label or the server beyond what it may have; and nothing waits that might run.
fn check(w: &World, limits: &Limits, launches_before: usize, ready: bool) -> Result<(), TestCaseError> {
    let (by_label, all) = running(w);
    let server_max = limits.running_max.map_or(u32::MAX, |max| max.get());
    if w.launches.len() > launches_before {
        prop_assert!(all <= server_max);
    }
    for (name, ..) in &w.launches[launches_before..] {
        let job = w.stored.jobs.values().find(|job| job.name.as_str() == name).unwrap();
        for (key, value) in job.rules.labels() {
            let count = by_label.get(&(key.to_string(), value.to_string())).copied().unwrap_or(0);
            prop_assert!(count <= max_of(limits, key, value), "{count} tasks with {key}={value}");
        }
    }
    w.core.check().map_err(TestCaseError::fail)?;
    if !ready || all >= server_max || limits.launch_rate_max.is_some() {
        return Ok(());
    }
    for job in w.stored.jobs.values() {
        let runs = || w.stored.runs_of(job.uid);
        let active = runs().filter(|run| !matches!(run.state, RunState::Queued)).count();
        let waits = runs().any(|run| matches!(run.state, RunState::Queued));
        let full = |(key, value): &(Arc<str>, Arc<str>)| {
            by_label.get(&(key.to_string(), value.to_string())).copied().unwrap_or(0)
                >= max_of(limits, key, value)
        };
        let held = active >= 3 || job.rules.labels().iter().any(full);
        prop_assert!(!waits || held, "{} waits for nothing", job.name);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, limits hold, what may run does, and in the end all have run.
    #[test]
    fn limits_hold_and_nothing_waits_for_nothing(
        server in 0u32..6, rate in prop_oneof![3 => Just(0u32), 1 => 1u32..5], team in 0u32..4, one in 1u32..3, zone in 1u32..4,
        deeds in vec(any_deed(), 0..80),
    ) {
        let mut labels = vec![("team", Some("a"), one), ("zone", None, zone)];
        if team > 0 {
            labels.push(("team", None, team));
        }
        let limits = limits(server, rate, &labels);
        let mut w = World::limited(limits.clone());
        (0..JOBS).for_each(|n| put(&mut w, n, n % 3, n % LABELS.len()));
        let mut ready = true;
        for deed in deeds {
            let before = w.launches.len();
            match deed {
                Deed::Wait(s) => {
                    let end = w.now.checked_add(seconds(s)).unwrap();
                    // Looked at after each step, as what is launched in one may end in the next.
                    while w.core.wake_at().is_some_and(|wake| wake <= end) {
                        let before = w.launches.len();
                        let wake = w.core.wake_at().unwrap();
                        w.now = w.now.max(wake);
                        w.event(Event::Tick);
                        check(&w, &limits, before, ready)?;
                    }
                    w.now = end;
                    continue;
                }
                Deed::Trigger(n) => drop(w.trigger(&format!("j{n}"))),
                Deed::Relabel(n, owner, labels) => put(&mut w, n, owner, labels),
                Deed::FailOver => {
                    let now = w.now.to_string();
                    w.fail_over(&now);
                    ready = true;
                }
                Deed::Engine(is) => {
                    ready = is;
                    w.event(Event::Engine { ready });
                }
                Deed::End(n, _) | Deed::NeverBegan(n) => {
                    let Some(task) = w.alive.keys().nth(n).cloned() else { continue };
                    w.alive.remove(&task);
                    let news = match deed {
                        Deed::End(_, true) => TaskNews::Ended(AttemptEnd::Succeeded),
                        Deed::End(_, false) => TaskNews::Ended(AttemptEnd::failed("no")),
                        _ => TaskNews::NeverBegan,
                    };
                    w.event(Event::Task { task, news });
                }
            }
            check(&w, &limits, before, ready)?;
        }
        w.event(Event::Engine { ready: true });
        for n in 0..JOBS {
            let _ = w.ask(scheduler::request::Request::Pause { job: crate::world::job(&format!("j{n}")), reason: "".into(), until: None });
            let _ = w.ask(scheduler::request::Request::Resume(crate::world::job(&format!("j{n}"))));
            w.put(&format!("j{n}"), "R0/2030-01-01T00:00:00Z/PT10S", of("", &[("team", "a")]));
        }
        for _ in 0..400 {
            end_all(&mut w);
            w.until(&w.now.checked_add(seconds(1)).unwrap().to_string());
        }
        prop_assert!(w.stored.runs.is_empty(), "starved: {:?}", w.stored.runs.keys().collect::<Vec<_>>());
        w.audit();
    }

    /// With as many owners as places, one that waits gets the next but one at the latest.
    #[test]
    fn nobody_is_starved(max in 1u32..5, owners in 2usize..6, jobs in 2usize..8) {
        let mut w = World::limited(limits(max, 0, &[]));
        for n in 0..jobs * owners {
            // The first owner has all the earlier due times.
            w.put(&format!("j{:03}", n), ONCE, of(&format!("o{}", n / jobs), &[]));
        }
        w.until("00:02:00");
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let mut looked_at = 0;
        while !w.alive.is_empty() {
            for (name, ..) in &w.launches[looked_at..] {
                *seen.entry(name[1..].parse::<usize>().unwrap() / jobs).or_default() += 1;
            }
            looked_at = w.launches.len();
            let (least, most) = (seen.values().min().copied().unwrap_or(0), seen.values().max().copied().unwrap_or(0));
            let all = seen.len() == owners;
            prop_assert!(all || looked_at < owners + max as usize, "an owner has nothing after {looked_at} launches: {seen:?}");
            prop_assert!(!all || most - least <= jobs);
            // The oldest task ends.
            let name = w.launches.iter().map(|(name, ..)| name.clone()).find(|name| !w.tasks(name).is_empty()).unwrap();
            w.succeed(&name);
        }
        prop_assert_eq!(w.launches.len(), jobs * owners);
    }
}
