"""The Vault store: without a server its errors, with a real Vault the contract.

The latter is marked ``vault`` and asked for by hand, because Vault is built first: see
``tests/vault_server.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dr_platform.identity import new_id
from dr_platform.secrets.port import SecretStore, SecretsUnavailable
from dr_platform.secrets.vault import KubernetesLogin, NoVaultLogin, SecretsForbidden, TokenLogin, VaultSecretStore
from tests.contracts.secrets import CATEGORY, FIRST, NAME, SECOND, SecretStoreContract
from tests.vault_server import VAULT, VaultServer, running_vault

TOKEN = "not-to-be-shown"


@pytest.fixture(scope="module")
def server() -> Iterator[VaultServer]:
    program = VAULT.path()
    if program is None:
        pytest.fail("no Vault on this machine: run `python -m tests.vault_server` or set DRP_TEST_VAULT")
    with running_vault(program) as server:
        yield server


@pytest.mark.vault
class TestVaultSecretStore(SecretStoreContract):
    @pytest.fixture
    def store(self, server: VaultServer) -> SecretStore:
        return VaultSecretStore(server.address, TokenLogin(server.token), prefix=f"platform/{new_id('test')}")

    def test_fields_lie_where_other_programs_read_them(self, server: VaultServer) -> None:
        prefix = f"platform/{new_id('test')}"
        store = VaultSecretStore(server.address, TokenLogin(server.token), prefix=prefix)
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        answer = server.call("GET", f"secret/data/{prefix}/{NAME}")
        assert answer["data"]["data"] == FIRST  # type: ignore[index]
        assert answer["data"]["metadata"]["custom_metadata"] == {"category": CATEGORY}  # type: ignore[index]

    def test_a_version_deleted_by_others_is_no_secret_and_what_is_no_name_is_not_listed(
        self, server: VaultServer
    ) -> None:
        prefix = f"platform/{new_id('test')}"
        store = VaultSecretStore(server.address, TokenLogin(server.token), prefix=prefix)
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        server.call("DELETE", f"secret/data/{prefix}/{NAME}")
        server.call("POST", f"secret/data/{prefix}/Not-A-Name", data={"x": "y"})
        assert store.read(NAME) is None
        assert store.metadata(NAME) is None
        assert store.names() == (NAME,)

    def test_a_wrong_token_is_refused_and_not_shown(self, server: VaultServer) -> None:
        store = VaultSecretStore(server.address, TokenLogin(TOKEN), prefix="platform")
        for call in (lambda: store.read(NAME), lambda: store.names(), lambda: store.delete(NAME)):
            with pytest.raises(SecretsForbidden) as caught:
                call()
            assert TOKEN not in f"{caught.value} {caught.value!r} {store!r} {vars(store)}"

    def test_a_missing_mount_is_an_outage_and_not_an_empty_store(self, server: VaultServer) -> None:
        store = VaultSecretStore(server.address, TokenLogin(server.token), prefix="platform", mount="nowhere")
        for call in (
            lambda: store.read(NAME),
            lambda: store.names(),
            lambda: store.metadata(NAME),
            lambda: store.write(NAME, FIRST, category=CATEGORY, expected=None),
        ):
            with pytest.raises(SecretsUnavailable):
                call()

    def test_a_policy_that_allows_reading_alone_refuses_a_change(self, server: VaultServer) -> None:
        prefix = f"platform/{new_id('test')}"
        owner = VaultSecretStore(server.address, TokenLogin(server.token), prefix=prefix)
        owner.write(NAME, FIRST, category=CATEGORY, expected=None)
        server.call("PUT", "sys/policies/acl/reader", policy='path "secret/data/*" { capabilities = ["read"] }')
        token = server.call("POST", "auth/token/create", policies=["reader"])["auth"]["client_token"]  # type: ignore[index]
        reader = VaultSecretStore(server.address, TokenLogin(str(token)), prefix=prefix)
        assert reader.read(NAME) == FIRST
        with pytest.raises(SecretsForbidden):
            reader.write(NAME, SECOND, category=CATEGORY, expected=1)
        assert owner.read(NAME) == FIRST


@pytest.mark.vault
def test_a_sealed_vault_is_an_outage() -> None:
    program = VAULT.path()
    assert program is not None
    with running_vault(program) as server:
        store = VaultSecretStore(server.address, TokenLogin(server.token), prefix="platform")
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        server.call("PUT", "sys/seal")
        with pytest.raises(SecretsUnavailable, match="sealed"):
            store.read(NAME)


class Scripted(BaseHTTPRequestHandler):
    """Answers as Vault does for a login by service account: tokens are valid once."""

    logins = 0

    def do_POST(self) -> None:
        type(self).logins += 1
        self._answer(200, f'{{"auth": {{"client_token": "token-{self.logins}"}}}}')

    def do_GET(self) -> None:
        if self.headers["X-Vault-Token"] == "token-1":
            self._answer(403, '{"errors": ["permission denied"]}')
        else:
            self._answer(200, '{"data": {"data": {"password": "read"}, "metadata": {"version": 1}}}')

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def scripted() -> Iterator[str]:
    Scripted.logins = 0
    server = HTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.contract
def test_a_service_account_logs_in_again_when_its_token_has_expired(scripted: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("account\n")
    store = VaultSecretStore(scripted, KubernetesLogin("role", token_file=tmp_path / "token"), prefix="platform")
    assert Scripted.logins == 0
    assert store.read(NAME) == {"password": "read"}
    assert Scripted.logins == 2
    assert store.read(NAME) == {"password": "read"}
    assert Scripted.logins == 2


@pytest.mark.contract
def test_a_pod_without_a_service_account_is_told_what_to_set(scripted: str, tmp_path: Path) -> None:
    store = VaultSecretStore(scripted, KubernetesLogin("role", token_file=tmp_path / "none"), prefix="platform")
    with pytest.raises(NoVaultLogin, match="VAULT_ROLE"):
        store.read(NAME)


@pytest.mark.contract
def test_a_server_that_does_not_answer_is_an_outage_everywhere() -> None:
    store = VaultSecretStore("http://127.0.0.1:9", TokenLogin(TOKEN), prefix="platform")
    for call in (
        lambda: store.read(NAME),
        lambda: store.read_version(NAME, 1),
        lambda: store.names(),
        lambda: store.metadata(NAME),
        lambda: store.delete(NAME),
        lambda: store.write(NAME, FIRST, category=CATEGORY, expected=None),
        lambda: store.ensure(NAME, lambda: FIRST, category=CATEGORY),
    ):
        with pytest.raises(SecretsUnavailable, match="cannot be reached") as caught:
            call()
        assert TOKEN not in f"{caught.value} {caught.value!r}"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("settings", "missing"),
    [({}, "VAULT_ADDR is not set"), ({"VAULT_ADDR": "http://127.0.0.1:9"}, "neither VAULT_TOKEN nor VAULT_ROLE")],
)
def test_an_environment_without_a_login_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], missing: str
) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_ROLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoVaultLogin, match=missing):
        VaultSecretStore.from_environment("platform")


@pytest.mark.contract
def test_the_environment_s_settings_are_used(monkeypatch: pytest.MonkeyPatch, scripted: str) -> None:
    monkeypatch.setenv("VAULT_ADDR", scripted)
    monkeypatch.setenv("VAULT_TOKEN", "token-9")
    assert VaultSecretStore.from_environment("platform").read(NAME) == {"password": "read"}
