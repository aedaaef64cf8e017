-- Requests that are done once however often they are sent, and sets of jobs that are larger than a batch. Values are JSON
-- in the format of `format/mod.rs`.

-- What requests with an `Idempotency-Key` came to, by that key.
CREATE TABLE receipts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Definitions on their way to be jobs, by name of the job.
CREATE TABLE staged (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
