"""Whatever stands in a catalog file, loading it ends in a catalog or in a ``CatalogError`` that quotes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dr_platform.catalog import CatalogError, load_catalog
from dr_platform.catalog.faults import Fault
from dr_platform.catalog.load import KINDS
from tests.catalogs import SHIPPED, shipped_copy

pytestmark = pytest.mark.unit

SECRET = "Tr0ub4dor&3!"
FILES = sorted({next(SHIPPED.glob(kind.path_of("*"))).relative_to(SHIPPED).as_posix() for kind in KINDS})
KNOWN_KEYS = sorted({name for kind in KINDS for name in kind.model.model_fields})

brief = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return shipped_copy(tmp_path_factory.mktemp("robust"))


def faults_with(root: Path, file: str, content: bytes) -> tuple[Fault, ...]:
    """Load with this content in place of the file's own; the file is whole again afterwards."""
    kept = (root / file).read_bytes()
    (root / file).write_bytes(content)
    try:
        load_catalog(root)
    except CatalogError as exc:
        assert SECRET not in str(exc)  # noqa: PT017 - the other outcome, a catalog, is fine too
        assert SECRET not in repr(exc)  # noqa: PT017
        return exc.faults
    finally:
        (root / file).write_bytes(kept)
    return ()


def assert_each_fault_helps(faults: tuple[Fault, ...]) -> None:
    for fault in faults:
        assert fault.problem != "cannot be used", f"{fault}: this code of pydantic has no words"
        assert fault.remedy
        assert str(fault).isprintable()


@brief
@given(content=st.binary(max_size=400), file=st.sampled_from(FILES))
def test_arbitrary_bytes(root: Path, content: bytes, file: str) -> None:
    faults = faults_with(root, file, content)
    assert faults, "no short random text is a whole catalog file"
    assert_each_fault_helps(faults)


@brief
@given(
    file=st.sampled_from(FILES),
    cuts=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 30),
            st.sampled_from(
                [
                    SECRET,
                    f" {SECRET}",
                    f": {SECRET}\n",
                    "\n  ",
                    "\t",
                    "- ",
                    "{",
                    "[",
                    "'",
                    "&a ",
                    "*a",
                    "!!x ",
                    "? ",
                    "%",
                ]
            ),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_good_file_with_cuts_and_pasted_secrets(root: Path, file: str, cuts: list[tuple[float, int, str]]) -> None:
    text = (root / file).read_text(encoding="utf-8")
    for share, length, pasted in cuts:
        at = int(share * len(text))
        text = text[:at] + pasted + text[at + length :]
    assert_each_fault_helps(faults_with(root, file, text.encode()))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.just(SECRET),
    st.sampled_from(["local", "production", "1 %", "100 ms", "1 GB", "team:x", "8080", "010", "1e9", "=", "<<"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN_KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@brief
@given(
    file=st.sampled_from(FILES), changes=st.dictionaries(st.sampled_from(KNOWN_KEYS), values, min_size=1, max_size=6)
)
def test_any_value_in_any_field(root: Path, file: str, changes: dict[str, Any]) -> None:
    data = yaml.safe_load((root / file).read_text(encoding="utf-8")) | changes
    assert_each_fault_helps(
        faults_with(root, file, yaml.dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
    )


@brief
@given(data=st.data())
def test_any_value_in_a_field_of_the_right_file(root: Path, data: st.DataObject) -> None:
    """Keys that exist reach every kind of refusal, so that each has words of ours."""
    file = data.draw(st.sampled_from(FILES))
    content = yaml.safe_load((root / file).read_text(encoding="utf-8"))
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(values)
    assert_each_fault_helps(
        faults_with(root, file, yaml.dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))
    )
