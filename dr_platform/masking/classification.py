"""What every column, document path and key pattern holds: ``databases/<name>/classification.yaml``.

Here: the model of the file, and which parts of a live schema it leaves out. Not here: what becomes of
a class (``recipe``), or how a schema is read (the engines).

A column is written as its class alone (``status: safe``) or with what the class needs:
``{holds: key, domain: account}``. A table of Redis is a key pattern such as ``presence:<account>``,
whose columns are the names in it and ``value``, ``value[]`` (lists and sets) or ``value.<field>``. A path
of a document is dotted, with ``[]`` for the elements of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dr_platform.catalog.beside import read_beside
from dr_platform.catalog.models import Model
from dr_platform.errors import ExitCode, PlatformError

FILE = "classification.yaml"


class Holds(StrEnum):
    """Classes of columns. Letters are those of 45 CFR 164.514(b)(2)(i)."""

    __hash__ = str.__hash__  # that of enumerations is a call of Python, and classes are looked up for every value

    NAME = "name"  # A
    ADDRESS = "address"  # B
    PLACE = "place"  # B
    ZIP = "zip"  # B, also a quasi-identifier
    BIRTH_DATE = "birth-date"  # C, also a quasi-identifier
    DATE = "date"  # C
    AGE = "age"  # C, also a quasi-identifier
    PHONE = "phone"  # D
    FAX = "fax"  # E
    EMAIL = "email"  # F
    SSN = "ssn"  # G
    MRN = "mrn"  # H
    HEALTH_PLAN = "health-plan"  # I
    ACCOUNT = "account"  # J
    LICENSE = "license"  # K
    VEHICLE = "vehicle"  # L
    DEVICE = "device"  # M
    URL = "url"  # N
    IP = "ip"  # O
    BIOMETRIC = "biometric"  # P
    PHOTO = "photo"  # Q
    OTHER_ID = "other-id"  # R
    KEY = "key"
    """R: an identifier that other rows, tables or databases refer to."""
    SECRET = "secret"  # noqa: S105 - a class of columns
    """Hashes of passwords and tokens: nobody may log in with them anywhere."""
    BLIND_INDEX = "blind-index"
    TEXT = "text"
    JSON = "json"
    VECTOR = "vector"
    """Made from a text, which can be read back from it in part."""
    QUASI = "quasi"
    """Identifies nobody alone, but together with others: sex, language, diagnosis group."""
    CHAIN = "chain"
    """A hash over the row and the row before it, which is computed anew."""
    SAFE = "safe"


QUASI_IDENTIFIERS = frozenset({Holds.ZIP, Holds.BIRTH_DATE, Holds.AGE, Holds.QUASI})
IDENTIFIERS = frozenset(
    {
        Holds.NAME, Holds.ADDRESS, Holds.PHONE, Holds.FAX, Holds.EMAIL, Holds.SSN, Holds.MRN, Holds.HEALTH_PLAN,
        Holds.ACCOUNT, Holds.LICENSE, Holds.VEHICLE, Holds.DEVICE, Holds.URL, Holds.IP, Holds.OTHER_ID,
    }
)  # fmt: skip
"""What is looked for in the free text of the person it belongs to, and never equal before and after."""


class Seal(Model):
    """Where a service said that the value stands when it encrypted it (associated data of the
    ciphertext). ``{column}`` stands for the row's own value."""

    table: str = Field(description="table as the service names it, for example identity.accounts")
    field: str = Field(description="field as the service names it")
    row: str = Field(description="row as the service names it, for example '{id}'")


def _spelled_out(value: Any) -> Any:
    return {"holds": value} if isinstance(value, str) else value


class Column(Model):
    """What one column or path holds."""

    holds: Holds = Field(description="its class")
    domain: str = Field(default="", description="key: equal values of one domain stay equal in every database")
    derived: str = Field(
        default="", description="key: the service's kind, where the column holds its name-based UUID of the key"
    )
    sealed: Seal | None = Field(default=None, description="where the service bound the ciphertext to")
    of: str = Field(default="", description="blind-index: the column it is computed from")
    purpose: str = Field(default="", description="blind-index: purpose that the service names")
    after: str = Field(default="", description="date: the column it keeps its distance from")
    paths: dict[str, Annotated[Column, BeforeValidator(_spelled_out)]] = Field(
        default_factory=dict, description="json: every path of the document"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.holds is Holds.KEY and not self.domain:
            raise ValueError("is a key without a domain: name what it identifies, for example account")
        if self.holds is Holds.BLIND_INDEX and not (self.of and self.purpose):
            raise ValueError("is a blind index of nothing: name the column in `of` and the service's `purpose`")
        if self.holds is Holds.JSON and not self.paths and self.sealed is None:
            raise ValueError("is a document without paths: list each with its class")
        return self


class Table(Model):
    """A table, collection, CQL table or key pattern."""

    rows: Literal["masked", "dropped"] = Field(default="masked", description="whether any row reaches staging")
    why: str = Field(default="", max_length=200, description="dropped: the reason, for the report")
    person: str = Field(default="", description="the column that names the person whose row it is")
    link: str = Field(default="", description="what `person` identifies, where that is not the person itself")
    links: dict[str, str] = Field(
        default_factory=dict, description="links that rows of this table make: kind to the column with its key"
    )
    people: bool = Field(default=False, description="its rows are the people themselves")
    columns: dict[str, Annotated[Column, BeforeValidator(_spelled_out)]] = Field(
        default_factory=dict, description="every column with its class"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rows == "dropped" and not self.why:
            raise ValueError("is dropped without a reason: say why in `why`")
        unknown = ({self.person, *self.links.values()} - {""}) - set(self.columns)
        unknown |= {c.of for c in self.columns.values() if c.of} - set(self.columns)
        unknown |= {c.after for c in self.columns.values() if c.after} - set(self.columns)
        if unknown and self.rows == "masked":
            raise ValueError("refers to a column that it does not list: list the column with its class")
        return self

    @property
    def is_masked(self) -> bool:
        return self.rows == "masked"


class Classification(Model):
    """What one database holds."""

    k: int = Field(default=11, ge=2, le=1000, description="people at least in every group of quasi-identifiers")
    tables: dict[str, Table] = Field(min_length=1, description="every table, collection or key pattern")


class Unclassified(PlatformError):
    """Parts of the live schema that no classification names. Nothing was written."""

    exit_code = ExitCode.REFUSED

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        count = "1 column or path is" if len(names) == 1 else f"{len(names)} columns or paths are"
        self.what = f"{count} not classified:\n" + "\n".join(f"  {name}" for name in names)
        self.untouched = "source and staging; the whole schema is compared before the first write"
        self.next_step = f"give each a class in databases/<name>/{FILE}, then run again"


def read_classifications(root: Path) -> Mapping[str, Classification]:
    """By name of the database. Raises ``CatalogError`` with all faults of all files."""
    return read_beside(root, FILE, Classification)


Schema = Mapping[str, Iterable[str]]
"""Table name to its columns or paths, as a live server has them."""


def unclassified(database: str, schema: Schema, known: Classification) -> tuple[str, ...]:
    """``postgres: identity.accounts.nickname`` for each column that has no class, sorted."""
    return tuple(sorted(_gaps(database, schema, known)))


def _gaps(database: str, schema: Schema, known: Classification) -> Iterator[str]:
    for name, columns in schema.items():
        table = known.tables.get(name)
        if table is None:
            yield f"{database}: {name} (whole)"
        elif table.is_masked:
            yield from (f"{database}: {name}.{column}" for column in columns if column not in table.columns)
