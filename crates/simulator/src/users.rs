//! Users: what they define, and what they ask for while the cluster runs.

use std::sync::Arc;
use std::time::Duration;

use scheduler::backfill::{Children, Order, Rate};
use scheduler::ids::{BackfillId, Cycle, JobName, RunKey};
use scheduler::job::{CatchUp, Guarantee, Overlap, Plan, Retry, Rules, Tags};
use scheduler::notice::AlertRules;
use scheduler::request::{BackfillOrder, Definition, Edit, Expect, Manner, PlanText, Remains, Request};
use scheduler::revision::Revision;
use scheduler::run::EndedRun;
use scheduler::state::State;

use crate::calendar::{Millis, Phrasebook, Written, instant};
use crate::random::Random;

/// The job that nobody touches and nothing may hurt.
pub(crate) const CANARY: &str = "canary";

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Jobs that are created at the beginning.
    pub(crate) jobs: u64,
    /// Time between requests, on average; `None` for users that only watch.
    pub(crate) busy: Option<Millis>,
    /// Whether requests may change the graph: without, every join can be foretold.
    pub(crate) edits: bool,
    /// Children of one job, beyond what a step can treat.
    pub(crate) herd: Option<u64>,
    /// Period of the canary.
    pub(crate) canary: Millis,
    /// Whether limits hold runs back.
    pub(crate) limited: bool,
    /// The zone of most jobs, where its clock jumps while they run.
    pub(crate) home: Option<&'static str>,
}

pub(crate) struct Users {
    pub(crate) mix: Mix,
    names: u64,
    herds: Random,
    regrets: Random,
    /// Of a thousand replacements so many bring back what a job has been.
    regretted: u64,
    pub(crate) phrases: Phrasebook,
}

pub(crate) fn name(text: &str) -> JobName {
    JobName::new(text).unwrap_or_else(|_| unreachable!("names of the simulator are valid"))
}

impl Users {
    pub(crate) fn new(mix: Mix, herds: Random, mut regrets: Random) -> Self {
        let regretted = regrets.pick(&[0, 0, 500, 800]);
        Self { mix, names: 0, herds, regrets, regretted, phrases: Phrasebook::default() }
    }

    /// What is asked for before anything else.
    pub(crate) fn opening(&mut self, random: &mut Random, now: Millis) -> Vec<Request> {
        let canary = Written::every(Some(now - now.rem_euclid(1000)), self.mix.canary, None);
        // An owner of its own, whom the others must leave a share of every limit.
        let tags = Tags { owner: CANARY.into(), ..Tags::default() }.kept();
        let rules = Rules { retry: Retry { max: 0, ..Retry::default() }, tags, ..Rules::default() };
        let body = "100 300 0".into();
        let mut opening = vec![self.put(name(CANARY), Some(canary), Vec::new(), rules, body)];
        for _ in 0..self.mix.jobs {
            let job = self.new_job(random, now);
            opening.push(job);
        }
        if let Some(children) = self.mix.herd {
            let root = name("shepherd");
            let written = Written::every(None, 1000 * random.pick(&[120, 300]), None);
            let rules = Rules { overlap: Overlap::Allow { max: 3 }, ..Rules::default() };
            opening.push(self.put(root.clone(), Some(written), Vec::new(), rules, "500 2000 10".into()));
            for n in 0..children {
                let child = name(&format!("sheep{n}"));
                let tags =
                    Tags { owner: "shepherd".into(), labels: [("team".into(), "sheep".into())].into() };
                let rules = Rules { tags: tags.kept(), ..Rules::default() };
                opening.push(self.put(child, None, vec![root.clone()], rules, "100 900 5".into()));
            }
        }
        opening
    }

    fn put(
        &mut self,
        name: JobName,
        written: Option<Written>,
        parents: Vec<JobName>,
        rules: Rules,
        body: Arc<str>,
    ) -> Request {
        let plan = match written {
            Some(written) => {
                self.phrases.learn(&written);
                let Written { text, zone, dst, .. } = written;
                PlanText::Schedule { text, zone, dst }
            }
            None => PlanText::Parents(parents),
        };
        let alerts = alerts_of(&name);
        Request::Put(Definition { name, plan, rules: Rules { alerts, ..rules }, body })
    }

    fn new_job(&mut self, random: &mut Random, now: Millis) -> Request {
        let own = name(&format!("job{}", self.names));
        self.names += 1;
        self.definition(random, own, now)
    }

