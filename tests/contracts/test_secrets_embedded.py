"""The embedded store: the contract, and what its files must withstand."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dr_platform.clock import ManualClock
from dr_platform.errors import PlatformError
from dr_platform.secrets.embedded import (
    EmbeddedSecretStore,
    ExposedSecrets,
    MissingKey,
    UnreadableSecret,
    make_password,
)
from dr_platform.secrets.port import SecretsUnavailable, check_name
from tests.contracts.secrets import CATEGORY, FIRST, NAME, SECOND, SecretStoreContract

pytestmark = pytest.mark.contract

PASSWORD = FIRST["password"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def store(root: Path) -> EmbeddedSecretStore:
    return EmbeddedSecretStore(root)


@pytest.fixture
def stored(store: EmbeddedSecretStore) -> EmbeddedSecretStore:
    store.write(NAME, FIRST, category=CATEGORY, expected=None)
    return store


class TestEmbeddedSecretStore(SecretStoreContract):
    pass


def the_file(root: Path, name: str = NAME, version: int = 1) -> Path:
    return root / f"{name.replace('/', '.')}.{version}.secret"


def test_a_look_into_a_store_that_was_never_written_creates_nothing(store: EmbeddedSecretStore, root: Path) -> None:
    assert store.read(NAME) is None
    assert store.names() == ()
    assert not root.exists()


def test_folder_and_files_are_for_their_owner_alone_whatever_the_umask(root: Path) -> None:
    before = os.umask(0)
    try:
        EmbeddedSecretStore(root).write(NAME, FIRST, category=CATEGORY, expected=None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()} == {
        "lock": 0o600,
        "master.key": 0o600,
        the_file(root).name: 0o600,
    }


def test_no_file_contains_a_value_a_field_name_or_the_category(stored: EmbeddedSecretStore, root: Path) -> None:
    assert stored.read(NAME) == FIRST
    everything = b"".join(path.read_bytes() for path in root.iterdir())
    for text in (PASSWORD, "username", CATEGORY):
        assert text.encode() not in everything


def test_equal_values_are_stored_as_different_bytes(stored: EmbeddedSecretStore, root: Path) -> None:
    stored.write(NAME, FIRST, category=CATEGORY, expected=1)
    assert the_file(root).read_bytes() != the_file(root, version=2).read_bytes()


def refusal(store: EmbeddedSecretStore, name: str = NAME) -> PlatformError:
    """Reading fails, and the error names the secret but shows none of its values."""
    with pytest.raises(UnreadableSecret) as caught:
        store.read(name)
    assert name in str(caught.value)
    assert PASSWORD not in f"{caught.value!r} {caught.value} {caught.getrepr()}"
    return caught.value


def test_any_changed_byte_is_refused(stored: EmbeddedSecretStore, root: Path) -> None:
    file = the_file(root)
    good = file.read_bytes()
    for position in range(len(good)):
        file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        refusal(stored)
    file.write_bytes(good)
    assert stored.read(NAME) == FIRST


def test_a_file_cut_at_any_length_is_refused(stored: EmbeddedSecretStore, root: Path) -> None:
    file = the_file(root)
    good = file.read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        refusal(stored)


def test_two_swapped_files_are_refused(stored: EmbeddedSecretStore, root: Path) -> None:
    other = "databases/redis/admin"
    stored.write(other, SECOND, category=CATEGORY, expected=None)
    one, two = the_file(root).read_bytes(), the_file(root, other).read_bytes()
    the_file(root).write_bytes(two)
    the_file(root, other).write_bytes(one)
    refusal(stored)
    refusal(stored, other)


def test_an_old_version_under_a_new_number_is_refused(stored: EmbeddedSecretStore, root: Path) -> None:
    stored.write(NAME, SECOND, category=CATEGORY, expected=1)
    shutil.copy(the_file(root), the_file(root, version=3))
    refusal(stored)


def test_a_file_renamed_to_another_name_is_refused(stored: EmbeddedSecretStore, root: Path) -> None:
    the_file(root).rename(the_file(root, "services/gateway"))
    assert stored.read(NAME) is None
    refusal(stored, "services/gateway")


def test_another_key_opens_nothing(stored: EmbeddedSecretStore, root: Path) -> None:
    (root / "master.key").write_bytes(bytes(32))
    refusal(stored)


@pytest.mark.parametrize("damage", ["removed", "emptied"])
def test_a_lost_key_is_never_replaced_by_a_new_one(stored: EmbeddedSecretStore, root: Path, damage: str) -> None:
    key = root / "master.key"
    key.unlink() if damage == "removed" else key.write_bytes(b"")
    with pytest.raises(MissingKey):
        stored.read(NAME)
    with pytest.raises(MissingKey):
        stored.write(NAME, SECOND, category=CATEGORY, expected=1)
    with pytest.raises(MissingKey):
        stored.ensure("services/gateway", lambda: FIRST, category=CATEGORY)
    assert sorted(path.name for path in root.glob("*.secret")) == [the_file(root).name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(stored: EmbeddedSecretStore, root: Path, mode: int) -> None:
    (root / "master.key").chmod(mode)
    with pytest.raises(ExposedSecrets, match=f"chmod 0600 {root / 'master.key'}"):
        stored.read(NAME)
    with pytest.raises(ExposedSecrets):
        stored.write(NAME, SECOND, category=CATEGORY, expected=1)


def test_a_folder_that_others_may_enter_takes_no_new_secret(stored: EmbeddedSecretStore, root: Path) -> None:
    root.chmod(0o755)
    with pytest.raises(ExposedSecrets, match=f"chmod 0700 {root}"):
        stored.write(NAME, SECOND, category=CATEGORY, expected=1)


def test_a_link_in_place_of_the_key_is_not_followed(stored: EmbeddedSecretStore, root: Path) -> None:
    key = root / "master.key"
    elsewhere = root.parent / "key"
    key.rename(elsewhere)
    key.symlink_to(elsewhere)
    with pytest.raises(SecretsUnavailable):
        stored.read(NAME)


def test_what_a_killed_writer_left_is_not_read_and_is_cleared_away(stored: EmbeddedSecretStore, root: Path) -> None:
    part = root / (the_file(root, version=2).name + ".part")
    part.write_bytes(b"half")
    assert stored.read(NAME) == FIRST
    assert stored.write(NAME, SECOND, category=CATEGORY, expected=1) == 2
    assert not part.exists()


def test_a_place_that_cannot_be_a_folder_is_an_outage_and_not_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = EmbeddedSecretStore(tmp_path / "file" / "secrets")
    with pytest.raises(SecretsUnavailable):
        store.read(NAME)
    with pytest.raises(SecretsUnavailable):
        store.write(NAME, FIRST, category=CATEGORY, expected=None)


def test_a_writer_that_holds_the_lock_for_ever_becomes_an_outage(stored: EmbeddedSecretStore, root: Path) -> None:
    waiting = EmbeddedSecretStore(root, ManualClock())
    with stored._locked():
        with pytest.raises(SecretsUnavailable, match="lock"):
            waiting.write(NAME, SECOND, category=CATEGORY, expected=1)
        assert waiting.read(NAME) == FIRST


WRITER = """
import json, sys
from pathlib import Path
from dr_platform.secrets.embedded import EmbeddedSecretStore, make_password
from dr_platform.secrets.port import StaleSecret
store = EmbeddedSecretStore(Path(sys.argv[1]))
sys.stdin.readline()
given = store.ensure("shared", lambda: {"password": make_password()}, category="x")["password"]
won = 0
while won < 10:
    found = store.metadata("counter")
    count = int(store.read_version("counter", found.version)["count"]) if found else 0
    try:
        store.write("counter", {"count": str(count + 1)}, category="x", expected=found.version if found else None)
    except StaleSecret:
        continue
    won += 1
