"""Signs people in and issues tokens: ``POST /v1/login {"account", "password"}``.

Accounts lie in PostgreSQL: the address as ciphertext and as a keyed hash to find it by, the
password as Argon2id. Attempts are counted in Redis. One account per role is made for local use, with
a generated password that is kept in the secret store alone.
"""

from __future__ import annotations

import secrets as random_source
import threading
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from dr_platform.errors import PlatformError
from dr_platform.reference_service.access import TOKEN_S
from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.stores.postgresql import PostgresStore
from dr_platform.reference_service.web import Call, Refusal, endpoint

TABLES = ("identity.accounts", "identity.account_roles", "identity.role_permissions", "identity.sessions")
DEMO_ROLES: Mapping[str, str] = {"patient": "patient", "clinician": "clinician", "auditor": "staff"}
"""Role of each account that is made for local use, and the kind of account it is."""
DEMO_CATEGORY = "api-keys"
ATTEMPTS, WINDOW_S = 10, 900
"""Wrong or right, so many attempts per account and window; ``drp:config:ratelimit:login`` overrides."""
_WRONG = "account or password is wrong"
_RETRY_S = 3.0


def demo_secret(role: str) -> str:
    """Name of the secret with ``username`` and ``password`` of the local account of a role."""
    return f"accounts/demo-{role}"


def _argon2() -> Any:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id


def hash_password(password: str) -> str:
    """Argon2id with OWASP's least parameters: 19 MiB, two passes."""
    salt = random_source.token_bytes(16)
    kdf = _argon2()(salt=salt, length=32, iterations=2, lanes=1, memory_cost=19_456)
    return kdf.derive_phc_encoded(password.encode())


def password_is(password: str, stored: str) -> bool:
    from cryptography.exceptions import InvalidKey

    try:
        _argon2().verify_phc_encoded(password.encode(), stored)
    except (InvalidKey, ValueError):
        return False
    return True


class Authentication:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._store = replica.store(PostgresStore)
        self._redis: Any = next((s for s in replica.stores.values() if s.entry.engine == "redis"), None)

    @cached_property
    def _nobody(self) -> str:
        """Checked where there is no such account, so that the answer takes as long as for a wrong password."""
        return hash_password(random_source.token_hex(16))

    def login(self, call: Call) -> dict[str, Any]:
        name, password = call.text("account", limit=200), call.text("password", limit=200)
        index = self._replica.cipher.blind_index(name, "account")
        self._count_attempt(index)
        with self._store.connection() as connection:
            row = connection.execute(
                "SELECT id::text, password_hash FROM identity.accounts"
                " WHERE email_blind_index = %s AND status = 'active'",
                (index,),
            ).fetchone()
        if not password_is(password, row[1] if row and row[1] else self._nobody) or row is None:
            self._replica.telemetry.count("drp_logins_total", outcome="refused")
            raise Refusal(401, _WRONG)
        self._replica.telemetry.count("drp_logins_total", outcome="admitted")
        scopes = self._scopes(row[0])
        token = self._replica.tokens.issue(row[0], scopes)
        return {"token": token, "token_type": "Bearer", "expires_in": int(TOKEN_S), "scopes": sorted(scopes)}

    def _scopes(self, account: str) -> set[str]:
        with self._store.connection() as connection:
            rows = connection.execute(
                "SELECT DISTINCT p.permission FROM identity.account_roles r"
                " JOIN identity.role_permissions p USING (role) WHERE r.account_id = %s",
                (account,),
            ).fetchall()
        return {permission for (permission,) in rows}

    def _count_attempt(self, index: bytes) -> None:
        if self._redis is None:
            return
        window = int(self._replica.clock.now().timestamp()) // WINDOW_S
        key = f"ratelimit:login:{index.hex()[:32]}:{window}"
        with self._redis.client() as client:
            limit = int(client.hget("drp:config:ratelimit:login", "limit") or ATTEMPTS)
            count = client.incr(key)
            if count == 1:
                client.expire(key, WINDOW_S)
        if limit and count > limit:
            raise Refusal(429, "too many attempts; try again later")

    # Accounts for local use

    def make_demo_accounts(self) -> None:
        """In the background, as soon as the database takes them."""
        threading.Thread(target=self._make_until_done, name="accounts", daemon=True).start()

    def _make_until_done(self) -> None:
        while not self._replica.draining:
            try:
                for role, kind in DEMO_ROLES.items():
                    self._make(role, kind)
            except PlatformError:
                self._replica.clock.sleep(_RETRY_S)
            else:
                return

    def _make(self, role: str, kind: str) -> None:
        fields = self._replica.secrets.ensure(
            demo_secret(role),
            lambda: {"username": f"demo-{role}@example.org", "password": random_source.token_urlsafe(18)},
            category=DEMO_CATEGORY,
        )
        index = self._replica.cipher.blind_index(fields["username"], "account")
        account = str(uuid.uuid5(uuid.NAMESPACE_URL, f"dr-platform/account/{index.hex()}"))
        sealed = self._replica.cipher.encrypt(fields["username"], Place("identity.accounts", "email", account))
        with self._store.connection() as connection, connection.transaction():
            known = connection.execute(
                "SELECT password_hash FROM identity.accounts WHERE id = %s", (account,)
            ).fetchone()
            if known and known[0] and password_is(fields["password"], known[0]):
                return
            connection.execute(
                "INSERT INTO identity.accounts"
                " (id, kind, email_ciphertext, email_blind_index, password_hash, key_version)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
                " SET password_hash = excluded.password_hash, updated_at = now()",
                (account, kind, sealed, index, hash_password(fields["password"]), self._replica.cipher.key_version),
            )
            connection.execute(
                "INSERT INTO identity.account_roles (account_id, role) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (account, role),
            )


def duties(replica: Replica) -> Duties:
    authentication = Authentication(replica)
    store = replica.store(PostgresStore)
    return Duties(
        routes=(endpoint(replica, "/v1/login", authentication.login, scope=None, action="account:login"),),
        tables={store.entry.name: TABLES},
        background=(authentication.make_demo_accounts,),
    )
