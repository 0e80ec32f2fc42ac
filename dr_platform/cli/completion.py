"""Arguments and options that name something of the catalog, which a shell completes from the files that are there.

Here: those types. Not here: whether what was named exists: the verb says that, with what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dr_platform.catalog.load import KINDS
from dr_platform.platform import NoCatalog, find_catalog


def names_of(kind: str) -> Callable[[typer.Context, str], list[str]]:
    """The names of one kind of catalog file that begin with what was typed; none where there is no catalog. Files are
    not read: a broken one can be named as well."""
    (known,) = [one for one in KINDS if one.name == kind]

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        try:
            root = find_catalog(context.find_root().params.get("catalog"))
        except NoCatalog:
            return []
        return [name for name in known.names_in(root) if name.startswith(incomplete)]

    return complete


DatabaseArgument = Annotated[
    str, typer.Argument(metavar="DATABASE", help="A database of the catalog.", autocompletion=names_of("database"))
]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="A service of the catalog.", autocompletion=names_of("service"))
]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="A release of the catalog.", autocompletion=names_of("release"))
]
