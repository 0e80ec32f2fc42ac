"""A conversation in the terminal through the gateway, as a patient's application would have it."""

from __future__ import annotations

import sys

from dr_platform.cli.context import console
from dr_platform.identity import new_id
from dr_platform.platform import Platform
from dr_platform.reference_service.client import ServiceClient

SUGGESTIONS = (
    "I lie awake for hours, what can I do?",
    "How do I remember to take my tablets?",
    "May I see my own medical record?",
)


def converse(platform: Platform) -> None:
    """Ask, answer, until an empty line or the end of the input."""
    client = ServiceClient(platform.catalog, platform.secrets, platform.port_offset)
    conversation = new_id("demo")
    console.print("Ask as a patient would; an empty line ends. Every answer is made of passages, with their sources.")
    for suggestion in SUGGESTIONS:
        console.print(f"  for example: {suggestion}", style="dim")
    while True:
        console.print("\n[bold]you[/] > ", end="")
        line = sys.stdin.readline()
        message = line.strip()
        if not message:
            console.print("Good-bye.")
            return
        if not sys.stdin.isatty():
            console.print(message, markup=False)
        _show(client.converse(message, conversation))


def _show(answer: dict) -> None:
    safety = answer.get("safety", {})
    if safety.get("crisis"):
        console.print("[bold red]crisis signs were seen[/]")
    if safety.get("phi"):
        console.print(f"identifiers were seen and not passed on: {', '.join(safety['phi'])}", markup=False)
    console.print(f"[bold]platform[/] > {answer['answer']}")
    for source in answer.get("sources", []):
        console.print(f"    {source['title']} ({source['document']})", style="dim", markup=False)
    timings = answer.get("timings_ms", {})
    if timings:
        console.print("    " + ", ".join(f"{step} {ms:.0f} ms" for step, ms in timings.items()), style="dim")
