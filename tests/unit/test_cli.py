"""Guards the command as a person meets it: help, documents, messages and exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.testing import CliRunner

from dr_platform import cli
from dr_platform.cli.app import VERBS, app
from dr_platform.cli.context import Choice, Repeatable, repeatable
from tests.catalogs import SHIPPED, shipped_copy
from tests.e2e.platform_process import clean_environment

pytestmark = pytest.mark.unit

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


def verbs(group: Any = None, prefix: str = "drp") -> Iterator[tuple[str, str | None]]:
    """Every verb with the text that `--help` shows for it."""
    group = group or typer.main.get_command(app)
    for name in group.list_commands(None):
        verb = group.get_command(None, name)
        if not isinstance(verb, TyperGroup):
            yield f"{prefix} {name}", verb.help
            continue
        if verb.invoke_without_command:  # a group that does something by itself
            yield f"{prefix} {name}", verb.help
        yield from verbs(verb, f"{prefix} {name}")


def drp(*words: str, state: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "dr_platform.cli", "--state", str(state), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=clean_environment(), timeout=60)


@pytest.mark.parametrize(("verb", "text"), list(verbs()))
def test_every_verb_has_help_and_stands_in_the_document(verb: str, text: str | None) -> None:
    assert text, f"{verb} is missing its help"
    assert f"`{verb}" in DOCUMENT


@pytest.mark.parametrize(("module", "named"), [pair for modules in VERBS.values() for pair in modules.items()])
def test_a_module_has_the_verbs_by_which_it_is_found(module: str, named: tuple[str, ...]) -> None:
    root = typer.Typer()
    root.callback()(lambda: None)
    import_module(f"dr_platform.cli.{module}").register(root)
    assert set(typer.main.get_group(root).commands) == set(named)


def test_every_module_of_verbs_is_found() -> None:
    there = {path.stem for path in Path(cli.__file__).parent.glob("*_verbs.py")}
    assert {module for modules in VERBS.values() for module in modules} == there


def test_a_mistyped_verb_is_answered_with_the_nearest_one() -> None:
    done = CliRunner().invoke(app, ["incidnt", "list"])
    assert done.exit_code == 2
    assert "incident" in done.output


def test_the_document_names_no_verb_that_does_not_exist() -> None:
    named = set(re.findall(r"^\| `(drp [a-z-]+(?: [a-z]+)?)", DOCUMENT, re.MULTILINE))
    assert named == {verb for verb, _ in verbs()}


def test_wrong_catalogs_are_refused_with_every_fault_and_without_a_traceback(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "services" / "billing.yaml").write_text("name: billing\nport: 8090\nsurprise: 1\n")
    done = drp("--catalog", str(root), "up", state=tmp_path / "state")
    assert done.returncode == 2
    assert "services/billing.yaml" in done.stderr
    assert "surprise" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_faults_are_json_when_asked_for(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases" / "redis" / "database.yaml").write_text("")
    done = CliRunner().invoke(app, ["--catalog", str(root), "catalog", "validate", "--json"])
    assert done.exit_code == 2
    faults = json.loads(done.stdout)
    assert {"file", "field", "problem", "remedy"} <= set(faults[0])


def test_faults_of_migrations_are_named_with_those_of_the_rest(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases" / "redis" / "database.yaml").write_text("")
    (root / "databases" / "redis" / "migrations").mkdir()
    (root / "databases" / "redis" / "migrations" / "V1__a.redis").write_text("FLUSHALL\n")
    for broken in (True, False):
        if not broken:
            (root / "databases" / "redis" / "database.yaml").write_text(
                (SHIPPED / "databases" / "redis" / "database.yaml").read_text()
            )
        done = CliRunner().invoke(app, ["--catalog", str(root), "catalog", "validate", "--json"])
        assert done.exit_code == 2
        files = {fault["file"] for fault in json.loads(done.stdout)}
        assert "databases/redis/migrations/V1__a.redis" in files
        assert ("databases/redis/database.yaml" in files) is broken


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        pytest.param(["--env", "moon", "status"], 2, "no such environment", id="unknown environment"),
        pytest.param(["--env", "staging", "up"], 2, "--runtime local", id="an environment of another runtime"),
        pytest.param(["--catalog", "/nowhere", "status"], 2, "no catalog", id="no catalog"),
        pytest.param(["--env", "production", "synthesize"], 2, "holds phi data", id="invented among real patients"),
        pytest.param(["synthesize", "--scale", "0"], 2, "scale factor", id="nobody at all"),
        pytest.param(["materialize", "services"], 3, "drp up", id="nothing runs"),
        pytest.param(["check", "--suite", "smoke"], 3, "drp up", id="a suite where nothing runs"),
        pytest.param(["check", "--suite", "speed"], 2, "health, smoke, integration", id="unknown suite"),
        pytest.param(["check", "services/nobody"], 2, "no check belongs to it", id="unknown asset"),
        pytest.param(["seed", "nonsense"], 2, "no such knowledge set", id="unknown set"),
        pytest.param(["fault", "inject", "nobody", "--version", "1", "--unready"], 2, "no such service", id="unknown service"),
        pytest.param(["incident", "list"], 3, "drp up", id="incidents of a platform that does not run"),
        pytest.param(["incident", "assess", "inc-1", "--conclusion", "breach"], 2, "nature_and_extent", id="an assessment of one answer"),
        pytest.param(["catalog", "schema", "planet"], 2, "choose one of", id="unknown kind"),
    ],
)  # fmt: skip
def test_a_users_mistake_ends_in_a_message_with_the_remedy(
    words: list[str], code: int, told: str, tmp_path: Path
) -> None:
    done = drp(*words, state=tmp_path / "state")
    assert done.returncode == code, done.stderr
    assert told.replace("drp up", f"drp --state {tmp_path / 'state'} up") in done.stderr
    assert "Untouched:" in done.stderr
    assert "Next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_a_platform_that_does_not_run_is_an_answer(tmp_path: Path) -> None:
    done = drp("--env", "production", "--runtime", "local", "status", "--json", state=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["environment"] == "production"
    assert not any(service["healthy"] for service in status["services"])


def test_reset_does_nothing_without_the_right_word(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "local").mkdir(parents=True)
    done = CliRunner().invoke(app, ["--state", str(state), "reset"], input="yes\n")
    assert done.exit_code == 2
    assert (state / "local").exists()


# Commands in messages


SOME = ("up", "rollout", "release")
MESSAGE = "`drp up` starts drp; run it: drp rollout show, `drp --env staging up`, not adrp up, drp-up or drp upgrade"


def test_a_command_in_a_message_repeats_the_options_that_were_given() -> None:
    hook = Repeatable()
    hook.of(Choice("staging", "local", Path("/a path")), SOME)
    typed = "drp --env staging --runtime local --catalog '/a path'"
    expected = MESSAGE.replace("`drp up", f"`{typed} up").replace("drp rollout", f"{typed} rollout")
    assert hook.text(MESSAGE) == expected
    console = Console(file=io.StringIO(), width=40)
    console.push_render_hook(hook)
    with console.capture() as printed:
        console.print(MESSAGE, markup=False, soft_wrap=True)
        console.print("[bold]nothing[/] to repeat")
    assert printed.get() == f"{expected}\nnothing to repeat\n"


def test_options_of_one_command_are_not_those_of_the_next() -> None:
    CliRunner().invoke(app, ["--env", "staging", "catalog", "schema", "service"])
    console = Console(file=io.StringIO(), width=80)
    console.push_render_hook(repeatable)
    with console.capture() as printed:
        console.print("see `drp up`")
    assert printed.get() == "see `drp up`\n"


def test_without_options_a_message_stays_as_it_is() -> None:
    hook = Repeatable()
    assert hook.text(MESSAGE) == MESSAGE
    hook.of(Choice(), SOME)
    assert hook.text(MESSAGE) == MESSAGE


def test_styles_stay_where_they_were() -> None:
    hook = Repeatable()
    hook.of(Choice("staging"), SOME)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.push_render_hook(hook)
    with console.capture() as printed:
        console.print("see [bold]`drp up`[/] and [red]bad[/]")
    assert "\x1b[31mbad\x1b[0m" in printed.get()
    assert re.sub(r"\x1b\[\d+m", "", printed.get()) == "see `drp --env staging up` and bad\n"


# What a shell completes

PROGRAM = "import sys; sys.argv[0] = 'drp'; from dr_platform.cli import main; main()"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        pytest.param(["back"], ["backup", "backup-keys", "backups"], id="a verb"),
        pytest.param(["rollout", "re"], ["restart", "retry"], id="a verb of a group"),
        pytest.param(["backup", "p"], ["postgres"], id="a database"),
        pytest.param(["--env", "st"], ["staging"], id="an environment"),
        pytest.param(
            ["--catalog", "ELSEWHERE", "deploy", "bi"], ["billing", "billing-of-another"], id="another catalog"
        ),
        pytest.param(["--catalog", "/nowhere", "deploy", ""], [], id="no catalog"),
    ],
)
def test_a_shell_completes_verbs_and_names_of_the_catalog(typed: list[str], offered: list[str], tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "services" / "billing-of-another.yaml").write_text("not: [a service", encoding="utf-8")
    words = ["drp", *(str(root) if word == "ELSEWHERE" else word for word in typed)]
    asked = {"_DRP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, check=False, env=clean_environment() | asked, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == offered
