"""What every ``SecretStore`` promises; an adapter's tests inherit this class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dr_platform.secrets.port import InvalidSecretName, SecretStore, StaleSecret

NAME = "databases/postgres/admin"
FIRST = {"username": "admin", "password": "first-value"}
SECOND = {"username": "admin", "password": "second-välue\n\u2028\U0001f511"}
CATEGORY = "database-credentials"


class SecretStoreContract:
    """No ``Test`` prefix: it runs only through its adapters, which provide the fixture ``store``."""

    def test_a_name_that_was_never_written_has_neither_value_nor_metadata(self, store: SecretStore) -> None:
        assert store.read(NAME) is None
        assert store.read_version(NAME, 1) is None
        assert store.metadata(NAME) is None
        assert store.names() == ()

    def test_what_was_written_is_read_with_every_character(self, store: SecretStore) -> None:
        assert store.write(NAME, SECOND, category=CATEGORY, expected=None) == 1
        assert store.read(NAME) == SECOND

    def test_the_newest_version_is_read_and_earlier_ones_are_kept(self, store: SecretStore) -> None:
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        assert store.write(NAME, SECOND, category=CATEGORY, expected=1) == 2
        assert store.read(NAME) == SECOND
        assert store.read_version(NAME, 1) == FIRST
        assert store.read_version(NAME, 2) == SECOND
        assert store.read_version(NAME, 3) is None

    @pytest.mark.parametrize("expected", [None, 0, 2], ids=["as new", "version 0", "a version still to come"])
    def test_a_change_from_another_version_is_refused_and_changes_nothing(
        self, store: SecretStore, expected: int | None
    ) -> None:
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        with pytest.raises(StaleSecret):
            store.write(NAME, SECOND, category=CATEGORY, expected=expected)
        assert store.read(NAME) == FIRST
        assert store.read_version(NAME, 2) is None

    @pytest.mark.parametrize("expected", [0, 1])
    def test_a_change_of_what_does_not_exist_is_refused(self, store: SecretStore, expected: int) -> None:
        with pytest.raises(StaleSecret):
            store.write(NAME, FIRST, category=CATEGORY, expected=expected)
        assert store.read(NAME) is None

    def test_of_many_writers_with_one_version_exactly_one_wins(self, store: SecretStore) -> None:
        store.write(NAME, FIRST, category=CATEGORY, expected=None)

        def write(number: int) -> int | None:
            try:
                store.write(NAME, {"password": str(number)}, category=CATEGORY, expected=1)
            except StaleSecret:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(write, range(8)) if number is not None]
        assert len(winners) == 1
        assert store.read(NAME) == {"password": str(winners[0])}

    def test_ensure_makes_once_and_gives_everybody_the_same(self, store: SecretStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            given = list(
                pool.map(lambda n: store.ensure(NAME, lambda: {"password": f"made by {n}"}, category="x"), range(8))
            )
        assert all(fields == store.read(NAME) for fields in given)
        metadata = store.metadata(NAME)
        assert metadata is not None
        assert metadata.version == 1

    def test_ensure_does_not_make_what_is_stored(self, store: SecretStore) -> None:
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        made: list[str] = []
        fields = store.ensure(NAME, lambda: {"made": str(made.append("again"))}, category=CATEGORY)
        assert fields == FIRST
        assert made == []

    def test_metadata_tells_version_category_and_time(self, store: SecretStore) -> None:
        store.write(NAME, FIRST, category="service-keys", expected=None)
        store.write(NAME, FIRST, category=CATEGORY, expected=1)
        metadata = store.metadata(NAME)
        assert metadata is not None
        assert (metadata.name, metadata.category, metadata.version) == (NAME, CATEGORY, 2)
        assert abs(metadata.created_at - datetime.now(UTC)) < timedelta(minutes=5)

    def test_names_are_sorted_and_chosen_by_prefix(self, store: SecretStore) -> None:
        for name in ("databases/redis/admin", "services/gateway", "databases/postgres/admin", "databases/postgres"):
            store.write(name, FIRST, category=CATEGORY, expected=None)
        assert store.names() == (
            "databases/postgres", "databases/postgres/admin", "databases/redis/admin", "services/gateway",
        )  # fmt: skip
        assert store.names("databases/p") == ("databases/postgres", "databases/postgres/admin")
        assert store.names("databases/postgres/") == ("databases/postgres/admin",)
        assert store.names("nothing") == ()

    def test_delete_removes_every_version_and_only_that_name(self, store: SecretStore) -> None:
        store.write(NAME, FIRST, category=CATEGORY, expected=None)
        store.write(NAME, SECOND, category=CATEGORY, expected=1)
        store.write(NAME + "-2", FIRST, category=CATEGORY, expected=None)
        store.delete(NAME)
        store.delete(NAME)
        assert store.read(NAME) is None
        assert store.read_version(NAME, 1) is None
        assert store.metadata(NAME) is None
        assert store.names() == (NAME + "-2",)
        assert store.write(NAME, SECOND, category=CATEGORY, expected=None) == 1

    @pytest.mark.parametrize("name", [
        "", "/", "a//b", "/a", "a/", "../a", "a/../b", "a/./b", ".", "a.b", "A/b", "a b", "a\0b", "a\n", "ä", "-a",
        "a/_b", "a" * 201,
    ])  # fmt: skip
    def test_what_is_no_name_is_refused_everywhere(self, store: SecretStore, name: str) -> None:
        with pytest.raises(InvalidSecretName):
            store.write(name, FIRST, category=CATEGORY, expected=None)
        for look in (store.read, store.metadata, store.delete):
            with pytest.raises(InvalidSecretName):
                look(name)
        with pytest.raises(InvalidSecretName):
            store.read_version(name, 1)
        with pytest.raises(InvalidSecretName):
            store.ensure(name, lambda: FIRST, category=CATEGORY)
