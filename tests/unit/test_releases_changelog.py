"""Guards the text that people read after a deployment, letter by letter."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dr_platform.databases.port import Phase
from dr_platform.releases.bundle import ReleaseBundle, diff
from dr_platform.releases.changelog import Deployment, changelog_entry
from tests.release_values import a_bundle, a_member, a_revision, a_step

pytestmark = pytest.mark.unit

BEFORE = a_bundle(
    {
        "billing": a_member(),
        "consent": a_member(),
        "embedding-service": a_member(),
        "search-service": a_member(embedding_service="1"),
    },
    {"postgres": [a_step("1.0.0")]},
    name="3.0",
)
AFTER = a_bundle(
    {
        "billing": a_member().model_copy(update={"revision": a_revision("1.0.0", "fedcba9876543210")}),
        "embedding-service": a_member("2.0.0", "2"),
        "mail": a_member("0.1.0"),
        "search-service": a_member("1.1.0", embedding_service=">=2"),
    },
    {"postgres": [a_step("1.0.0"), a_step("1.1.0"), a_step("1.2.0"), a_step("1.3.0", Phase.CONTRACT)]},
).model_copy(update={"description": "Vectors *twice* as long.", "data_contract": "2"})

GOLDEN = """\
## 4.0 in production, 2026-03-02 14:05 UTC

Vectors \\*twice\\* as long.

Deployed by ana; replaces 3.0. Digest `DIGEST`.

### Services

| Service | Before | After | What changed |
| --- | --- | --- | --- |
| billing | 1.0.0 (configuration `0123456789ab`) | 1.0.0 (configuration `fedcba987654`) | configuration |
| consent | 1.0.0 | – | removed |
| embedding-service | 1.0.0 (image `100000000000`) | 2.0.0 (image `200000000000`) | version, image, contract |
| mail | – | 0.1.0 | added |
| search-service | 1.0.0 (image `100000000000`) | 1.1.0 (image `110000000000`) | version, image, contract |

### Schema

- postgres: expand 1.1.0, 1.2.0
- postgres: contract 1.3.0; nothing that uses it can go back after that

### Contracts

- **Breaking** for search-service: embedding-service provides 2 (1 before)
- data that is handed on has form 2 (1 before)
"""


def entry(before: ReleaseBundle | None, after: ReleaseBundle, by: str = "ana") -> str:
    at = datetime(2026, 3, 2, 14, 5, tzinfo=UTC)
    return changelog_entry(Deployment(after, diff(before, after), "production", at, by))


def test_an_entry_tells_services_schema_and_contracts() -> None:
    assert entry(BEFORE, AFTER) == GOLDEN.replace("DIGEST", AFTER.digest)


def test_a_first_deployment_replaces_nothing() -> None:
    text = entry(None, a_bundle({"mail": a_member()}))
    assert "; the first release here." in text
    assert "| mail | – | 1.0.0 | added |" in text
    assert "### Contracts" not in text


def test_a_release_that_changes_nothing_says_so() -> None:
    assert entry(BEFORE, BEFORE).endswith("\n\nNothing differs from what ran before.\n")


def test_an_older_release_tells_which_steps_it_does_not_have() -> None:
    text = entry(AFTER, BEFORE)
    assert "- postgres: stays at steps this release does not have: 1.1.0, 1.2.0, 1.3.0" in text
    assert "**Breaking** for search-service: embedding-service provides 1 (2 before)" in text


def test_what_people_wrote_cannot_break_out_of_its_line() -> None:
    text = entry(BEFORE, BEFORE.model_copy(update={"description": "a\n## b\r<b>"}), by="x | `y`")
    assert "a \\#\\# b \\<b\\>" in text
    assert "Deployed by x \\| \\`y\\`; replaces" in text
