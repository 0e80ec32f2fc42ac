"""Invented texts with known identifiers, and what the detector finds of them.

Every sentence here is made up for this corpus, and every value is generated from a seed. So are the
ways in which people really write: without cue words, in lower case, with the wrong separators, with
checksums that do not fit. ``python -m tests.phi_corpus`` prints the table of ``docs/phi-detection.md``.
"""

# ruff: noqa: E501, SIM905 - word lists and the shapes of values read better in one line

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dr_platform.phi import PhiDetector, PhiKind, PhiSpan

SEED = 20260114
ROUNDS = 40
SURE = 0.6


@dataclass(frozen=True)
class Label:
    start: int
    end: int
    kind: PhiKind


@dataclass(frozen=True)
class Sample:
    text: str
    labels: tuple[Label, ...]


GIVEN = (
    "Ada Brunhilde Casimir Delphine Emeka Fatoumata Giulia Hamza Ingrid Jérôme Kwame Ludmila Mei Nkechi Oskar Priya "
    "Quentin Rosalind Søren Tamsin Ulrike Viktor Wanjiru Xiomara Yusuf Zofia"
).split()
FAMILY = (
    "Abernathy Bakkerova Chukwu D'Angelo Esterhazy Fairweather Grønlund Hollingsworth Ibarra Jankowski Kovačević Lindqvist "
    "McAllister Nakamura O'Shaughnessy Petrosyan Quill Rasmussen Sithebe Thorvald Underhill Vasquez-Lund Whitcombe Yilmaz"
).split()
TOWNS = "Alderbrook Bramwell Coldwater Dunmore Eastfold Fernhollow Glenmere Hartwick Ironvale Juniper Falls".split()
STREETS = ("Alder", "Birchwood", "Cedar Hill", "Dogwood", "Elm", "Foxglove", "Old Mill", "5th", "Quarry Bank")
STREET_KINDS = ("Street", "St", "Avenue", "Ave.", "Road", "Lane", "Drive", "Blvd", "Court", "Way")
MONTHS = "January February March April May June July August September October November December".split()
DASHES = ("-", "-", "-", ".", " ", "–")


