"""One block of patients and all that hangs on them, made from the plan and the block's number alone.

Pure: no clock, no database, no key. Any block may be made by itself, in any order, by any process,
and is the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dr_platform.synthetic import vocabulary as words
from dr_platform.synthetic.draws import MARK, Draws, cumulated, lognormal, zipf
from dr_platform.synthetic.people import Person, people
from dr_platform.synthetic.plan import BLOCK, DAYS, Plan
from dr_platform.synthetic.rows import (
    Account,
    AuditEvent,
    Block,
    CarePlan,
    Consent,
    Conversation,
    EmergencyAccess,
    Entities,
    Feedback,
    Message,
    ModelOutput,
    Profile,
    Relationship,
    Session,
    SessionNote,
    Subscription,
    Transcript,
    Usage,
)
from dr_platform.synthetic.texts import (
    CRISIS_PPM,
    CRISIS_TEXT,
    FORM_PPM,
    IDENTIFYING_PPM,
    Voice,
    form,
    identifying,
    lengths,
    sentences,
)

MODEL = "extractive-1"
SECOND_MS, HOUR_MS, DAY_MS = 1_000, 3_600_000, 86_400_000
MOST_OPEN_SESSIONS = 100_000
"""In the cache, whose server keeps everything in memory: 30 MB."""
_CONVERSATION_BITS, _MESSAGE_BITS = 14, 16
_HOURS = cumulated([5, 3, 2, 1, 1, 2, 4, 8, 10, 9, 8, 8, 9, 8, 7, 7, 8, 10, 13, 17, 22, 25, 21, 12])
"""People write in the evening, UTC."""
_SEQUENCE = 1 << 38
PURPOSES = (
    ("treatment", 1_000_000),
    ("ai-assistance", 970_000),
    ("research", 400_000),
    ("sharing", 250_000),
    ("marketing", 120_000),
)
_CAREGIVERS = ("caregiver", "parent", "guardian", "partner")


def conversations_per_patient() -> NDArray[np.int64]:
    """Half have up to four, one in a hundred more than 65."""
    return lognormal(4.0, 1.2, 1, 1_500)


def messages_per_conversation() -> NDArray[np.int64]:
    """Half have up to six, one in a hundred more than 38."""
    return lognormal(6.0, 0.8, 1, 400)


def pauses_s() -> NDArray[np.int64]:
    """Between two messages."""
    return lognormal(35.0, 1.1, 2, 5_400)


def clinicians(plan: Plan, block: int) -> Block:
    """Accounts of clinicians. Loaded before any patients, who refer to them."""
    numbers = range(block * BLOCK, min((block + 1) * BLOCK, plan.clinicians))
    draws, start = Draws(plan.seed), _ms(plan)
    found = people(draws, "clinician", numbers, plan.until)
    return Block(accounts=tuple(Account(person, "clinician", "clinician", start) for person in found))


def clinician_blocks(plan: Plan) -> int:
    return -(-plan.clinicians // BLOCK)


def patients(plan: Plan, block: int) -> Block:
    """Patients of a block, their caregivers, and everything of theirs in all four databases."""
    scene = _Scene(plan, plan.rows_of(block))
    conversations = tuple(scene.conversations())
    return Block(
        accounts=tuple(scene.accounts()),
        sessions=tuple(scene.sessions()),
        consents=tuple(scene.consents()),
        relationships=tuple(scene.relationships()),
        emergencies=tuple(scene.emergencies()),
        subscriptions=tuple(scene.subscriptions()),
        usage=tuple(scene.usage(conversations)),
        profiles=tuple(scene.profiles()),
        audit=tuple(scene.audit(conversations)),
        conversations=conversations,
        care_plans=tuple(scene.care_plans()),
        notes=tuple(scene.notes()),
        outputs=(outputs := tuple(scene.outputs(conversations))),
        transcripts=(transcripts := tuple(scene.transcripts(conversations))),
        entities=tuple(scene.entities(transcripts)),
        feedback=tuple(scene.feedback(outputs)),
    )


def _ms(plan: Plan) -> int:
    return int(plan.first_moment.timestamp()) * 1000


@dataclass(frozen=True)
class _Scene:
    """Patients of one block, with what several kinds of rows share: made once, on first use."""

    plan: Plan
    numbers: range

    @cached_property
    def draws(self) -> Draws:
        return Draws(self.plan.seed)

    @cached_property
    def rows(self) -> NDArray[np.uint64]:
        return np.arange(self.numbers.start, self.numbers.stop, dtype=np.uint64)

    @cached_property
    def persons(self) -> list[Person]:
        return people(self.draws, "patient", self.numbers, self.plan.until)

    @cached_property
    def joined_days(self) -> NDArray[np.int64]:
        return self.draws.picks("patient/joined", self.rows, DAYS * 9 // 10)

    @cached_property
    def joined_ms(self) -> list[int]:
        return (_ms(self.plan) + self.joined_days * DAY_MS + 8 * HOUR_MS).tolist()

    @cached_property
    def clinician_of(self) -> list[Person]:
        """A few clinicians have most of the patients."""
        return self._clinicians("patient/clinician")

    @cached_property
    def reviewer_of(self) -> list[Person]:
        return self._clinicians("patient/reviewer")

    def _clinicians(self, stream: str) -> list[Person]:
        numbers = self.draws.weighted(stream, self.rows, zipf(self.plan.clinicians)).tolist()
        known = sorted(set(numbers))
        found = dict(zip(known, people(self.draws, "clinician", known, self.plan.until), strict=True))
        return [found[number] for number in numbers]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Conversations, and so sessions, per patient."""
        return self.draws.ranked("patient/conversations", self.rows, conversations_per_patient())

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Whose each conversation is, as a position in the block."""
        return np.repeat(np.arange(len(self.rows)), self.counts)

    @cached_property
    def talks(self) -> NDArray[np.uint64]:
        """One number per conversation, unlike any other of the plan."""
        return _numbered(self.rows, self.counts, _CONVERSATION_BITS)

    @cached_property
    def starts_ms(self) -> NDArray[np.int64]:
        left = DAYS - self.joined_days[self.owners]
        day = self.joined_days[self.owners] + self.draws.picks("talk/day", self.talks, left)
        hour = self.draws.weighted("talk/hour", self.talks, _HOURS)
        within = self.draws.picks("talk/within", self.talks, HOUR_MS)
        # Nobody writes before they have joined, at eight in the morning of their first day.
        joined = np.array(self.joined_ms, dtype=np.int64)[self.owners]
        return np.maximum(_ms(self.plan) + day * DAY_MS + hour * HOUR_MS + within, joined + HOUR_MS + within)

    def chance(self, what: str, per_million: int) -> list[bool]:
        return self.draws.chances(f"patient/{what}", self.rows, per_million).tolist()

    def ids(self, what: str) -> list[str]:
        return self.draws.uuids(f"{what}/id", self.rows)

    # Accounts and what they agreed to

    @cached_property
    def caregivers(self) -> list[Person]:
        return people(self.draws, "caregiver", self.numbers, self.plan.until)

    @cached_property
    def has_caregiver(self) -> list[bool]:
        return self.chance("caregiver", 180_000)

    def accounts(self) -> Iterator[Account]:
        columns = zip(self.persons, self.joined_ms, self.caregivers, self.has_caregiver, strict=True)
        for person, joined, caregiver, cared_for in columns:
            yield Account(person, "patient", "patient", joined)
            if cared_for:
                yield Account(caregiver, "caregiver", "caregiver", joined + DAY_MS)

    def profiles(self) -> Iterator[Profile]:
        for identifier, person, joined in zip(self.ids("profile"), self.persons, self.joined_ms, strict=True):
            yield Profile(identifier, json.dumps(person.as_profile(), sort_keys=True), joined)

    def consents(self) -> Iterator[Consent]:
        for purpose, per_million in PURPOSES:
            wanted = self.chance(f"consent/{purpose}", per_million)
            withdrawn = self.chance(f"withdrawn/{purpose}", 60_000)
            again = self.chance(f"again/{purpose}", 500_000)
            ids, later = self.ids(f"consent/{purpose}"), self.ids(f"consent-again/{purpose}")
            for at, person in enumerate(self.persons):
                if not wanted[at]:
                    continue
                granted, ended = self.joined_ms[at], self.joined_ms[at] + 40 * DAY_MS
                text = f"Signed electronically by {person.name} from {person.town}, {person.state}"
                common = (person.id, purpose, "2026-01")
                yield Consent(ids[at], *common, granted, ended if withdrawn[at] else None, text)
                if withdrawn[at] and again[at]:
                    yield Consent(later[at], *common, ended + DAY_MS, None, text)

    def relationships(self) -> Iterator[Relationship]:
        ids, others, former = self.ids("treats"), self.ids("cares"), self.ids("treated")
        kinds = self.draws.picks("patient/caregiver-kind", self.rows, len(_CAREGIVERS)).tolist()
        changed = self.chance("changed-clinician", 200_000)
        for at, person in enumerate(self.persons):
            joined, clinician = self.joined_ms[at], self.clinician_of[at]
            note = f"Referred by {clinician.name}, phone {clinician.phone}"
            yield Relationship(ids[at], person.id, clinician.id, "clinician", note, joined, None)
            if self.has_caregiver[at]:
                other = self.caregivers[at]
                note = f"{other.name} may be called at {other.phone}"
                yield Relationship(others[at], person.id, other.id, _CAREGIVERS[kinds[at]], note, joined + DAY_MS, None)
            if changed[at] and self.reviewer_of[at].id != clinician.id:
                before = self.reviewer_of[at].id
                yield Relationship(former[at], person.id, before, "clinician", "", joined - 90 * DAY_MS, joined)

    def emergencies(self) -> Iterator[EmergencyAccess]:
        ids, happened = self.ids("emergency"), self.chance("emergency", 4_000)
        for at, person in enumerate(self.persons):
            if happened[at]:
                requester, reviewer = self.clinician_of[at], self.reviewer_of[at]
                granted = self.joined_ms[at] + 10 * DAY_MS
                reason = f"Welfare check for {person.name} at {person.street}, {person.town}"
                by = reviewer.id if reviewer.id != requester.id else None
                yield EmergencyAccess(ids[at], requester.id, person.id, reason, granted, granted + 4 * HOUR_MS, by)

    def subscriptions(self) -> Iterator[Subscription]:
        ids, before = self.ids("subscription"), self.ids("former-subscription")
        plans = self.draws.weighted("patient/plan", self.rows, cumulated([60, 32, 8])).tolist()
        states = self.draws.weighted("patient/subscription", self.rows, cumulated([86, 8, 6])).tolist()
        changed = self.chance("changed-plan", 150_000)
        for at, person in enumerate(self.persons):
            joined = self.joined_ms[at]
            since = joined + 30 * DAY_MS if changed[at] else joined
            if changed[at]:
                yield Subscription(before[at], person.id, "free", "cancelled", joined, None, since)
            plan, status = ("free", "personal", "family")[plans[at]], ("active", "trial", "past-due")[states[at]]
            renews = None if plan == "free" else since + 30 * DAY_MS
            yield Subscription(ids[at], person.id, plan, status, since, renews, None)

    # Sessions, conversations, messages

    def sessions(self) -> Iterator[Session]:
        ids, tokens = self.draws.uuids("session/id", self.talks), self._token_hashes()
        revoked = self.draws.chances("session/revoked", self.talks, 350_000).tolist()
        newest = self._newest()
        cached = self.draws.picks("patient/open", self.rows, -(-self.plan.patients // MOST_OPEN_SESSIONS)).tolist()
        for at, (owner, start) in enumerate(zip(self.owners.tolist(), self.starts_ms.tolist(), strict=True)):
            began, ends = start - 20 * SECOND_MS, start + 12 * HOUR_MS
            is_open = at in newest and not revoked[at] and cached[owner] == 0
            ended = start + HOUR_MS if revoked[at] else None
            yield Session(ids[at], self.persons[owner].id, tokens[at], began, ends, ended, is_open)

    def _newest(self) -> set[int]:
        """Position of every patient's latest conversation."""
        latest: dict[int, int] = {}
        starts = self.starts_ms.tolist()
        for at, owner in enumerate(self.owners.tolist()):
            if owner not in latest or starts[at] > starts[latest[owner]]:
                latest[owner] = at
        return set(latest.values())

    def _token_hashes(self) -> list[bytes]:
        parts = [self.draws.bits(f"session/token{part}", self.talks).astype(">u8") for part in range(4)]
        joined, mark = np.stack(parts, axis=1).tobytes(), bytes.fromhex(MARK)
        return [mark + joined[at + len(mark) : at + 32] for at in range(0, len(joined), 32)]

    def conversations(self) -> Iterator[Conversation]:
        ids = self.draws.uuids("talk/id", self.talks)
        titles = self.draws.picks("talk/title", self.talks, len(words.TITLES)).tolist()
        named = self.draws.chances("talk/named", self.talks, 50_000).tolist()
        closed = self.draws.chances("talk/closed", self.talks, 700_000).tolist()
        counts = self.draws.ranked("talk/messages", self.talks, messages_per_conversation())
        messages, end = self._messages(counts), 0
        starts = self.starts_ms.tolist()
        for at, (owner, count) in enumerate(zip(self.owners.tolist(), counts.tolist(), strict=True)):
            own, end = tuple(messages[end : end + count]), end + count
            person = self.persons[owner]
            title = words.TITLES[titles[at]] + (f" ({person.given}, {person.town})" if named[at] else "")
            yield Conversation(ids[at], person.id, starts[at], title, "closed" if closed[at] else "open", own)

    def _messages(self, counts: NDArray[np.int64]) -> list[Message]:
        keys = _numbered(self.talks, counts, _MESSAGE_BITS)
        ordinals = (keys & np.uint64((1 << _MESSAGE_BITS) - 1)).astype(np.int64)
        by_assistant = (ordinals % 2 == 1).astype(bool)
        times = self._times(keys, counts).tolist()
        texts = sentences(
            self.draws, "message", keys, lengths(self.draws, "message", keys, by_assistant), by_assistant.tolist()
        )
        identified = self.draws.chances("message/identifying", keys, IDENTIFYING_PPM) & ~by_assistant
        forms = self.draws.chances("message/form", keys, FORM_PPM) & ~by_assistant
        crises = self.draws.chances("message/crisis", keys, CRISIS_PPM) & ~by_assistant
        which = self.draws.picks("message/which", keys, len(words.IDENTIFYING))
        writers = np.repeat(self.owners, counts)
        for at in np.flatnonzero(identified).tolist():
            owner = int(writers[at])
            voice = Voice(self.persons[owner], self.clinician_of[owner].name, times[at])
            texts[at] = f"{identifying(voice, int(which[at]))} {texts[at]}"
        for at in np.flatnonzero(forms).tolist():
            texts[at] += " " + form(self.persons[int(writers[at])], encoded=bool(which[at] % 2))
        for at in np.flatnonzero(crises).tolist():
            texts[at] = f"{CRISIS_TEXT} {texts[at]}"
        sequences = self.draws.bits("message/sequence", keys) % np.uint64(_SEQUENCE)
        return [
            Message(time, sequence, *(("assistant", text, MODEL, "") if answer else ("patient", text, "", safety)))
            for time, sequence, answer, text, safety in zip(
                times,
                sequences.tolist(),
                by_assistant.tolist(),
                texts,
                np.where(crises, "crisis", "").tolist(),
                strict=True,
            )
        ]

    def _times(self, keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """One after the other within a conversation, from its start on."""
        pauses = self.draws.ranked("message/pause", keys, pauses_s()) * SECOND_MS
        pauses += self.draws.picks("message/ms", keys, SECOND_MS)
        passed = np.cumsum(pauses)
        firsts = np.cumsum(counts) - counts
        return np.repeat(self.starts_ms - passed[firsts], counts) + passed

    def usage(self, conversations: tuple[Conversation, ...]) -> Iterator[Usage]:
        reports = self.draws.uuids("usage/report", self.talks)
        for report, talk in zip(reports, conversations, strict=True):
            yield Usage(talk.account, "messages", len(talk.messages), talk.messages[-1].at_ms, report)

    def audit(self, conversations: tuple[Conversation, ...]) -> Iterator[AuditEvent]:
        requests = self.draws.uuids("audit/request", self.talks)
        denied = self.draws.chances("audit/denied", self.talks, 15_000).tolist()
        for at, (talk, owner) in enumerate(zip(conversations, self.owners.tolist(), strict=True)):
            outcome = "denied" if denied[at] else "allowed"
            resource, request = f"conversation/{talk.id}", requests[at]
            yield AuditEvent(talk.account, "account:login", "", "allowed", "authentication", request, "")
            yield AuditEvent(talk.account, "message:add", resource, "allowed", "chat-history", request, "")
            if at % 5 == 0:
                reader = self.clinician_of[owner]
                detail = f"{reader.name} opened the conversation of {self.persons[owner].name}"
                yield AuditEvent(reader.id, "message:list", resource, outcome, "chat-history", request, detail)

    # Documents

    def care_plans(self) -> Iterator[CarePlan]:
        planned = self.chance("planned", 450_000)
        revisions = self.draws.weighted("patient/revisions", self.rows, cumulated([60, 25, 10, 5])).tolist()
        ids = [self.ids(f"care-plan-{revision}") for revision in range(4)]
        goals = self.draws.picks("patient/goal", self.rows, len(words.GOALS)).tolist()
        for at, person in enumerate(self.persons):
            for revision in range(revisions[at] + 1 if planned[at] else 0):
                last = revision == revisions[at]
                body = json.dumps(
                    {
                        "patient": person.as_profile(),
                        "clinician": self.clinician_of[at].name,
                        "goals": [words.GOALS[(goals[at] + step) % len(words.GOALS)] for step in range(revision + 1)],
                        # Programs nest what other programs gave them, as text and encoded.
                        "referral": form(person, encoded=False),
                        "attachment": form(person, encoded=True),
                    },
                    sort_keys=True,
                )
                created = self.joined_ms[at] + (7 + 30 * revision) * DAY_MS
                author, status = self.clinician_of[at].id, "active" if last else "closed"
                yield CarePlan(ids[revision][at], person.id, author, status, revision + 1, body, created)

    def notes(self) -> Iterator[SessionNote]:
        chosen = self.draws.chances("note/written", self.talks, 180_000)
        keys = self.talks[chosen]
        ids = self.draws.uuids("note/id", keys)
        kinds = self.draws.weighted("note/kind", keys, cumulated([70, 12, 18])).tolist()
        lines = self.draws.picks("note/line", keys, len(words.NOTED)).tolist()
        signed = self.draws.chances("note/signed", keys, 900_000).tolist()
        columns = zip(self.owners[chosen].tolist(), self.starts_ms[chosen].tolist(), strict=True)
        for at, (owner, start) in enumerate(columns):
            person, clinician = self.persons[owner], self.clinician_of[owner]
            voice = Voice(person, clinician.name, start)
            parts = [identifying(voice, lines[at] % len(words.IDENTIFYING))]
            parts += [words.NOTED[(lines[at] + step) % len(words.NOTED)] for step in range(4)]
            note = f"Patient name: {person.name}, DOB {person.born.isoformat()}, MRN {person.mrn}. {' '.join(parts)}"
            kind, held = ("progress", "psychotherapy", "summary")[kinds[at]], start + HOUR_MS
            yield SessionNote(
                ids[at], person.id, clinician.id, kind, note, held, held + HOUR_MS if signed[at] else None
            )

    def outputs(self, conversations: tuple[Conversation, ...]) -> Iterator[ModelOutput]:
        """One per conversation with an answer: the model's first."""
        requests = self.draws.uuids("output/request", self.talks)
        confidences = self.draws.picks("output/confidence", self.talks, 1_000).tolist()
        for at, talk in enumerate(conversations):
            if len(talk.messages) > 1:
                answer = talk.messages[1]
                confidence = confidences[at] / 1_000
                safety = "flagged" if confidence < 0.02 else "passed"
                yield ModelOutput(requests[at], talk.id, MODEL, answer.text, confidence, safety, answer.at_ms)

    def transcripts(self, conversations: tuple[Conversation, ...]) -> Iterator[Transcript]:
        spoken = self.draws.chances("transcript/spoken", self.talks, 60_000).tolist()
        ids, sessions = self.draws.uuids("transcript/id", self.talks), self.draws.uuids("session/id", self.talks)
        for at, talk in enumerate(conversations):
            if spoken[at]:
                text = "\n".join(f"{message.author}: {message.text}" for message in talk.messages[:12])
                seconds = (talk.messages[-1].at_ms - talk.started_ms) // SECOND_MS
                yield Transcript(ids[at], sessions[at], text, seconds, talk.messages[-1].at_ms)

    def entities(self, transcripts: tuple[Transcript, ...]) -> Iterator[Entities]:
        for transcript in transcripts:
            words_of = transcript.text.split()
            spans = json.dumps([{"at": at, "text": word} for at, word in enumerate(words_of) if word.istitle()][:20])
            identifier = f"{transcript.id}/names"
            yield Entities(identifier, transcript.id, spans, transcript.created_ms)

    def feedback(self, outputs: tuple[ModelOutput, ...]) -> Iterator[Feedback]:
        for output in outputs:
            number = int(output.request[-4:], 16)
            if number % 9 == 0:
                comment = words.SAID[number % len(words.SAID)] if number % 2 else ""
                yield Feedback(f"{output.request}/1", output.request, 1 + number % 5, comment, output.created_ms)


def _numbered(parents: NDArray[np.uint64], counts: NDArray[np.int64], bits: int) -> NDArray[np.uint64]:
    """The children of every parent, each with a number made from both."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    ordinals = np.arange(total, dtype=np.uint64) - np.repeat(ends - counts, counts).astype(np.uint64)
    return (np.repeat(parents, counts) << np.uint64(bits)) | ordinals
