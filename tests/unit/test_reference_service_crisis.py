"""Guards that signs of a crisis are seen, and that turns of phrase are not taken for one."""

from __future__ import annotations

import pytest

from dr_platform.reference_service.crisis import ELSEWHERE, EMERGENCY, LIFELINE, CrisisKind, find_crisis, notice

pytestmark = pytest.mark.unit

SUICIDE, SELF_HARM, HARM = CrisisKind.SUICIDE, CrisisKind.SELF_HARM, CrisisKind.HARM_TO_OTHERS
OVERDOSE, ABUSE, MEDICAL = CrisisKind.OVERDOSE, CrisisKind.ABUSE, CrisisKind.MEDICAL_EMERGENCY


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I want to kill myself", SUICIDE),
        ("i wanna die", SUICIDE),
        ("I'm thinking about suicide", SUICIDE),
        ("I just don’t want to be here anymore", SUICIDE),
        ("there is no reason to go on", SUICIDE),
        ("everyone would be better off without me", SUICIDE),
        ("I have been thinking of ending my life", SUICIDE),
        ("I wish I would not wake up", SUICIDE),
        ("My friend said she'd be better off dead", SUICIDE),
        ("I feel like I can't go on anymore", SUICIDE),
        ("I WANT TO END IT ALL", SUICIDE),
        ("I've been cutting myself again", SELF_HARM),
        ("how do I stop self-harming", SELF_HARM),
        ("I cut my arms last night", SELF_HARM),
        ("I could kill my husband and I have a knife", HARM),
        ("I'm afraid I'm going to hurt my baby", HARM),
        ("he took a whole bottle of paracetamol", OVERDOSE),
        ("I think she overdosed", OVERDOSE),
        ("I took all of her sleeping pills", OVERDOSE),
        ("my toddler swallowed a battery... he swallowed two batteries", OVERDOSE),
        ("my boyfriend hits me", ABUSE),
        ("I want to leave my husband but I'm afraid of what he'll do", ABUSE),
        ("I was sexually assaulted", ABUSE),
        ("I can't breathe and my chest hurts", MEDICAL),
        ("crushing chest pain since an hour", MEDICAL),
        ("My dad's face looks lopsided and his words are coming out mushy", MEDICAL),
        ("she had a seizure and won't wake up", MEDICAL),
    ],
)
def test_a_sign_is_seen(text: str, kind: CrisisKind) -> None:
    assert kind in find_crisis(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm killing time until my appointment",
        "I'm dying to know when my results come",
        "my back is killing me",
        "how do I kill two birds with one stone",
        "I could die of boredom in the waiting room",
        "Suicide prevention training is next week",
        "I cut my finger on paper while cooking",
        "what should I take with my tablets",
        "I took all the papers with me",
        "How do I sleep better?",
        "",
    ],
)
def test_a_turn_of_phrase_is_no_sign(text: str) -> None:
    assert find_crisis(text) == ()


def test_a_sign_beside_a_turn_of_phrase_is_seen_all_the_same() -> None:
    assert find_crisis("I'm killing time and I want to kill myself") == (SUICIDE,)


def test_a_person_is_told_a_number_for_each_sign_and_what_to_do_elsewhere() -> None:
    told = notice(find_crisis("I took too many pills because I want to die"))
    assert LIFELINE in told
    assert EMERGENCY in told
    assert told.endswith(ELSEWHERE)
    assert notice(()) == ""


@pytest.mark.parametrize("kind", list(CrisisKind))
def test_every_kind_names_a_number(kind: CrisisKind) -> None:
    assert EMERGENCY in notice((kind,))


def test_long_texts_take_no_long_time() -> None:
    assert find_crisis("want to my the a " * 20_000) == ()
