-- The queue of background tasks. A worker takes the next one with
--   SELECT … FROM work.tasks WHERE state = 'waiting' AND due_at <= now()
--   ORDER BY priority, due_at LIMIT 1 FOR UPDATE SKIP LOCKED
-- so that workers never wait for each other, and a worker that dies leaves its task to the next one.

CREATE TABLE work.tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9-]{1,59}$'),
    payload_ciphertext bytea,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    due_at timestamptz NOT NULL DEFAULT now(),
    attempts smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 5 CHECK (max_attempts > 0),
    -- A running task whose lease has passed was left by a dead worker and is waiting again.
    leased_until timestamptz,
    worker text,
    -- The same wish twice is one task.
    idempotency_key text UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    error text
);
COMMENT ON COLUMN work.tasks.error IS 'Type of the last error; never its text, which may quote patient data';
CREATE INDEX tasks_next ON work.tasks (priority, due_at) WHERE state = 'waiting';
CREATE INDEX tasks_abandoned ON work.tasks (leased_until) WHERE state = 'running';

GRANT SELECT, INSERT, UPDATE, DELETE ON work.tasks TO drp_services;
