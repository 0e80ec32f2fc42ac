"""The kinds of single fields that models are made of: names, ports, versions, days, settings.

Here: what one scalar may look like, and the remedy in words. Not here: quantities with units
(``quantities``), nor the models.

A ``ValueError`` raised here reads ``problem: remedy`` and never quotes the value.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from dr_platform.catalog.contracts import admitted

_NAME = r"^[a-z][a-z0-9-]{1,39}$"
_OWNER = r"^team:[a-z][a-z0-9-]{1,39}$"
_VERSION = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$"
_DAY = r"^[0-9]{4}-[0-9][0-9]-[0-9][0-9]$"
_SPAN = r"^[0-9]{4}-[0-9][0-9]-[0-9][0-9]/[0-9]{4}-[0-9][0-9]-[0-9][0-9]$"
_HOST_PORT = r"^[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?:[1-9][0-9]{0,4}(/[a-z][a-z0-9_]{0,47})?$"
_SETTING = r"^[a-z][a-z0-9_]{0,62}$"
_DATABASE = r"^[a-z][a-z0-9_]{0,47}$"
_PATH = r"^/[A-Za-z0-9_./-]{0,199}$"
_IMAGE = r"^[a-z0-9][a-z0-9./:_-]{0,254}$"
_FOLDER = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"
_JSON_LINES = r"^[A-Za-z0-9_-]+\.jsonl$"
_LANGUAGE = r"^[a-z]{2}(-[A-Z]{2})?$"
_REGION = r"^[a-z][a-z0-9-]{1,39}$"
_KUBERNETES = r"^1\.[0-9]{2}$"
_CONTRACT = r"^[1-9][0-9]{0,3}$"
_CONTRACT_RANGE = r"^((>=|<)?[1-9][0-9]{0,3}|>=[1-9][0-9]{0,3} <[1-9][0-9]{0,3})$"
_WINDOW = r"^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9] UTC$"

_BRANCHES = r"^[A-Za-z0-9*][A-Za-z0-9._/*-]{0,99}$"
_REPOSITORY = r"^[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}$"
_MODEL = r"^[a-z][a-z0-9._-]{1,63}$"
_SERVER = (
    r"^https?://(\[[0-9a-f:]{2,39}\]|[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?)(:[1-9][0-9]{0,4})?"
    r"(/[A-Za-z0-9_.-]{1,60}){0,5}$"
)
_SERVED = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}(/[A-Za-z0-9._:-]{1,100}){0,3}$"
_EMBEDDER_KEY = r"^embedders/[a-z0-9]+([_-]+[a-z0-9]+)*$"
IN_WORDS = {
    _NAME: "use 2 to 40 lower-case letters, digits and hyphens, a letter first",
    _OWNER: "write `team:` and the team's name, for example team:platform",
    _VERSION: "write a version, for example 1.0.0",
    _DAY: "write a day as 2025-09-01",
    _SPAN: "write first and last day as 2026-12-20/2027-01-02",
    _HOST_PORT: "write host:port or host:port/database without user or password, for example db.example.org:5432",
    _SETTING: "use lower-case letters, digits and underscores, a letter first",
    _DATABASE: "use up to 48 lower-case letters, digits and underscores, a letter first",
    _PATH: "write a path that starts with /, for example /health/ready",
    _IMAGE: "write the image's repository without tag or user, for example dr-assistant/my-service",
    _FOLDER: "write a folder inside the set's own folder, for example articles",
    _JSON_LINES: "write a file inside the set's own folder, for example questions.jsonl",
    _LANGUAGE: "write a language, for example en or pt-BR",
    _KUBERNETES: "write a minor version in quotes, for example '1.22'",
    _CONTRACT: "write a whole number in quotes, for example '2'",
    _CONTRACT_RANGE: "write one contract or a range in quotes, for example '2', '>=2' or '>=2 <4'",
    _BRANCHES: "write a branch, or a pattern in which * stands for any characters, for example release/*",
    _REPOSITORY: "write owner/name, for example dr/assistant",
    _MODEL: "use 2 to 64 lower-case letters, digits, dots, hyphens and underscores, a letter first",
    _SERVER: "write http(s)://host:port, with a path where it has one, without user, key or query",
    _SERVED: "write the model as its server names it, for example BAAI/bge-small-en-v1.5",
    _EMBEDDER_KEY: "write the name of a secret, for example embedders/bge; the key itself goes into the secret store",
    _WINDOW: "write a weekly window as 'Sun 02:00-06:00 UTC'",
}
"""Every pattern of a field as the remedy a person reads; a test fails on a pattern without words."""


def _plain_number(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"0o?[0-9]+|0x[0-9a-fA-F]+", value):
        raise ValueError("has a leading zero, which some programs read as octal: write the number without it")
    return value


def _real_day(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("is no day of the calendar: write a day as 2025-09-01") from None
    return value


def _real_port(value: str) -> str:
    if int(value.rpartition(":")[2].partition("/")[0]) > 65535:
        raise ValueError("has a port above 65535: write host:port with the server's own port")
    return value


def _real_server(value: str) -> str:
    port = re.search(r"[^:/\]]:([0-9]+)(/|$)|\]:([0-9]+)", value)
    if port is not None and int(port[1] or port[3]) > 65535:
        raise ValueError("has a port above 65535: write the server's own port")
    return value


def _ordered_days(value: str) -> str:
    first, _, last = value.partition("/")
    try:
        if date.fromisoformat(first) <= date.fromisoformat(last):
            return value
    except ValueError:
        pass
    raise ValueError(f"is no span of days: {IN_WORDS[_SPAN]}")


def _some_contract(value: str) -> str:
    if not admitted(value):
        raise ValueError(f"admits no contract at all: {IN_WORDS[_CONTRACT_RANGE]}")
    return value


Count = Annotated[int, Field(strict=True), BeforeValidator(_plain_number)]
"""A whole number. Strict: ``true`` is not 1, and a number in quotes is text."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=_NAME)]
Title = Annotated[str, Field(min_length=1, max_length=80)]
Sentence = Annotated[str, Field(min_length=1, max_length=400)]
Owner = Annotated[str, Field(pattern=_OWNER)]
ServicePort = Annotated[Count, Field(ge=1024, le=19999)]
"""Documented ports of services end below 20000: from there on the local runtime places replicas."""
DatabasePort = Annotated[Count, Field(ge=1024, le=28767)]
"""MongoDB's 27017 lies among the ports of replicas, which are given out one by one where they are free.
With the largest offset, 4000, a port stays below 32768, where systems place outgoing connections."""
VersionText = Annotated[str, Field(pattern=_VERSION)]
Day = Annotated[str, Field(pattern=_DAY), AfterValidator(_real_day)]
HostPort = Annotated[str, Field(pattern=_HOST_PORT), AfterValidator(_real_port)]
BranchPattern = Annotated[str, Field(pattern=_BRANCHES)]
"""A branch, or a pattern of branches in which ``*`` stands for any characters, slashes too."""
RepositoryName = Annotated[str, Field(pattern=_REPOSITORY)]
DatabaseName = Annotated[str, Field(pattern=_DATABASE)]
"""48 characters is the longest keyspace that CQL takes."""
UrlPath = Annotated[str, Field(pattern=_PATH)]
ImageRepository = Annotated[str, Field(pattern=_IMAGE)]
InnerFolder = Annotated[str, Field(pattern=_FOLDER)]
InnerJsonLines = Annotated[str, Field(pattern=_JSON_LINES)]
LanguageTag = Annotated[str, Field(pattern=_LANGUAGE)]
Region = Annotated[str, Field(pattern=_REGION)]
KubernetesVersion = Annotated[str, Field(pattern=_KUBERNETES)]
WeeklyWindow = Annotated[str, Field(pattern=_WINDOW)]
ContractNumber = Annotated[str, Field(pattern=_CONTRACT)]
ContractRange = Annotated[str, Field(pattern=_CONTRACT_RANGE), AfterValidator(_some_contract)]
ModelName = Annotated[str, Field(pattern=_MODEL)]
ServerAddress = Annotated[str, Field(pattern=_SERVER), AfterValidator(_real_server)]
ServedName = Annotated[str, Field(pattern=_SERVED)]
EmbedderKey = Annotated[str, Field(pattern=_EMBEDDER_KEY)]
"""The folder in front keeps a pasted key out: none of a provider's begins so."""
DaySpan = Annotated[str, Field(pattern=_SPAN), AfterValidator(_ordered_days)]

