-- The frame of a store: who leads, how far it has come, and what followers have to catch up with. `chronos.` stands for
-- the schema. Every function is one statement of the client's: nothing is open while a client is silent.

-- `store`: the random id of the store; `schema`: the version of these tables; `format`: that of the values in them.
CREATE TABLE chronos.meta (name text PRIMARY KEY, value text NOT NULL);

-- The term record: every batch moves it from (epoch, seq - 1) to (epoch, seq). `began` is the batch that began the term;
-- `ids` what the last record, revision or entry was numbered. The right to lead ends at `lease_until`, by the clock of this
-- server; `token` tells the attempts to lead apart, `holder` says whose it was. Room for many versions of the one row.
CREATE TABLE chronos.term (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch bigint NOT NULL,
  began bigint NOT NULL,
  seq bigint NOT NULL,
  ids bigint NOT NULL,
  lease_until timestamptz NOT NULL,
  token text,
  holder text
) WITH (fillfactor = 10);
INSERT INTO chronos.term VALUES (true, 0, 0, 0, 0, '-infinity', NULL, NULL);

-- The last batches, for followers. As they are: what is read once is not worth compressing.
CREATE TABLE chronos.changes (seq bigint PRIMARY KEY, epoch bigint NOT NULL, batch bytea NOT NULL);
ALTER TABLE chronos.changes ALTER COLUMN batch SET STORAGE EXTERNAL;

-- How each node is, as it said last.
CREATE TABLE chronos.members (
  node text COLLATE "C" PRIMARY KEY, candidate text NOT NULL, news text NOT NULL, at timestamptz NOT NULL
);

-- Locks are waited for a second: less than the third of the shortest lease, after which the client tries anew.

-- Every commit waits for the disk, whatever has become of the settings since the term began.
CREATE FUNCTION chronos.durable() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
END $$;

-- Begins a term if nobody holds the lease, or if one of these tokens does: ours, of an attempt without an answer, or of the
-- term of ours that is over.
CREATE FUNCTION chronos.begin_term(
  p_token text, p_tokens text[], p_holder text, p_lease bigint,
  OUT epoch bigint, OUT seq bigint
) RETURNS SETOF record LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
BEGIN
  PERFORM chronos.durable();
  UPDATE chronos.term AS t
  SET epoch = t.epoch + 1, began = t.seq + 1, seq = t.seq + 1, token = p_token, holder = p_holder,
    lease_until = clock_timestamp() + p_lease * interval '1 millisecond'
  WHERE t.lease_until <= clock_timestamp() OR t.token = ANY (p_tokens)
  RETURNING t.epoch, t.seq INTO epoch, seq;
  IF FOUND THEN
    INSERT INTO chronos.changes VALUES (seq, epoch, '');
    RETURN NEXT;
  END IF;
END $$;

-- Moves the term record from batch `p_after` to `p_last`, and keeps the batches in between for followers. Says what the
-- record is, so that one that could not be moved tells why. `base` is the number before the first of `p_ids` new ones.
-- A call that waits for the row looks at it again when it gets it: nothing of a deposed leader comes late.
CREATE FUNCTION chronos.move(
  p_epoch bigint, p_after bigint, p_last bigint, p_lease bigint, p_ids bigint, p_batches bytea[], p_forget bigint,
  OUT moved boolean, OUT base bigint, OUT epoch bigint, OUT began bigint, OUT seq bigint, OUT held boolean
) LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
BEGIN
  PERFORM chronos.durable();
  UPDATE chronos.term AS t
  SET seq = p_last, ids = t.ids + p_ids, lease_until = clock_timestamp() + p_lease * interval '1 millisecond'
  WHERE t.epoch = p_epoch AND t.seq = p_after AND t.lease_until > clock_timestamp()
  RETURNING t.ids - p_ids, t.epoch, t.began, t.seq INTO base, epoch, began, seq;
  moved := FOUND;
  held := moved;
  IF moved THEN
    INSERT INTO chronos.changes
    SELECT p_after + u.n, p_epoch, u.batch FROM unnest(p_batches) WITH ORDINALITY AS u(batch, n);
    IF p_forget > 0 THEN
      DELETE FROM chronos.changes AS c WHERE c.seq <= p_forget;
    END IF;
  ELSE
    SELECT t.epoch, t.began, t.seq, t.lease_until > clock_timestamp()
    FROM chronos.term AS t INTO epoch, began, seq, held;
  END IF;
END $$;

-- Renews the lease; says the same as `move`.
CREATE FUNCTION chronos.renew(
  p_epoch bigint, p_lease bigint,
  OUT moved boolean, OUT epoch bigint, OUT began bigint, OUT seq bigint, OUT held boolean
) LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
BEGIN
  UPDATE chronos.term AS t SET lease_until = clock_timestamp() + p_lease * interval '1 millisecond'
  WHERE t.epoch = p_epoch AND t.lease_until > clock_timestamp();
  moved := FOUND;
  SELECT t.epoch, t.began, t.seq, t.lease_until > clock_timestamp()
  FROM chronos.term AS t INTO epoch, began, seq, held;
END $$;

-- Puts staged tables in the place of ours: their names begin with `p_prefix`. From here on nobody can follow: what
-- followers have is of another past.
CREATE FUNCTION chronos.swap(p_prefix text, p_ids bigint) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['jobs', 'progress', 'live', 'history', 'history_jobs', 'revisions', 'audit'] LOOP
    EXECUTE format('DROP TABLE chronos.%I', name);
    EXECUTE format('ALTER TABLE chronos.%I RENAME TO %I', p_prefix || name, name);
  END LOOP;
  DELETE FROM chronos.changes;
  UPDATE chronos.term SET ids = p_ids;
  RETURN true;
END $$;
