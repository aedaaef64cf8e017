//! What becomes of each job that is moved in: decided as far as it can be here, the rest by the server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use scheduler::ids::JobName;
use scheduler::request::Manner;
use scheduler::schedule::{Lint, Zones};
use serde_json::{Map, Value};

use super::definition::{self, Taken};
use super::folder::File;
use super::names;
use crate::cli::apply::{Written, cycle, put_definitions, waves};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::sets::sets;

/// What became, or would become, of a job or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Created,
    Replaced,
    Unchanged,
    /// It is not here, and the notes say why.
    Refused,
    /// It is no job.
    Ignored,
    /// The server was not asked, or did not answer.
    Open,
}

impl Fate {
    /// All of them, in the order of the sum.
    pub(super) const ALL: [Self; 6] =
        [Self::Created, Self::Replaced, Self::Unchanged, Self::Refused, Self::Ignored, Self::Open];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Ignored => "ignored",
            Self::Open => "open",
        }
    }
}

/// A line of the report.
pub(super) struct Row {
    /// Where it was written.
    pub(super) origin: String,
    /// Its name at the old Chronos; empty for a file without one.
    pub(super) name: String,
    /// Its name here, if that is another.
    pub(super) renamed: Option<String>,
    pub(super) fate: Fate,
    pub(super) notes: Vec<String>,
    /// Field by field, where a job is replaced.
    pub(super) changes: Value,
}

impl Row {
    fn refuse(&mut self, why: impl Into<String>) {
        self.fate = Fate::Refused;
        self.notes.insert(0, why.into());
    }
}

/// A job that nothing speaks against so far.
struct Ready {
    row: usize,
    written: Written,
    /// Whether the server has it so already.
    same: bool,
}

impl AsRef<Written> for Ready {
    fn as_ref(&self) -> &Written {
        &self.written
    }
}

/// An import on its way.
pub(super) struct Plan {
    pub(super) rows: Vec<Row>,
    /// Jobs that said `runAsUser: root`.
    pub(super) roots: usize,
    ready: Vec<Ready>,
    /// Those that have a slot at once, with its time.
    at_once: BTreeMap<String, Timestamp>,
}

/// What to do about a start that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    /// As Chronos did: the latest slot is due at once.
    AsWritten,
    /// The next slot becomes the start.
    Advanced,
}

impl Plan {
    /// Decides what can be decided without asking the server. `present` are the definitions that it has.
    pub(super) fn new(
        files: Vec<File>,
        present: &BTreeMap<String, Map<String, Value>>,
        starts: Starts,
        zones: &Zones,
        now: Timestamp,
    ) -> Self {
        let names: Vec<String> = files
            .iter()
            .filter_map(|file| match file {
                File::Job { definition, .. } => Some(name_of(definition)).filter(|name| !name.is_empty()),
                _ => None,
            })
            .collect();
        let mapped = names::mapped(names.iter().map(String::as_str));
        let mut plan = Self { rows: Vec::new(), roots: 0, ready: Vec::new(), at_once: BTreeMap::new() };
        for file in files {
            match file {
                File::Job { definition, origin, notes } => {
                    plan.rows.push(row(origin, name_of(&definition), Fate::Open, notes));
                    plan.take(definition, &mapped, present, starts, (zones, now));
                }
                File::Ignored { origin, why } => {
                    plan.rows.push(row(origin, String::new(), Fate::Ignored, vec![why]));
                }
                File::Refused { origin, why } => {
                    plan.rows.push(row(origin, String::new(), Fate::Refused, vec![why]));
                }
            }
        }
        plan.refuse_twins();
        plan.refuse_cycles();
        plan.refuse_orphans(present);
        plan.leave_the_same();
        plan
    }

