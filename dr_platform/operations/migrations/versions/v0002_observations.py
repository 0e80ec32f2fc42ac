"""What looks at the platform found, for days, and how much of its budget a remediation has spent."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

CREATE = """
CREATE TABLE observation (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_observation PRIMARY KEY,
    at timestamptz NOT NULL,
    subject text NOT NULL,
    look text NOT NULL,
    passed boolean,
    why text NOT NULL,
    measurements jsonb NOT NULL
);
CREATE INDEX ix_observation_subject_look_at ON observation (subject, look, at, id);
CREATE INDEX ix_observation_at ON observation (at);

CREATE TABLE remediation_budget (
    subject text CONSTRAINT pk_remediation_budget PRIMARY KEY,
    version integer NOT NULL,
    attempts integer NOT NULL CHECK (attempts >= 0),
    first_attempt_at timestamptz,
    last_attempt_at timestamptz,
    escalated_at timestamptz
);
"""


def upgrade() -> None:
    op.execute(CREATE)