KNOWN_SETTINGS = {
    "max_connections_per_service": (r"[1-9][0-9]{0,4}", 'write a whole number above 0 in quotes, for example "100"'),
    "cache_ttl_seconds": (r"[0-9]{1,7}", 'write whole seconds in quotes, for example "3600"'),
    "request_timeout_seconds": (r"[1-9][0-9]{0,3}", 'write whole seconds in quotes, for example "30"'),
    "confidence_threshold": (
        r"0(\.[0-9]{1,6})?|1(\.0{1,6})?",
        'write a number from 0 to 1 in quotes, for example "0.7"',
    ),
}
"""The performance settings of the production ConfigMap: what each may hold, and the remedy."""

_SECRET_WORD = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|token|credentials?|apikey|(api|private|access)_key)$"
)


def reads_like_secret(name: str) -> bool:
    """Whether a key of this name would hold a secret, such as ``db_password`` or ``api_key``."""
    return _SECRET_WORD.search(name.lower().replace("-", "_").replace(".", "_")) is not None


def _settings_without_secrets(settings: dict[str, str]) -> dict[str, str]:
    if any(reads_like_secret(name) for name in settings):
        raise ValueError("holds a key that reads like a secret: put it into the secret store and remove it here")
    for name, (pattern, remedy) in KNOWN_SETTINGS.items():
        if name in settings and not re.fullmatch(pattern, settings[name]):
            raise ValueError(f"{name} cannot be understood: {remedy}")
    return settings


Settings = Annotated[
    dict[Annotated[str, Field(pattern=_SETTING)], Annotated[str, Field(max_length=1000)]],
    AfterValidator(_settings_without_secrets),
]
"""Plain text handed to processes; never secrets."""
