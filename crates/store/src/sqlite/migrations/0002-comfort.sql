-- What makes a scheduler pleasant to live with. Values are JSON in the format of `format/mod.rs`, as before.

-- Backfills and re-runs under way, and the last ones that are over.
CREATE TABLE backfills (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Messages to people on their way, and the last ones that are settled.
CREATE TABLE notices (id INTEGER PRIMARY KEY, value TEXT NOT NULL);
