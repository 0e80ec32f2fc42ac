"""What people are told in place of an answer while a service is suspended.

Here: the notice as a value, and its two forms as pure functions. Not here: which requests get it
(``port``), how a router sends it (``local.documents``), when a service is suspended (``maintenance``).
"""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass

MAX_TITLE = 80
MAX_TEXT = 500
MAX_RETRY_AFTER_S = 24 * 3600
MAX_FORM_BYTES = 8192
"""Of either form. A character grows to twelve bytes at most (two ``\\u…`` in JSON; ``&quot;`` has
six), the title stands in the page twice."""


@dataclass(frozen=True)
class Notice:
    """What a suspended service's callers read. Public: never a reason that only operators may know.

    ``retry_after_s`` is sent as ``Retry-After`` (RFC 9110, 10.2.3): whole seconds, up to a day, so
    that a client that obeys it comes back. Line breaks are allowed in ``text`` only.
    """

    title: str
    text: str
    retry_after_s: int

    def __post_init__(self) -> None:
        for name, value, limit in (("title", self.title, MAX_TITLE), ("text", self.text, MAX_TEXT)):
            if not value.strip() or len(value) > limit:
                raise ValueError(f"the {name} of a notice has 1 to {limit} characters")
        if not self.title.isprintable() or not self.text.replace("\n", "").isprintable():
            raise ValueError("a notice has printable characters only")
        if not 1 <= self.retry_after_s <= MAX_RETRY_AFTER_S:
            raise ValueError(f"a notice asks for 1 to {MAX_RETRY_AFTER_S} seconds of patience")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.125rem/1.6 system-ui, sans-serif; margin: 0 }}
main {{ max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem }}
h1 {{ font-size: 1.75rem; line-height: 1.25 }}
p {{ white-space: pre-line; overflow-wrap: anywhere }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{text}</p>
<p>Please try again in {patience}.</p>
</main>
</body>
</html>
"""


def page(notice: Notice) -> str:
    """The notice as HTML that a screen reader can follow; it loads nothing and runs nothing."""
    title, text = html.escape(notice.title), html.escape(notice.text)
    return _PAGE.format(title=title, text=text, patience=_in_words(notice.retry_after_s))


def document(service: str, notice: Notice) -> str:
    """The notice as JSON, for programs."""
    return json.dumps({"status": "maintenance", "service": service, **asdict(notice)})


def from_document(text: str) -> Notice:
    """What ``document`` was made of. Raises ``ValueError`` for anything else."""
    try:
        told = json.loads(text)
        return Notice(told["title"], told["text"], told["retry_after_s"])
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a notice") from exc


def _in_words(seconds: int) -> str:
    """Rounded up: who comes back too early is turned away twice."""
    if seconds <= 60:
        return "a minute"
    minutes, hours = -(-seconds // 60), -(-seconds // 3600)
    return f"{minutes} minutes" if minutes < 120 else f"{hours} hours"
