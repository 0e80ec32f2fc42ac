"""The tables of the operations database, as SQLAlchemy sees them.

Constraints, triggers and the tables themselves are made by ``migrations``; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s",
    }
)

evidence_log = Table(
    "evidence_log",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("actor", Text, nullable=False),
    # Text and not jsonb, which would keep the meaning but not the bytes that were hashed.
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False),
    Index("ix_evidence_log_kind_subject", "kind", "subject", "sequence"),
)

observation = Table(
    "observation",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("subject", Text, nullable=False),
    Column("look", Text, nullable=False),
    Column("passed", Boolean, nullable=True),
    Column("why", Text, nullable=False),
    Column("measurements", JSONB, nullable=False),
    Index("ix_observation_subject_look_at", "subject", "look", "at", "id"),
    Index("ix_observation_at", "at"),
)

remediation_budget = Table(
    "remediation_budget",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_attempt_at", DateTime(timezone=True), nullable=True),
    Column("last_attempt_at", DateTime(timezone=True), nullable=True),
    Column("escalated_at", DateTime(timezone=True), nullable=True),
)

approval_request = Table(
    "approval_request",
    metadata,
    Column("id", Text, primary_key=True),
    Column("release", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("plan_digest", Text, nullable=False),
    Column("requester", Text, nullable=False),
    Column("requester_key", Text, nullable=False),
    Column("requester_proof", Text, nullable=False),
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", BigInteger, nullable=False),
    Index("ix_approval_request_environment_release", "environment", "release", "requested_at"),
)

approval = Table(
    "approval",
    metadata,
    Column("request_id", Text, ForeignKey("approval_request.id", name="fk_approval_request"), primary_key=True),
    Column("approver_key", Text, primary_key=True),
    Column("approver", Text, nullable=False),
    Column("approver_proof", Text, nullable=False),
    Column("plan_digest", Text, nullable=False),
    Column("given_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", BigInteger, nullable=False),
)

approval_void = Table(
    "approval_void",
    metadata,
    Column("request_id", Text, ForeignKey("approval_request.id", name="fk_approval_void_request"), primary_key=True),
    Column("by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", BigInteger, nullable=False),
)
