//! Changes to test with: one of every kind, and generators of any sequence.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use scheduler::audit::{Act, Author, Entry};
use scheduler::backfill::{Backfill, Children, Order, Rate, Redo};
use scheduler::ids::{BackfillId, Cause, Cycle, GraphVersion, JobName, JobUid, RunKey, TaskId};
use scheduler::job::{
    CatchUp, Guarantee, Job, Overlap, Pause, Plan, Progress, Retry, Rules, Tags, Timetable,
};
use scheduler::moment::Moment;
use scheduler::notice::{Address, Alert, AlertKind, AlertRules, Channel, Notice, NoticeId, NoticeState};
use scheduler::receipt::{Once, Receipt, RequestKey};
use scheduler::request::{Answer, Definition, Verdict};
use scheduler::revision::{Deed, Revision};
use scheduler::run::{
    Attempt, AttemptEnd, EndedRun, KillReason, Live, Missed, Outcome, Record, Run, RunState, Skipped,
    SlotRange, Told,
};
use scheduler::schedule::{DstPolicy, Fold, Gap, Nominal, Slot};
use scheduler::state::{Arrival, Change, Fanout, Join, Meta, Stage, ZoneData};
use scheduler::{GivenUp, QuickFailures};

/// An instant near 2025-01-01, this many milliseconds later.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_735_689_600_000 + ms).expect("near 2025")
}

/// The name that belongs to a uid. A job is not renamed, so the uid says it.
pub fn name(uid: u64) -> JobName {
    JobName::new(&format!("job-{uid}")).expect("a valid name")
}

/// The key of a run for the `k`-th slot of an interval.
pub fn slot(uid: u64, k: u64) -> RunKey {
    RunKey { job: JobUid(uid), cause: Cause::Slot { plan: 1, nominal: Nominal::Index(k) } }
}

/// A job with nothing special about it.
pub fn job(uid: u64) -> Job {
    let anchor = at(0);
    Job {
        uid: JobUid(uid),
        version: 1,
        created: at(0),
        changed: at(0),
        joins_from: GraphVersion(0),
        name: name(uid),
        plan: Plan::Schedule(Timetable {
            text: "R//PT1H".into(),
            zone: "".into(),
            dst: DstPolicy::default(),
            anchor,
            plan: 1,
        }),
        rules: Rules::default().shared(),
        body: r#"{"command":"date"}"#.into(),
    }
}

/// A run that waits for its engine.
pub fn run(uid: u64, k: u64) -> Run {
    let (key, due) = (slot(uid, k), at(k.cast_signed() * 1000));
    Run {
        key,
        job: name(uid),
        cycle: Cycle { due, origin: key.job, seq: 0 },
        graph: GraphVersion(0),
        due,
        created: due,
        again: false,
        arguments: None,
        state: RunState::Queued,
        attempts: Vec::new(),
        told: Told::default(),
    }
}

/// The record of the run of a slot: due at `k` seconds, ended 500 ms later.
pub fn ended(uid: u64, k: u64, outcome: Outcome) -> Record {
    let Run { key, job, cycle, due, created, .. } = run(uid, k);
    let ended = at(k.cast_signed() * 1000 + 500);
    Record::Run(EndedRun {
        key,
        job,
        cycle,
        due,
        created,
        ended,
        outcome,
        arguments: None,
        attempts: Vec::new(),
    })
}

