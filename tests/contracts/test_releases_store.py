"""Releases over both object stores: written once, verified at every read."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dr_platform.objects import ObjectStore, local_objects, open_objects
from dr_platform.releases.bundle import canonical, digest_of
from dr_platform.releases.store import DamagedRelease, ReleaseExists, ReleaseStore, UnknownRelease
from tests.release_values import a_bundle, a_member, a_step

pytestmark = pytest.mark.contract

BUNDLE = a_bundle({"billing": a_member(consent=">=1"), "consent": a_member()}, {"postgres": [a_step("1.0.0")]})
OTHER = a_bundle({"billing": a_member("1.0.1")})
KEY = "releases/4.0.json"


@pytest.fixture(params=["folder", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return local_objects(tmp_path / "objects") if request.param == "folder" else open_objects("memory://")


@pytest.fixture
def store(objects: ObjectStore) -> ReleaseStore:
    return ReleaseStore(objects)


def test_a_release_is_read_back_as_it_was_stored(store: ReleaseStore) -> None:
    assert store.add(BUNDLE) == BUNDLE
    assert store.get("4.0") == BUNDLE
    assert store.get("4.0").digest == BUNDLE.digest
    assert store.names() == ("4.0",)


def test_another_content_never_takes_a_name_that_is_taken(store: ReleaseStore) -> None:
    store.add(BUNDLE)
    with pytest.raises(ReleaseExists, match=r"4\.0 exists already"):
        store.add(OTHER)
    assert store.get("4.0") == BUNDLE


def test_the_same_content_again_is_the_one_that_was_stored_first(store: ReleaseStore) -> None:
    store.add(BUNDLE)
    assert store.add(BUNDLE.model_copy(update={"created_by": "ben"})) == BUNDLE


def test_of_many_writers_of_a_name_one_wins_and_the_others_learn_it(store: ReleaseStore) -> None:
    def write(number: int) -> str | None:
        try:
            return store.add(a_bundle({"billing": a_member(f"1.0.{number}")})).digest
        except ReleaseExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        written = [digest for digest in pool.map(write, range(8)) if digest]
    assert written == [store.get("4.0").digest]


def test_what_was_never_created_is_told_with_what_there_is(store: ReleaseStore) -> None:
    with pytest.raises(UnknownRelease, match="`drp release create`"):
        store.get("4.0")
    store.add(BUNDLE)
    with pytest.raises(UnknownRelease, match=r"choose one of 4\.0"):
        store.get("4.1")


def edited(document: dict[str, Any]) -> bytes:
    document["release"]["services"]["billing"]["revision"]["version"] = "6.6.6"
    return canonical(document)


def with_a_field_of_its_own(document: dict[str, Any]) -> bytes:
    document["release"]["services"]["billing"]["revision"]["approved"] = True
    return canonical({**document, "digest": digest_of(document["release"])})


def spelled_in_another_way(document: dict[str, Any]) -> bytes:
    document["release"]["created_at"] = "2026-03-02 09:30Z"
    return canonical({**document, "digest": digest_of(document["release"])})


def with_an_unknown_shape(document: dict[str, Any]) -> bytes:
    del document["release"]["databases"]
    return canonical({**document, "digest": digest_of(document["release"])})


def under_another_name(document: dict[str, Any]) -> bytes:
    document["release"]["name"] = "9.9"
    return canonical({**document, "digest": digest_of(document["release"])})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (edited, "does not have its digest"),
        (lambda document: canonical(document)[:-7], "no stored release"),
        (lambda _: b"[]", "no stored release"),
        (lambda _: b"\xff", "no stored release"),
        (lambda document: canonical({"release": document["release"]}), "no stored release"),
        (spelled_in_another_way, "another digest"),
        (with_a_field_of_its_own, "does not understand"),
        (with_an_unknown_shape, "does not understand"),
        (under_another_name, "another release under this name"),
    ],
)
def test_a_damaged_release_is_never_returned(
    objects: ObjectStore, store: ReleaseStore, damage: Callable[[dict[str, Any]], bytes], why: str
) -> None:
    store.add(BUNDLE)
    document = json.loads(objects.get(KEY))
    objects.delete(KEY)
    objects.put(KEY, damage(document))
    with pytest.raises(DamagedRelease, match=why):
        store.get("4.0")
    with pytest.raises(DamagedRelease):
        store.add(BUNDLE)
    assert store.names() == ("4.0",)
