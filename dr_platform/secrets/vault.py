"""Secrets in HashiCorp Vault or OpenBao: its key-value store, version 2.

A secret's fields are the fields at ``<mount>/<prefix>/<name>``, so that other programs can read them
there; its category is in the custom metadata. Compare-and-swap is Vault's own. How many versions are
kept is a setting of the mount (10 unless changed).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.secrets.port import (
    Fields,
    InvalidSecretName,
    SecretMetadata,
    SecretsUnavailable,
    StaleSecret,
    check_name,
)

if TYPE_CHECKING:
    import hvac

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
REQUEST_S = 10
T = TypeVar("T")


class SecretsForbidden(PlatformError):
    """Vault answered and refused. Not temporary: the token or its policy must change."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.what = f"Vault refused access: {subject}"
        self.untouched = "every stored secret"
        self.next_step = (
            "see that the token is valid (`vault token lookup`) and its policy allows data, metadata and delete"
        )


class NoVaultLogin(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.what = f"the environment keeps its secrets in Vault, but {missing}"
        self.untouched = "every stored secret"
        self.next_step = (
            "set VAULT_ADDR, and VAULT_TOKEN or, inside Kubernetes, VAULT_ROLE; or run the environment embedded on "
            "this machine, with `--runtime local`"
        )


@dataclass(frozen=True)
class TokenLogin:
    """A token that somebody else issued and renews."""

    token: str = field(repr=False)
    renewable = False

    def __call__(self, client: hvac.Client) -> None:
        client.token = self.token


@dataclass(frozen=True)
class KubernetesLogin:
    """The pod's own service account token, read at each login because Kubernetes rotates it."""

    role: str
    mount: str = "kubernetes"
    token_file: Path = SERVICE_ACCOUNT_TOKEN
    renewable = True

    def __call__(self, client: hvac.Client) -> None:
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise NoVaultLogin(f"there is no service account token at {self.token_file}") from None
        client.auth.kubernetes.login(role=self.role, jwt=token, mount_point=self.mount)


Login = TokenLogin | KubernetesLogin


class VaultSecretStore:
    """A ``SecretStore`` in Vault. Nothing is asked of the server before the first use.

    A login that Vault no longer accepts is made anew once per call where it can be.
    """

    def __init__(
        self, address: str, login: Login, *, prefix: str, mount: str = "secret", namespace: str | None = None
    ) -> None:
        self._address = address
        self._login = login
        self._prefix = check_name(prefix)
        self._mount = mount
        self._namespace = namespace
        self._client: hvac.Client | None = None
        self._logging_in = threading.Lock()

    @classmethod
    def from_environment(cls, prefix: str) -> VaultSecretStore:
        """``VAULT_ADDR``; ``VAULT_TOKEN``, else ``VAULT_ROLE`` for a login by service account; optional
        ``VAULT_NAMESPACE``, ``VAULT_CACERT``, ``DRP_VAULT_MOUNT``. Raises ``NoVaultLogin``."""
        address = os.environ.get("VAULT_ADDR")
        if not address:
            raise NoVaultLogin("VAULT_ADDR is not set")
        mount, namespace = os.environ.get("DRP_VAULT_MOUNT", "secret"), os.environ.get("VAULT_NAMESPACE")
        return cls(address, _login_from_environment(), prefix=prefix, mount=mount, namespace=namespace)

    def read(self, name: str) -> Fields | None:
        return self._read(check_name(name), None)

    def read_version(self, name: str, version: int) -> Fields | None:
        # Vault takes version 0 for the newest.
        return self._read(check_name(name), version) if version >= 1 else None

    def metadata(self, name: str) -> SecretMetadata | None:
        path = self._path(name)
        found = self._call(name, lambda kv: _or_none(lambda: kv.read_secret_metadata(path, mount_point=self._mount)))
        return _metadata(name, found["data"]) if found else None

    def names(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(self._names_below("", prefix)))

    def write(self, name: str, fields: Fields, *, category: str, expected: int | None) -> int:
        path = self._path(name)
        if expected is not None and expected < 1:  # Vault's own word for "create", which here is None
            raise StaleSecret(name)
        version = self._swap(name, path, dict(fields), expected or 0)
        # After the value, because a refused writer must not change the category either.
        given = {"category": category}
        self._call(name, lambda kv: kv.update_metadata(path, custom_metadata=given, mount_point=self._mount))
        return version

    def ensure(self, name: str, make: Callable[[], Fields], *, category: str) -> Fields:
        while (found := self.read(name)) is None:
            with contextlib.suppress(StaleSecret):  # another caller was first, and its fields are read
                self.write(name, make(), category=category, expected=None)
        return found

    def delete(self, name: str) -> None:
        path = self._path(name)
        self._call(name, lambda kv: kv.delete_metadata_and_all_versions(path, mount_point=self._mount))

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{check_name(name)}"

    def _read(self, name: str, version: int | None) -> Fields | None:
        path = self._path(name)
        found = self._call(
            name,
            lambda kv: _or_none(
                lambda: kv.read_secret_version(
                    path, version=version, mount_point=self._mount, raise_on_deleted_version=True
                )
            ),
        )
        return found["data"]["data"] if found else None

    def _swap(self, name: str, path: str, fields: dict[str, str], expected: int) -> int:
        from hvac.exceptions import InvalidRequest

        try:
            written = self._call(
                name,
                lambda kv: kv.create_or_update_secret(path, fields, cas=expected, mount_point=self._mount),
                passed_on=(InvalidRequest,),
            )
        except InvalidRequest:
            # Vault has one answer for a lost race and for a malformed request; the version tells them apart.
            current = self.metadata(name)
            if (current.version if current else 0) != expected:
                raise StaleSecret(name) from None
            raise SecretsUnavailable("vault", f"it did not accept the fields of {name}") from None
        return written["data"]["version"]

    def _names_below(self, folder: str, prefix: str) -> Iterator[str]:
        path = f"{self._prefix}/{folder}"
        listed = self._call("a list", lambda kv: _or_none(lambda: kv.list_secrets(path, mount_point=self._mount)))
        for key in listed["data"]["keys"] if listed else ():
            found = folder + key
            if key.endswith("/"):
                if found.startswith(prefix) or prefix.startswith(found):
                    yield from self._names_below(found, prefix)
            elif found.startswith(prefix) and _is_name(found):
                yield found

    def _call(self, subject: str, ask: Callable[[Any], T], passed_on: tuple[type[Exception], ...] = ()) -> T:
        from hvac.exceptions import Forbidden

        with _mapped(self._address, subject, passed_on):
            client = self._connected()
            try:
                return ask(client.secrets.kv.v2)
            except Forbidden:
                if not self._login.renewable:
                    raise
                return ask(self._connected(instead_of=client).secrets.kv.v2)

    def _connected(self, instead_of: hvac.Client | None = None) -> hvac.Client:
        """The client, logged in; another one where ``instead_of`` is still the one in use."""
        import hvac

        with self._logging_in:
            if self._client is None or self._client is instead_of:
                verify = os.environ.get("VAULT_CACERT") or True
                # An empty token, because without one the library looks for the user's own.
                client = hvac.Client(self._address, "", namespace=self._namespace, timeout=REQUEST_S, verify=verify)
                self._login(client)
                self._client = client
            return self._client


def _login_from_environment() -> Login:
    if token := os.environ.get("VAULT_TOKEN"):
        return TokenLogin(token)
    if role := os.environ.get("VAULT_ROLE"):
        return KubernetesLogin(role)
    raise NoVaultLogin("neither VAULT_TOKEN nor VAULT_ROLE is set")


def _is_name(found: str) -> bool:
    """Others may keep what they like below the prefix; what is no name here is not ours."""
    try:
        check_name(found)
    except InvalidSecretName:
        return False
    return True


def _metadata(name: str, found: dict[str, Any]) -> SecretMetadata | None:
    """``None`` for a newest version that was deleted, and for metadata without any version."""
    version = found["current_version"]
    newest = found["versions"].get(str(version))
    if newest is None or newest["deletion_time"] or newest["destroyed"]:
        return None
    category = (found["custom_metadata"] or {}).get("category", "")
    return SecretMetadata(name, category, version, datetime.fromisoformat(newest["created_time"]))


def _or_none(ask: Callable[[], Any]) -> Any:
    """``None`` for a path without a secret. A missing mount is answered with the same code, and with
    a reason: that is no "no such secret"."""
    from hvac.exceptions import InvalidPath

    try:
        return ask()
    except InvalidPath as exc:
        if exc.errors:
            raise SecretsUnavailable("vault", "there is no key-value store, version 2, at the mount") from None
        return None


@contextlib.contextmanager
def _mapped(address: str, subject: str, passed_on: tuple[type[Exception], ...]) -> Generator[None]:
    """Errors by their class; their text is left out, it may quote what was sent."""
    import requests
    from hvac import exceptions

    try:
        yield
    except passed_on:
        raise
    except (exceptions.Forbidden, exceptions.Unauthorized):
        raise SecretsForbidden(subject) from None
    except exceptions.VaultDown:
        raise SecretsUnavailable("vault", f"{address} is sealed or in maintenance") from None
    except exceptions.InvalidPath:
        raise SecretsUnavailable("vault", "there is no key-value store, version 2, at the mount") from None
    except exceptions.VaultError as exc:
        raise SecretsUnavailable("vault", f"{address} answered {type(exc).__name__}") from None
    except requests.RequestException as exc:
        raise SecretsUnavailable("vault", f"{address} cannot be reached ({type(exc).__name__})") from None