/// A line that says what the change is, for golden files and failures.
pub type Titled = (&'static str, Change);

/// One of every change, every arm of every enum, every field with and without a value.
pub fn every_change() -> Vec<Titled> {
    let mut all = vec![
        (
            "counters",
            Change::Meta(Meta {
                next_uid: (1 << 51) + 7,
                graph: GraphVersion(9),
                zone_data: ZoneData::named("2026f"),
                notices: 41,
                alerts_lost: 2,
                applying: Some(Arc::new(Author::new("ops", "10.0.0.1 r-1"))),
                engine_note: Some("framework 1".into()),
            }),
        ),
        ("counters of a new store", Change::Meta(Meta { next_uid: 1, ..Meta::default() })),
        ("job: defaults", put(job(1))),
        ("job: gone", Change::RemoveJob(JobUid(1))),
        ("progress: new", Change::PutProgress(JobUid(1), Arc::new(Progress::new(at(0))))),
        ("progress: all fields", Change::PutProgress(JobUid(1), Arc::new(busy_progress()))),
        ("run: gone", Change::RemoveRun(slot(1, 5))),
        ("join: gone", Change::RemoveJoin(JobUid(3), cycle(4))),
        ("fan-out: gone", Change::RemoveFanout(slot(1, 5))),
        ("backfill: gone", Change::RemoveBackfill(BackfillId { job: JobUid(1), number: 4 })),
        ("receipt: gone", Change::RemoveReceipt(request_key("k-1"))),
        ("staged: gone", Change::Unstage(name(1))),
    ];
    all.extend(backfills().into_iter().map(|(title, b)| (title, Change::PutBackfill(Arc::new(b)))));
    all.extend(jobs().into_iter().map(|(title, job)| (title, put(job))));
    all.extend(runs().into_iter().map(|(title, run)| (title, Change::PutRun(Arc::new(run)))));
    all.extend(joins());
    all.extend(notices());
    all.extend(receipts().into_iter().map(|(title, receipt)| (title, Change::PutReceipt(Arc::new(receipt)))));
    all.extend(definitions().into_iter().map(|(title, it)| (title, Change::Stage(Arc::new(it)))));
    all.extend(records().into_iter().map(|(title, record)| (title, Change::Append(Arc::new(record)))));
    all.extend(
        deeds().into_iter().map(|(title, deed)| (title, Change::Revise(Arc::new(revision(1, 2, deed))))),
    );
    let child = Job { plan: Plan::Parents(vec![JobUid(1), JobUid(2)]), ..job(3) };
    let by = Revision { by: "ops".into(), job: Arc::new(child), ..revision(3, 1, Deed::Applied) };
    let by = Revision { parents: vec![name(1), name(2)], ..by };
    all.push(("revision: of a dependent, by someone", Change::Revise(Arc::new(by))));
    all.extend(entries().into_iter().map(|(title, entry)| (title, Change::Note(Arc::new(entry)))));
    all
}

/// What a job with nothing special about it was.
pub fn revision(uid: u64, version: u32, deed: Deed) -> Revision {
    let job = Arc::new(Job { version, ..job(uid) });
    Revision { job, parents: Vec::new(), at: at(i64::from(version) * 1000), by: "".into(), deed }
}

fn deeds() -> [(&'static str, Deed); 9] {
    [
        ("revision: created", Deed::Created),
        ("revision: replaced", Deed::Replaced),
        ("revision: patched", Deed::Patched),
        ("revision: applied", Deed::Applied),
        ("revision: rolled back", Deed::RolledBack { to: 1 }),
        ("revision: restored", Deed::Restored),
        ("revision: deleted", Deed::Deleted),
        ("revision: inherited", Deed::Inherited),
        ("revision: disabled", Deed::Disabled),
    ]
}

/// What somebody did to a job.
pub fn entry(uid: u64, seconds: i64, by: &str, act: Act) -> Entry {
    let job = Some((JobUid(uid), name(uid)));
    Entry { at: at(seconds * 1000), author: Author::new(by, "10.0.0.1 r-1"), job, act }
}

fn entries() -> Vec<(&'static str, Entry)> {
    let paused = |ms, until| Pause { since: at(ms), reason: "holidays".into(), until };
    let id = BackfillId { job: JobUid(1), number: 4 };
    let run = slot(1, 5);
    let acts = [
        ("audit: triggered", Act::Triggered { run }),
        ("audit: killed a run", Act::Killed { run: Some(run), runs: 1 }),
        ("audit: killed a job", Act::Killed { run: None, runs: 3 }),
        ("audit: marked", Act::Marked { run }),
        ("audit: paused", Act::Paused { before: None, after: paused(0, None) }),
        (
            "audit: paused again",
            Act::Paused { before: Some(paused(0, None)), after: paused(9, Some(at(99))) },
        ),
        ("audit: resumed", Act::Resumed { before: paused(0, None) }),
        ("audit: backfilled", Act::Backfilled { id, slots: 24 }),
        ("audit: cancelled", Act::Cancelled { id, runs: 2 }),
        ("audit: reran", Act::Reran { run, again: slot(1, 6) }),
    ];
    let mut all: Vec<_> = acts.into_iter().map(|(title, act)| (title, entry(1, 5, "ops", act))).collect();
    all.extend(
        deeds().map(|(_, deed)| ("audit: defined", entry(1, 5, "ops", Act::Defined { deed, version: 2 }))),
    );
    let nobody = |act| Entry { author: Author::default(), job: None, ..entry(1, 5, "", act) };
    all.push(("audit: of no job, by nobody", nobody(Act::NoticeRetried { id: NoticeId(7) })));
    let node = "3f9a2c0d11b7e845".into();
    all.push(("audit: forgot a node", nobody(Act::NodeForgotten { node, runs: 2 })));
    let end = AttemptEnd::Failed { exit: Some(3), signal: None, message: "exit status 3".into() };
    let late = Act::HeardLate { run, attempt: 1, node: "3f9a2c0d11b7e845".into(), lost: at(9), end };
    all.push(("audit: heard late", Entry { author: Author::default(), ..entry(1, 5, "", late) }));
    all.push(("audit: restored", nobody(Act::StoreRestored { taken: at(3), lines: 17 })));
    all
}

fn put(job: Job) -> Change {
    Change::PutJob(Arc::new(job))
}

fn cycle(seq: u32) -> Cycle {
    Cycle { due: at(1000), origin: JobUid(1), seq }
}

fn busy_progress() -> Progress {
    Progress {
        mark: Some(Slot { nominal: Nominal::Index(0), due: at(0) }),
        next: Some(Slot { nominal: Nominal::Civil { second: 1_735_693_200, fold: 1 }, due: at(3_600_000) }),
        remaining: Some(9),
        accounted_since: at(-1),
        paused: Some(Box::new(Pause {
            since: at(10),
            reason: "moving \"house\"".into(),
            until: Some(at(20)),
        })),
        sequence: 3,
        flags: vec![(JobUid(1), cycle(0)), (JobUid(2), cycle(7))],
        successes: 100,
        errors: 4,
        errors_in_a_row: 2,
        last_success: Some(at(-50).into()),
        last_error: Some(at(-20).into()),
        quick_failures: Some(Box::new(QuickFailures { count: 6, last: at(30), until: Some(at(2030)) })),
        given_up: vec![GivenUp { run: slot(1, 5), attempt: 1, node: "3f9a2c0d11b7e845".into(), at: at(40) }],
    }
}

fn jobs() -> Vec<(&'static str, Job)> {
    let timetable = |gap, fold| {
        Plan::Schedule(Timetable {
            text: "30 2 * * *".into(),
            zone: "Europe/Berlin".into(),
            dst: DstPolicy { gap, fold },
            anchor: at(0),
            plan: 3,
        })
    };
    let rules = Rules {
        disabled: true,
        high_priority: true,
        catch_up: CatchUp::All { count_max: 100, age_max: Duration::from_secs(86_400) },
        epsilon: Some(Duration::from_millis(1500)),
        overlap: Overlap::Allow { max: 5 },
        retry: Retry {
            max: 5,
            delay: Some(Duration::from_secs(1)),
            factor_percent: 200,
            delay_max: Duration::from_secs(60),
        },
        guarantee: Guarantee::AtLeastOnce,
        lost_after: Duration::from_secs(60),
        run_max: Some(Duration::from_secs(7200)),
        soft_error: true,
        jitter: Some(Duration::from_secs(300)),
        tags: Tags { owner: "o\"ps".into(), labels: [("team".into(), "etl".into())].into() }.kept(),
        alerts: Some(Arc::new(AlertRules {
            on: [AlertKind::Failed, AlertKind::Killed].into_iter().collect(),
            late_after: Some(Duration::from_secs(600)),
            long_running_after: Some(Duration::from_secs(7200)),
            to: vec!["ops@example.org".into(), "dev@example.org".into()],
        })),
    };
    let with = |plan| Job { plan, ..job(2) };
    let ruled = |rules: Rules| Job { rules: rules.shared(), ..job(2) };
    vec![
        (
            "job: all fields",
            Job {
                version: 4,
                changed: at(5),
                joins_from: GraphVersion(6),
                rules: rules.shared(),
                body: "{\"command\":\"echo \\\"ü\\\" \u{1F600}\\n\"}".into(),
                ..with(timetable(Gap::Shift, Fold::First))
            },
        ),
        ("job: gap skip, fold second", with(timetable(Gap::Skip, Fold::Second))),
        ("job: gap end, fold both", with(timetable(Gap::End, Fold::Both))),
        ("job: parents", with(Plan::Parents(vec![JobUid(1), JobUid(9)]))),
        ("job: catch up none", ruled(Rules { catch_up: CatchUp::None, ..Rules::default() })),
        ("job: overlap skip", ruled(Rules { overlap: Overlap::Skip, ..Rules::default() })),
        ("job: told to one", ruled(Rules { alerts: Some(Arc::new(told_to_one())), ..Rules::default() })),
        ("job: overlap replace", ruled(Rules { overlap: Overlap::Replace, ..Rules::default() })),
    ]
}

fn told_to_one() -> AlertRules {
    AlertRules { to: vec!["ops@example.org".into()], ..AlertRules::default() }
}

fn request_key(text: &str) -> RequestKey {
    RequestKey::new(text).expect("a valid key")
}

/// One receipt of every answer.
fn receipts() -> Vec<(&'static str, Receipt)> {
    let verdict = |job, uid| Verdict { job: name(job), uid, version: 2, changed: true };
    let answers = vec![
        ("receipt: put", Answer::Put { uid: JobUid(1), version: 3, changed: true }),
        ("receipt: applied", Answer::Applied(vec![verdict(1, Some(JobUid(1))), verdict(2, None)])),
        ("receipt: deleted", Answer::Deleted { live: 2 }),
        ("receipt: triggered", Answer::Triggered(slot(1, 5))),
        ("receipt: killed", Answer::Killed { runs: 1 }),
        ("receipt: marked", Answer::Marked(slot(1, 5))),
        ("receipt: paused", Answer::Paused),
        ("receipt: resumed", Answer::Resumed),
        (
            "receipt: backfilling",
            Answer::Backfilling { id: BackfillId { job: JobUid(1), number: 4 }, slots: 17 },
        ),
        ("receipt: cancelled", Answer::Cancelled { runs: 3 }),
        ("receipt: notice retried", Answer::NoticeRetried),
        ("receipt: noted", Answer::Noted),
    ];
    let receipt = |answer| Receipt {
        once: Once { key: request_key("0b7c\"\\~"), digest: u128::MAX - 1 },
        at: at(9000),
        answer,
    };
    answers.into_iter().map(|(title, answer)| (title, receipt(answer))).collect()
}

/// Definitions on their way: of every job there is, with parents by name.
fn definitions() -> Vec<(&'static str, Definition)> {
    let parents = || vec![name(1), name(2)];
    jobs().into_iter().map(|(title, job)| (title, Definition::of(&job, parents()))).collect()
}

/// A notice that has just begun.
pub fn notice(id: u64) -> Notice {
    let alert = Alert {
        kind: AlertKind::Failed,
        job: JobUid(1),
        name: name(1),
        run: Some(slot(1, 5)),
        due: at(5000),
        at: at(6000),
        slots: 1,
        detail: "failed after 3 attempts: exit status 1".into(),
    };
    Notice {
        id: NoticeId(id),
        address: Address { channel: Channel::Mail, to: "ops@example.org".into() },
        created: at(6000),
        alerts: vec![alert],
        counts: [(AlertKind::Failed, 1)].into(),
        attempts: 0,
        tried: None,
        give_up: at(86_406_000),
        error: None,
        state: NoticeState::Waiting { until: at(6000) },
    }
}

fn notices() -> Vec<Titled> {
    let put = |notice: Notice| Change::PutNotice(Arc::new(notice));
    let every = |kind: AlertKind| Alert {
        kind,
        run: None,
        slots: 7,
        detail: "".into(),
        ..notice(1).alerts.swap_remove(0)
    };
    let to = |channel| Notice { address: Address { channel, to: "".into() }, ..notice(3) };
    let tried = Notice { attempts: 2, tried: Some(at(7000)), ..notice(2) };
    vec![
        ("notice: waiting", put(notice(1))),
        (
            "notice: sending, of every kind",
            put(Notice {
                alerts: AlertKind::ALL.map(every).into(),
                counts: AlertKind::ALL.into_iter().zip(1..).collect(),
                state: NoticeState::Sending,
                ..tried.clone()
            }),
        ),
        (
            "notice: delivered",
            put(Notice {
                address: Address { channel: Channel::Webhook, to: "".into() },
                state: NoticeState::Delivered { at: at(8000) },
                ..tried.clone()
            }),
        ),
        (
            "notice: given up",
            put(Notice {
                error: Some("550 no such mailbox".into()),
                state: NoticeState::GivenUp { at: at(8000) },
                ..tried
            }),
        ),
        ("notice: by slack", put(to(Channel::Slack))),
        ("notice: by mattermost", put(to(Channel::Mattermost))),
        ("notice: by sentry", put(to(Channel::Sentry))),
        ("notice: gone", Change::RemoveNotice(NoticeId(1))),
    ]
}

fn runs() -> Vec<(&'static str, Run)> {
    let keyed = |cause| Run { key: RunKey { job: JobUid(1), cause }, ..run(1, 5) };
    let live = |kill| Live {
        attempt: 1,
        task: TaskId::of(&name(1), slot(1, 5), 1),
        launched: at(10),
        node: "node-a".into(),
        started: Some(at(11)),
        unknown_since: Some(at(12)),
        kill,
        elements: 0,
    };
    let running = |live| Run { state: RunState::Running(live), ..run(1, 5) };
    let civil = |fold| Cause::Slot { plan: 1, nominal: Nominal::Civil { second: 1_735_693_200, fold } };
    vec![
        ("run: queued", run(1, 5)),
        ("run: cron slot", keyed(civil(0))),
        ("run: cron slot, second time", keyed(civil(1))),
        ("run: slot of a later plan", keyed(Cause::Slot { plan: 2, nominal: Nominal::Index(0) })),
        (
            "run: trigger",
            Run {
                again: true,
                arguments: Some("--now".into()),
                cycle: cycle(8),
                graph: GraphVersion(5),
                ..keyed(Cause::Trigger(8))
            },
        ),
        ("run: join", Run { cycle: cycle(4), ..keyed(Cause::Join { cycle: cycle(4), round: 2 }) }),
        ("run: backfill", keyed(Cause::Backfill { number: 4, nominal: Nominal::Index(8) })),
        ("run: told late", Run { told: Told { late: true, long_running: false }, ..run(1, 5) }),
        ("run: told long", Run { told: Told { late: false, long_running: true }, ..run(1, 5) }),
        ("run: running", running(Live { started: None, unknown_since: None, ..live(None) })),
        ("run: has said how far it is", running(Live { elements: 1500, ..live(None) })),
        ("run: kill asked", running(live(Some(KillReason::Asked)))),
        ("run: kill timed out", running(live(Some(KillReason::TimedOut)))),
        ("run: kill replaced", running(live(Some(KillReason::Replaced)))),
        ("run: kill deleted", running(live(Some(KillReason::Deleted)))),
        ("run: kill restored", running(live(Some(KillReason::Restored)))),
        (
            "run: waiting",
            Run {
                state: RunState::Waiting { attempt: 1, until: at(99) },
                attempts: attempts()[..1].to_vec(),
                ..run(1, 5)
            },
        ),
    ]
}

fn attempts() -> Vec<Attempt> {
    let ends = [
        AttemptEnd::failed("no such file"),
        AttemptEnd::Failed { exit: Some(-1), signal: None, message: "".into() },
        AttemptEnd::Failed { exit: None, signal: Some(9), message: "".into() },
        AttemptEnd::Killed,
        AttemptEnd::TimedOut,
        AttemptEnd::Lost { message: "the node is gone".into() },
        AttemptEnd::Lost { message: "".into() },
        AttemptEnd::Succeeded,
    ];
    let attempt = |(number, end): (u32, AttemptEnd)| Attempt {
        number,
        launched: at(10),
        started: (number % 2 == 0).then_some(at(11)),
        ended: at(12),
        node: "node-a".into(),
        end,
        elements: u64::from(number == 0) * 20,
    };
    (0..).zip(ends).map(attempt).collect()
}

fn joins() -> Vec<Titled> {
    let parents =
        vec![(JobUid(1), Arrival::Awaited), (JobUid(2), Arrival::Succeeded), (JobUid(4), Arrival::Failed)];
    let (child, graph) = (JobUid(3), GraphVersion(0));
    let join =
        Join { child, cycle: cycle(0), graph, opened: at(1), parents, stage: Stage::Open, again: false };
    let (run, cycle_0) = (slot(1, 5), cycle(0));
    let fanout = Fanout { run, cycle: cycle_0, graph, succeeded: false, again: false, after: None };
    vec![
        ("join: open", Change::PutJoin(Arc::new(join.clone()))),
        (
            "join: skipped, again",
            Change::PutJoin(Arc::new(Join {
                cycle: cycle(4),
                stage: Stage::Skipped,
                again: true,
                ..join.clone()
            })),
        ),
        (
            "join: superseded",
            Change::PutJoin(Arc::new(Join { graph: GraphVersion(3), stage: Stage::Superseded, ..join })),
        ),
        ("fan-out: begins", Change::PutFanout(Arc::new(fanout.clone()))),
        (
            "fan-out: goes on",
            Change::PutFanout(Arc::new(Fanout {
                graph: GraphVersion(2),
                succeeded: true,
                again: true,
                after: Some(JobUid(77)),
                ..fanout
            })),
        ),
    ]
}

fn backfills() -> Vec<(&'static str, Backfill)> {
    let Plan::Schedule(table) = job(1).plan else { unreachable!("the sample has a schedule") };
    let order = Order::NewestFirst;
    let new = Backfill {
        id: BackfillId { job: JobUid(1), number: 4 },
        what: Redo::Slots { table: table.clone(), from: at(0), to: at(9000), order },
        children: Children::Follow,
        parallel: 1,
        rate: None,
        created: at(9500),
        slots: 9,
        next: Some(Slot { nominal: Nominal::Index(8), due: at(8000) }),
        except: Vec::new(),
        begun: 0,
        succeeded: 0,
        failed: 0,
        last: None,
        hold: None,
        under_way: Vec::new(),
        cancelled: false,
        ended: None,
    };
    let begun = Backfill {
        what: Redo::Slots { table, from: at(0), to: at(9000), order: Order::OldestFirst },
        children: Children::Stay,
        parallel: 4,
        rate: Some(Rate { count: 10, per: Duration::from_secs(60) }),
        except: vec![(at(3000), at(5000)), (at(7000), at(7000))],
        begun: 3,
        succeeded: 1,
        failed: 1,
        last: Some(at(10_000)),
        hold: Some(at(16_000)),
        under_way: vec![at(2000)],
        ..new.clone()
    };
    let over = Backfill {
        what: Redo::Run(slot(1, 5)),
        next: None,
        cancelled: true,
        ended: Some(at(20_000)),
        ..new.clone()
    };
    vec![("backfill: new", new), ("backfill: under way", begun), ("backfill: a re-run, over", over)]
}

fn any_backfill() -> impl Strategy<Value = Backfill> {
    let numbers = (any_uid(), 0u32..4, any::<u64>(), any::<u64>());
    let times =
        (option::of(any_at()), option::of(any_at()), option::of(any_slot()), vec((any_at(), any_at()), 0..4));
    (prop::sample::select(backfills()), numbers, times, any::<bool>()).prop_map(
        |((_, sample), (job, number, begun, succeeded), (last, hold, next, pairs), cancelled)| Backfill {
            id: BackfillId { job, number },
            begun,
            succeeded,
            last,
            hold,
            next,
            except: pairs.clone(),
            under_way: pairs.into_iter().map(|(due, _)| due).collect(),
            cancelled,
            ..sample
        },
    )
}

fn records() -> Vec<(&'static str, Record)> {
    let Record::Run(plain) = ended(1, 5, Outcome::Succeeded) else { unreachable!("a run was asked for") };
    let range = SlotRange {
        job: JobUid(1),
        name: name(1),
        first: Nominal::Index(3),
        first_due: at(3000),
        last: Nominal::Index(90),
        last_due: at(90_000),
        count: 88,
        recorded: at(95_000),
        outcome: Outcome::Missed(Missed::GaveWay),
    };
    let civil = SlotRange {
        first: Nominal::Civil { second: 0, fold: 0 },
        last: Nominal::Civil { second: 60, fold: 1 },
        outcome: Outcome::Skipped(Skipped::Paused { reason: "".into() }),
        ..range.clone()
    };
    let mut all = vec![
        ("record: range", Record::Range(range)),
        ("record: range of cron slots", Record::Range(civil)),
        ("record: with attempts", Record::Run(EndedRun { attempts: attempts(), ..plain.clone() })),
        ("record: of a cycle", Record::Run(EndedRun { cycle: cycle(2), ..plain.clone() })),
        ("record: with arguments", Record::Run(EndedRun { arguments: Some("--all".into()), ..plain })),
    ];
    all.extend(outcomes().into_iter().map(|outcome| ("record: outcome", ended(1, 5, outcome))));
    all
}

/// Every outcome with every reason.
pub fn outcomes() -> Vec<Outcome> {
    let skipped = [
        Skipped::Overlaps(slot(1, 4)),
        Skipped::Superseded(slot(1, 4)),
        Skipped::Replaced(slot(1, 6)),
        Skipped::Upstream { parent: "extract".into() },
        Skipped::JoinSuperseded,
        Skipped::Paused { reason: "holidays".into() },
        Skipped::Withdrawn,
        Skipped::Cancelled,
    ];
    let killed = [
        KillReason::Asked,
        KillReason::TimedOut,
        KillReason::Replaced,
        KillReason::Deleted,
        KillReason::Restored,
    ];
    let missed = [Missed::Epsilon, Missed::GaveWay, Missed::NoCatchUp, Missed::CatchUpBound];
    let mut all = vec![Outcome::Succeeded, Outcome::Failed, Outcome::TimedOut, Outcome::Lost];
    all.extend(killed.into_iter().map(Outcome::Killed));
    all.extend(skipped.into_iter().map(Outcome::Skipped));
    all.extend(missed.into_iter().map(Outcome::Missed));
    all
}

/// Any change, over few enough keys that changes meet each other.
pub fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u32>().prop_map(|n| Change::Meta(Meta { next_uid: n.into(), ..Meta::default() })),
        any_job().prop_map(put),
        any_uid().prop_map(Change::RemoveJob),
        (any_uid(), any_progress()).prop_map(|(uid, progress)| Change::PutProgress(uid, Arc::new(progress))),
        any_run().prop_map(|run| Change::PutRun(Arc::new(run))),
        any_key().prop_map(Change::RemoveRun),
        any_join().prop_map(|join| Change::PutJoin(Arc::new(join))),
        (any_uid(), any_cycle()).prop_map(|(child, cycle)| Change::RemoveJoin(child, cycle)),
        any_fanout().prop_map(|fanout| Change::PutFanout(Arc::new(fanout))),
        any_key().prop_map(Change::RemoveFanout),
        any_backfill().prop_map(|backfill| Change::PutBackfill(Arc::new(backfill))),
        (any_uid(), 0u32..4).prop_map(|(job, number)| Change::RemoveBackfill(BackfillId { job, number })),
        any_notice().prop_map(|notice| Change::PutNotice(Arc::new(notice))),
        (1u64..4).prop_map(|id| Change::RemoveNotice(NoticeId(id))),
        (prop::sample::select(receipts()), 0u32..4).prop_map(|((_, receipt), n)| {
            let once = Once { key: request_key(&format!("k{n}")), ..receipt.once };
            Change::PutReceipt(Arc::new(Receipt { once, ..receipt }))
        }),
        (0u32..4).prop_map(|n| Change::RemoveReceipt(request_key(&format!("k{n}")))),
        prop::sample::select(definitions()).prop_map(|(_, definition)| Change::Stage(Arc::new(definition))),
        prop::sample::select(definitions())
            .prop_map(|(_, definition)| Change::Unstage(definition.name.clone())),
        any_record().prop_map(|record| Change::Append(Arc::new(record))),
        any_revision().prop_map(|revision| Change::Revise(Arc::new(revision))),
        prop::sample::select(entries()).prop_map(|(_, entry)| Change::Note(Arc::new(entry))),
        prop::sample::select(every_change()).prop_map(|(_, change)| change),
    ]
}

