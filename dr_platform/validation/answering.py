"""What a look that sends requests makes of a service that does not do what it was asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from dr_platform.look import always_answers
from dr_platform.reference_service.peers import PeerRefused, PeerUnavailable
from dr_platform.verdict import Verdict

P = ParamSpec("P")


def must_be_answered(look: Callable[P, Verdict]) -> Callable[P, Verdict]:
    """A service that gives no answer, or refuses what it should do, has failed; whatever else goes
    wrong could not look."""

    @functools.wraps(look)
    def judged(*args: P.args, **kwargs: P.kwargs) -> Verdict:
        try:
            return look(*args, **kwargs)
        except (PeerUnavailable, PeerRefused) as exc:
            return Verdict(False, exc.what)

    return always_answers(judged)
