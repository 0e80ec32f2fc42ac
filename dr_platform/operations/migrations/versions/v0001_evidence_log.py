"""The evidence log, append-only by its own triggers."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# The triggers hold for the table's owner as well. Only who may alter the table can switch them off,
# and then the chain of hashes and the checkpoints kept elsewhere tell.
CREATE = """
CREATE TABLE evidence_log (
    sequence bigint CONSTRAINT pk_evidence_log PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    body text NOT NULL CHECK (body IS JSON OBJECT),
    previous text NOT NULL CONSTRAINT uq_evidence_log_previous UNIQUE,
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$')
);
CREATE INDEX ix_evidence_log_kind_subject ON evidence_log (kind, subject, sequence);

CREATE FUNCTION evidence_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'evidence_log is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER evidence_log_rows_stay BEFORE UPDATE OR DELETE ON evidence_log
    FOR EACH ROW EXECUTE FUNCTION evidence_log_refuse();
CREATE TRIGGER evidence_log_stays BEFORE TRUNCATE ON evidence_log
    FOR EACH STATEMENT EXECUTE FUNCTION evidence_log_refuse();

CREATE FUNCTION evidence_log_extend() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last evidence_log;
BEGIN
    SELECT * INTO last FROM evidence_log ORDER BY sequence DESC LIMIT 1;
    IF NEW.sequence <> coalesce(last.sequence, 0) + 1 OR NEW.previous <> coalesce(last.hash, repeat('0', 64)) THEN
        RAISE EXCEPTION 'evidence_log grows only at its end' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER evidence_log_grows_at_its_end BEFORE INSERT ON evidence_log
    FOR EACH ROW EXECUTE FUNCTION evidence_log_extend();
"""


def upgrade() -> None:
    op.execute(CREATE)
