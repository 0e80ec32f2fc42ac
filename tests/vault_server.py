"""A real Vault for tests: ``DRP_TEST_VAULT`` names a program, else one built once from its Go module.

The build takes 6 to 13 minutes on 2 cores, needs 5 GB of room, and stays in the cache. It is asked for
by hand and never started by a test: ``python -m tests.vault_server``, then ``pytest -m vault``.
Vault is licensed under the Business Source License; the platform neither contains nor starts it.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.go_program import GoProgram, free_port, wait_until

VERSION = "v1.21.1"
# A module that depends on Vault does not inherit Vault's own replacements, so they are repeated.
GO_MOD = f"""module dr-platform/vault

go 1.25

require github.com/hashicorp/vault {VERSION}

replace github.com/hashicorp/vault/api => github.com/hashicorp/vault/api v1.22.0

replace github.com/hashicorp/vault/sdk => github.com/hashicorp/vault/sdk v0.20.0

replace github.com/hashicorp/vault/api/auth/approle => github.com/hashicorp/vault/api/auth/approle v0.11.0

replace github.com/hashicorp/vault/api/auth/kubernetes => github.com/hashicorp/vault/api/auth/kubernetes v0.10.0

replace github.com/hashicorp/vault/api/auth/userpass => github.com/hashicorp/vault/api/auth/userpass v0.10.0

replace github.com/99designs/keyring => github.com/Jeffail/keyring v1.2.3

replace github.com/ma314smith/signedxml v1.1.1 => github.com/moov-io/signedxml v1.1.1
"""
VAULT = GoProgram(
    "Vault", "vault", "github.com/hashicorp/vault", GO_MOD, "DRP_TEST_VAULT", options=("-tags", "minimal")
)


@dataclass(frozen=True)
class VaultServer:
    """A development server: unsealed, in memory, key-value store version 2 at ``secret``."""

    address: str
    token: str

    def call(self, method: str, path: str, token: str | None = None, **body: object) -> dict[str, object]:
        """One request past the adapter under test."""
        headers = {"X-Vault-Token": token or self.token}
        answer = httpx.request(method, f"{self.address}/v1/{path}", headers=headers, json=body or None)
        answer.raise_for_status()
        return answer.json() if answer.content else {}


@contextlib.contextmanager
def running_vault(program: Path) -> Iterator[VaultServer]:
    server = VaultServer(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16))
    with tempfile.TemporaryDirectory(prefix="drp-vault-") as home:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "VAULT_DEV_ROOT_TOKEN_ID": server.token,
            "VAULT_DEV_LISTEN_ADDRESS": server.address.removeprefix("http://"),
        }
        command = [str(program), "server", "-dev", "-dev-no-store-token"]
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(server), process, "Vault")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=20)


def _answers(server: VaultServer) -> bool:
    """The address answers before the key-value store is mounted."""
    try:
        server.call("GET", "secret/config")
    except httpx.HTTPError:
        return False
    return True


if __name__ == "__main__":
    print(VAULT.built())
