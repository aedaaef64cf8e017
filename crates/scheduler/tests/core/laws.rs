//! Laws: true of every history of events, however senseless.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::backfill::{Children, Order, Rate};
use scheduler::job::{CatchUp, Guarantee, Overlap, Retry, Rules};
use scheduler::limits::Limits;
use scheduler::notice::{AlertKind, AlertRules, Channels, Sent};
use scheduler::request::{BackfillOrder, PlanText, Remains, Request};
use scheduler::run::{AttemptEnd, Record};
use scheduler::schedule::{DstPolicy, Zones};
use scheduler::{Event, Scheduler, Settings, TaskNews};

use crate::backfill::order;
use crate::world::{World, job, seconds};

#[derive(Clone, Debug)]
enum Deed {
    Wait(u32),
    Put(usize, usize, Rules),
    PutChild(usize, Vec<usize>, Rules),
    Delete(usize),
    Trigger(usize),
    Kill(usize),
    Pause(usize, Option<u32>),
    Resume(usize),
    Mark(usize),
    Backfill(usize, u32, bool, bool),
    Cancel(usize, bool),
    Rerun(usize, bool),
    News(usize, u8),
    /// News of a task that was given up.
    Again(usize, u8),
    FailOver(u32),
    Engine(bool),
    Clock(bool),
    Tell(usize, u8),
}

const CHANNELS: Channels =
    Channels { mail: true, webhook: true, slack: false, mattermost: false, sentry: false };

const SCHEDULES: [&str; 6] = [
    "R/2030-01-01T00:00:00Z/PT10S",
    "R3/2029-12-31T23:00:00Z/PT7S",
    "R//PT1M",
    "*/10 * * * * *",
    "R/2029-01-31T00:00:00Z/P1M",
    "R0/2030-01-01T00:00:00Z/PT1S",
];

fn any_rules() -> impl Strategy<Value = Rules> {
    let catch_up = prop_oneof![
        Just(CatchUp::Latest),
        Just(CatchUp::None),
        Just(CatchUp::All { count_max: 4, age_max: seconds(300) })
    ];
    let overlap = prop_oneof![
        Just(Overlap::Queue),
        Just(Overlap::Skip),
        Just(Overlap::Replace),
        Just(Overlap::Allow { max: 2 })
    ];
    let odds = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), any::<bool>());
    let span = || proptest::option::of(1u64..40);
    let told = proptest::option::of((proptest::sample::subsequence(vec![0, 1, 2], 0..3), span(), span()));
    (catch_up, overlap, 0u32..3, span(), odds, told).prop_map(
        |(catch_up, overlap, max, epsilon, (soft_error, lenient, disabled, short), told)| Rules {
            catch_up,
            overlap,
            disabled,
            soft_error,
            epsilon: epsilon.map(seconds),
            retry: Retry { max, delay: Some(seconds(5)), ..Retry::default() },
            guarantee: if lenient { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce },
            lost_after: seconds(60),
            run_max: short.then(|| seconds(20)),
            alerts: told.map(|(to, late, long)| {
                Arc::new(AlertRules {
                    on: AlertKind::ALL.into_iter().collect(),
                    late_after: late.map(seconds),
                    long_running_after: long.map(seconds),
                    to: to.into_iter().map(|n| format!("{n}@example.org").into()).collect(),
                })
            }),
            ..Rules::default()
        },
    )
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let name = 0usize..6;
    prop_oneof![
        6 => (0u32..90).prop_map(Deed::Wait),
        3 => (name.clone(), 0usize..SCHEDULES.len(), any_rules()).prop_map(|(n, s, r)| Deed::Put(n, s, r)),
        3 => (name.clone(), vec(0usize..6, 1..4), any_rules()).prop_map(|(n, p, r)| Deed::PutChild(n, p, r)),
        1 => name.clone().prop_map(Deed::Delete),
        2 => name.clone().prop_map(Deed::Trigger),
        1 => name.clone().prop_map(Deed::Kill),
        1 => (name.clone(), proptest::option::of(0u32..60)).prop_map(|(n, u)| Deed::Pause(n, u)),
        1 => name.clone().prop_map(Deed::Resume),
        1 => name.clone().prop_map(Deed::Mark),
        2 => (name, 1u32..4, any::<bool>(), any::<bool>()).prop_map(|(n, p, o, r)| Deed::Backfill(n, p, o, r)),
        1 => (0usize..4, any::<bool>()).prop_map(|(n, kill)| Deed::Cancel(n, kill)),
        2 => (0usize..16, any::<bool>()).prop_map(|(n, follow)| Deed::Rerun(n, follow)),
        12 => (0usize..8, 0u8..9).prop_map(|(n, what)| Deed::News(n, what)),
        3 => (0usize..8, 0u8..9).prop_map(|(n, what)| Deed::Again(n, what)),
        1 => (0u32..600).prop_map(Deed::FailOver),
        1 => any::<bool>().prop_map(Deed::Engine),
        1 => any::<bool>().prop_map(Deed::Clock),
        4 => (0usize..4, 0u8..4).prop_map(|(n, what)| Deed::Tell(n, what)),
    ]
}

fn name(n: usize) -> String {
    format!("j{n}")
}

fn news(what: u8) -> TaskNews {
    match what {
        0 => TaskNews::Running,
        1 => TaskNews::Unknown,
        2 => TaskNews::NeverBegan,
        3 => TaskNews::Ended(AttemptEnd::Killed),
        4 => TaskNews::Ended(AttemptEnd::Lost { message: "law".into() }),
        5 => TaskNews::Ended(AttemptEnd::failed("law")),
        6 => TaskNews::GivenUp { message: "law".into() },
        _ => TaskNews::Ended(AttemptEnd::Succeeded),
    }
}

