//! Promise 1: every slot of an enabled job has exactly one outcome. The slots are counted by the naive calendar, and
//! the log must consume them one after the other: none twice, none left out, none that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::{Cause, JobUid, RunKey};
use scheduler::job::{Job, Plan, Timetable};
use scheduler::run::{Record, SlotRange};
use scheduler::schedule::Nominal;
use scheduler::state::{Change, State};

use super::Verdict;
use crate::calendar::{Meaning, Millis, Occurrence, Phrasebook, instant};

/// Where the slots of one job have got to.
struct Track {
    name: String,
    enabled: bool,
    plan: Plan,
    /// The slot that has to come next in the log.
    next: Option<Occurrence>,
    /// How many are left of `Rn`.
    left: Option<u64>,
    /// When the last one that was consumed was due.
    mark: Option<Millis>,
}

#[derive(Default)]
pub(crate) struct Slots {
    tracks: BTreeMap<JobUid, Track>,
    runs: BTreeSet<RunKey>,
    healed: Millis,
}

fn timetable(plan: &Plan) -> Option<&Timetable> {
    match plan {
        Plan::Schedule(table) => Some(table),
        Plan::Parents(_) => None,
    }
}

impl Track {
    /// What its schedule means, and since when; nothing for a dependent.
    fn meaning(&self, phrases: &Phrasebook) -> Option<(Meaning, Millis)> {
        let table = timetable(&self.plan)?;
        Some((phrases.find(table, &self.name)?, table.anchor.as_millisecond()))
    }

    fn none_due(&self, now: Millis, what: &str) -> Verdict {
        match self.next.filter(|(_, due)| self.enabled && *due <= now) {
            None => Ok(()),
            Some((nominal, due)) => Err(format!(
                "job {}: slot {nominal:?}, due {}, had no outcome when the job was {what} at {}",
                self.name,
                instant(due),
                instant(now)
            )),
        }
    }

    /// A schedule has been posted: its latest past slot is due at once, and none before it exists.
    fn begin(&mut self, now: Millis, phrases: &Phrasebook) {
        let Some((meaning, anchor)) = self.meaning(phrases) else {
            (self.next, self.left) = (None, None);
            return;
        };
        self.left = meaning.count();
        let floor = self.mark.unwrap_or(Millis::MIN);
        let at_once = meaning.latest(anchor, now).filter(|(_, due)| *due > floor);
        self.next = at_once.or_else(|| meaning.next(anchor, now.max(floor))).filter(|_| self.left != Some(0));
    }

    /// Enabled again, or taken over from a disabled job: the slots meanwhile do not exist.
    fn resume(&mut self, now: Millis, phrases: &Phrasebook) {
        let after = self.mark.map_or(now, |mark| mark.max(now));
        let next = self.meaning(phrases).and_then(|(meaning, anchor)| meaning.next(anchor, after));
        self.next = next.filter(|_| self.left != Some(0));
    }

    fn consume(&mut self, slot: Occurrence, phrases: &Phrasebook) -> Verdict {
        let name = &self.name;
        let say = |(nominal, due): Occurrence| format!("{nominal:?}, due {}", instant(due));
        if !self.enabled {
            return Err(format!("job {name} is disabled, and its slot {} was taken", say(slot)));
        }
        match self.next {
            None => return Err(format!("job {name}: slot {} does not exist: none is left", say(slot))),
            Some(next) if next == slot => {}
            Some(next) if slot.1 < next.1 => {
                return Err(format!(
                    "job {name}: slot {} was taken after a later one, or twice; next was {}",
                    say(slot),
                    say(next)
                ));
            }
            Some(next) => {
                return Err(format!("job {name}: slot {} was left out; {} came", say(next), say(slot)));
            }
        }
        self.left = self.left.map(|left| left - 1);
        self.mark = Some(slot.1);
        let next = self.meaning(phrases).and_then(|(meaning, anchor)| meaning.next(anchor, slot.1));
        self.next = next.filter(|_| self.left != Some(0));
        Ok(())
    }
}