class Values:
    """Made-up identifiers, from one source of randomness."""

    def __init__(self, source: random.Random) -> None:
        self.pick = source.choice
        self.number = source.randint

    def digits(self, count: int) -> str:
        return "".join(str(self.number(0, 9)) for _ in range(count))

    def name(self) -> str:
        return self.pick(
            [f"{self.pick(GIVEN)} {self.pick(FAMILY)}", self.pick(FAMILY), f"{self.pick(GIVEN)} {self.pick(FAMILY)}"]
        )

    def name_full(self) -> str:
        return f"{self.pick(GIVEN)} {self.pick(FAMILY)}"

    def name_low(self) -> str:
        return self.pick(GIVEN).lower()

    def place(self) -> str:
        return self.pick(TOWNS)

    def address(self) -> str:
        flat = self.pick(["", "", f", Apt {self.number(1, 40)}", f" #{self.number(1, 40)}B"])
        return f"{self.number(1, 9999)} {self.pick(STREETS)} {self.pick(STREET_KINDS)}{flat}"

    def address_low(self) -> str:
        return f"{self.number(1, 999)} {self.pick(STREETS).lower()} {self.pick(['street', 'ave', 'road', 'lane', 'drive'])}"

    def zip(self) -> str:
        return self.pick([self.digits(5), f"{self.digits(5)}-{self.digits(4)}"])

    def date(self) -> str:
        day, month, year = self.number(1, 28), self.number(1, 12), self.number(1931, 2025)
        name = MONTHS[month - 1]
        return self.pick([
            f"{month:02}/{day:02}/{year}", f"{month}/{day}/{year % 100:02}", f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}",
            f"{name} {day}, {year}", f"{day} {name} {year}", f"{name[:3]} {day}", f"{name} {day}th", f"{month}-{day}-{year}",
        ])  # fmt: skip

    birth_date = date

    def age(self) -> str:
        return str(self.number(90, 108))

    def phone(self) -> str:
        area, middle, last = str(self.number(201, 989)), str(self.number(200, 999)), self.digits(4)
        dash = self.pick(DASHES)
        plain = f"{area}{dash}{middle}{dash}{last}"
        return self.pick(
            [
                plain,
                plain,
                f"({area}) {middle}-{last}",
                f"+1 {plain}",
                f"1-{plain}",
                f"{plain} ext. {self.number(1, 999)}",
            ]
        )

    def phone_bare(self) -> str:
        return f"{self.number(201, 989)}{self.number(200, 999)}{self.digits(4)}"

    def phone_short(self) -> str:
        return f"{self.number(200, 999)}-{self.digits(4)}"

    fax = phone

    def email(self) -> str:
        name = f"{self.pick(GIVEN)}{self.pick(['.', '_', '+', ''])}{self.pick(FAMILY)}".lower().replace("'", "")
        return f"{name}{self.pick(['', '84'])}@{self.pick(['example.org', 'mail.example.com', 'clinic-example.net'])}"

    def email_spelled(self) -> str:
        return f"{self.pick(GIVEN).lower()}.{self.digits(2)} at example dot com"

    def ssn(self) -> str:
        dash = self.pick(DASHES)
        area = self.pick([self.digits(3), "987", "000", "666"])
        return f"{area}{dash}{self.digits(2)}{dash}{self.digits(4)}"

    def ssn_bare(self) -> str:
        return self.digits(9)

    def ssn_end(self) -> str:
        return self.digits(4)

    def mrn(self) -> str:
        return self.pick([self.digits(6), self.digits(8), f"A{self.digits(7)}", f"{self.digits(3)}-{self.digits(4)}"])

    def mrn_shaped(self) -> str:
        return f"MRN{self.pick(['-', '', '_'])}{self.digits(7)}"

    def health_plan(self) -> str:
        return self.pick(
            [
                f"XKJ{self.digits(9)}",
                f"W{self.digits(4)} {self.digits(5)}",
                f"{self.digits(3)}-{self.digits(2)}-{self.digits(5)}",
            ]
        )

    def mbi(self) -> str:
        return f"{self.number(1, 9)}EG{self.number(0, 9)}-TE{self.number(0, 9)}-MK{self.digits(2)}"

    def account(self) -> str:
        return self.pick([self.digits(8), self.digits(12), f"{self.digits(4)}-{self.digits(6)}"])

    def iban(self) -> str:
        return (
            f"DE{self.digits(2)} {self.digits(4)} {self.digits(4)} {self.digits(4)} {self.digits(4)} {self.digits(2)}"
        )

    def card(self) -> str:
        head = f"4{self.digits(14)}"
        doubled = [int(c) * 2 - 9 * (int(c) > 4) if i % 2 == 0 else int(c) for i, c in enumerate(head)]
        number = head + str(-sum(doubled) % 10)
        return self.pick([number, " ".join(re.findall("....", number)), "-".join(re.findall("....", number))])

    def card_wrong(self) -> str:
        return " ".join(["4000", self.digits(4), self.digits(4), self.digits(4)])

    def license(self) -> str:
        return self.pick(
            [
                f"{self.pick('ABCDM')}{self.digits(7)}",
                f"{self.pick('KLMN')}{self.digits(3)}-{self.digits(4)}-{self.digits(4)}",
            ]
        )

    def vehicle(self) -> str:
        return self.pick(
            [
                f"{self.pick('ABC')}{self.pick('DEF')}{self.pick('GHJ')}-{self.digits(4)}",
                f"{self.digits(1)}ABC{self.digits(3)}",
            ]
        )

    def vin(self) -> str:
        return f"1HG{self.pick('ABCE')}M8{self.digits(1)}63{self.pick('ABCX')}{self.digits(7)}"

    def device(self) -> str:
        return self.pick(
            [f"SN{self.digits(8)}", f"{self.digits(4)}-{self.digits(4)}", f"PMX-{self.digits(6)}", self.digits(15)]
        )

    def mac(self) -> str:
        return ":".join(f"{self.number(0, 255):02x}" for _ in range(6))

    def url(self) -> str:
        host = self.pick(["portal.example.org", "www.example.com"])
        scheme = self.pick(["https://", "http://", ""]) if host.startswith("www") else "https://"
        return f"{scheme}{host}/{self.pick(['patients', 'p/visit', 'u'])}/{self.digits(5)}{self.pick(['', '?tab=2', '/notes'])}"

    def ip(self) -> str:
        return self.pick([f"{self.number(11, 223)}.{self.number(0, 255)}.{self.number(0, 255)}.{self.number(1, 254)}",
                          f"2001:db8:{self.number(1, 9999):x}::{self.number(1, 9999):x}"])  # fmt: skip

    def other_id(self) -> str:
        return self.pick([f"P-{self.digits(5)}", self.digits(7), f"ENC{self.digits(6)}"])


