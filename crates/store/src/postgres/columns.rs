//! Batches as arrays, one for each column: all that several batches change is one call of the function `apply`.

use std::collections::{BTreeMap, HashSet};

use scheduler::revision::{Deed, Revision};
use tokio_postgres::types::{ToSql, Type};

use crate::facts::Facts;
use crate::rows::{Batch, Entry, Keyed, RevisionRow, Row, code, integer};

/// A parameter of a statement, with its type: nothing is asked of the server about it.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A call of `apply` without its `base`: `$n` and what follows.
pub(super) fn call(first: usize) -> String {
    let places: Vec<String> = (first..first + COLUMNS).map(|n| format!("${n}")).collect();
    places.join(", ")
}

/// How many columns there are.
pub(super) const COLUMNS: usize = 36;

/// What batches change, each row once: of several changes of one row the last is made.
#[derive(Default)]
pub(super) struct Columns<'b> {
    /// How many records, revisions and entries there are; they are numbered in the order of the batches.
    pub(super) ids: i64,
    /// Jobs that the history does not know yet, as far as the writer has noticed.
    pub(super) known: Vec<i64>,
    known_names: Vec<&'b str>,
    jobs: Table<i64, &'b str>,
    progress: Table<i64, &'b str>,
    live: Live<'b>,
    records: Records<'b>,
    revisions: Revisions<'b>,
    entries: Entries<'b>,
}

/// Rows that are put and rows that go.
struct Table<K, V> {
    puts: Vec<K>,
    values: Vec<V>,
    gone: Vec<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { puts: Vec::new(), values: Vec::new(), gone: Vec::new() }
    }
}

impl<K, V> Table<K, V> {
    fn of(rows: BTreeMap<K, Option<V>>) -> Self {
        let mut table = Self::default();
        for (key, value) in rows {
            match value {
                Some(value) => {
                    table.puts.push(key);
                    table.values.push(value);
                }
                None => table.gone.push(key),
            }
        }
        table
    }
}

#[derive(Default)]
struct Live<'b> {
    kinds: Vec<&'static str>,
    keys: Vec<&'b str>,
    values: Vec<&'b str>,
    kinds_gone: Vec<&'static str>,
    keys_gone: Vec<&'b str>,
}

#[derive(Default)]
struct Records<'b> {
    ids: Vec<i64>,
    jobs: Vec<i64>,
    keys: Vec<Option<&'b str>>,
    outcomes: Vec<i16>,
    first: Vec<i64>,
    last: Vec<i64>,
    recorded: Vec<i64>,
    values: Vec<&'b str>,
}

#[derive(Default)]
struct Revisions<'b> {
    ids: Vec<i64>,
    jobs: Vec<i64>,
    versions: Vec<i64>,
    names: Vec<&'b str>,
    ats: Vec<i64>,
    deleted: Vec<bool>,
    values: Vec<&'b str>,
    bound: Vec<i64>,
    bound_versions: Vec<i64>,
}

#[derive(Default)]
struct Entries<'b> {
    ids: Vec<i64>,
    ats: Vec<i64>,
    names: Vec<Option<&'b str>>,
    authors: Vec<&'b str>,
    acts: Vec<&'static str>,
    values: Vec<&'b str>,
}

/// What has the counters for its key: nothing else is of its kind.
const COUNTERS: &str = "";

/// The tag of what a table of texts holds.
pub(super) fn tag(table: Keyed) -> &'static str {
    match table {
        Keyed::Runs => "run",
        Keyed::Joins => "join",
        Keyed::Fanouts => "fanout",
        Keyed::Backfills => "backfill",
        Keyed::Receipts => "receipt",
        Keyed::Staged => "staged",
    }
}