/// Any batches.
pub fn any_batches() -> impl Strategy<Value = Vec<Vec<Change>>> {
    vec(vec(any_change(), 0..12), 0..12)
}

fn any_uid() -> impl Strategy<Value = JobUid> {
    (1u64..6).prop_map(JobUid)
}

fn any_at() -> impl Strategy<Value = Timestamp> {
    prop_oneof![(0i64..4).prop_map(at), (-100_000i64..100_000).prop_map(at)]
}

fn any_text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just(String::new()), any::<String>()].prop_map(Arc::from)
}

fn any_span() -> impl Strategy<Value = Duration> {
    (0u64..100_000_000).prop_map(Duration::from_millis)
}

fn any_nominal() -> impl Strategy<Value = Nominal> {
    prop_oneof![
        (0u64..5).prop_map(Nominal::Index),
        (0i64..4_000_000_000, 0u8..2).prop_map(|(second, fold)| Nominal::Civil { second, fold }),
    ]
}

fn any_slot() -> impl Strategy<Value = Slot> {
    (any_nominal(), any_at()).prop_map(|(nominal, due)| Slot { nominal, due })
}

fn any_cycle() -> impl Strategy<Value = Cycle> {
    (any_at(), any_uid(), 0u32..3).prop_map(|(due, origin, seq)| Cycle { due, origin, seq })
}

