"""Whether what is stored is fit to be answered from: repeated passages, languages, identifiers, age.

Here: the looks at stored articles and their judgement. Not here: whether the store equals its source
(``seeding``), or how well questions are answered (``evaluate``). Texts of verdicts hold counts and slugs,
never a passage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from dr_platform.catalog import KnowledgeSet
from dr_platform.knowledge.sources import PhiLook
from dr_platform.knowledge.store import CONFIGURATIONS, read_in_use
from dr_platform.verdict import Measure, Verdict

if TYPE_CHECKING:
    from psycopg import Connection

NEIGHBOURS = 10
"""Of each passage so many nearest ones are compared, by the vector index."""
SHOWN = 5
PHI_BATCH = 500

NO_STOP_WORDS = frozenset({"ar", "ro"})
"""PostgreSQL stems these languages but ships no stop words for them."""
JUDGED = {code: f"{name}_stem" for code, name in CONFIGURATIONS.items() if code not in NO_STOP_WORDS}
"""Languages whose commonest words PostgreSQL knows, by the dictionary that drops them."""
LEAST_WORDS = 30
LEAST_SHARE = 0.15
UNLISTED_SHARE = 0.3
"""Stop words are 30 to 55 % of a text in their own language and seldom 10 % of one in another; a language
without a list may resemble one with a list more than that."""
CLOSE = 0.7
"""The declared language is believed where it explains so much of what the best one does: Danish and
Norwegian, Spanish and Portuguese share many words."""


@dataclass(frozen=True)
class Profile:
    """An article's words, and how many of them are stop words of which language."""

    slug: str
    declared: str
    words: int
    stops: Mapping[str, int]


def seems(profile: Profile) -> str | None:
    """The language an article is in, as a code without its region; ``None`` where that cannot be told."""
    declared = profile.declared.split("-", maxsplit=1)[0].lower()
    if profile.words < LEAST_WORDS or not profile.stops:
        return None
    best = max(sorted(profile.stops), key=lambda code: profile.stops[code])
    share = profile.stops[best] / profile.words
    if share < (LEAST_SHARE if declared in JUDGED else UNLISTED_SHARE):
        return None
    return declared if profile.stops.get(declared, 0) >= CLOSE * profile.stops[best] else best


def language_verdict(connection: Connection[Any], knowledge_set: KnowledgeSet) -> Verdict:
    """Articles are in the language that they declare, told by the stop words of PostgreSQL's dictionaries."""
    rows = connection.execute(
        _PROFILES,
        {"set": knowledge_set.name, "languages": list(JUDGED), "dictionaries": list(JUDGED.values())},
    ).fetchall()
    profiles = [Profile(slug, declared, words, stops or {}) for slug, declared, words, stops in rows]
    found = {profile.slug: seems(profile) for profile in profiles}
    foreign = [
        f"{p.slug} ({p.declared}, seems {found[p.slug]})"
        for p in profiles
        if found[p.slug] not in (None, p.declared.split("-", maxsplit=1)[0].lower())
    ]
    measured: dict[str, Measure] = {
        "documents": len(profiles),
        "foreign": len(foreign),
        "unjudged": sum(language is None for language in found.values()),
    }
    return _within("in another language than declared", foreign, len(profiles), knowledge_set.quality.foreign, measured)


_PROFILES: LiteralString = """
    WITH words AS MATERIALIZED (
        SELECT d.slug, d.language, lower(word) AS word
        FROM knowledge.documents d JOIN knowledge.chunks c ON c.document_id = d.id,
            regexp_split_to_table(c.text, '[[:space:][:punct:][:digit:]]+') AS word
        WHERE d.set_name = %(set)s AND word <> ''
    ), stops AS MATERIALIZED (
        SELECT w.word, l.language FROM (SELECT DISTINCT word FROM words) w,
            unnest(%(languages)s::text[], %(dictionaries)s::text[]) AS l(language, dictionary)
        WHERE ts_lexize(l.dictionary::regdictionary, w.word) = '{}'
    ), counted AS (
        SELECT w.slug, s.language, count(*) AS times FROM words w JOIN stops s USING (word) GROUP BY 1, 2
    )
    SELECT d.slug, d.language, (SELECT count(*) FROM words w WHERE w.slug = d.slug),
        (SELECT jsonb_object_agg(c.language, c.times) FROM counted c WHERE c.slug = d.slug)
    FROM knowledge.documents d WHERE d.set_name = %(set)s ORDER BY d.slug
"""


def duplicates_verdict(connection: Connection[Any], knowledge_set: KnowledgeSet) -> Verdict:
    """No article repeats a passage of another one, of any set, word for word or nearly."""
    goal = knowledge_set.quality
    documents = _count(connection, knowledge_set.name)
    equal = _slugs(connection.execute(_EQUAL, {"set": knowledge_set.name}).fetchall())
    near = _slugs(_near(connection, knowledge_set.name, goal.near)) - equal
    measured: dict[str, Measure] = {
        "documents": documents,
        "equal": len(equal),
        "near": len(near),
        "near_cosine": goal.near,
    }
    return _within("with a passage of another article", sorted(equal | near), documents, goal.duplicates, measured)


def _near(connection: Connection[Any], set_name: str, cosine: float) -> list[tuple[str]]:
    used = read_in_use(connection)
    if used is None:
        return []
    statement = sql.SQL(_NEAR).format(model=sql.Literal(used.model), size=sql.Literal(used.dimensions))
    values = {"set": set_name, "distance": 1 - cosine, "neighbours": NEIGHBOURS}
    return connection.execute(statement, values).fetchall()


