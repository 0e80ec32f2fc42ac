"""The two accounts every embedded server has, kept in the secret store.

Here: their names and how passwords are made. Not here: what each may do, which differs per engine.
"""

from __future__ import annotations

import secrets as random_source
from dataclasses import dataclass, field
from typing import Literal

from dr_platform.secrets.port import SecretStore

AccountRole = Literal["admin", "application"]
CATEGORY = "database-credentials"


@dataclass(frozen=True)
class Account:
    username: str
    password: str = field(repr=False)


def secret_name(database: str, role: AccountRole) -> str:
    return f"databases/{database}/{role}"


def ensure_account(secrets: SecretStore, database: str, role: AccountRole) -> Account:
    """The stored account, made with 192 random bits where there is none."""
    fields = secrets.ensure(
        secret_name(database, role),
        lambda: {"username": f"drp_{role}", "password": random_source.token_urlsafe(24)},
        category=CATEGORY,
    )
    return Account(fields["username"], fields["password"])
