"""Guards what a release consists of, its digest, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dr_platform.databases.port import Phase, SchemaStep
from dr_platform.releases.bundle import (
    MalformedRelease,
    ReleaseBundle,
    ServiceChange,
    Step,
    UnmetContracts,
    create,
    diff,
    variant,
)
from tests.release_values import MADE_AT, a_bundle, a_member, a_revision, a_step, shipped

pytestmark = pytest.mark.unit


MEMBERS = st.builds(
    a_member, st.sampled_from(["1.0.0", "1.1.0"]), st.sampled_from(["1", "2"]), billing=st.sampled_from(["1", ">=1 <3"])
)
STEPS = st.dictionaries(st.sampled_from("123"), st.sampled_from(Phase), min_size=1).map(
    lambda phases: [a_step(version, phase) for version, phase in sorted(phases.items())]
)
BUNDLES = st.builds(
    a_bundle,
    st.dictionaries(st.sampled_from(["search", "consent", "audit"]), MEMBERS),
    st.dictionaries(st.sampled_from(["postgres", "redis"]), STEPS),
)
WHOLE = a_bundle({"search": a_member()}, {"postgres": [a_step("1.0.0")]})


@given(BUNDLES)
def test_a_release_that_is_written_and_read_again_has_its_digest(bundle: ReleaseBundle) -> None:
    again = ReleaseBundle.model_validate_json(bundle.model_dump_json())
    assert again == bundle
    assert again.digest == bundle.digest


def test_the_digest_is_computed_with_any_sha_256_tool() -> None:
    text = json.dumps(json.loads(WHOLE.model_dump_json()), sort_keys=True, separators=(",", ":"))
    assert WHOLE.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "4.1"},
        {"environment": "production"},
        {"services": {"search": a_member("1.0.1")}},
        {"services": {"search": a_member().model_copy(update={"revision": a_revision("1.0.0", "another")})}},
        {"services": {"search": a_member(provides="2")}},
        {"services": {"search": a_member(billing="1")}},
        {"databases": {"postgres": (a_step("1.0.0", Phase.CONTRACT),)}},
        {"databases": {}},
        {"data_contract": "2"},
        {"description": "new"},
        {"created_at": MADE_AT + timedelta(microseconds=1)},
        {"created_by": "ben"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_release_is_under_its_digest(change: dict[str, object]) -> None:
    assert WHOLE.model_copy(update=change).digest != WHOLE.digest


def test_who_made_a_release_and_when_is_no_part_of_what_it_deploys() -> None:
    assert WHOLE.same_content(WHOLE.model_copy(update={"created_by": "ben", "created_at": datetime.now(UTC)}))
    assert not WHOLE.same_content(WHOLE.model_copy(update={"data_contract": "2"}))


def test_a_release_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WHOLE.name = "5"  # type: ignore[misc]


class TestCreating:
    RELEASE = shipped().releases["3.0"]

    def test_it_holds_revisions_contracts_and_schema_steps(self) -> None:
        steps = [SchemaStep("1.0.0", "first", Path("V1_0_0__first.sql"), "sum", Phase.EXPAND)]
        release = self.RELEASE.model_copy(update={"contracts": {"billing": a_member(provides="3").contract}})
        made_at = datetime(2026, 3, 2, 11, 30, tzinfo=timezone(timedelta(hours=2)))
        bundle = create(
            release,
            "staging",
            {"billing": a_revision("1.0.0")},
            {"postgres": steps},
            created_at=made_at,
            created_by="ana",
        )
        assert bundle.services["billing"].revision == a_revision("1.0.0")
        assert bundle.services["billing"].contract.provides == "3"
        assert bundle.databases == {"postgres": (Step(version="1.0.0", phase=Phase.EXPAND, checksum="sum"),)}
        assert bundle.schema_version("postgres") == "1.0.0"
        assert bundle.schema_version("redis") is None
        assert bundle.created_at.isoformat() == "2026-03-02T09:30:00+00:00"

    def test_contracts_that_do_not_fit_are_refused_with_both_names(self) -> None:
        contracts = {"search-service": a_member(embedding_service=">=2").contract}
        release = self.RELEASE.model_copy(update={"contracts": contracts})
        revisions = dict.fromkeys(("search-service", "embedding-service"), a_revision("1.0.0"))
        with pytest.raises(UnmetContracts, match="search-service requires another contract of embedding-service"):
            create(release, "local", revisions, {}, created_at=MADE_AT, created_by="ana")

    def test_a_variant_has_other_versions_and_keeps_the_contracts(self) -> None:
        base = self.RELEASE.model_copy(update={"contracts": {"billing": a_member(provides="3").contract}})
        made = variant(base, "3.0-billing", {"billing": "1.0.1"}, "a fix", date(2026, 3, 2))
        assert (made.name, made.released, made.next_release) == ("3.0-billing", "2026-03-02", None)
        assert (made.version_of("billing"), made.version_of("consent")) == ("1.0.1", "1.0.0")
        assert made.contract_of("billing").provides == "3"

    @pytest.mark.parametrize(
        ("name", "versions", "description", "told"),
        [
            ("../3", {}, "", "name: is not written"),
            ("3.1", {"billing": "latest version"}, "", "services.billing: is not written"),
            ("3.1", {}, "x" * 401, "description: is too long"),
        ],
    )
    def test_a_malformed_one_is_refused_with_its_field(
        self, name: str, versions: dict[str, str], description: str, told: str
    ) -> None:
        with pytest.raises(MalformedRelease, match=told) as caught:
            variant(self.RELEASE, name, versions, description, date(2026, 3, 2))
        assert "latest version" not in str(caught.value)


class TestDiff:
    @given(BUNDLES)
    def test_a_release_does_not_differ_from_itself(self, bundle: ReleaseBundle) -> None:
        assert diff(bundle, bundle).empty

    @given(BUNDLES, BUNDLES)
    def test_it_is_empty_exactly_where_both_deploy_the_same(self, one: ReleaseBundle, other: ReleaseBundle) -> None:
        assert diff(one, other).empty == one.same_content(other)

    @given(BUNDLES, BUNDLES)
    def test_carried_out_it_leads_from_one_to_the_other(self, one: ReleaseBundle, other: ReleaseBundle) -> None:
        change = diff(one, other)
        services = dict(one.services)
        for service in change.services:
            services.pop(service.service, None)
            if service.after is not None:
                services[service.service] = service.after
        assert services == other.services
        for database in change.databases:
            left = {*one.databases.get(database.database, ())} - {*database.removed} | {*database.added}
            assert left == {*other.databases.get(database.database, ())}

    @given(BUNDLES, BUNDLES)
    def test_it_is_json(self, one: ReleaseBundle, other: ReleaseBundle) -> None:
        document = json.loads(json.dumps(diff(one, other).as_document()))
        assert document["services"].keys() == {change.service for change in diff(one, other).services}

    @pytest.mark.parametrize(
        ("make", "aspects"),
        [
            (lambda: (None, a_member()), ("added",)),
            (lambda: (a_member(), None), ("removed",)),
            (lambda: (a_member(), a_member("1.0.1")), ("version", "image")),
            (lambda: (a_member(), a_member(provides="2")), ("contract",)),
            (lambda: (a_member(), a_member().model_copy(update={"revision": a_revision("1.0.0", "x")})),
             ("configuration",)),
        ],
    )  # fmt: skip
    def test_it_says_what_changed_of_a_service(self, make: Callable[[], tuple], aspects: tuple[str, ...]) -> None:
        assert ServiceChange("search", *make()).aspects == aspects

    def test_it_names_running_services_that_a_new_contract_excludes(self) -> None:
        before = a_bundle(
            {"embedding": a_member(), "search": a_member(embedding="1"), "jobs": a_member(embedding="<3")}
        )
        after = a_bundle({"embedding": a_member(provides="2"), "search": a_member(embedding="2"), "jobs": a_member()})
        breaks = {change.service: change.breaks for change in diff(before, after).services}
        assert breaks == {"embedding": ("search",), "search": (), "jobs": ()}

    def test_everything_of_a_first_release_is_new(self) -> None:
        change = diff(None, WHOLE)
        assert [service.aspects for service in change.services] == [("added",)]
        assert [database.added for database in change.databases] == [(a_step("1.0.0"),)]