    /// Reads the job of the last row.
    fn take(
        &mut self,
        mut definition: Map<String, Value>,
        mapped: &BTreeMap<String, String>,
        present: &BTreeMap<String, Map<String, Value>>,
        starts: Starts,
        (zones, now): (&Zones, Timestamp),
    ) {
        let place = self.rows.len() - 1;
        let row = &mut self.rows[place];
        if row.name.is_empty() {
            return row.refuse("it has no `name`");
        }
        let here = |name: &str| match mapped.get(name) {
            Some(new) => new.clone(),
            None if JobName::new(name).is_ok() => name.to_owned(),
            None => names::plain(name),
        };
        row.renamed = mapped.get(&row.name).cloned();
        let name = here(&row.name);
        definition.insert("name".into(), name.clone().into());
        if let Some(Value::Array(parents)) = definition.get_mut("parents") {
            for parent in parents {
                let new = parent.as_str().map(here);
                new.into_iter().for_each(|new| *parent = new.into());
            }
        }
        let Taken { mut definition, notes, root } = match definition::take(definition, zones, now) {
            Ok(taken) => taken,
            Err(problem) => {
                let hint = Some(problem.hint).filter(|hint| !hint.is_empty());
                return row.refuse(match hint {
                    Some(hint) => format!("{} ({hint})", problem.message),
                    None => problem.message,
                });
            }
        };
        row.notes.extend(notes);
        self.roots += usize::from(root);
        let there = present.get(&name);
        let same_slots = there.is_some_and(|present| {
            definition::keep_start(&mut definition, present, zones, now);
            definition::keep_enabled(&mut definition, present, zones, now);
            ["schedule", "scheduleTimeZone"].into_iter().all(|key| definition.get(key) == present.get(key))
        });
        // A schedule that was there before goes on where it is; another one begins, also for a job that was there.
        if let Some(slot) = definition::past_slot(&definition, zones, now).filter(|_| !same_slots) {
            if starts == Starts::AsWritten {
                self.at_once.insert(name.clone(), slot);
            } else if definition::advance(&mut definition, zones, now) {
                let left = definition::schedule(&definition, zones, now).and_then(|left| left.repeats());
                row.notes.push(match left {
                    Some(0) => "its last slot has passed and is left out".into(),
                    _ => "its start has passed and is now its next slot".into(),
                });
            } else {
                row.notes
                    .push("its start has passed and stays, because another would move later slots".into());
                self.at_once.insert(name.clone(), slot);
            }
        }
        let same = there.is_some_and(|there| definition::says_the_same(&definition, there, zones, now));
        self.ready.push(Ready {
            row: place,
            written: Written::new(name, definition.into(), row.origin.clone()),
            same,
        });
    }

    /// Two files with one name: the first counts.
    fn refuse_twins(&mut self) {
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        let rows = &mut self.rows;
        self.ready.retain(|job| {
            let first = *first.entry(job.written.name.clone()).or_insert(job.row);
            if first != job.row {
                let why = format!("a job of this name is in `{}` already", rows[first].origin);
                rows[job.row].refuse(why);
            }
            first == job.row
        });
    }

    fn refuse_cycles(&mut self) {
        let written = |job: &Ready| Written {
            name: job.written.name.clone(),
            parents: job.written.parents.clone(),
            definition: Value::Null,
            origin: String::new(),
        };
        let (_, stuck) = waves(self.ready.iter().map(written).collect());
        if stuck.is_empty() {
            return;
        }
        let why = cycle(&stuck).chain();
        let stuck: BTreeSet<_> = stuck.into_iter().map(|job| job.name).collect();
        let rows = &mut self.rows;
        self.ready.retain(|job| {
            let is_stuck = stuck.contains(&job.written.name);
            if is_stuck {
                rows[job.row].refuse(format!("it is on a cycle or comes after one: {why}"));
            }
            !is_stuck
        });
    }

    /// Jobs with a parent that is nowhere: Chronos kept them and showed them to nobody.
    fn refuse_orphans(&mut self, present: &BTreeMap<String, Map<String, Value>>) {
        loop {
            let known: BTreeSet<&str> = self
                .ready
                .iter()
                .map(|job| job.written.name.as_str())
                .chain(present.keys().map(String::as_str))
                .collect();
            let missing = |job: &Ready| {
                job.written.parents.iter().find(|parent| !known.contains(parent.as_str())).cloned()
            };
            let orphans: BTreeMap<String, String> =
                self.ready.iter().filter_map(|job| Some((job.written.name.clone(), missing(job)?))).collect();
            if orphans.is_empty() {
                return;
            }
            for job in self.ready.iter().filter(|job| orphans.contains_key(&job.written.name)) {
                let parent = &orphans[&job.written.name];
                let refused = self.rows.iter().any(|row| {
                    row.fate == Fate::Refused && row.renamed.as_ref().unwrap_or(&row.name) == parent
                });
                let row = &mut self.rows[job.row];
                row.refuse(if refused {
                    format!("its parent `{parent}` is refused")
                } else {
                    format!("there is no parent `{parent}`, neither among these jobs nor on the server")
                });
            }
            self.ready.retain(|job| !orphans.contains_key(&job.written.name));
        }
    }

