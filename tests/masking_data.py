"""A small practice in PostgreSQL for tests of masking: patients, their messages, and their classes.

Every person and sentence is made up; counts are given.
"""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from dr_platform.masking.classification import Classification

SCHEMA = """
CREATE SCHEMA clinic;
CREATE TABLE clinic.patients (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE,
    phone text,
    ssn text,
    mrn text NOT NULL UNIQUE,
    address text,
    zip text,
    born date,
    sex text,
    joined_at timestamptz NOT NULL,
    contact jsonb
);
CREATE TABLE clinic.messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    patient_id uuid NOT NULL REFERENCES clinic.patients,
    author text NOT NULL,
    sent_at timestamptz NOT NULL,
    body text NOT NULL
);
"""

CLASSES: dict[str, Any] = {
    "k": 11,
    "tables": {
        "public.drp_schema_history": {"rows": "dropped", "why": "of its own"},
        "clinic.patients": {
            "people": True,
            "person": "id",
            "columns": {
                "id": {"holds": "key", "domain": "account"},
                "name": "name",
                "email": "email",
                "phone": "phone",
                "ssn": "ssn",
                "mrn": "mrn",
                "address": "address",
                "zip": "zip",
                "born": "birth-date",
                "sex": "quasi",
                "joined_at": "date",
                "contact": {"holds": "json", "paths": {"phone": "phone", "notes[]": "text", "next.of": "name"}},
            },
        },
        "clinic.messages": {
            "person": "patient_id",
            "columns": {
                "id": {"holds": "key", "domain": "message"},
                "patient_id": {"holds": "key", "domain": "account"},
                "author": "safe",
                "sent_at": "date",
                "body": "text",
            },
        },
    },
}

FIRST = "Abelard Brunhild Casimira Dagobert Eulalia Fridolin Gundula Hildebert Irmtraud Jodokus".split()  # noqa: SIM905
LAST = "Achterberg Bruckmann Czernowitz Dorfmeister Eberharting Finsterwald Grubentaler".split()  # noqa: SIM905
SENTENCES = (
    "I have been feeling anxious this week and sleep badly most of the time.",
    "Work is stressing me out and I can not relax when I am at home with the kids.",
    "The breathing exercise helped, I did it 3 times a day.",
    "We talked for a while and then it got better, thank you for asking.",
    "It is {name} again, you can reach me at {phone} or {email}.",
    "My appointment was on 03/14/2025, and {first} was late.",
    "You are doing well. Consider writing down what happened before the feeling starts.",
    "Today was a little better than yesterday, I went out in the afternoon.",
    "I do not know why I cry so easily at the moment.",
    "It helps to hear that others feel the same way sometimes.",
    "What would you say to somebody else who told you this?",
    "I could not finish what I had planned and that made me angry.",
    "My sister called and we talked about the holidays.",
    "Can you tell me more about how that felt in your body?",
    "I am scared of going back to the office on Monday.",
    "The new medicine makes me tired, should I take it in the evening?",
    "I slept 6 hours, which is more than last week.",
    "Nobody at home understands what this is like.",
    "Thank you, I will try that and write again tomorrow.",
    "When I am in a crowd my heart beats fast and I want to leave.",
    "I have started to walk in the park before breakfast.",
    "Sometimes I think I am just lazy, but I know that is not fair.",
    "Let us look at one small step that you could take this week.",
)
"""Two of them name somebody: about one message in six does."""


def classification(**changes: Any) -> Classification:
    return Classification.model_validate({**CLASSES, **changes})


def steps_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "V1_0_0__clinic.sql").write_text(SCHEMA, encoding="utf-8")
    return folder


def patient(source: random.Random, number: int) -> dict[str, Any]:
    first, last = source.choice(FIRST), source.choice(LAST)
    phone = f"{source.randrange(200, 999)}-{source.randrange(300, 999)}-{source.randrange(1000, 9999)}"
    return {
        "id": uuid.UUID(int=source.getrandbits(128), version=4),
        "name": f"{first} {last}",
        "email": f"{first}.{last}.{number}@mail.example.com".lower(),
        "phone": phone,
        "ssn": f"{source.randrange(100, 665)}-{source.randrange(10, 99)}-{source.randrange(1000, 9999)}",
        "mrn": f"MRN{source.randrange(10**6, 10**7)}-{number}",
        "address": f"{source.randrange(1, 99)} Birchwood Avenue",
        "zip": f"{source.choice(('02139', '02140', '60601', '60614', '03601', '94110'))}",
        "born": date(1930, 1, 1) + timedelta(days=source.randrange(28_000)),
        "sex": source.choice(("female", "male")),
        "joined_at": datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=source.randrange(1_000_000)),
        "contact": json.dumps({"phone": phone, "notes": [f"ask for {first}"], "next": {"of": f"{last} senior"}}),
    }


def fill(url: str, patients: int, messages: int, seed: int = 7) -> None:
    """So many rows, by COPY. The tables must be there."""
    source = random.Random(seed)
    people = [patient(source, n) for n in range(patients)]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY clinic.patients FROM STDIN") as copy:
            for person in people:
                copy.write_row(tuple(person.values()))
        with cursor.copy("COPY clinic.messages (patient_id, author, sent_at, body) FROM STDIN") as copy:
            for _ in range(messages):
                copy.write_row(message(source, source.choice(people)))
        cursor.execute("ANALYZE")


def message(source: random.Random, person: dict[str, Any]) -> tuple[Any, ...]:
    words = {
        "name": person["name"],
        "first": person["name"].split()[0],
        "phone": person["phone"],
        "email": person["email"],
    }
    body = " ".join(source.choice(SENTENCES).format(**words) for _ in range(source.randrange(1, 4)))
    sent = person["joined_at"] + timedelta(minutes=source.randrange(500_000))
    return person["id"], source.choice(("patient", "assistant")), sent, body
