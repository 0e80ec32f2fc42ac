"""Two caches in a row: this process's memory, and Redis where the service has it.

Keys are keyed hashes, so that nothing can be read from them; values in Redis are ciphertext. A
cache that does not answer is a miss and never an error.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Generator
from typing import Any

from dr_platform.errors import PlatformError
from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.replica import Replica

MEMORY_ENTRIES = 512
PAUSE_S = 5.0
"""After Redis did not answer it is left alone for so long: one request waits for it, not every one."""
MEMORY_S = 60.0
"""Shorter than Redis' expiry: replicas see each other's changes after this long."""


class Cache:
    """Values of one kind, such as ``search``, as JSON. Hits and misses are counted by tier."""

    def __init__(self, replica: Replica, area: str, ttl_s: int) -> None:
        self._replica = replica
        self._area = area
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._hits = self._asked = 0
        self._redis_from = float("-inf")
        self._redis: Any = next((s for s in replica.stores.values() if s.entry.engine == "redis"), None)
        replica.telemetry.gauge("drp_cache_hit_ratio", self.hit_ratio, cache=area)

    def hit_ratio(self) -> float:
        """Share of all look-ups that some tier answered; 1 where there was none."""
        return self._hits / self._asked if self._asked else 1.0

    def get(self, key: str) -> Any | None:
        name = self._name(key)
        self._asked += 1
        text = self._from_memory(name)
        self._count("memory", found=text is not None)
        if text is None and self._redis_is_asked():
            text = self._from_redis(name)
            self._count("redis", found=text is not None)
            if text is not None:
                self._remember(name, text)
        if text is None:
            return None
        self._hits += 1
        return json.loads(text)

    def put(self, key: str, value: Any) -> None:
        name, text = self._name(key), json.dumps(value)
        self._remember(name, text)
        if self._redis_is_asked():
            with self._forgiven(), self._redis.client() as client:
                client.set(name, self._replica.cipher.encrypt(text, self._place(name)), ex=self._ttl_s)

    def _name(self, key: str) -> str:
        return f"cache:{self._area}:{self._replica.cipher.blind_index(key, f'cache/{self._area}').hex()}"

    def _place(self, name: str) -> Place:
        return Place("cache", self._area, name)

    def _from_memory(self, name: str) -> str | None:
        with self._lock:
            at, text = self._memory.get(name, (float("-inf"), None))
            if text is None or self._replica.clock.monotonic() - at > min(MEMORY_S, self._ttl_s):
                return None
            self._memory.move_to_end(name)
            return text

    def _remember(self, name: str, text: str) -> None:
        with self._lock:
            self._memory[name] = (self._replica.clock.monotonic(), text)
            self._memory.move_to_end(name)
            while len(self._memory) > MEMORY_ENTRIES:
                self._memory.popitem(last=False)

    def _from_redis(self, name: str) -> str | None:
        with self._forgiven():
            with self._redis.client() as client:
                sealed = client.get(name)
            return self._replica.cipher.decrypt(sealed, self._place(name)) if sealed else None
        return None

    def _redis_is_asked(self) -> bool:
        return self._redis is not None and self._replica.clock.monotonic() >= self._redis_from

    @contextlib.contextmanager
    def _forgiven(self) -> Generator[None]:
        try:
            yield
        except PlatformError:
            self._redis_from = self._replica.clock.monotonic() + PAUSE_S

    def _count(self, tier: str, *, found: bool) -> None:
        name = "drp_cache_hits_total" if found else "drp_cache_misses_total"
        self._replica.telemetry.count(name, cache=self._area, tier=tier)