# A placeholder is {KIND}, or {KIND:method} where another method of Values writes that kind.
SENTENCES = (
    # names: by cue, in lower case, and without any cue, which cannot be found
    "Patient Name: {NAME:name_full} was seen by Dr. {NAME} this morning.",
    "my name is {NAME:name_low} and i feel anxious again",
    "Hello, my name is {NAME:name_full}.",
    "Mrs. {NAME} asked us to call back. Regards, {NAME:name_full}",
    "I spoke with {NAME:name_full} about the new medication.",
    "She says her husband {NAME:name_full} will drive.",
    "{NAME:name_full} did not come to the group today.",
    "We talked about how {NAME:name_full} slept.",
    "hi its {NAME:name_low} again, cant sleep",
    # places
    "I live in {PLACE} with my sister.",
    "He moved to {PLACE} last spring.",
    "The clinic in {PLACE} was closed.",
    "Send it to {ADDRESS}, {PLACE}, OH {ZIP}.",
    "Home: {ADDRESS}",
    "im at {ADDRESS:address_low} can someone come",
    "ZIP code: {ZIP}",
    "P.O. mail goes to zip {ZIP}",
    # dates and ages
    "DOB: {BIRTH_DATE}",
    "Date of birth is {BIRTH_DATE}.",
    "She was born on {BIRTH_DATE} in the valley.",
    "Admitted {DATE}, discharged {DATE}.",
    "Next appointment on {DATE} at noon.",
    "Blood pressure taken {DATE}.",
    "A {AGE}-year-old woman living alone.",
    "Patient, age {AGE}, uses a walker.",
    # telephone, fax, electronic mail
    "Call me at {PHONE} after five.",
    "Phone: {PHONE}, fax: {FAX}",
    "{PHONE} is the best number.",
    "my number is {PHONE:phone_bare}",
    "cell {PHONE:phone_bare}",
    "text {PHONE:phone_short} when you arrive",
    "Please fax the form to {FAX}.",
    "Write to {EMAIL} or {EMAIL}.",
    "my mail is {EMAIL:email_spelled}",
    # social security
    "SSN: {SSN}",
    "Her social security number is {SSN:ssn_bare}.",
    "On the form he wrote {SSN}.",
    "On the form he wrote {SSN:ssn_bare}.",
    "last four of the SSN are {SSN:ssn_end}",
    # records, plans, accounts
    "MRN {MRN}",
    "Medical record number: {MRN}",
    "See chart #{MRN} for the history.",
    "Ref {MRN:mrn_shaped}, second visit.",
    "the number on my wristband is {MRN}",
    "Member ID: {HEALTH_PLAN}",
    "Insurance policy number {HEALTH_PLAN}",
    "Medicare number {HEALTH_PLAN:mbi}",
    "The card says {HEALTH_PLAN:mbi}.",
    "Account number: {ACCOUNT}",
    "Pay into acct {ACCOUNT} please.",
    "IBAN {ACCOUNT:iban}",
    "Transfer from {ACCOUNT:iban} failed.",
    "Charged to card {CARD}.",
    "She typed {CARD:card_wrong} twice.",
    # licences, vehicles, devices
    "Driver's license {LICENSE}",
    "DL no. {LICENSE}; passport {LICENSE}",
    "License plate: {VEHICLE}",
    "Parked car, VIN {VEHICLE:vin}",
    "The car {VEHICLE:vin} blocks the ramp.",
    "Pacemaker serial {DEVICE}",
    "Device ID: {DEVICE}",
    "Glucose meter S/N {DEVICE}",
    "The pump reports as {DEVICE:mac}.",
    # web, internet protocol, other codes
    "My portal page is {URL}.",
    "Logged in from {IP} at night.",
    "IP address: {IP}",
    "Patient ID {OTHER_ID}, encounter number {OTHER_ID}",
    "Claim no. {OTHER_ID}",
    "Your prescription number is {OTHER_ID}.",
)
HARMLESS = (
    "I have felt low for three weeks and sleep about 4 hours a night.",
    "Take 20 mg at 8:30 and 10 mg at 21:00, no more than 3 times a day.",
    "The score went from 17 to 9 on the PHQ-9 after 12 sessions.",
    "My name is not important, I just need someone to talk to.",
    "This is fine. I am tired of being tired.",
    "gateway: 3 of 3 replicas ready after 12 s, p95 148 ms, error ratio 0.002",
    "The doctor said to breathe in for 4, hold for 7 and out for 8.",
    "She is 45 years old and walks 6000 steps a day.",
    "The policy says that sessions are private.",
    "Chapter 3 covers the 10 most common questions.",
    "The patient was calm, and the nurse came at noon.",
    "Call 988 if you are in crisis; text HOME to 741741.",
    "Version 1.4.0 of the service was deployed to the blue slot.",
    "My account of the day is a long one. I live in a quiet street.",
    "May I ask what happened in March?",
)
_PLACEHOLDER = re.compile(r"\{([A-Z_]+)(?::([a-z_]+))?\}")


