"""Works off tasks from a queue in Redis: ``POST /v1/tasks {"kind", "texts"}`` and looking one up.

A worker moves a task to a list of its own before it works on it, so that a task of a worker that
died is found there by its successor. A task that keeps failing is given up after some attempts.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dr_platform.errors import PlatformError
from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.roles.duties import Duties
from dr_platform.reference_service.stores.redis_ import RedisStore
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.web import Call, Refusal, endpoint

if TYPE_CHECKING:
    import redis

READ, WRITE = "tasks:read", "tasks:write"
WAITING = "queue:tasks:waiting"
KEPT_S = 7 * 86_400
"""Everything on this server expires; a week is longer than any task waits."""
MOST_WAITING = 10_000
ATTEMPTS = 3
_BLOCK_S = 1
"""Shorter than a connection waits for any answer."""
_RETRY_S = 1.0


class Queue:
    """Tasks of one replica's worker. ``place`` names its own list."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._store = replica.store(RedisStore)
        self._running = f"queue:tasks:running:{replica.identity.place}"
        self._kinds: Mapping[str, Callable[[list[str]], str]] = {"embed": self._embed, "count-words": _count_words}
        self._depth, self._measuring = 0, threading.Lock()
        replica.telemetry.gauge("drp_queue_depth", lambda: self._depth, queue="tasks")

    def add(self, call: Call) -> dict[str, Any]:
        kind, texts = call.text("kind", limit=60), call.body.get("texts", [])
        if kind not in self._kinds:
            raise Refusal(400, f"kind must be one of {', '.join(self._kinds)}")
        if not isinstance(texts, list) or len(texts) > 100 or not all(isinstance(t, str) for t in texts):
            raise Refusal(400, "texts must be a list of at most 100 texts")
        task = str(uuid.uuid4())
        sealed = self._replica.cipher.encrypt(json.dumps(texts), Place("tasks", "texts", task))
        with self._store.client() as client:
            if client.llen(WAITING) >= MOST_WAITING:
                raise Refusal(429, "too many tasks are waiting")
            fields = {"kind": kind, "state": "waiting", "attempts": 0, "texts": sealed}
            with client.pipeline(transaction=True) as pipe:
                pipe.hset(_key(task), mapping=fields)
                pipe.expire(_key(task), KEPT_S)
                pipe.lpush(WAITING, task)
                pipe.expire(WAITING, KEPT_S)
                pipe.execute()
            self._measure(client)
        return {"task": task, "state": "waiting"}

    def _measure(self, client: redis.Redis) -> None:
        """The caller that looked last writes last, so that an older look never stays."""
        with self._measuring:
            self._depth = int(client.llen(WAITING))

    def show(self, call: Call) -> dict[str, Any]:
        try:
            task = str(uuid.UUID(call.path["task"]))
        except ValueError:
            raise Refusal(404, "no such task") from None
        with self._store.client() as client:
            kind, state, attempts, result = client.hmget(_key(task), "kind", "state", "attempts", "result")
        if kind is None:
            raise Refusal(404, "no such task")
        texts = {"kind": kind.decode(), "state": state.decode(), "result": (result or b"").decode()}
        return {"task": task, **texts, "attempts": int(attempts)}

    # Work

    def start(self) -> None:
        threading.Thread(target=self._work, name="tasks", daemon=True).start()

    def _work(self) -> None:
        recovered = False
        while not self._replica.draining:
            try:
                if not recovered:
                    self._recover()
                    recovered = True
                self._next()
            except PlatformError:
                self._replica.clock.sleep(_RETRY_S)

    def _recover(self) -> None:
        """Put back what a worker at this place left when it died."""
        with self._store.client() as client:
            while client.lmove(self._running, WAITING, "RIGHT", "RIGHT"):
                self._replica.telemetry.count("drp_tasks_total", outcome="recovered")

    def _next(self) -> None:
        with self._store.client() as client:
            found = client.blmove(WAITING, self._running, _BLOCK_S, "RIGHT", "LEFT")
            self._measure(client)
        if found is None:
            return
        task = found.decode()
        outcome = self._run(task)
        with self._store.client() as client:
            client.lrem(self._running, 1, task)
            if outcome == "waiting":
                client.lpush(WAITING, task)
        self._replica.telemetry.count("drp_tasks_total", outcome="again" if outcome == "waiting" else outcome)

    def _run(self, task: str) -> str:
        with self._store.client() as client:
            attempts = client.hincrby(_key(task), "attempts", 1)
            kind, sealed = client.hmget(_key(task), "kind", "texts")
            if kind is None or sealed is None:  # expired while it waited
                client.delete(_key(task))
                return "expired"
            client.hset(_key(task), "state", "running")
        try:
            texts = json.loads(self._replica.cipher.decrypt(sealed, Place("tasks", "texts", task)))
            result, state = self._kinds[kind.decode()](texts), "done"
        except Exception as exc:  # noqa: BLE001 - a bad task must not end the worker; its text may quote data
            result, state = type(exc).__name__, "failed" if attempts >= ATTEMPTS else "waiting"
        with self._store.client() as client:
            client.hset(_key(task), mapping={"state": state, "result": result})
        return state

    def _embed(self, texts: list[str]) -> str:
        answer = self._replica.peers.call(Work.EMBEDDING, "/embed", "embed:use", {"texts": texts})
        return f"{len(answer['vectors'])} vectors of {answer['model']}"


def _count_words(texts: list[str]) -> str:
    return f"{sum(len(text.split()) for text in texts)} words"


def _key(task: str) -> str:
    return f"queue:task:{task}"


def duties(replica: Replica) -> Duties:
    queue = Queue(replica)
    return Duties(
        routes=(
            endpoint(replica, "/v1/tasks", queue.add, scope=WRITE, action="task:add"),
            endpoint(replica, "/v1/tasks/{task}", queue.show, scope=READ, methods=("GET",)),
        ),
        background=(queue.start,),
    )