impl<'b> Columns<'b> {
    /// All that these batches change. `known`: jobs that the history knows.
    pub(super) fn of(batches: &[&'b Batch], notices: &'b Notices, known: &HashSet<i64>) -> Self {
        let mut columns = Self::default();
        let (mut jobs, mut progress) = (BTreeMap::new(), BTreeMap::new());
        let mut live: BTreeMap<(&'static str, &'b str), Option<&'b str>> = BTreeMap::new();
        let mut revised: BTreeMap<(i64, u32), (i64, &'b RevisionRow, &'b Batch)> = BTreeMap::new();
        let mut met = HashSet::new();
        for batch in batches {
            let text = |range: &std::ops::Range<usize>| &batch.text[range.clone()];
            let key = |range: &std::ops::Range<usize>| &batch.keys[range.clone()];
            for row in &batch.rows {
                match row {
                    Row::Counters(value) => drop(live.insert(("meta", COUNTERS), Some(text(value)))),
                    Row::PutJob(uid, value) => drop(jobs.insert(*uid, Some(text(value)))),
                    Row::RemoveJob(uid) => {
                        jobs.insert(*uid, None);
                        progress.insert(*uid, None);
                    }
                    Row::PutProgress(uid, value) => drop(progress.insert(*uid, Some(text(value)))),
                    Row::PutNotice(id, value) => {
                        live.insert(("notice", notices.key(*id)), Some(text(value)));
                    }
                    Row::RemoveNotice(id) => drop(live.insert(("notice", notices.key(*id)), None)),
                    Row::Put(table, place, value) => {
                        live.insert((tag(*table), key(place)), Some(text(value)));
                    }
                    Row::Remove(table, place) => drop(live.insert((tag(*table), key(place)), None)),
                    Row::Append(entry) => {
                        columns.ids += 1;
                        columns.records.push(columns.ids, entry, batch);
                        let (job, name) = (integer(entry.facts.job), entry.facts.name.as_str());
                        if !known.contains(&job) && met.insert(job) {
                            columns.known.push(job);
                            columns.known_names.push(name);
                        }
                    }
                    Row::Revise(row) => {
                        columns.ids += 1;
                        let of = (integer(row.revision.job.uid), row.revision.job.version);
                        revised.insert(of, (columns.ids, row, batch));
                    }
                    Row::Note(entry, value) => {
                        columns.ids += 1;
                        let Entries { ids, ats, names, authors, acts, values } = &mut columns.entries;
                        ids.push(columns.ids);
                        ats.push(entry.at.as_millisecond());
                        names.push(entry.job.as_ref().map(|(_, name)| name.as_str()));
                        // No text of PostgreSQL's has this character; the value has it all the same.
                        let name = &**entry.author.name();
                        authors.push(if name.contains('\0') { "" } else { name });
                        acts.push(entry.act.word());
                        values.push(text(value));
                    }
                }
            }
        }
        columns.jobs = Table::of(jobs);
        columns.progress = Table::of(progress);
        for ((kind, key), value) in live {
            match value {
                Some(value) => {
                    columns.live.kinds.push(kind);
                    columns.live.keys.push(key);
                    columns.live.values.push(value);
                }
                None => {
                    columns.live.kinds_gone.push(kind);
                    columns.live.keys_gone.push(key);
                }
            }
        }
        columns.revisions.fill(revised);
        columns
    }

    /// The parameters of a call of `apply`, in order, but for the first.
    pub(super) fn parameters(&self) -> [Parameter<'_>; COLUMNS] {
        let Self { ids: _, known, known_names, jobs, progress, live, records, revisions, entries } = self;
        [
            (&jobs.puts, Type::INT8_ARRAY),
            (&jobs.values, Type::TEXT_ARRAY),
            (&jobs.gone, Type::INT8_ARRAY),
            (&progress.puts, Type::INT8_ARRAY),
            (&progress.values, Type::TEXT_ARRAY),
            (&progress.gone, Type::INT8_ARRAY),
            (&live.kinds, Type::TEXT_ARRAY),
            (&live.keys, Type::TEXT_ARRAY),
            (&live.values, Type::TEXT_ARRAY),
            (&live.kinds_gone, Type::TEXT_ARRAY),
            (&live.keys_gone, Type::TEXT_ARRAY),
            (&records.ids, Type::INT8_ARRAY),
            (&records.jobs, Type::INT8_ARRAY),
            (&records.keys, Type::TEXT_ARRAY),
            (&records.outcomes, Type::INT2_ARRAY),
            (&records.first, Type::INT8_ARRAY),
            (&records.last, Type::INT8_ARRAY),
            (&records.recorded, Type::INT8_ARRAY),
            (&records.values, Type::TEXT_ARRAY),
            (known, Type::INT8_ARRAY),
            (known_names, Type::TEXT_ARRAY),
            (&revisions.ids, Type::INT8_ARRAY),
            (&revisions.jobs, Type::INT8_ARRAY),
            (&revisions.versions, Type::INT8_ARRAY),
            (&revisions.names, Type::TEXT_ARRAY),
            (&revisions.ats, Type::INT8_ARRAY),
            (&revisions.deleted, Type::BOOL_ARRAY),
            (&revisions.values, Type::TEXT_ARRAY),
            (&revisions.bound, Type::INT8_ARRAY),
            (&revisions.bound_versions, Type::INT8_ARRAY),
            (&entries.ids, Type::INT8_ARRAY),
            (&entries.ats, Type::INT8_ARRAY),
            (&entries.names, Type::TEXT_ARRAY),
            (&entries.authors, Type::TEXT_ARRAY),
            (&entries.acts, Type::TEXT_ARRAY),
            (&entries.values, Type::TEXT_ARRAY),
        ]
    }
}

impl<'b> Records<'b> {
    fn push(&mut self, id: i64, entry: &'b Entry, batch: &'b Batch) {
        let Facts { job, first_due, last_due, recorded, outcome, .. } = &entry.facts;
        self.ids.push(id);
        self.jobs.push(integer(*job));
        self.keys.push(entry.key.clone().map(|key| &batch.keys[key]));
        // Outcomes are few.
        self.outcomes.push(i16::try_from(code(*outcome)).unwrap_or(i16::MAX));
        self.first.push(first_due.as_millisecond());
        self.last.push(last_due.as_millisecond());
        self.recorded.push(recorded.as_millisecond());
        self.values.push(&batch.text[entry.value.clone()]);
    }
}

impl<'b> Revisions<'b> {
    fn fill(&mut self, revised: BTreeMap<(i64, u32), (i64, &'b RevisionRow, &'b Batch)>) {
        let mut bounds = BTreeMap::new();
        for ((job, version), (id, row, batch)) in revised {
            let kept = version.saturating_sub(Revision::KEPT - 1);
            if kept > 1 {
                bounds.insert(job, i64::from(kept));
            }
            let RevisionRow { revision, value } = row;
            self.ids.push(id);
            self.jobs.push(job);
            self.versions.push(i64::from(version));
            self.names.push(revision.job.name.as_str());
            self.ats.push(revision.at.as_millisecond());
            self.deleted.push(revision.deed == Deed::Deleted);
            self.values.push(&batch.text[value.clone()]);
        }
        (self.bound, self.bound_versions) = bounds.into_iter().unzip();
    }
}

/// Ids of notices as texts, which the columns borrow.
#[derive(Default)]
pub(super) struct Notices(BTreeMap<i64, String>);

impl Notices {
    pub(super) fn of(batches: &[&Batch]) -> Self {
        let ids = batches.iter().flat_map(|batch| &batch.rows).filter_map(|row| match row {
            Row::PutNotice(id, _) | Row::RemoveNotice(id) => Some((*id, id.to_string())),
            _ => None,
        });
        Self(ids.collect())
    }

    fn key(&self, id: i64) -> &str {
        self.0.get(&id).map_or("", String::as_str)
    }
}