def samples(seed: int = SEED, rounds: int = ROUNDS) -> Iterator[Sample]:
    """Every sentence once a round with fresh values, alone or between harmless ones."""
    values = Values(random.Random(seed))
    for _ in range(rounds):
        for sentence in SENTENCES:
            before = values.pick(["", "", values.pick(HARMLESS) + " "])
            yield _filled(before + sentence + values.pick(["", " " + values.pick(HARMLESS)]), values)
        for sentence in HARMLESS:
            yield Sample(sentence, ())


def _filled(template: str, values: Values) -> Sample:
    text, labels, end = "", [], 0
    for match in _PLACEHOLDER.finditer(template):
        make: Callable[[], str] = getattr(values, match[2] or match[1].lower())
        text += template[end : match.start()]
        labels.append(Label(len(text), len(text) + len(value := make()), PhiKind[match[1]]))
        text += value
        end = match.end()
    return Sample(text + template[end:], tuple(labels))


@dataclass(frozen=True)
class Score:
    """``hidden`` labels are covered whole by spans of any kind, ``sure`` by such of 0.6 and more.
    ``right`` are the spans of this kind that touch a label of any kind."""

    labelled: int
    hidden: int
    sure: int
    spans: int
    right: int

    @property
    def recall(self) -> float:
        return self.hidden / self.labelled if self.labelled else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.spans if self.spans else 1.0


def _covered(label: Label, spans: tuple[PhiSpan, ...]) -> bool:
    at = label.start
    for span in spans:
        if span.start <= at < span.end:
            at = span.end
    return at >= label.end


def measure(detector: PhiDetector) -> dict[PhiKind, Score]:
    labelled, hidden, sure, found, right = (Counter[PhiKind]() for _ in range(5))
    for sample in samples():
        spans = detector.detect(sample.text)
        surely = tuple(s for s in spans if s.confidence >= SURE)
        for label in sample.labels:
            labelled[label.kind] += 1
            hidden[label.kind] += _covered(label, spans)
            sure[label.kind] += _covered(label, surely)
        for span in spans:
            found[span.kind] += 1
            right[span.kind] += any(la.start < span.end and span.start < la.end for la in sample.labels)
    return {k: Score(labelled[k], hidden[k], sure[k], found[k], right[k]) for k in PhiKind}


def table(scores: dict[PhiKind, Score]) -> str:
    lines = [
        "| Kind | Class | Labelled | Recall | Recall at 0.6 | Spans | Precision |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, s in scores.items():
        shares = f"{s.recall:.2f} | {s.sure / s.labelled:.2f} | {s.spans} | {s.precision:.2f}"
        lines.append(f"| {kind} | {kind.letter} | {s.labelled} | {shares} |")
    total = Score(
        *(sum(getattr(s, f) for s in scores.values()) for f in ("labelled", "hidden", "sure", "spans", "right"))
    )
    shares = f"{total.recall:.2f} | {total.sure / total.labelled:.2f} | {total.spans} | {total.precision:.2f}"
    return "\n".join([*lines, f"| all | | {total.labelled} | {shares} |"])


if __name__ == "__main__":
    print(table(measure(PhiDetector())))
