"""The page about adding a service cannot drift from the models: its example loads, its tables are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dr_platform.catalog import CatalogError, load_catalog
from dr_platform.catalog.export import field_reference
from dr_platform.catalog.load import KINDS, Kind
from tests.catalogs import SHIPPED, shipped_copy

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-service.md").read_text(encoding="utf-8")


def yaml_blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_is_a_23rd_service_and_removing_it_gives_the_catalog_back(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    file = root / "services/appointment-reminders.yaml"
    file.write_text(yaml_blocks()[0], encoding="utf-8")
    added = load_catalog(root)
    assert added.services.keys() - load_catalog(SHIPPED).services.keys() == {"appointment-reminders"}
    assert "appointment-reminders" in {name for wave in added.waves for name in wave}
    file.unlink()
    assert load_catalog(root).services == load_catalog(SHIPPED).services


def test_the_version_and_the_override_of_the_page_are_accepted(tmp_path: Path) -> None:
    example, version, override = yaml_blocks()
    root = shipped_copy(tmp_path)
    (root / "services/appointment-reminders.yaml").write_text(example, encoding="utf-8")
    for file, block in (("releases/3.0.yaml", version), ("environments/staging.yaml", override)):
        with (root / file).open("a", encoding="utf-8") as stream:
            stream.write(block)
    catalog = load_catalog(root)
    assert catalog.releases["3.0"].version_of("appointment-reminders") == "0.1.0"
    assert catalog.environments["staging"].services["appointment-reminders"].settings == {"reminder_hours": "24"}


def test_the_fault_on_the_page_is_the_fault_that_is_told(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    wrong = yaml_blocks()[0].replace("port: 8089", "port: 8088")
    (root / "services/appointment-reminders.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        load_catalog(root)
    assert [str(fault) for fault in caught.value.faults] == re.findall(
        r"^services/[a-z-]+.yaml:[0-9]+: .*$", PAGE, re.MULTILINE
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_stands_in_its_table_and_no_other(kind: Kind) -> None:
    head = f"### {kind.name}: `{kind.path_of('<name>')}`\n"
    assert PAGE.count(head) == 1
    table = PAGE.partition(head)[2].partition("\n### ")[0]
    written = re.findall(r"^\| (\*\*)?`([^`]+)`(?:\*\*)? \| (.*) \|$", table, re.MULTILINE)
    assert [(path, bool(bold), meaning) for bold, path, meaning in written] == [
        (line.path, line.required, line.meaning) for line in field_reference(kind.name)
    ]