    /// Parents come before their children in the order of names, so that most definitions are free of cycles.
    fn definition(&mut self, random: &mut Random, own: JobName, now: Millis) -> Request {
        let older: u64 = own.as_str().trim_start_matches("job").parse().unwrap_or(0);
        let dependent = older > 0 && random.permille(550);
        let (written, parents) = if dependent {
            // Near the end of the list, so that chains grow long; one or several of them.
            let count = random.pick(&[1, 1, 1, 2, 2, 3, 4]);
            let near = older.min(random.pick(&[3, 6, 100]));
            let parents =
                (0..count).map(|_| name(&format!("job{}", older - 1 - random.below(near)))).collect();
            (None, parents)
        } else {
            (Some(Written::any(random, now, self.mix.home)), Vec::new())
        };
        let (rules, body) = (any_rules(random), any_body(random));
        let rules = Rules { tags: any_tags(&mut self.herds), jitter: any_jitter(&mut self.herds), ..rules };
        // Priority is strict: an important job that is always late keeps all others of its label waiting for ever.
        let rules = Rules { high_priority: rules.high_priority && !self.mix.limited, ..rules };
        self.put(own, written, parents, rules, body)
    }

    /// Several definitions at once, new jobs and old ones, children before their parents as often as after them.
    fn set(&mut self, random: &mut Random, now: Millis) -> Request {
        let mut definitions = Vec::new();
        for _ in 0..random.pick(&[1, 2, 3, 6, 12]) {
            let request = if random.permille(500) {
                self.new_job(random, now)
            } else {
                let job = name(&format!("job{}", random.below(self.names.max(1))));
                self.definition(random, job, now)
            };
            if let Request::Put(definition) = request {
                definitions.push(definition);
            }
        }
        if random.permille(500) {
            definitions.reverse();
        }
        Request::Apply { definitions, manner: Manner::Do }
    }

    /// One request, of any kind. `failed` finds a run of a job that ended without success, `ended` some run of it, `was` what
    /// it has been.
    pub(crate) fn request(
        &mut self,
        random: &mut Random,
        now: Millis,
        state: &State,
        failed: impl Fn(&JobName) -> Option<(RunKey, Cycle)>,
        ended: impl Fn(&JobName, u64) -> Option<EndedRun>,
        was: impl Fn(&JobName) -> Vec<Revision>,
    ) -> Request {
        let job = name(&format!("job{}", random.below(self.names.max(1))));
        let runs: Vec<RunKey> = state.runs.keys().copied().collect();
        let live = (!runs.is_empty()).then(|| random.pick(&runs));
        let kind = if self.mix.edits { random.below(120) } else { 45 + random.below(75) };
        match kind {
            0..8 => self.new_job(random, now),
            8..24 => {
                let new = self.definition(random, job.clone(), now);
                self.rollback(job, was).unwrap_or(new)
            }
            24..28 => self.set(random, now),
            28..45 => Request::Delete(job),
            45..62 => Request::Trigger { job, arguments: None },
            62..69 => Request::KillJob(job),
            69..74 => live.map_or(Request::KillJob(job), Request::KillRun),
            74..82 => {
                let failed = failed(&job);
                Request::MarkSuccess { job, failed }
            }
            82..92 => {
                let until = random.permille(500).then(|| instant(now + random.between(-5_000, 120_000)));
                Request::Pause { job, reason: "maintenance".into(), until }
            }
            92..100 => Request::Resume(job),
            100..109 => self.backfill(random, now, &job, state).unwrap_or(Request::Resume(job)),
            109..112 => {
                let ids: Vec<BackfillId> = state.backfills.keys().copied().collect();
                let remains = random.pick(&[Remains::GoOn, Remains::Die]);
                let id = (!ids.is_empty()).then(|| random.pick(&ids));
                id.map_or(Request::Resume(job), |id| Request::CancelBackfill { id, remains })
            }
            _ => {
                let children = random.pick(&[Children::Follow, Children::Follow, Children::Stay]);
                let run = ended(&job, random.below(4));
                run.map_or(Request::Resume(job), |run| Request::Rerun { run: Box::new(run), children })
            }
        }
    }

    /// What the job has been at some time, whoever has made it so, also under an older uid.
    fn rollback(&mut self, job: JobName, was: impl Fn(&JobName) -> Vec<Revision>) -> Option<Request> {
        if !self.regrets.permille(self.regretted) {
            return None;
        }
        // The newest is what it is, or what it was when it was deleted.
        let older: Vec<Revision> = was(&job).into_iter().skip(1).collect();
        let back = older.get(usize::try_from(self.regrets.below(older.len() as u64)).ok()?)?;
        let edit = Edit::RollBack { to: back.job.version };
        let then = Box::new(Request::Edit { definition: back.definition(), edit });
        Some(Request::When { job, expect: Expect::Present, then })
    }

