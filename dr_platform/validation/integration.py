"""Integration: services together, from the gateway to what is stored, and from a queue to its worker."""

from __future__ import annotations

import random

from dr_platform.clock import Clock
from dr_platform.identity import new_id
from dr_platform.reference_service.client import ServiceClient
from dr_platform.validation.answering import must_be_answered
from dr_platform.verdict import Measure, Verdict

QUESTION = "I lie awake for hours at night, what can I do?"
STEPS = ("safety", "search", "generation")
TASK_S = 10.0
"""A worker looks at its queue all the time; what takes longer is stuck."""
_POLL_S = 0.1


def unseen(question: str, chance: random.Random) -> str:
    """The same words with other marks behind them: no cache knows the text, no search tells it apart."""
    return f"{question} {''.join(chance.choices('?!.', k=14))}"


@must_be_answered
def conversation_verdict(client: ServiceClient, chance: random.Random) -> Verdict:
    """A question through the gateway is checked, looked up, answered with sources, stored and read back."""
    conversation, question = new_id("check"), unseen(QUESTION, chance)
    said = client.converse(question, conversation)
    timings = said["timings_ms"]
    problems = [f"no {step}" for step in STEPS if step not in timings]
    if not said["known"] or not said["sources"]:
        problems.append("no answer with sources")
    if not said["stored"]:
        problems.append("the exchange was not stored")
    elif [message["text"] for message in client.history(conversation)] != [question, said["answer"]]:
        problems.append("what is read back is not what was said")
    measurements: dict[str, Measure] = {
        f"{step}_ms": float(timings[step]) for step in (*STEPS, "total") if step in timings
    }
    measurements["sources"] = len(said["sources"])
    if problems:
        return Verdict(False, f"a conversation through the gateway: {', '.join(problems)}", measurements)
    return Verdict(
        True, f"answered with {len(said['sources'])} sources in {timings['total']:.0f} ms, stored", measurements
    )


@must_be_answered
def queue_verdict(client: ServiceClient, clock: Clock) -> Verdict:
    """A task goes through the queue to a worker, who has another service do its part."""
    began = clock.monotonic()
    task = client.add_task("embed", ["one text", "another text"])
    while (seen := client.task(task))["state"] not in ("done", "failed"):
        if clock.monotonic() - began > TASK_S:
            return Verdict(False, f"a task is still {seen['state']} after {TASK_S:g} s", {"limit_s": TASK_S})
        clock.sleep(_POLL_S)
    took = clock.monotonic() - began
    measurements: dict[str, Measure] = {"duration_s": round(took, 3), "attempts": int(seen["attempts"])}
    if seen["state"] == "failed" or not seen["result"].startswith("2 vectors"):
        return Verdict(False, "a task ended without its result", measurements)
    return Verdict(True, f"a task was worked off in {took:.1f} s", measurements)
