//! What one step of the core costs: `cargo bench -p scheduler --bench steps`.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jiff::{Timestamp, ToSpan};
use scheduler::ids::{JobName, TaskId};
use scheduler::job::Rules;
use scheduler::limits::Limits;
use scheduler::notice::Channels;
use scheduler::request::{Definition, PlanText, Request, RequestId};
use scheduler::run::AttemptEnd;
use scheduler::schedule::{DstPolicy, Zones};
use scheduler::state::State;
use scheduler::{Effect, Event, Scheduler, Settings, Step, TaskNews};

/// A scheduler and its clock.
struct Term {
    core: Scheduler,
    now: Timestamp,
}

impl Term {
    fn new(state: State) -> Self {
        let core = Scheduler::new(
            state,
            Settings {
                node: "n1".into(),
                zones: Zones::bundled(),
                disable_after_failures: 0,
                retry_delay: scheduler::job::Retry::DELAY,
                limits: Limits::default(),
                set_batch: scheduler::SET_BATCH,
                channels: Channels::default(),
            },
        );
        let mut term = Self { core, now: "2030-01-01T00:00:00Z".parse().expect("an instant") };
        let _ = term.step(Event::Engine { ready: true });
        term
    }

    fn step(&mut self, event: Event) -> Step {
        self.core.step(self.now, event)
    }

    fn put(&mut self, name: &str, plan: PlanText) {
        let name = JobName::new(name).expect("a name");
        let definition =
            Definition { name, plan, rules: Rules::default(), body: "{\"command\":\"true\"}".into() };
        let _ = self.step(Event::Request { id: RequestId(0), request: Request::Put(definition) });
    }

    /// Jobs that are due every hour, first a minute from now.
    fn with_jobs(count: usize) -> Self {
        let mut term = Self::new(State::default());
        let first = term.now + 1.minute();
        for n in 0..count {
            term.put(&format!("job-{n:06}"), scheduled(&format!("R/{first}/PT1H")));
        }
        term
    }

    /// All that is due in a minute is launched; returns the tasks.
    fn launched(&mut self) -> Vec<TaskId> {
        self.now += 1.minute();
        let mut tasks = Vec::new();
        while self.core.wake_at().is_some_and(|wake| wake <= self.now) {
            for effect in self.step(Event::Tick).effects {
                if let Effect::Launch { run, .. } = effect {
                    tasks.push(TaskId::of(&run.job, run.key, 0));
                }
            }
        }
        tasks
    }
}

fn scheduled(text: &str) -> PlanText {
    PlanText::Schedule { text: text.into(), zone: Arc::from(""), dst: DstPolicy::default() }
}

fn ended(task: TaskId) -> Event {
    Event::Task { task, news: TaskNews::Ended(AttemptEnd::Succeeded) }
}

/// The largest step there is, among many jobs.
fn tick(c: &mut Criterion) {
    let state = Term::with_jobs(100_000).core.state().clone();
    let due = || {
        let mut term = Term::new(state.clone());
        term.now += 1.minute();
        term
    };
    c.bench_function("tick with 256 of 100,000 due slots", |b| {
        b.iter_batched_ref(due, |term| term.step(Event::Tick), BatchSize::PerIteration);
    });
    let idle = Term::new(state.clone());
    c.bench_function("when to wake, of 100,000 jobs", |b| b.iter(|| idle.core.wake_at()));
    c.bench_function("begin of a term with 100,000 jobs", |b| {
        b.iter_batched(|| state.clone(), Term::new, BatchSize::PerIteration);
    });
}

fn end(c: &mut Criterion) {
    let prepared = || {
        let mut term = Term::with_jobs(1000);
        let tasks = term.launched();
        (term, tasks)
    };
    c.bench_function("1,000 ends of tasks", |b| {
        let all = |(term, tasks): &mut (Term, Vec<TaskId>)| {
            tasks.drain(..).map(|task| term.step(ended(task)).changes.len()).sum::<usize>()
        };
        b.iter_batched_ref(prepared, all, BatchSize::PerIteration);
    });
}

/// A thousand parents of one child end; with the last of them the join fires.
fn join(c: &mut Criterion) {
    let prepared = || {
        let mut term = Term::with_jobs(1);
        let root = JobName::new("job-000000").expect("a name");
        let parents: Vec<JobName> =
            (0..1000).map(|n| JobName::new(&format!("parent-{n}")).expect("a name")).collect();
        for parent in &parents {
            term.put(parent.as_str(), PlanText::Parents(vec![root.clone()]));
        }
        term.put("child", PlanText::Parents(parents));
        let tasks = term.launched();
        for task in tasks {
            let _ = term.step(ended(task));
        }
        let mut tasks = Vec::new();
        while term.core.wake_at().is_some_and(|wake| wake <= term.now) {
            for effect in term.step(Event::Tick).effects {
                if let Effect::Launch { run, .. } = effect {
                    tasks.push(TaskId::of(&run.job, run.key, 0));
                }
            }
        }
        (term, tasks)
    };
    c.bench_function("arrival of 64 parents at a join of 1,000", |b| {
        let some = |(term, tasks): &mut (Term, Vec<TaskId>)| {
            tasks.drain(..64).map(|task| term.step(ended(task)).changes.len()).sum::<usize>()
        };
        b.iter_batched_ref(prepared, some, BatchSize::PerIteration);
    });
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(20);
    targets = tick, end, join
}
criterion_main!(all);
