"""One schema runner at a time where the lock is a lease."""

from __future__ import annotations

import threading

import pytest

from dr_platform.clock import ManualClock, SystemClock
from dr_platform.databases.access import Login, is_loopback, tls_context
from dr_platform.databases.lease import LeaseLost, SchemaLocked, one_at_a_time
from dr_platform.databases.port import Endpoint

pytestmark = pytest.mark.unit


class LeaseInMemory:
    """Says who holds it, counts renewals, and can be taken away."""

    def __init__(self, holder: str = "") -> None:
        self.holder = holder
        self.renewals = 0
        self.renewed = threading.Event()
        self.outage = False

    def take(self, owner: str, ttl_s: float) -> bool:
        del ttl_s
        self.holder = self.holder or owner
        return self.holder == owner

    def renew(self, owner: str, ttl_s: float) -> bool:
        del ttl_s
        self.renewals += 1
        self.renewed.set()
        if self.outage:
            raise OSError("no answer")
        return self.holder == owner

    def give_up(self, owner: str) -> None:
        if self.holder == owner:
            self.holder = ""


def test_it_is_held_in_the_block_and_given_up_after_it() -> None:
    store = LeaseInMemory()
    with one_at_a_time(store, "db", SystemClock()) as held:
        assert store.holder.startswith("runner-")
        held.check()
    assert store.holder == ""


def test_it_is_given_up_after_an_error() -> None:
    store = LeaseInMemory()
    with pytest.raises(ZeroDivisionError), one_at_a_time(store, "db", SystemClock()):
        _ = 1 / 0
    assert store.holder == ""


def test_a_second_runner_waits_and_then_says_who_is_waited_for() -> None:
    clock = ManualClock()
    store = LeaseInMemory(holder="somebody")
    with pytest.raises(SchemaLocked, match="for 60 s"), one_at_a_time(store, "db", clock, wait_s=60):
        pass
    assert 60 <= clock.monotonic() < 61
    assert store.holder == "somebody"


def test_it_is_renewed_while_the_block_runs() -> None:
    store = LeaseInMemory()
    with one_at_a_time(store, "db", SystemClock(), ttl_s=0.03) as held:
        assert store.renewed.wait(10)
        held.check()


def test_a_lease_that_was_taken_over_stops_the_runner_before_its_next_statement() -> None:
    store = LeaseInMemory()
    with one_at_a_time(store, "db", SystemClock(), ttl_s=0.03) as held:
        store.holder = "somebody"
        assert held.lost.wait(10)
        with pytest.raises(LeaseLost):
            held.check()
    assert store.holder == "somebody"


def test_an_outage_is_bridged_as_long_as_the_lease_lasts_and_not_longer() -> None:
    store = LeaseInMemory()
    store.outage = True
    with one_at_a_time(store, "db", SystemClock(), ttl_s=0.3) as held:
        assert held.lost.wait(10)
        assert store.renewals >= 2


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("/run/postgresql", True),
        ("10.0.0.7", False),
        ("postgres.data.svc", False),
        ("localhost.example", False),
    ],
)
def test_what_leaves_the_machine_is_encrypted_and_verified(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    context = tls_context(Endpoint(host, 5432, "d"))
    if expected:
        assert context is None
    else:
        assert context is not None
        assert context.check_hostname


def test_a_login_never_shows_its_password() -> None:
    assert "hunter2" not in repr(Login("ada", "hunter2"))