impl Slots {
    /// Takes the changes of one step, decided at `now` by the leader's wall clock.
    pub(crate) fn step(&mut self, now: Millis, changes: &[Change], phrases: &Phrasebook) -> Verdict {
        for change in changes {
            match change {
                Change::PutJob(job) => self.put(now, job, changes, phrases)?,
                Change::RemoveJob(uid) => {
                    if let Some(track) = self.tracks.remove(uid) {
                        track.none_due(now, "deleted")?;
                    }
                }
                Change::PutRun(run) => self.run(run.key, run.due.as_millisecond(), phrases)?,
                Change::Append(record) => match &**record {
                    Record::Run(run) => self.run(run.key, run.due.as_millisecond(), phrases)?,
                    Record::Range(range) => self.range(range, phrases)?,
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn put(&mut self, now: Millis, job: &Job, step: &[Change], phrases: &Phrasebook) -> Verdict {
        let enabled = !job.rules.disabled;
        let Some(track) = self.tracks.get_mut(&job.uid) else {
            let name = job.name.as_str().into();
            let mut track =
                Track { name, enabled, plan: job.plan.clone(), next: None, left: None, mark: None };
            track.begin(now, phrases);
            self.tracks.insert(job.uid, track);
            return Ok(());
        };
        let changes = track.plan != job.plan;
        if changes || !enabled {
            track.none_due(now, "given another schedule or disabled")?;
        }
        let was_enabled = std::mem::replace(&mut track.enabled, enabled);
        if changes {
            let before = std::mem::replace(&mut track.plan, job.plan.clone());
            match heritage(&before, &job.plan, step) {
                Some(gone) => self.inherit(now, job.uid, gone, phrases),
                None => track.begin(now, phrases),
            }
        } else if enabled && !was_enabled {
            track.resume(now, phrases);
        }
        Ok(())
    }

    /// The only parent is deleted: its schedule goes on here.
    fn inherit(&mut self, now: Millis, heir: JobUid, gone: JobUid, phrases: &Phrasebook) {
        let Some(gone) = self.tracks.get(&gone) else { return };
        // What `H` gave to one name is nothing to another.
        let spreads = timetable(&gone.plan).is_some_and(|table| phrases.spreads(table));
        let (goes_on, next, left, mark) = (gone.enabled && !spreads, gone.next, gone.left, gone.mark);
        let Some(track) = self.tracks.get_mut(&heir) else { return };
        (track.next, track.left, track.mark) = (next, left, mark);
        if !goes_on {
            track.resume(now, phrases);
        }
    }

    /// A run is made, or its record written: the first of them consumes the slot.
    fn run(&mut self, key: RunKey, due: Millis, phrases: &Phrasebook) -> Verdict {
        let Cause::Slot { plan, nominal } = key.cause else { return Ok(()) };
        if !self.runs.insert(key) {
            return Ok(());
        }
        let Some(track) = self.tracks.get_mut(&key.job) else {
            return Err(format!("slot {nominal:?} of job {} was taken, which does not exist", key.job));
        };
        let present = timetable(&track.plan).map(|table| table.plan);
        if present != Some(plan) {
            return Err(format!(
                "job {}: slot {nominal:?} is of schedule {plan}, present is {present:?}",
                track.name
            ));
        }
        track.consume((nominal, due), phrases)
    }

    fn range(&mut self, range: &SlotRange, phrases: &Phrasebook) -> Verdict {
        let Some(track) = self.tracks.get_mut(&range.job) else {
            return Err(format!("slots of job {} were recorded, which does not exist", range.job));
        };
        let bounds = ((range.first, range.first_due), (range.last, range.last_due));
        let mut slot: Option<Occurrence> = None;
        for n in 0..range.count {
            let here =
                if n == 0 { Some((range.first, range.first_due.as_millisecond())) } else { track.next };
            let Some(here) = here else {
                return Err(format!(
                    "job {}: a range of {} slots, but there are only {n}",
                    track.name, range.count
                ));
            };
            track.consume(here, phrases)?;
            slot = Some(here);
        }
        let last: Option<(Nominal, Millis)> = Some((bounds.1.0, bounds.1.1.as_millisecond()));
        if slot != last {
            return Err(format!(
                "job {}: {} slots end with {slot:?}, not with {last:?}",
                track.name, range.count
            ));
        }
        Ok(())
    }

    pub(crate) fn healed(&mut self, now: Millis) {
        self.healed = now;
    }

    /// A slot that was due before all healed and has no outcome yet. A pause is recorded when it ends.
    pub(crate) fn waits(&self, state: &State) -> Option<String> {
        let paused = |uid: &JobUid| state.progress.get(uid).is_some_and(|progress| progress.paused.is_some());
        let mut open = self.tracks.iter().filter(|(uid, track)| track.enabled && !paused(uid));
        let (_, late) = open.find(|(_, track)| track.next.is_some_and(|(_, due)| due <= self.healed))?;
        Some(format!("job {}: slot {:?} has no outcome", late.name, late.next))
    }
}

/// The job whose deletion, in the same step, turned a dependent into a scheduled job.
fn heritage(before: &Plan, after: &Plan, step: &[Change]) -> Option<JobUid> {
    let (Plan::Parents(parents), Plan::Schedule(_)) = (before, after) else { return None };
    let [parent] = parents[..] else { return None };
    step.iter().any(|change| matches!(change, Change::RemoveJob(uid) if *uid == parent)).then_some(parent)
}
