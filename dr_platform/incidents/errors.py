"""What can be wrong with an incident, or with what somebody wants to do about it."""

from __future__ import annotations

from dr_platform.errors import ExitCode, PlatformError


class UnknownIncident(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, incident: str) -> None:
        super().__init__(incident)
        self.what = f"{incident}: there is no such incident"
        self.untouched = "every incident"
        self.next_step = "see `drp incident list`"


class IdentifierTaken(PlatformError):
    """Two different troubles under one identifier: the caller made it from too little."""

    exit_code = ExitCode.REFUSED

    def __init__(self, incident: str) -> None:
        super().__init__(incident)
        self.what = f"{incident}: this identifier belongs to the incident of another rollout"
        self.untouched = "that incident; none was opened"
        self.next_step = "make the identifier from the rollout's own identifier and epoch, then open it again"


class OutOfOrder(PlatformError):
    """The incident is not at the point where this can follow."""

    exit_code = ExitCode.REFUSED

    def __init__(self, incident: str, step: str, why: str, next_step: str) -> None:
        super().__init__(incident, step, why, next_step)
        self.why = f"{step} is refused: {why}"
        self.what = f"{incident}: {self.why}"
        self.untouched = "the incident; nothing was written"
        self.next_step = next_step


class BreachNotAssessed(OutOfOrder):
    """45 CFR 164.402(2) presumes a breach until a risk assessment shows otherwise."""

    def __init__(self, incident: str, step: str) -> None:
        super().__init__(
            incident,
            step,
            "it is presumed a breach of PHI and the assessment of 45 CFR 164.402(2) is not signed",
            f"sign it with `drp incident assess {incident}`, with all four factors and a conclusion",
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        incident, step, *_ = self.args
        return type(self), (incident, step)


class RefusedSignature(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, incident: str, why: str) -> None:
        super().__init__(incident, why)
        self.what = f"{incident}: the breach assessment was not accepted: {why}"
        self.untouched = "the incident and the assessment that stands; nothing was written"
        self.next_step = "correct it and sign again with `drp incident assess`"


class BrokenIncident(PlatformError):
    """What the evidence log holds of an incident is nothing the ledger would have written."""

    def __init__(self, incident: str, sequence: int, why: str) -> None:
        super().__init__(incident, sequence, why)
        self.what = f"{incident}: entry {sequence} of the evidence log cannot be read as part of it: {why}"
        self.untouched = "the evidence log and every other incident"
        self.next_step = "a newer version may have written it; else compare the log with its last checkpoint"