fn any_key() -> impl Strategy<Value = RunKey> {
    let cause = prop_oneof![
        (1u32..3, any_nominal()).prop_map(|(plan, nominal)| Cause::Slot { plan, nominal }),
        (0u32..4).prop_map(Cause::Trigger),
        (1u32..4, any_nominal()).prop_map(|(number, nominal)| Cause::Backfill { number, nominal }),
        (any_cycle(), 0u32..3).prop_map(|(cycle, round)| Cause::Join { cycle, round }),
    ];
    (any_uid(), cause).prop_map(|(job, cause)| RunKey { job, cause })
}

fn any_job() -> impl Strategy<Value = Job> {
    let dst = (
        prop::sample::select(vec![Gap::Auto, Gap::Shift, Gap::Skip, Gap::End]),
        prop::sample::select(vec![Fold::Auto, Fold::First, Fold::Second, Fold::Both]),
    );
    let timetable = (any_text(), any_text(), dst, any_at(), 1u32..4).prop_map(
        |(text, zone, (gap, fold), anchor, plan)| {
            Plan::Schedule(Timetable { text, zone, dst: DstPolicy { gap, fold }, anchor, plan })
        },
    );
    let plan = prop_oneof![timetable, vec(any_uid(), 1..4).prop_map(Plan::Parents)];
    let times = (any_at(), any_at(), any_graph());
    (any_uid(), 1u32..5, times, plan, any_rules(), any_text()).prop_map(
        |(uid, version, (created, changed, joins_from), plan, rules, body)| Job {
            uid,
            version,
            created,
            changed,
            joins_from,
            name: name(uid.0),
            plan,
            rules: rules.shared(),
            body,
        },
    )
}

