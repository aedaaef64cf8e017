-- What makes a scheduler pleasant to live with. Values are JSON in the format of `format/mod.rs`, as before.

-- Backfills and re-runs under way, and the last ones that are over.
CREATE TABLE backfills (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Messages to people on their way, and the last ones that are settled.
CREATE TABLE notices (id INTEGER PRIMARY KEY, value TEXT NOT NULL);
-- What definitions were: the newest 50 of each job, in the order in which they came. Times are milliseconds; `deleted` is 1
-- for the last one of a deleted job, so that retention finds it without looking at the others.
CREATE TABLE revisions (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  version INTEGER NOT NULL,
  name TEXT NOT NULL,
  at INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  value TEXT NOT NULL
);
CREATE UNIQUE INDEX revisions_of_job ON revisions (job, version);
CREATE INDEX revisions_by_name ON revisions (name, id);
CREATE INDEX revisions_deleted ON revisions (at) WHERE deleted = 1;