_EQUAL: LiteralString = """
    WITH shared AS (
        SELECT md5(text) AS digest FROM knowledge.chunks GROUP BY 1 HAVING count(DISTINCT document_id) > 1
    )
    SELECT DISTINCT d.slug FROM shared s
    JOIN knowledge.chunks c ON md5(c.text) = s.digest JOIN knowledge.documents d ON d.id = c.document_id
    WHERE d.set_name = %(set)s
"""
_NEAR: LiteralString = """
    WITH own AS MATERIALIZED (
        SELECT DISTINCT v.content_hash, v.embedding::vector({size}) AS embedding
        FROM knowledge.documents d JOIN knowledge.chunks c ON c.document_id = d.id
        JOIN knowledge.vectors v ON v.content_hash = c.content_hash AND v.model = {model}
        WHERE d.set_name = %(set)s
    ), near AS MATERIALIZED (
        SELECT o.content_hash AS one, n.content_hash AS other FROM own o CROSS JOIN LATERAL (
            SELECT v.content_hash, v.embedding::vector({size}) <=> o.embedding AS distance
            FROM knowledge.vectors v WHERE v.model = {model}
            ORDER BY v.embedding::vector({size}) <=> o.embedding LIMIT %(neighbours)s
        ) n WHERE n.distance <= %(distance)s
    )
    SELECT DISTINCT d.slug FROM near n
    JOIN knowledge.chunks c ON c.content_hash = n.one JOIN knowledge.documents d ON d.id = c.document_id
    JOIN knowledge.chunks r ON r.content_hash = n.other AND r.document_id <> c.document_id
    WHERE d.set_name = %(set)s
"""


def staleness_verdict(connection: Connection[Any], knowledge_set: KnowledgeSet, now: datetime) -> Verdict:
    """Somebody has reviewed every article within the set's policy; articles that name no day are counted."""
    goal = knowledge_set.quality
    oldest = (now - timedelta(days=goal.review_days)).date()
    rows = connection.execute(
        "SELECT slug, reviewed FROM knowledge.documents WHERE set_name = %s ORDER BY reviewed, slug",
        (knowledge_set.name,),
    ).fetchall()
    stale = [slug for slug, reviewed in rows if reviewed is not None and reviewed < oldest]
    measured: dict[str, Measure] = {
        "documents": len(rows),
        "stale": len(stale),
        "undated": sum(reviewed is None for _, reviewed in rows),
        "review_days": goal.review_days,
    }
    return _within(f"not reviewed for {goal.review_days} days", stale, len(rows), goal.stale, measured)


def phi_verdict(connection: Connection[Any], knowledge_set: KnowledgeSet, look: PhiLook) -> Verdict:
    """Stored passages hold nothing that seems to identify a patient; only counts are told."""
    found: dict[str, int] = {}
    documents, examined = set(), 0
    for document, text in _passages(connection, knowledge_set.name):
        examined += 1
        for kind in look(text):
            found[kind] = found.get(kind, 0) + 1
            documents.add(document)
    measured: dict[str, Measure] = {
        "passages": examined,
        "documents_with_identifiers": len(documents),
        "identifiers": sum(found.values()),
        **{f"{kind.lower()}_found": count for kind, count in sorted(found.items())},
    }
    if not examined:
        return Verdict(None, "could not look: nothing of the set is stored", measured)
    if (total := sum(found.values())) > knowledge_set.quality.identifiers:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        allowed = knowledge_set.quality.identifiers
        return Verdict(False, f"{len(documents)} articles seem to hold {kinds}; allowed are {allowed}", measured)
    return Verdict(True, f"{total} identifiers in {examined} passages", measured)


def _passages(connection: Connection[Any], set_name: str) -> Iterator[tuple[int, str]]:
    """Title and text of every chunk with its document, in batches: memory stays flat."""
    after = 0
    while rows := connection.execute(_PASSAGES, (set_name, after, PHI_BATCH)).fetchall():
        yield from ((document, f"{title}\n{text}") for _, document, title, text in rows)
        after = rows[-1][0]


_PASSAGES: LiteralString = """
    SELECT c.id, d.id, d.title, c.text FROM knowledge.chunks c JOIN knowledge.documents d ON d.id = c.document_id
    WHERE d.set_name = %s AND c.id > %s ORDER BY c.id LIMIT %s
"""


def _slugs(rows: Sequence[tuple[str]]) -> set[str]:
    return {slug for (slug,) in rows}


def _count(connection: Connection[Any], set_name: str) -> int:
    row = connection.execute("SELECT count(*) FROM knowledge.documents WHERE set_name = %s", (set_name,)).fetchone()
    return row[0] if row else 0


def _within(
    what: str, found: Sequence[str], documents: int, allowed: float, measured: Mapping[str, Measure]
) -> Verdict:
    """Judge a share of a set's articles; a set of which nothing is stored cannot be looked at."""
    if not documents:
        return Verdict(None, "could not look: nothing of the set is stored", measured)
    if len(found) <= allowed * documents:
        return Verdict(True, f"{len(found)} of {documents} articles {what}", measured)
    shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    why = f"{len(found)} of {documents} articles {what}, allowed is a share of {allowed:g}: {shown}"
    return Verdict(False, why, measured)
