"""Looks for identifiers of patients and signs of a crisis: ``POST /check {"text": …}``."""

from __future__ import annotations

from typing import Any

from dr_platform.reference_service.cache import Cache
from dr_platform.reference_service.crisis import find_crisis, notice
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.web import Call, endpoint

SCOPE = "safety:use"


class ContentSafety:
    """``redacted`` is the text with every identifier replaced by its kind; it alone may go on to a
    model. A verdict on the same text is kept for a while."""

    def __init__(self, replica: Replica) -> None:
        from dr_platform.phi import PhiDetector

        self._telemetry = replica.telemetry
        self._detector = PhiDetector()
        self._cache = Cache(replica, "safety", replica.settings.cache_ttl_s)

    def check(self, call: Call) -> dict[str, Any]:
        text = call.text("text")
        if (known := self._cache.get(text)) is None:
            known = self._look(text)
            self._cache.put(text, known)
        for kind in known["phi"]:
            self._telemetry.count("drp_phi_found_total", kind=kind)
        for kind in known["crisis_kinds"]:
            self._telemetry.count("drp_crisis_found_total", kind=kind)
        return known

    def _look(self, text: str) -> dict[str, Any]:
        kinds = find_crisis(text)
        found = self._detector.detect(text)
        return {
            "phi": sorted({str(span.kind) for span in found}),
            "crisis": bool(kinds),
            "crisis_kinds": [str(kind) for kind in kinds],
            "notice": notice(kinds),
            "redacted": self._detector.redact(text) if found else text,
        }


def duties(replica: Replica) -> Duties:
    return Duties(routes=(endpoint(replica, "/check", ContentSafety(replica).check, scope=SCOPE),))