    /// Jobs of which no field differs are not sent: to the server another text would be another version, although it
    /// could not say what has changed.
    fn leave_the_same(&mut self) {
        let rows = &mut self.rows;
        self.ready.retain(|job| {
            if job.same {
                rows[job.row].fate = Fate::Unchanged;
            }
            !job.same
        });
    }

    /// Asks the server, in sets of whole chains, which it takes or refuses at once.
    /// # Errors
    /// The server did not answer; what it was not asked stays open.
    pub(super) async fn send(&mut self, client: &Client, manner: Manner) -> Result<(), Failure> {
        self.put(async |set| {
            let answer = put_definitions(client, set, manner).await?;
            Ok(answer.body["jobs"].as_array().cloned().unwrap_or_default())
        })
        .await
    }

    /// The same with any way to put a set, which answers with what became of each job.
    /// # Errors
    /// As [`Plan::send`].
    pub(super) async fn put(
        &mut self,
        put: impl AsyncFn(&[&Value]) -> Result<Vec<Value>, Failure>,
    ) -> Result<(), Failure> {
        for set in sets(std::mem::take(&mut self.ready)) {
            self.put_set(&put, set).await?;
        }
        Ok(())
    }

    /// Takes out whichever job the server refuses, with all that come after it, until the rest is taken.
    async fn put_set(
        &mut self,
        put: &impl AsyncFn(&[&Value]) -> Result<Vec<Value>, Failure>,
        mut set: Vec<Ready>,
    ) -> Result<(), Failure> {
        while !set.is_empty() {
            let definitions: Vec<&Value> = set.iter().map(|job| &job.written.definition).collect();
            let failure = match put(&definitions).await {
                Ok(applied) => {
                    set.iter().zip(applied).for_each(|(job, applied)| self.taken(job, applied));
                    return Ok(());
                }
                Err(failure) if failure.exit == Exit::Refused => failure,
                Err(failure) => return Err(failure),
            };
            let why = failure.chain();
            let Some(refused) = culprit(&set, &why) else {
                set.iter().for_each(|job| self.rows[job.row].refuse(format!("its set is refused: {why}")));
                return Ok(());
            };
            let mut gone = BTreeSet::from([refused.clone()]);
            loop {
                let heir = set.iter().find(|job| {
                    !gone.contains(&job.written.name)
                        && job.written.parents.iter().any(|parent| gone.contains(parent))
                });
                let Some(heir) = heir else { break };
                gone.insert(heir.written.name.clone());
            }
            for job in set.iter().filter(|job| gone.contains(&job.written.name)) {
                let parent = job.written.parents.iter().find(|parent| gone.contains(*parent));
                let why = match parent {
                    Some(parent) if job.written.name != refused => {
                        format!("its parent `{parent}` is refused")
                    }
                    _ => why.clone(),
                };
                self.rows[job.row].refuse(why);
            }
            set.retain(|job| !gone.contains(&job.written.name));
        }
        Ok(())
    }

    fn taken(&mut self, job: &Ready, mut applied: Value) {
        let row = &mut self.rows[job.row];
        row.fate = match applied["result"].as_str() {
            Some("created") => Fate::Created,
            Some("unchanged") => Fate::Unchanged,
            _ => Fate::Replaced,
        };
        // The old Chronos itself has written the offset, and ignored it.
        let known = Lint::OffsetIgnored.to_string();
        let warnings = applied["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for warning in warnings.filter(|warning| *warning != known) {
            // Some of it was seen when the definition was read.
            if !row.notes.iter().any(|note| note == warning) {
                row.notes.push(warning.into());
            }
        }
        match (self.at_once.get(&job.written.name), row.fate) {
            (Some(slot), Fate::Created) => {
                row.notes.push(format!("its slot of {slot:.0} is past and due at once"));
            }
            (Some(slot), Fate::Replaced) => row.notes.push(format!(
                "its new slot of {slot:.0} is past and due at once, unless a later one was taken here already"
            )),
            _ => {}
        }
        row.changes = applied["changes"].take();
    }

    /// How many have this fate.
    pub(super) fn count(&self, fate: Fate) -> usize {
        self.rows.iter().filter(|row| row.fate == fate).count()
    }

    /// How many begin at once because their start is past.
    pub(super) fn at_once(&self) -> usize {
        let created = |row: &&Row| row.fate == Fate::Created;
        let name = |row: &Row| row.renamed.clone().unwrap_or_else(|| row.name.clone());
        self.rows.iter().filter(created).filter(|row| self.at_once.contains_key(&name(row))).count()
    }
}

