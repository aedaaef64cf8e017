-- What a store holds. `chronos.` stands for the schema, and for the names of staged content also for what they begin with.
-- Values are JSON in the format of `format/mod.rs`, so the operators of PostgreSQL read them:
--   SELECT value::json ->> 'name' FROM chronos.jobs
-- Times are milliseconds.

CREATE TABLE chronos.jobs (uid bigint PRIMARY KEY, value text NOT NULL);
-- Written at every launch: room in each page, so that a new version stays beside the old one.
CREATE TABLE chronos.progress (uid bigint PRIMARY KEY, value text NOT NULL) WITH (fillfactor = 70);
-- All that comes and goes, and the counters; `kind` is the tag of the value in the stored format.
CREATE TABLE chronos.live (kind text, key text COLLATE "C", value text NOT NULL, PRIMARY KEY (kind, key));

-- Ended runs and ranges of slots, in the order in which they were recorded.
CREATE TABLE chronos.history (
  id bigint PRIMARY KEY,
  job bigint NOT NULL,
  key text COLLATE "C",
  outcome smallint NOT NULL,
  first_due bigint NOT NULL,
  last_due bigint NOT NULL,
  recorded bigint NOT NULL,
  value text NOT NULL
);
CREATE INDEX ON chronos.history (job, id);
CREATE INDEX ON chronos.history (key) WHERE key IS NOT NULL;
CREATE INDEX ON chronos.history (recorded);
-- Every job that has a history, also a deleted one; `kept_since`: what retention has left whole.
CREATE TABLE chronos.history_jobs (job bigint PRIMARY KEY, name text COLLATE "C" NOT NULL, kept_since bigint);
CREATE INDEX ON chronos.history_jobs (name);

-- What definitions were: the newest 50 of each job; `deleted` for the last one of a deleted job.
CREATE TABLE chronos.revisions (
  id bigint PRIMARY KEY,
  job bigint NOT NULL,
  version bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  at bigint NOT NULL,
  deleted boolean NOT NULL,
  value text NOT NULL,
  UNIQUE (job, version)
);
CREATE INDEX ON chronos.revisions (name, id);
CREATE INDEX ON chronos.revisions (at) WHERE deleted;

-- Who did what, in the order in which it was done.
CREATE TABLE chronos.audit (
  id bigint PRIMARY KEY,
  at bigint NOT NULL,
  name text COLLATE "C",
  author text COLLATE "C" NOT NULL,
  act text NOT NULL,
  value text NOT NULL
);
CREATE INDEX ON chronos.audit (name, id);
CREATE INDEX ON chronos.audit (author, id);
CREATE INDEX ON chronos.audit (at, id);

-- Makes the changes of one or several batches. Each row occurs once: which change of it is the last was decided by the
-- client. New records, revisions and entries are numbered from `base` on. Always by the keys: a plan that was made while a table
-- was small must not read all of it when it has grown.
CREATE FUNCTION chronos.apply(
  base bigint,
  p_jobs bigint[], p_job_values text[], p_jobs_gone bigint[],
  p_progress bigint[], p_progress_values text[], p_progress_gone bigint[],
  p_kinds text[], p_keys text[], p_values text[], p_kinds_gone text[], p_keys_gone text[],
  r_ids bigint[], r_jobs bigint[], r_keys text[], r_outcomes smallint[], r_first bigint[], r_last bigint[],
  r_recorded bigint[], r_values text[], p_known bigint[], p_known_names text[],
  v_ids bigint[], v_jobs bigint[], v_versions bigint[], v_names text[], v_ats bigint[], v_deleted boolean[], v_values text[],
  v_bound bigint[], v_bound_versions bigint[],
  e_ids bigint[], e_ats bigint[], e_names text[], e_authors text[], e_acts text[], e_values text[]
) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  IF cardinality(p_jobs_gone) > 0 THEN
    DELETE FROM chronos.jobs WHERE uid = ANY (p_jobs_gone);
  END IF;
  IF cardinality(p_progress_gone) > 0 THEN
    DELETE FROM chronos.progress WHERE uid = ANY (p_progress_gone);
  END IF;
  IF cardinality(p_keys_gone) > 0 THEN
    DELETE FROM chronos.live AS l USING unnest(p_kinds_gone, p_keys_gone) AS u(kind, key)
    WHERE l.kind = u.kind AND l.key = u.key;
  END IF;
  IF cardinality(p_jobs) > 0 THEN
    INSERT INTO chronos.jobs SELECT * FROM unnest(p_jobs, p_job_values)
    ON CONFLICT (uid) DO UPDATE SET value = excluded.value;
  END IF;
  IF cardinality(p_progress) > 0 THEN
    INSERT INTO chronos.progress SELECT * FROM unnest(p_progress, p_progress_values)
    ON CONFLICT (uid) DO UPDATE SET value = excluded.value;
  END IF;
  IF cardinality(p_keys) > 0 THEN
    INSERT INTO chronos.live SELECT * FROM unnest(p_kinds, p_keys, p_values)
    ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value;
  END IF;
  IF cardinality(r_ids) > 0 THEN
    INSERT INTO chronos.history
    SELECT base + id, job, key, outcome, first_due, last_due, recorded, value
    FROM unnest(r_ids, r_jobs, r_keys, r_outcomes, r_first, r_last, r_recorded, r_values)
      AS u(id, job, key, outcome, first_due, last_due, recorded, value);
  END IF;
  IF cardinality(p_known) > 0 THEN
    INSERT INTO chronos.history_jobs (job, name) SELECT * FROM unnest(p_known, p_known_names) ON CONFLICT (job) DO NOTHING;
  END IF;
  IF cardinality(v_ids) > 0 THEN
    INSERT INTO chronos.revisions
    SELECT base + id, job, version, name, at, deleted, value
    FROM unnest(v_ids, v_jobs, v_versions, v_names, v_ats, v_deleted, v_values)
      AS u(id, job, version, name, at, deleted, value)
    ON CONFLICT (job, version) DO UPDATE SET id = excluded.id, name = excluded.name, at = excluded.at,
      deleted = excluded.deleted, value = excluded.value;
  END IF;
  IF cardinality(v_bound) > 0 THEN
    DELETE FROM chronos.revisions AS r USING unnest(v_bound, v_bound_versions) AS u(job, version)
    WHERE r.job = u.job AND r.version < u.version;
  END IF;
  IF cardinality(e_ids) > 0 THEN
    INSERT INTO chronos.audit
    SELECT base + id, at, name, author, act, value
    FROM unnest(e_ids, e_ats, e_names, e_authors, e_acts, e_values) AS u(id, at, name, author, act, value);
  END IF;
  RETURN true;
END $$;