    /// Some past slots of a job, few enough to come to an end.
    fn backfill(&self, random: &mut Random, now: Millis, job: &JobName, state: &State) -> Option<Request> {
        let Plan::Schedule(table) = &state.jobs.values().find(|kept| kept.name == *job)?.plan else {
            return None;
        };
        let meaning = self.phrases.find(table, job.as_str())?;
        let longest = random.pick(&[60_000, 600_000, 3 * 86_400_000]);
        let from = now - random.between(1, longest);
        let mut to = from;
        for _ in 0..=random.below(9) {
            to = meaning.next(table.anchor.as_millisecond(), to)?.1 + 1;
        }
        Some(Request::Backfill(BackfillOrder {
            job: job.clone(),
            from: instant(from),
            to: instant(to),
            order: random.pick(&[Order::OldestFirst, Order::NewestFirst]),
            parallel: random.pick(&[1, 1, 2, 5]),
            rate: random.permille(300).then_some(Rate { count: 6, per: seconds(60) }),
            children: random.pick(&[Children::Follow, Children::Follow, Children::Stay]),
            except: Vec::new(),
        }))
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs())
}

/// The same for each definition of a name, so that it is known whom a run was to be told to: nobody, one or two.
fn alerts_of(name: &JobName) -> Option<Arc<AlertRules>> {
    let last = usize::from(*name.as_str().as_bytes().last()?);
    let everybody = ["ops@example.org", "dev@example.org"];
    let to: Vec<Arc<str>> = everybody[..last % 3].iter().map(|to| (*to).into()).collect();
    let late_after = last.is_multiple_of(2).then_some(seconds(5));
    let long_running_after = last.is_multiple_of(5).then_some(seconds(10));
    (!to.is_empty())
        .then(|| Arc::new(AlertRules { late_after, long_running_after, to, ..AlertRules::default() }))
}

fn any_rules(random: &mut Random) -> Rules {
    let max = u32::try_from(random.below(4)).unwrap_or(0);
    Rules {
        disabled: random.permille(80),
        high_priority: random.permille(200),
        catch_up: match random.below(5) {
            0..=2 => CatchUp::Latest,
            3 => {
                let count_max = random.pick(&[1, 2, 5, 20]);
                CatchUp::All { count_max, age_max: seconds(random.pick(&[30, 300, 3600])) }
            }
            _ => CatchUp::None,
        },
        epsilon: random.permille(350).then(|| seconds(random.pick(&[1, 5, 20, 60, 600]))),
        overlap: match random.below(6) {
            0..=2 => Overlap::Queue,
            3 => Overlap::Skip,
            4 => Overlap::Replace,
            _ => Overlap::Allow { max: random.pick(&[1, 2, 5]) },
        },
        retry: Retry {
            max,
            delay: Some(seconds(random.pick(&[1, 3, 10]))),
            factor_percent: random.pick(&[100, 200, 300]),
            delay_max: seconds(30),
        },
        guarantee: random.pick(&[Guarantee::AtMostOnce, Guarantee::AtMostOnce, Guarantee::AtLeastOnce]),
        lost_after: seconds(random.pick(&[20, 60, 300])),
        run_max: random.permille(250).then(|| seconds(random.pick(&[2, 10, 40]))),
        soft_error: random.permille(150),
        jitter: None,
        tags: None,
        alerts: None,
    }
}

fn any_tags(random: &mut Random) -> Option<Arc<Tags>> {
    let mut labels = Vec::new();
    for (key, value) in [("team", random.pick(&["a", "b"])), ("zone", random.pick(&["1", "2", "3"]))] {
        if random.permille(500) {
            labels.push((key.into(), value.into()));
        }
    }
    Tags { owner: random.pick(&["", "ann", "bob"]).into(), labels: labels.into() }.kept()
}

fn any_jitter(random: &mut Random) -> Option<Duration> {
    random.permille(150).then(|| seconds(random.pick(&[1, 5, 30, 120])))
}

/// What a task of the job is like, for the model engine: shortest and longest time in milliseconds, failures in a hundred.
fn any_body(random: &mut Random) -> Arc<str> {
    // Some last so long that only a kill ends them in time: a kill that is forgotten shows.
    let (low, high) = if random.permille(60) {
        (600_000, 900_000)
    } else {
        random.pick(&[(0, 300), (100, 2_000), (100, 2_000), (1_000, 15_000), (20_000, 50_000)])
    };
    let fails = random.pick(&[0, 0, 10, 30, 100]);
    format!("{low} {high} {fails}").into()
}
