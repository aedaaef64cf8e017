-- The first schema. Values are JSON in the format of `format/mod.rs`, so the shell's JSON operators read them:
--   sqlite3 -readonly chronos.db "select value->>'name' from jobs"

-- The term record: every batch moves it from (epoch, seq - 1) to (epoch, seq). `began` is the batch that began the term.
CREATE TABLE term (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, began INTEGER NOT NULL, seq INTEGER NOT NULL);
INSERT INTO term VALUES (1, 0, 0, 0);

-- `store`: the random id of the store; `counters`: see `Meta`.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE jobs (uid INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE progress (uid INTEGER PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE joins (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE fanouts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Ended runs and ranges of slots, in the order in which they were recorded. Times are milliseconds.
CREATE TABLE history (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  key TEXT,
  outcome INTEGER NOT NULL,
  first_due INTEGER NOT NULL,
  last_due INTEGER NOT NULL,
  recorded INTEGER NOT NULL,
  value TEXT NOT NULL
);
CREATE INDEX history_of_job ON history (job, id);
CREATE INDEX history_by_key ON history (key) WHERE key IS NOT NULL;

-- What 256 records in a row have in common: questions about times and outcomes skip whole blocks, at the price of
-- one row per block instead of an index entry per record.
CREATE TABLE history_blocks (
  block INTEGER PRIMARY KEY,
  outcomes INTEGER NOT NULL,
  due_min INTEGER NOT NULL,
  due_max INTEGER NOT NULL,
  recorded_min INTEGER NOT NULL
);

-- Every job that has a history, also a deleted one; `kept_since`: what retention has left whole.
CREATE TABLE history_jobs (job INTEGER PRIMARY KEY, name TEXT NOT NULL, kept_since INTEGER);
CREATE INDEX history_jobs_by_name ON history_jobs (name);

-- The last batches, for followers in other processes.
CREATE TABLE applied (seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, changes BLOB NOT NULL);
