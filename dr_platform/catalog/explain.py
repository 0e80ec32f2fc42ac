"""From a field that a model refused to the problem and the remedy a person reads.

Here: wording. Not here: what is right (``models``, ``fields``, ``quantities``). Texts of pydantic are
never passed on, because some of them quote what was written; only its codes are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dr_platform.catalog.faults import choose_among
from dr_platform.catalog.fields import IN_WORDS, reads_like_secret

Told = tuple[str, str]
"""Problem and remedy."""

_BOUNDS = {
    "greater_than_equal": ("is too small", "write {ge} or more"),
    "greater_than": ("is too small", "write more than {gt}"),
    "less_than_equal": ("is too large", "write {le} or less"),
    "string_too_long": ("is too long", "write at most {max_length} characters"),
    "string_too_short": ("is empty", "write at least {min_length} character"),
    "too_short": ("is empty", "list at least {min_length} entry"),
}
_SHAPES = {
    "string_type": ("text", "put the value in quotes"),
    "int_type": ("a whole number", "write it in digits, without quotes or unit"),
    "int_from_float": ("a whole number", "write it without a decimal point"),
    "float_type": ("a number", "write it in digits, without quotes or unit"),
    "finite_number": ("a number", "write it in digits, without quotes or unit"),
    "bool_type": ("true or false", "write true or false"),
    "bool_parsing": ("true or false", "write true or false"),
    "tuple_type": ("a list", "write [one, two], or one `- entry` a line"),
    "dict_type": ("a mapping", "write one indented `name: value` a line"),
    "model_type": ("a mapping of fields", "write its fields indented below it"),
    "model_attributes_type": ("a mapping of fields", "write its fields indented below it"),
}


def explain(model: type[BaseModel], error: ErrorDetails) -> Told:
    """Problem and remedy of one refused field of ``model``; neither quotes what was written."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "missing":
        return _missing(model, error["loc"])
    if kind == "extra_forbidden":
        return _unknown(model, error["loc"])
    if kind in {"enum", "literal_error"}:
        return "is none of the values it may have", choose_among(error["input"], _values(context))
    if kind == "string_pattern_mismatch":
        return "is not written as it must be", IN_WORDS.get(context["pattern"], "see `drp catalog schema`")
    if kind == "value_error":
        problem, _, remedy = str(context["error"]).partition(": ")
        return problem, remedy or "see `drp catalog schema`"
    if kind in _BOUNDS:
        problem, remedy = _BOUNDS[kind]
        return problem, remedy.format(**context)
    if kind in _SHAPES:
        return _misshapen(error["input"], *_SHAPES[kind])
    return "cannot be used", "see `drp catalog schema`"


def _missing(model: type[BaseModel], loc: tuple[str | int, ...]) -> Told:
    known = fields_at(model, loc[:-1])
    described = known[str(loc[-1])].description if str(loc[-1]) in known else None
    return "is missing", f"add it ({described})" if described else "add it"


def _unknown(model: type[BaseModel], loc: tuple[str | int, ...]) -> Told:
    key = str(loc[-1])
    if reads_like_secret(key):
        return "is no field, and reads like a secret", "put it into the secret store and remove it here"
    return "is no field here", choose_among(key, fields_at(model, loc[:-1]), most=40)


def _misshapen(found: object, expected: str, remedy: str) -> Told:
    if found is None:
        return f"is empty, it must be {expected}", "write a value after the colon"
    if expected == "text" and isinstance(found, dict | list):
        return "must be text", "write one value after the colon"
    return f"must be {expected}", remedy


def _values(context: Mapping[str, Any]) -> list[str]:
    """pydantic lists them as ``'a', 'b' or <Tier.C: 'c'>``; our values hold no quotes."""
    return re.findall(r"'([^']*)'", context["expected"])


def fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> Mapping[str, FieldInfo]:
    """The fields a file may have at this place; none where names are free, such as in ``settings``."""
    here: Any = model
    for segment in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            found = here.model_fields.get(str(segment))
            here = unwrapped(found.annotation) if found is not None else None
        elif get_origin(here) in (dict, tuple):
            here = unwrapped(get_args(here)[1 if get_origin(here) is dict else 0])
    return here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}


def unwrapped(annotation: Any) -> Any:
    """The type itself, without ``Annotated`` and ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType) and len(some := [a for a in get_args(annotation) if a is not NoneType]) == 1:
            annotation = some[0]
        else:
            return annotation