fn row(origin: String, name: String, fate: Fate, notes: Vec<String>) -> Row {
    Row { origin, name, renamed: None, fate, notes, changes: Value::Null }
}

fn name_of(definition: &Map<String, Value>) -> String {
    definition.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Which job of the set a refusal is about: it begins with a name, and a circle, which may begin with a job that is on
/// the server only, names the jobs on it, of a long one those at its ends.
fn culprit(set: &[Ready], why: &str) -> Option<String> {
    let first = why.strip_prefix("job `")?.split('`').next()?;
    let circle = why.split_once(" waits for itself: ").map_or("", |(_, circle)| circle);
    let mut named = std::iter::once(first).chain(circle.split(" -> "));
    named.find(|name| set.iter().any(|job| job.written.name == *name)).map(Into::into)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(jobs: &[Value]) -> Vec<File> {
        let file = |(i, job): (usize, &Value)| match job {
            Value::Object(definition) => {
                File::Job { definition: definition.clone(), origin: format!("file {i}"), notes: Vec::new() }
            }
            other => panic!("{other} is no object"),
        };
        jobs.iter().enumerate().map(file).collect()
    }

    fn scheduled(name: &str) -> Value {
        json!({ "name": name, "command": "true", "schedule": "R/2999-01-01T00:00:00Z/P1D" })
    }

    fn dependent(name: &str, parents: &[&str]) -> Value {
        json!({ "name": name, "command": "true", "parents": parents })
    }

    fn plan(jobs: &[Value]) -> Plan {
        let now = "2030-06-15T12:00:00Z".parse().expect("an instant");
        Plan::new(files(jobs), &BTreeMap::new(), Starts::AsWritten, &Zones::bundled(), now)
    }

    #[track_caller]
    fn refused(plan: &Plan, name: &str, why: &str) {
        let row = plan.rows.iter().find(|row| row.name == name && row.fate == Fate::Refused);
        let notes = &row.unwrap_or_else(|| panic!("{name} is not refused")).notes;
        assert!(notes[0].contains(why), "{notes:?}");
    }

    #[test]
    fn every_job_has_a_row_and_every_refusal_a_reason() {
        let plan = plan(&[
            scheduled("a"),
            scheduled("a"),
            dependent("zombie", &["gone"]),
            dependent("its-child", &["zombie", "a"]),
            dependent("x", &["y"]),
            dependent("y", &["x"]),
            dependent("after-it", &["y"]),
            json!({ "name": "bad", "schedule": "never" }),
            json!({ "command": "nameless" }),
            dependent("good", &["a"]),
        ]);
        assert_eq!(plan.rows.len(), 10);
        refused(&plan, "a", "in `file 0` already");
        refused(&plan, "zombie", "there is no parent `gone`");
        refused(&plan, "its-child", "its parent `zombie` is refused");
        refused(&plan, "x", "waits for itself: x -> y -> x");
        refused(&plan, "after-it", "waits for itself");
        refused(&plan, "bad", "`schedule`");
        refused(&plan, "", "no `name`");
        let ready: Vec<_> = plan.ready.iter().map(|job| job.written.name.as_str()).collect();
        assert_eq!(ready, ["a", "good"]);
    }

    #[test]
    fn parents_follow_the_names_of_their_jobs() {
        let plan = plan(&[scheduled("my job"), dependent("after it", &["my job"])]);
        let renamed: Vec<_> = plan.rows.iter().map(|row| row.renamed.as_deref()).collect();
        assert_eq!(renamed, [Some("my_job"), Some("after_it")]);
        assert_eq!(plan.ready[1].written.definition["parents"], json!(["my_job"]));
    }

    #[test]
    fn a_refusal_is_that_of_a_job_of_the_set() {
        let set = plan(&[scheduled("a"), scheduled("for")]).ready;
        let check = |why: &str, job: Option<&str>| assert_eq!(culprit(&set, why).as_deref(), job, "{why}");
        check("job `a`: `cpus`: expected a number", Some("a"));
        check("job `c` waits for itself: c -> a -> c", Some("a"));
        check("job `c` waits for itself: c -> b -> c", None);
        check("another large set of jobs is being applied", None);
    }

    /// Of jobs that are here already only those begin with their next slot whose schedule is another one.
    #[test]
    fn a_replaced_schedule_can_begin_with_its_next_slot_too() {
        let now = "2030-06-15T12:00:00Z".parse().expect("an instant");
        let here = |schedule: &str| {
            let job = json!({ "name": "a", "schedule": schedule });
            BTreeMap::from([("a".to_owned(), job.as_object().cloned().unwrap_or_default())])
        };
        let check =
            |here: &BTreeMap<String, Map<String, Value>>, written: &str, starts, expected: &str, at_once| {
                let job = json!({ "name": "a", "schedule": written });
                let plan = Plan::new(files(&[job]), here, starts, &Zones::bundled(), now);
                match plan.ready.first() {
                    Some(job) => assert_eq!(job.written.definition["schedule"], expected),
                    None => assert_eq!(
                        (plan.rows[0].fate, &here["a"]["schedule"]),
                        (Fate::Unchanged, &json!(expected))
                    ),
                }
                assert_eq!(plan.at_once.len(), at_once, "{written}");
            };
        let daily = "R/2020-01-01T00:00:00Z/P1D";
        check(
            &here("R/2020-01-01T00:00:00Z/PT2H"),
            daily,
            Starts::Advanced,
            "R/2030-06-16T00:00:00.000Z/P1D",
            0,
        );
        check(&here("R/2020-01-01T00:00:00Z/PT2H"), daily, Starts::AsWritten, daily, 1);
        check(&here(daily), daily, Starts::Advanced, daily, 0);
        check(&here(daily), "R/2030-06-14T00:00:00Z/P1D", Starts::Advanced, daily, 0);
    }

    /// The server keeps what its author said, and the zone in the letters it came in; an old Chronos, and a file of
    /// chronos-sync, has neither.
    #[test]
    fn a_job_of_which_no_field_differs_is_not_replaced() {
        let now = "2030-06-15T12:00:00Z".parse().expect("an instant");
        let check = |here: Value, written: Value, same: bool| {
            let here = BTreeMap::from([("a".to_owned(), here.as_object().cloned().unwrap_or_default())]);
            let plan = Plan::new(
                files(std::slice::from_ref(&written)),
                &here,
                Starts::Advanced,
                &Zones::bundled(),
                now,
            );
            assert_eq!(plan.ready.is_empty(), same, "{written}");
            assert_eq!(plan.rows[0].fate == Fate::Unchanged, same, "{written}");
        };
        let with = |more: Value| {
            let mut job = scheduled("a");
            let fields = more.as_object().cloned().unwrap_or_default();
            job.as_object_mut().expect("an object").extend(fields);
            job
        };
        // Defaults that its author wrote, and another order.
        let said = json!({ "shell": true, "cpus": 0.1, "runAsUser": "root", "retries": 2, "uris": [] });
        check(with(said), with(json!({ "description": "" })), true);
        let fetch =
            |text: &str| with(json!({ "fetch": [serde_json::from_str::<Value>(text).expect("JSON")] }));
        let short = r#"{ "uri": "u", "cache": true, "executable": false, "extract": true }"#;
        check(
            fetch(short),
            fetch(r#"{ "extract": true, "uri": "u", "executable": false, "cache": true }"#),
            true,
        );
        check(fetch(short), fetch(r#"{ "uri": "u", "cache": false }"#), false);
        // What is read as a zone is compared, not the letters.
        let zone = |zone: &str| with(json!({ "scheduleTimeZone": zone }));
        check(zone("America/New_York"), zone("EDT"), true);
        check(zone("EST"), zone("EST"), false);
        check(with(json!({ "command": "false" })), scheduled("a"), false);
        // A job without slots is listed as disabled.
        let once = |disabled: bool| json!({ "name": "a", "schedule": "R1/2030-06-14T00:00:00.000Z/PT24H", "disabled": disabled });
        check(once(false), once(true), true);
        check(once(true), once(false), false);
        check(with(json!({ "disabled": false })), with(json!({ "disabled": true })), false);
    }

    #[test]
    fn what_reader_and_server_say_is_told_once() {
        let mut job = scheduled("a");
        job["owner"] = json!("nobody");
        let mut plan = plan(&[job]);
        let set = std::mem::take(&mut plan.ready);
        let notes = plan.rows[0].notes.clone();
        assert!(!notes.is_empty());
        plan.taken(&set[0], json!({ "result": "created", "warnings": notes }));
        assert_eq!(plan.rows[0].notes, notes);
    }

    #[test]
    fn what_is_due_at_once_is_known_before() {
        let job = json!({ "name": "a", "schedule": "R/2020-01-01T00:00:00Z/P1D" });
        assert_eq!(plan(&[job]).at_once.len(), 1);
        let off = json!({ "name": "a", "schedule": "R/2020-01-01T00:00:00Z/P1D", "disabled": true });
        assert!(plan(&[off]).at_once.is_empty());
    }
}
