-- Who did what, in the order in which it was done. Values are JSON in the format of `format/mod.rs`; the other columns are
-- what is asked for. `name` is that of a job, where it was one; times are milliseconds.
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  name TEXT,
  by TEXT NOT NULL,
  act TEXT NOT NULL,
  value TEXT NOT NULL
);
CREATE INDEX audit_by_name ON audit (name, id);
CREATE INDEX audit_by_author ON audit (by, id);
-- Clocks go back, so what was done within some time is not one piece of the table.
CREATE INDEX audit_by_time ON audit (at, id);
