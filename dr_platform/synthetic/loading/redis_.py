"""Redis: pipelined writes. Keys expire as every key of that server does, counted from the load."""

from __future__ import annotations

from collections.abc import Iterator

import redis

from dr_platform.synthetic.draws import MARK
from dr_platform.synthetic.loading.port import Counts, LoadFailed
from dr_platform.synthetic.rows import Block, Session
from dr_platform.synthetic.sealing import Sealer

SESSION_S = 30 * 86_400
"""An open session lasts so long without a request."""
AREA = "session:token:"
_LOOK = 1_000


class RedisLoader:
    def __init__(self, name: str, client: redis.Redis, sealer: Sealer) -> None:
        self._name = name
        self._client = client
        self._sealer = sealer

    def load(self, block: Block) -> Counts:
        sessions = [session for session in block.sessions if session.open]
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for key, value in self._keys(sessions):
                    pipe.set(key, value, ex=SESSION_S)
                pipe.execute()
        except redis.RedisError as exc:
            raise LoadFailed(self._name, type(exc).__name__) from None
        return {"session:token": len(sessions)}

    def _keys(self, sessions: list[Session]) -> Iterator[tuple[str, bytes]]:
        for session in sessions:
            key = f"{AREA}{session.token_hash.hex()}"
            yield key, self._sealer.seal(session.account, "session", "token", key)


def remove(name: str, client: redis.Redis) -> int:
    """Take away every open session of synthetic accounts; how many."""
    removed, batch = 0, []
    try:
        for key in client.scan_iter(match=f"{AREA}{MARK}*", count=_LOOK):
            batch.append(key)
            if len(batch) == _LOOK:
                removed, batch = removed + int(client.unlink(*batch)), []  # type: ignore[arg-type]
        return removed + (int(client.unlink(*batch)) if batch else 0)  # type: ignore[arg-type]
    except redis.RedisError as exc:
        raise LoadFailed(name, type(exc).__name__) from None
