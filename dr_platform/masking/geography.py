"""Where people live, as far as it may be told: the first three digits of a ZIP code, or none.

Here: the rule of 45 CFR 164.514(b)(2)(i)(B) and its table. Not here: any other geography; all units below
the state are removed.
"""

from __future__ import annotations

SMALL_ZIP3 = frozenset(
    "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893".split()  # noqa: SIM905 - a table
)
"""Prefixes whose areas have 20,000 people or fewer, by the 2000 census, as listed in "Guidance Regarding
Methods for De-identification of Protected Health Information" (HHS Office for Civil Rights, 26 November
2012), section on ZIP codes. The rule speaks of the *current* data of the Bureau of the Census: compute the
list anew from the newest ZCTA counts before relying on it."""

NO_ZIP3 = "000"


def zip3(code: str) -> str:
    """``02139-4307`` to ``021``; ``000`` for small areas and for what is no ZIP code."""
    prefix = code.strip()[:3]
    if len(prefix) < 3 or not (prefix.isascii() and prefix.isdigit()) or prefix in SMALL_ZIP3:
        return NO_ZIP3
    return prefix
