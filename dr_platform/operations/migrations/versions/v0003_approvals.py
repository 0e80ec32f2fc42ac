"""Requests for approval, approvals and their ends; written once, guarded by their own triggers."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

# The rules of four eyes hold for whoever may write the tables, not only for the platform's own code.
CREATE = """
CREATE TABLE approval_request (
    id text CONSTRAINT pk_approval_request PRIMARY KEY,
    release text NOT NULL,
    environment text NOT NULL,
    plan_digest text NOT NULL,
    requester text NOT NULL,
    requester_key text NOT NULL CHECK (requester_key <> ''),
    requester_proof text NOT NULL CHECK (requester_proof IN ('account', 'declared')),
    requested_at timestamptz NOT NULL,
    reason text NOT NULL,
    evidence bigint NOT NULL
);
CREATE INDEX ix_approval_request_environment_release ON approval_request (environment, release, requested_at);

CREATE TABLE approval (
    request_id text NOT NULL CONSTRAINT fk_approval_request REFERENCES approval_request (id),
    approver_key text NOT NULL CHECK (approver_key <> ''),
    approver text NOT NULL,
    approver_proof text NOT NULL CHECK (approver_proof IN ('account', 'declared')),
    plan_digest text NOT NULL,
    given_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > given_at),
    reason text NOT NULL,
    evidence bigint NOT NULL,
    CONSTRAINT pk_approval PRIMARY KEY (request_id, approver_key)
);

CREATE TABLE approval_void (
    request_id text CONSTRAINT pk_approval_void PRIMARY KEY
        CONSTRAINT fk_approval_void_request REFERENCES approval_request (id),
    by text NOT NULL,
    at timestamptz NOT NULL,
    reason text NOT NULL,
    evidence bigint NOT NULL
);

CREATE FUNCTION approval_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is written once: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER approval_request_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON approval_request
    FOR EACH STATEMENT EXECUTE FUNCTION approval_refuse_change();
CREATE TRIGGER approval_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON approval
    FOR EACH STATEMENT EXECUTE FUNCTION approval_refuse_change();
CREATE TRIGGER approval_void_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON approval_void
    FOR EACH STATEMENT EXECUTE FUNCTION approval_refuse_change();

CREATE FUNCTION approval_by_another() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM approval_request
        WHERE id = NEW.request_id AND requester_key <> NEW.approver_key AND plan_digest = NEW.plan_digest;
    IF NOT FOUND OR EXISTS (SELECT FROM approval_void WHERE request_id = NEW.request_id) THEN
        RAISE EXCEPTION 'not an approval of an open request by another person' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approval_is_by_another BEFORE INSERT ON approval
    FOR EACH ROW EXECUTE FUNCTION approval_by_another();
"""


def upgrade() -> None:
    op.execute(CREATE)