fn carry_out(w: &mut World, deed: Deed) {
    match deed {
        Deed::Wait(s) => w.until(&w.now.checked_add(seconds(s.into())).unwrap().to_string()),
        Deed::Put(n, s, rules) => {
            let plan =
                PlanText::Schedule { text: SCHEDULES[s].into(), zone: "".into(), dst: DstPolicy::default() };
            let _ = w.define(&name(n), plan, rules);
        }
        Deed::PutChild(n, parents, rules) => {
            let parents: Vec<String> = parents.into_iter().map(name).collect();
            let _ = w.try_child(&name(n), &parents.iter().map(String::as_str).collect::<Vec<_>>(), rules);
        }
        Deed::Delete(n) => drop(w.ask(Request::Delete(job(&name(n))))),
        Deed::Trigger(n) => drop(w.trigger(&name(n))),
        Deed::Kill(n) => drop(w.ask(Request::KillJob(job(&name(n))))),
        Deed::Pause(n, until) => {
            let until = until.map(|s| w.now.checked_add(seconds(s.into())).unwrap());
            drop(w.ask(Request::Pause { job: job(&name(n)), reason: "law".into(), until }));
        }
        Deed::Resume(n) => drop(w.ask(Request::Resume(job(&name(n))))),
        Deed::Mark(n) => drop(w.ask(Request::MarkSuccess { job: job(&name(n)), failed: None })),
        Deed::Backfill(n, parallel, newest, rate) => {
            let from = w.now.checked_sub(seconds(120)).unwrap();
            let order = BackfillOrder {
                parallel,
                order: if newest { Order::NewestFirst } else { Order::OldestFirst },
                rate: rate.then_some(Rate { count: 12, per: seconds(60) }),
                ..order(&name(n), from, w.now)
            };
            drop(w.ask(Request::Backfill(order)));
        }
        Deed::Cancel(n, kill) => {
            let Some(id) = w.stored.backfills.keys().nth(n).copied() else { return };
            let remains = if kill { Remains::Die } else { Remains::GoOn };
            drop(w.ask(Request::CancelBackfill { id, remains }));
        }
        Deed::Rerun(n, follow) => {
            let mut ended = w.ledger.iter().rev().filter_map(|record| match record {
                Record::Run(run) => Some(run.clone()),
                Record::Range(_) => None,
            });
            let Some(run) = ended.nth(n) else { return };
            let children = if follow { Children::Follow } else { Children::Stay };
            drop(w.ask(Request::Rerun { run: run.into(), children }));
        }
        Deed::News(n, what) => {
            let Some(task) = w.alive.keys().nth(n).cloned() else { return };
            let news = news(what);
            if !matches!(news, TaskNews::Running | TaskNews::Unknown) {
                w.alive.remove(&task);
            }
            w.event(Event::Task { task, news });
        }
        Deed::Again(n, what) => {
            let Some((task, _)) = w.stored.all_given_up().nth(n) else { return };
            w.event(Event::Task { task, news: news(what) });
        }
        Deed::FailOver(s) => w.fail_over(&w.now.checked_add(seconds(s.into())).unwrap().to_string()),
        Deed::Engine(ready) => w.event(Event::Engine { ready }),
        Deed::Clock(trusted) => w.event(Event::Clock { trusted }),
        Deed::Tell(n, what) => {
            let Some(id) = w.stored.notices.keys().nth(n).copied() else { return };
            let sent = match what {
                0 => Sent::Later { error: "law".into(), after: None },
                1 => Sent::Refused { error: "law".into() },
                2 => return drop(w.ask(Request::RetryNotice(id))),
                _ => Sent::Delivered,
            };
            w.event(Event::Notice { id, sent });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// No history panics; changes lead to the state (checked at every event); nothing has two outcomes; and a leader
    /// that has just loaded wants to wake when the one before it did.
    #[test]
    fn no_history_breaks_the_ledger(deeds in vec(any_deed(), 0..60)) {
        let mut w = World::telling(CHANNELS);
        for deed in deeds {
            carry_out(&mut w, deed);
        }
        w.audit();
        // Heal: all that lives comes to its end.
        w.event(Event::Engine { ready: true });
        w.event(Event::Clock { trusted: true });
        for _ in 0..200 {
            while let Some(task) = w.alive.keys().next().cloned() {
                w.alive.remove(&task);
                w.event(Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) });
            }
            w.deliver_all();
            w.until(&w.now.checked_add(seconds(1)).unwrap().to_string());
            w.event(Event::Tick);
        }
        w.audit();
        prop_assert!(w.stored.fanouts.is_empty());
        prop_assert_eq!(w.core.check(), Ok(()));
        let settings = Settings {
            node: "n1".into(),
            zones: Zones::bundled(),
            disable_after_failures: 3,
            retry_delay: scheduler::job::Retry::DELAY,
            limits: Limits::default(),
            set_batch: scheduler::SET_BATCH,
            channels: CHANNELS,
        };
        let mut fresh = Scheduler::new(w.stored.clone(), settings);
        let _ = fresh.step(w.now, Event::Engine { ready: true });
        prop_assert_eq!(fresh.state(), w.core.state());
        prop_assert_eq!(fresh.wake_at(), w.core.wake_at());
    }
}