print(json.dumps(given))
"""


def test_processes_that_start_at_once_share_one_key_one_secret_and_lose_no_change(
    store: EmbeddedSecretStore, root: Path
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    given = {json.loads(process.communicate(timeout=60)[0]) for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    shared = store.read("shared")
    assert shared is not None
    assert given == {shared["password"]}
    assert store.read("counter") == {"count": "40"}


ENDLESS_WRITER = """
import sys
from pathlib import Path
from dr_platform.secrets.embedded import EmbeddedSecretStore
store = EmbeddedSecretStore(Path(sys.argv[1]))
version = None
while True:
    version = store.write("counter", {"count": "x" * 5000}, category="x", expected=version)
    print(version, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_was_told_is_stored(root: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(root)], stdout=subprocess.PIPE)
    assert process.stdout
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.kill()
    told = max([20, *(int(line) for line in process.stdout if line.endswith(b"\n"))])
    process.wait()
    process.stdout.close()
    store = EmbeddedSecretStore(root)
    metadata = store.metadata("counter")
    assert metadata is not None
    assert metadata.version in {told, told + 1}
    assert store.read("counter") == {"count": "x" * 5000}
    assert store.write("counter", {"count": "0"}, category="x", expected=metadata.version) == metadata.version + 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.from_regex(r"[a-z0-9]{1,8}([-_]{1,2}[a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}", fullmatch=True),
    fields=st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=5),
)
def test_every_name_and_every_text_comes_back_as_it_was(name: str, fields: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedSecretStore(Path(folder) / "secrets")
        store.write(check_name(name), fields, category="x", expected=None)
        assert store.read(name) == fields
        assert store.names() == (name,)


def test_passwords_are_long_url_safe_and_never_the_same() -> None:
    made = {make_password() for _ in range(200)}
    assert len(made) == 200
    assert all(len(password) == 32 and password.isascii() and password.isalnum() for password in made)
    assert len(make_password(64)) == 64
    with pytest.raises(ValueError, match="at least 16"):
        make_password(15)


def test_importing_the_store_does_not_import_the_cryptography_library() -> None:
    script = "import sys, dr_platform.secrets.embedded; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
