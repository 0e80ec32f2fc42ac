"""Envoy's configuration as values: bootstrap, listeners, clusters and routes.

Here: pure functions from what is declared to what Envoy reads, and back from what Envoy reports.
Not here: files, verification (``router``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dr_platform.catalog import Service
from dr_platform.runtime.local.records import Declared
from dr_platform.runtime.notice import MAX_FORM_BYTES, Notice, document, from_document, page
from dr_platform.runtime.port import CLOSED, HEALTH_PATH, REVISION_HEADER, Slot, Weights

VERSION_PATH = "/__drp/route-version"
"""Answered by the router itself with the version of the route table that served it."""

_NOTICE_AS_PAGE, _NOTICE_AS_JSON = "notice-page", "notice-json"
"""Names of the routes that answer for a suspended service; only these have a name."""

_API = "type.googleapis.com/envoy"
_HTTP_OPTIONS = f"{_API}.extensions.upstreams.http.v3.HttpProtocolOptions"
_LATENCY_BUCKETS_MS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750)

Document = dict[str, Any]


def cluster_name(service: str, slot: Slot) -> str:
    return f"{service}.{slot}"


def stat_name(service: str, slot: Slot) -> str:
    """Its name in statistics: a dot there would be taken for a level of the tree."""
    return f"{service}--{slot}"


def bootstrap(folder: Path, admin_port: int) -> Document:
    return {
        "node": {"id": "router", "cluster": "dr-platform"},
        # A second Envoy would share the listeners' ports unnoticed; this port it cannot have.
        "admin": {"address": _address(admin_port)},
        "dynamic_resources": {"lds_config": _source(folder / "lds.json"), "cds_config": _source(folder / "cds.json")},
        "stats_flush_interval": "1s",
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": _buckets()}],
        },
    }


def _buckets() -> list[int]:
    """Milliseconds. The top one lies above every request timeout: there is no bucket for the rest."""
    return [*_LATENCY_BUCKETS_MS, 1000, 1500, 2000, 3000, 5000, 7500, 10_000, 20_000, 30_000, 60_000, 600_000]


def listeners(declared: Mapping[str, Declared], port_offset: int, folder: Path) -> Document:
    return versioned([_listener(known.service, port_offset, folder) for known in declared.values()])


def _listener(service: Service, port_offset: int, folder: Path) -> Document:
    routes = _source(folder / "routes" / f"{service.name}.json")
    to_cluster = {"@type": f"{_API}.extensions.filters.http.router.v3.Router"}
    connections = {
        "@type": f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service.name,
        "rds": {"route_config_name": service.name, "config_source": routes},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": to_cluster}],
        "stream_idle_timeout": "600s",
    }
    port = service.port + port_offset
    return {
        "@type": f"{_API}.config.listener.v3.Listener",
        # A listener cannot move to another port; a new one can take over while the old one drains.
        "name": f"{service.name}@{port}",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        ],
    }


def clusters(declared: Mapping[str, Declared]) -> Document:
    return versioned(
        [
            _cluster(known.service, slot, known.slots[slot].serving if slot in known.slots else ())
            for known in declared.values()
            for slot in Slot
        ]
    )


def _cluster(service: Service, slot: Slot, ports: tuple[int, ...]) -> Document:
    name, probe = cluster_name(service.name, slot), service.probes.readiness
    endpoints = [{"endpoint": {"address": _address(port)}} for port in sorted(ports)]
    return {
        "@type": f"{_API}.config.cluster.v3.Cluster",
        "name": name,
        "alt_stat_name": stat_name(service.name, slot),
        "type": "STATIC",
        "connect_timeout": "1s",
        "ignore_health_on_host_removal": True,
        # Without this, requests go to unready replicas as soon as half of them are unready.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "health_checks": [
            {
                "timeout": _seconds(probe.timeout),
                "interval": "1s",
                "unhealthy_interval": "0.5s",
                # A new replica is looked at often, so that a deployment need not wait for the balancer.
                "no_traffic_interval": "0.25s",
                "no_traffic_healthy_interval": "1s",
                "unhealthy_threshold": min(probe.failures, 2),
                "healthy_threshold": 1,
                "http_health_check": {"path": probe.path},
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                # Shorter than the 5 s after which common servers close an idle connection: a request
                # that meets the close would fail.
                "common_http_protocol_options": {"idle_timeout": "3s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def routes(known: Declared) -> Document:
    """The route table of one service. Its version names the epoch, the change and the content."""
    service, route = known.service, known.route
    timeout = _seconds(service.request_timeout)
    by_header = [
        {
            "match": {"prefix": "/", "headers": [{"name": REVISION_HEADER, "string_match": {"exact": str(slot)}}]},
            "route": {"cluster": cluster_name(service.name, slot), "timeout": timeout},
        }
        for slot in Slot
    ]
    open_to = {"path_separated_prefix": HEALTH_PATH} if known.notice else {"prefix": "/"}
    notices = _notice_routes(service.name, known.notice) if known.notice else []
    content = [*by_header, _by_weight(service.name, route.weights, timeout, open_to), *notices]
    version = f"{route.epoch}.{route.sequence}.{_hash(content)}"
    told = {"match": {"path": VERSION_PATH}, "direct_response": {"status": 200, "body": {"inline_string": version}}}
    table = {
        "@type": f"{_API}.config.route.v3.RouteConfiguration",
        "name": service.name,
        "validate_clusters": True,
        **({"max_direct_response_body_size_bytes": MAX_FORM_BYTES} if notices else {}),
        "virtual_hosts": [{"name": service.name, "domains": ["*"], "routes": [told, *content]}],
    }
    return {"version_info": version, "resources": [table]}


def _by_weight(name: str, weights: Weights, timeout: str, match: Document) -> Document:
    if weights == CLOSED:
        body = json.dumps({"status": "unavailable", "service": name, "reason": "no version takes traffic yet"})
        return {"match": match, **_answered_503(body, {"content-type": "application/json"})}
    shares = [{"name": cluster_name(name, slot), "weight": weights.of(slot)} for slot in Slot]
    return {"match": match, "route": {"timeout": timeout, "weighted_clusters": {"clusters": shares}}}


def _notice_routes(name: str, notice: Notice) -> list[Document]:
    """To programs as JSON, to everybody else as a page. Browsers accept HTML, and some JSON as well."""
    kept = {"retry-after": str(notice.retry_after_s), "cache-control": "no-store", "x-content-type-options": "nosniff"}
    as_json = {**kept, "content-type": "application/json"}
    as_page = {
        **kept,
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    wants_json = [_accepts("application/json"), {**_accepts("text/html"), "invert_match": True}]
    return [
        {
            "name": _NOTICE_AS_JSON,
            "match": {"prefix": "/", "headers": wants_json},
            **_answered_503(document(name, notice), as_json),
        },
        {"name": _NOTICE_AS_PAGE, "match": {"prefix": "/"}, **_answered_503(page(notice), as_page)},
    ]


def _accepts(media_type: str) -> Document:
    return {"name": "accept", "string_match": {"contains": media_type, "ignore_case": True}}


def _answered_503(body: str, headers: Mapping[str, str]) -> Document:
    """An answer by the router itself."""
    added = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]
    return {"direct_response": {"status": 503, "body": {"inline_string": body}}, "response_headers_to_add": added}


@dataclass(frozen=True)
class InUse:
    """What a route table does with requests. ``weights`` is ``None`` where it is not one of ours."""

    weights: Weights | None
    notice: Notice | None = None


def in_use(table: Mapping[str, Any]) -> InUse:
    """The meaning of a route table as Envoy reports it."""
    return InUse(weights_in(table), _notice_in(table))


def weights_in(table: Mapping[str, Any]) -> Weights | None:
    """The weights of a route table as Envoy reports it; ``None`` where it is not one of ours."""
    try:
        last = [route for route in table["virtual_hosts"][0]["routes"] if not route.get("name")][-1]
        if "direct_response" in last:
            return CLOSED
        shares = {share["name"]: share.get("weight", 0) for share in last["route"]["weighted_clusters"]["clusters"]}
        return Weights(*(shares[cluster_name(table["name"], slot)] for slot in Slot))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _notice_in(table: Mapping[str, Any]) -> Notice | None:
    try:
        routes = {route.get("name"): route for route in table["virtual_hosts"][0]["routes"]}
        return from_document(routes[_NOTICE_AS_JSON]["direct_response"]["body"]["inline_string"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def versioned(resources: list[Document]) -> Document:
    return {"version_info": _hash(resources), "resources": resources}


def as_text(document: Document) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _source(path: Path) -> Document:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _address(port: int) -> Document:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"