fn any_revision() -> impl Strategy<Value = Revision> {
    let deed = prop::sample::select(deeds().map(|(_, deed)| deed).to_vec());
    (any_job(), vec(any_uid(), 0..3), any_at(), any_text(), deed).prop_map(|(job, parents, at, by, deed)| {
        let parents = parents.into_iter().map(|uid| name(uid.0)).collect();
        Revision { job: Arc::new(job), parents, at, by, deed }
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let catch_up = prop_oneof![
        Just(CatchUp::Latest),
        (1u64..100, any_span()).prop_map(|(count_max, age_max)| CatchUp::All { count_max, age_max }),
        Just(CatchUp::None),
    ];
    let overlap = prop_oneof![
        Just(Overlap::Queue),
        Just(Overlap::Skip),
        Just(Overlap::Replace),
        (1u32..9).prop_map(|max| Overlap::Allow { max }),
    ];
    let retry = prop_oneof![
        Just(Retry::default()),
        (0u32..9, prop::option::of(any_span()), 100u32..900, any_span()).prop_map(
            |(max, delay, factor_percent, delay_max)| { Retry { max, delay, factor_percent, delay_max } }
        ),
    ];
    let guarantee = prop::sample::select(vec![Guarantee::AtMostOnce, Guarantee::AtLeastOnce]);
    let flags = any::<(bool, bool, bool)>();
    let alerts = (
        prop::sample::subsequence(AlertKind::ALL.to_vec(), 0..7),
        option::of(any_span()),
        option::of(any_span()),
        vec(any_text(), 0..3),
    );
    let alerts = alerts.prop_map(|(on, late_after, long_running_after, to)| {
        let on = on.into_iter().collect();
        Arc::new(AlertRules { on, late_after, long_running_after, to })
    });
    let spans = (option::of(any_span()), any_span(), option::of(any_span()));
    let label = ("[a-z]{0,3}", "[a-z\"]{0,3}").prop_map(|(key, value)| (key.into(), value.into()));
    let jitter = option::of(any_span());
    let tags = ("[a-z@]{0,5}", vec(label, 0..3))
        .prop_map(|(owner, labels)| Tags { owner: owner.into(), labels: labels.into() }.kept());
    (flags, catch_up, overlap, retry, guarantee, spans, (jitter, tags, option::of(alerts))).prop_map(
        |(
            (disabled, high_priority, soft_error),
            catch_up,
            overlap,
            retry,
            guarantee,
            (epsilon, lost_after, run_max),
            (jitter, tags, alerts),
        )| {
            Rules {
                disabled,
                high_priority,
                catch_up,
                epsilon,
                overlap,
                retry,
                guarantee,
                lost_after,
                run_max,
                soft_error,
                jitter,
                tags,
                alerts,
            }
        },
    )
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let paused = (any_at(), any_text(), option::of(any_at()))
        .prop_map(|(since, reason, until)| Box::new(Pause { since, reason, until }));
    let slots = (option::of(any_slot()), option::of(any_slot()), option::of(0u64..9));
    let counts = (any::<u32>(), 0u64..9, 0u64..9, 0u64..9);
    let times = (any_at(), option::of(any_at()), option::of(any_at()));
    let quick_failures = (any::<u32>(), any_at(), option::of(any_at()))
        .prop_map(|(count, last, until)| Box::new(QuickFailures { count, last, until }));
    let holds = (option::of(paused), option::of(quick_failures));
    let given_up = (any_key(), any::<u32>(), any_text(), any_at());
    let given_up = given_up.prop_map(|(run, attempt, node, at)| GivenUp { run, attempt, node, at });
    let lists = (vec((any_uid(), any_cycle()), 0..3), vec(given_up, 0..3));
    (slots, counts, times, holds, lists).prop_map(
        |((mark, next, remaining), counts, (accounted_since, last_success, last_error), holds, lists)| {
            let (flags, given_up) = lists;
            let (paused, quick_failures) = holds;
            let (sequence, successes, errors, errors_in_a_row) = counts;
            Progress {
                mark,
                next,
                remaining,
                accounted_since,
                paused,
                sequence,
                flags,
                successes,
                errors,
                errors_in_a_row,
                last_success: last_success.map(Moment::from),
                last_error: last_error.map(Moment::from),
                quick_failures,
                given_up,
            }
        },
    )
}

fn any_kill() -> impl Strategy<Value = KillReason> {
    prop::sample::select(vec![
        KillReason::Asked,
        KillReason::TimedOut,
        KillReason::Replaced,
        KillReason::Deleted,
        KillReason::Restored,
    ])
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let failed = (option::of(any::<i32>()), option::of(any::<i32>()), any_text())
        .prop_map(|(exit, signal, message)| AttemptEnd::Failed { exit, signal, message });
    let end = prop_oneof![
        Just(AttemptEnd::Succeeded),
        failed,
        Just(AttemptEnd::Killed),
        Just(AttemptEnd::TimedOut),
        any_text().prop_map(|message| AttemptEnd::Lost { message }),
    ];
    (0u32..5, any_at(), option::of(any_at()), any_at(), any_text(), end, any::<u64>()).prop_map(
        |(number, launched, started, ended, node, end, elements)| Attempt {
            number,
            launched,
            started,
            ended,
            node,
            end,
            elements,
        },
    )
}

fn any_run() -> impl Strategy<Value = Run> {
    let live = (
        0u32..4,
        any_at(),
        any_text(),
        option::of(any_at()),
        option::of(any_at()),
        option::of(any_kill()),
        any::<u64>(),
    );
    let live = live.prop_map(|(attempt, launched, node, started, unknown_since, kill, elements)| {
        let task = TaskId::of(&name(1), slot(1, 1), attempt);
        RunState::Running(Live { attempt, task, launched, node, started, unknown_since, kill, elements })
    });
    let waiting = (1u32..4, any_at()).prop_map(|(attempt, until)| RunState::Waiting { attempt, until });
    let state = prop_oneof![Just(RunState::Queued), live, waiting];
    let told = any::<(bool, bool)>().prop_map(|(late, long_running)| Told { late, long_running });
    let rest = (any::<bool>(), option::of(any_text()), state, vec(any_attempt(), 0..3), told);
    (any_key(), any_cycle(), any_graph(), any_at(), any_at(), rest).prop_map(
        |(key, cycle, graph, due, created, (again, arguments, state, attempts, told))| Run {
            key,
            job: name(key.job.0),
            cycle,
            graph,
            due,
            created,
            again,
            arguments,
            state,
            attempts,
            told,
        },
    )
}

fn any_notice() -> impl Strategy<Value = Notice> {
    let state = prop_oneof![
        any_at().prop_map(|until| NoticeState::Waiting { until }),
        Just(NoticeState::Sending),
        any_at().prop_map(|at| NoticeState::Delivered { at }),
        any_at().prop_map(|at| NoticeState::GivenUp { at }),
    ];
    (1u64..4, any_text(), 0u32..3, option::of(any_at()), option::of(any_text()), state).prop_map(
        |(id, to, attempts, tried, error, state)| Notice {
            address: Address { channel: Channel::Mail, to },
            attempts,
            tried,
            error,
            state,
            ..notice(id)
        },
    )
}

fn any_graph() -> impl Strategy<Value = GraphVersion> {
    (0u32..4).prop_map(GraphVersion)
}

fn any_join() -> impl Strategy<Value = Join> {
    let arrival = prop::sample::select(vec![Arrival::Awaited, Arrival::Succeeded, Arrival::Failed]);
    let parents = vec((any_uid(), arrival), 0..4);
    let stage = prop::sample::select(vec![Stage::Open, Stage::Skipped, Stage::Superseded]);
    (any_uid(), any_cycle(), any_graph(), any_at(), parents, stage, any::<bool>()).prop_map(
        |(child, cycle, graph, opened, parents, stage, again)| Join {
            child,
            cycle,
            graph,
            opened,
            parents,
            stage,
            again,
        },
    )
}

fn any_fanout() -> impl Strategy<Value = Fanout> {
    (any_key(), any_cycle(), any_graph(), any::<bool>(), any::<bool>(), option::of(any_uid())).prop_map(
        |(run, cycle, graph, succeeded, again, after)| Fanout { run, cycle, graph, succeeded, again, after },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let outcome = || prop::sample::select(outcomes());
    let run = (any_run(), any_at(), outcome()).prop_map(|(run, ended, outcome)| {
        let Run { key, job, cycle, due, created, arguments, attempts, .. } = run;
        Record::Run(EndedRun { key, job, cycle, due, created, ended, outcome, arguments, attempts })
    });
    let range = (any_uid(), any_slot(), any_slot(), 1u64..1000, any_at(), outcome()).prop_map(
        |(job, first, last, count, recorded, outcome)| {
            Record::Range(SlotRange {
                job,
                name: name(job.0),
                first: first.nominal,
                first_due: first.due.min(last.due),
                last: last.nominal,
                last_due: first.due.max(last.due),
                count,
                recorded,
                outcome,
            })
        },
    );
    prop_oneof![run, range]
}
