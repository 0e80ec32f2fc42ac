"""Guards what CI's events mean: which of them deploys where, once, and never without the gate."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dr_platform.catalog import Environment, load_catalog
from dr_platform.catalog.models import Intake
from dr_platform.cli import intake_verbs
from dr_platform.clock import ManualClock
from dr_platform.definitions import build_definitions
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.intake.change import Change, Happening, Malformed, Nothing, read_event
from dr_platform.intake.decide import WAITS_FOR, Accepted, Deploy, Ignored, decide, turn
from dr_platform.intake.desk import ACCEPTED, IGNORED, IntakeDesk, Outcome
from dr_platform.intake.server import KEY_SECRET
from dr_platform.intake.signature import GITHUB_WINDOW, WINDOW, refused, signature, too_old
from dr_platform.platform import Platform, find_catalog
from dr_platform.release_delivery import release_store
from dr_platform.resources import ACTOR_TAG
from tests.catalogs import generated
from tests.opened import Opened
from tests.release_values import a_bundle, a_member

pytestmark = pytest.mark.unit

CATALOG = load_catalog(find_catalog())
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
A, B, ZERO = "a" * 40, "b" * 40, "0" * 40
REPOSITORY = {"full_name": "dr/assistant", "pushed_at": int(NOW.timestamp())}


def push(branch: str = "main", before: str = A, after: str = B, **more: Any) -> bytes:
    return json.dumps(
        {"ref": f"refs/heads/{branch}", "before": before, "after": after, "repository": REPOSITORY, **more}
    ).encode()


def merge(
    into: str = "main", came_from: str = "feature/notes", action: str = "closed", *, merged: bool = True
) -> bytes:
    pull = {
        "merged": merged,
        "merged_at": NOW.isoformat().replace("+00:00", "Z") if merged else None,
        "merge_commit_sha": B,
        "base": {"ref": into},
        "head": {"ref": came_from},
    }
    return json.dumps({"action": action, "pull_request": pull, "repository": REPOSITORY}).encode()


def plain(**fields: Any) -> bytes:
    return json.dumps({"id": "build-17", "event": "push", "branch": "main", "commit": B} | fields).encode()


def change(content: bytes, github: str | None = None) -> Change:
    found = read_event(content, github)
    assert isinstance(found, Change)
    return found


# What an event says


def test_the_three_forms_say_what_happened_where_and_when() -> None:
    pushed, merged, told = change(push(), "push"), change(merge(), "pull_request"), change(plain(release="3.1"))
    assert (pushed.happening, pushed.branch, pushed.commit, pushed.at) == (Happening.PUSH, "main", B, NOW)
    assert (merged.happening, merged.branch, merged.came_from) == (
        Happening.PULL_REQUEST_MERGE,
        "main",
        "feature/notes",
    )
    assert merged.at == NOW
    assert (pushed.release, told.release) == (f"git-{B[:12]}", "3.1")


@pytest.mark.parametrize(
    ("content", "github"),
    [
        (push(deleted=True), "push"),
        (json.dumps({"ref": "refs/tags/v1"}).encode(), "push"),
        (merge(merged=False), "pull_request"),
        (merge(action="opened"), "pull_request"),
        (b'{"zen": "Keep it logically awesome."}', "ping"),
        (b'{"anything": 1}', "an_event_of_tomorrow"),
    ],
)
def test_what_deploys_nowhere_is_no_change(content: bytes, github: str) -> None:
    assert isinstance(read_event(content, github), Nothing)


@pytest.mark.parametrize(
    ("content", "github"),
    [
        (b"", None),
        (b"[1]", None),
        (b"[" * 100_000, None),
        (b"\xff\xfe", None),
        (plain(id=""), None),
        (plain(commit="; rm -rf /"), None),
        (plain(branch="../../etc"), None),
        (plain(event="pull"), None),
        (plain(release="a/b"), None),
        (plain(at="2026-01-01T00:00:00"), None),
        (push(branch="a b"), "push"),
        (push(repository={"full_name": "dr/assistant", "pushed_at": True}), "push"),
        (push(repository={"full_name": "dr/assistant", "pushed_at": 10**30}), "push"),
        (b'{"action": "closed"}', "pull_request"),
    ],
)
def test_what_cannot_be_read_is_refused_and_never_quoted(content: bytes, github: str | None) -> None:
    with pytest.raises(Malformed) as found:
        read_event(content, github)
    assert "rm -rf" not in str(found.value)


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    ),
    st.sampled_from([None, "push", "pull_request", "ping"]),
)
def test_whatever_is_sent_is_read_or_refused(body: object, github: str | None) -> None:
    with contextlib.suppress(Malformed):
        read_event(json.dumps(body).encode(), github)


def test_an_event_keeps_its_identity_when_it_is_delivered_again_and_a_push_back_is_another() -> None:
    assert change(push(), "push").identity == change(push(more=1), "push").identity
    assert change(push(before=B, after=A), "push").identity != change(push(), "push").identity
    assert change(plain()).identity == change(plain(branch="develop")).identity  # it has its own name
    assert change(merge(), "pull_request").identity != change(push(), "push").identity


# What is decided


def environment(name: str) -> Environment:
    return CATALOG.environments[name]


@pytest.mark.parametrize(
    ("content", "github", "expected"),
    [
        (merge("main"), "pull_request", {"development", "integration"}),
        (merge("main", "fix/typo"), "pull_request", {"development"}),
        (merge("release/3.1"), "pull_request", set()),
        (push("main"), "push", {"staging"}),
        (push("release/3.1"), "push", {"staging"}),
        (push("feature/notes"), "push", set()),
        (push("release"), "push", set()),
        (plain(event="pull-request-merge", **{"from": "feature/x"}), None, {"development", "integration"}),
        (plain(event="pull-request-merge"), None, {"development"}),
    ],
)
def test_a_merged_pull_request_deploys_to_development_and_a_release_branch_or_main_to_staging(
    content: bytes, github: str | None, expected: set[str]
) -> None:
    found = {name: decide(read_event(content, github), e) for name, e in CATALOG.environments.items()}
    assert {name for name, intent in found.items() if isinstance(intent, Deploy)} == expected
    assert all(intent.why for intent in found.values())


def test_no_event_deploys_to_production_or_to_a_developers_machine() -> None:
    for name in ("production", "local"):
        assert environment(name).intake is None
        assert decide(change(push(), "push"), environment(name)) == Ignored(f"no event deploys to {name}")


def test_only_the_named_repositories_count_where_any_is_named() -> None:
    wanted = Intake(pushed_to=("main",), repositories=("dr/assistant",))
    staging = environment("staging").model_copy(update={"intake": wanted})
    assert isinstance(decide(change(push(), "push"), staging), Deploy)
    other = push(repository={**REPOSITORY, "full_name": "someone/else"})
    assert isinstance(decide(change(other, "push"), staging), Ignored)
    assert isinstance(decide(change(plain()), staging), Ignored)  # it does not say where it comes from


@settings(max_examples=100)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,30}", fullmatch=True))
def test_whatever_the_branch_only_what_the_file_names_deploys(branch: str) -> None:
    pushed = isinstance(decide(change(push(branch), "push"), environment("staging")), Deploy)
    assert pushed == (branch == "main" or branch.startswith("release/"))


# Who sent it

KEY = "k" * 64
HEADERS = {"x-drp-timestamp": str(int(NOW.timestamp()))}


def ours(body: bytes, sent_at: datetime = NOW, key: str = KEY) -> dict[str, str]:
    stamp = str(int(sent_at.timestamp()))
    return {"x-drp-timestamp": stamp, "x-drp-signature": signature(key, body, stamp)}


def test_what_was_signed_just_now_is_let_in_and_nothing_else() -> None:
    body = plain()
    github = {"x-hub-signature-256": signature(KEY, body)}
    good = [ours(body), ours(body, NOW - WINDOW), ours(body, NOW + WINDOW), github]
    assert [refused(headers, body, KEY, NOW) for headers in good] == [None] * 4
    bad = [
        {},
        HEADERS,
        ours(body, key="other"),
        ours(b"another body"),
        ours(body, NOW - WINDOW - timedelta(seconds=1)),
        ours(body, NOW + WINDOW + timedelta(seconds=1)),
        ours(body) | {"x-drp-timestamp": str(int(NOW.timestamp()) + 1)},
        {"x-drp-signature": signature(KEY, body)},
        {"x-drp-signature": signature(KEY, body, "soon"), "x-drp-timestamp": "soon"},
        {"x-hub-signature-256": signature(KEY, b"another body")},
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": "sha256=ü"},
        github | ours(body),
    ]
    assert all(refused(headers, body, KEY, NOW) for headers in bad)


def test_the_known_example_of_githubs_documentation_is_accepted() -> None:
    # "Validating webhook deliveries", docs.github.com: secret and payload with their published signature.
    found = signature("It's a Secret to Everybody", b"Hello, World!")
    assert found == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_a_github_event_counts_by_the_moment_that_stands_in_its_signed_body() -> None:
    for content, kind in ((push(), "push"), (merge(), "pull_request")):
        assert not too_old(change(content, kind), NOW + GITHUB_WINDOW)
        assert too_old(change(content, kind), NOW + GITHUB_WINDOW + timedelta(seconds=1))
        assert too_old(change(content, kind), NOW - WINDOW - timedelta(seconds=1))
    assert not too_old(change(plain()), NOW)  # its header says when it was sent


# What is kept


@pytest.fixture
def evidence() -> MemoryEvidenceLog:
    return MemoryEvidenceLog(ManualClock(NOW))


def test_an_event_is_taken_in_once_however_often_it_comes(evidence: MemoryEvidenceLog) -> None:
    desk = IntakeDesk(evidence, environment("staging"))
    found = [desk.take(change(push(), "push"), "program:intake-github", f"delivery-{n}") for n in range(3)]
    assert [taken.outcome for taken in found] == [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert {taken.release for taken in found} == {f"git-{B[:12]}"}
    (entry,) = evidence.entries()
    assert (entry.kind, entry.actor, entry.body["delivery"]) == (ACCEPTED, "program:intake-github", "delivery-0")
    assert (entry.body["branch"], entry.body["commit"], entry.body["release"]) == ("main", B, f"git-{B[:12]}")


def test_one_that_was_ignored_is_kept_once_and_decided_anew_when_the_catalog_has_changed(
    evidence: MemoryEvidenceLog,
) -> None:
    shut = environment("staging").model_copy(update={"intake": Intake(pushed_to=("release/*",))})
    for _ in range(2):
        assert IntakeDesk(evidence, shut).take(change(push(), "push"), "x").outcome is Outcome.IGNORED
    assert [entry.kind for entry in evidence.entries()] == [IGNORED]
    again = IntakeDesk(evidence, environment("staging")).take(change(push(), "push"), "x")
    assert again.outcome is Outcome.ACCEPTED


def test_environments_that_share_a_log_take_in_for_themselves(evidence: MemoryEvidenceLog) -> None:
    names = ("development", "integration", "staging")
    desks = [IntakeDesk(evidence, environment(name)) for name in names]
    merged = change(merge(), "pull_request")
    assert [desk.take(merged, "x").outcome.value for desk in desks] == ["accepted", "accepted", "ignored"]
    assert [len(desk.accepted()) for desk in desks] == [1, 1, 0]


# What comes next


def accepted(sequence: int, release: str, age: timedelta = timedelta(0)) -> Accepted:
    return Accepted(sequence, f"intake/staging/{sequence}", release, NOW - age, "push to main", "github")


def test_the_newest_whose_release_exists_is_started_and_those_before_it_never_are() -> None:
    three = [accepted(n, f"r{n}") for n in (1, 2, 3)]
    found = turn(three, 0, {"r1", "r2"}, NOW)
    assert found.start == three[1]
    assert {one.release: why for one, why in found.waiting} == {
        "r3": "waits for `drp release create`",
        "r1": "overtaken by r2",
    }
    assert turn(three, 2, {"r1", "r2"}, NOW).start is None
    assert turn(three, 2, {"r1", "r2", "r3"}, NOW).start == three[2]


def test_a_release_that_comes_after_a_day_is_not_deployed_for_an_old_event() -> None:
    old = accepted(1, "r1", WAITS_FOR)
    found = turn([old], 0, {"r1"}, NOW)
    assert found.start is None
    assert found.summary() == "r1: its release was not created in time"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=12), st.integers(0, 13))
def test_whatever_was_taken_in_nothing_starts_twice_or_backwards_or_without_its_release(
    events: list[tuple[bool, int]], started: int
) -> None:
    every = [accepted(n, f"r{n}", timedelta(hours=age)) for n, (_, age) in enumerate(events, 1)]
    there = {f"r{n}" for n, (exists, _) in enumerate(events, 1) if exists}
    found = turn(every, started, there, NOW)
    if found.start is not None:
        assert found.start.sequence > started
        assert found.start.release in there
        assert turn(every, found.start.sequence, there, NOW).start is None
    assert len(found.waiting) + (found.start is not None) == len([one for one in every if one.sequence > started])


# The sensor and the verbs


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    opened = Platform.open(
        "staging", catalog=generated(tmp_path, 2), state=tmp_path / "state", runtime="local", clock=ManualClock(NOW)
    )
    opened.state.make()
    opened.__dict__["evidence"] = MemoryEvidenceLog(opened.clock)
    return opened


def drp(platform: Platform, *words: str) -> Result:
    app = typer.Typer()
    intake_verbs.register(app)
    return CliRunner().invoke(app, list(words), obj=Opened(platform))


def tick(platform: Platform, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    sensor = next(s for s in build_definitions(platform).sensors or () if s.name == "intake")
    result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def test_what_ci_tells_by_a_file_becomes_one_run_of_the_job_that_asks_the_gate(
    platform: Platform, tmp_path: Path
) -> None:
    event = tmp_path / "event.json"
    event.write_bytes(push())
    told = drp(platform, "intake", str(event), "--github", "push", "--json")
    assert told.exit_code == 0, told.output
    release = f"git-{B[:12]}"
    assert json.loads(told.stdout) == {
        "outcome": "accepted",
        "release": release,
        "why": f"push to main, commit {B[:12]}",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        waiting = tick(platform, instance)
        assert waiting.run_requests == []
        assert "waits for `drp release create`" in str(waiting.skip_reason)
        release_store(platform).add(a_bundle({"service-0000": a_member("1.0.0")}, {}, name=release))
        first = tick(platform, instance)
        (request,) = first.run_requests or []
        assert request.run_config == {
            "ops": {"promote_release": {"config": {"release": release, "environment": "staging"}}}
        }
        assert request.tags[ACTOR_TAG] == "program:intake-github"
        job = build_definitions(platform).resolve_job_def("promote")
        assert dg.validate_run_config(job, request.run_config)
        assert tick(platform, instance, first.cursor).run_requests == []
        (again,) = tick(platform, instance).run_requests or []  # a lost cursor asks for the same run
        assert again.run_key == request.run_key


def test_an_ignored_event_is_no_failure_of_ci_and_one_that_cannot_be_read_is(
    platform: Platform, tmp_path: Path
) -> None:
    event = tmp_path / "event.json"
    event.write_bytes(plain(branch="feature/x"))
    told = drp(platform, "intake", str(event))
    assert (told.exit_code, told.stdout) == (0, "ignored: a push to feature/x deploys nothing to staging\n")
    event.write_bytes(b"no JSON")
    assert isinstance(drp(platform, "intake", str(event)).exception, Malformed)


def test_the_key_is_written_once_for_its_owner_alone_and_never_shown(platform: Platform, tmp_path: Path) -> None:
    to = tmp_path / "key"
    shown = drp(platform, "intake-key", str(to), "--json")
    assert shown.exit_code == 0
    key = to.read_text(encoding="ascii")
    assert len(key) == 64
    assert key not in shown.output
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    assert platform.secrets.read(KEY_SECRET) == {"key": key}
    again = drp(platform, "intake-key", str(to))
    assert isinstance(again.exception, intake_verbs.FileThere)
