"""Who connects to a database and over what: logins, loopback, TLS.

Here: what all four engines share before a driver is involved. Not here: any driver.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dr_platform.databases.port import DatabaseUnreachable, Endpoint, Finding
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.secrets.port import SecretStore

if TYPE_CHECKING:
    import ssl

LoginRole = Literal["admin", "application"]

ACCESS_CONTROL = "45 CFR 164.312(a)(1)"
ENCRYPTION = "45 CFR 164.312(a)(2)(iv)"
AUDIT = "45 CFR 164.312(b)"
INTEGRITY = "45 CFR 164.312(c)(1)"
AUTHENTICATION = "45 CFR 164.312(d)"
TRANSMISSION = "45 CFR 164.312(e)(1)"

CONNECT_TIMEOUT_S = 3.0
"""A server on the same machine or network answers in milliseconds; what takes longer is down."""
QUERY_TIMEOUT_S = 10.0
APPLY_TIMEOUT_S = 900.0
"""One statement of a migration, on a large table."""

CA_VARIABLE = "DRP_DATABASE_CA"
"""Names a PEM file of certificate authorities for databases; else those of the system are used."""


@dataclass(frozen=True)
class Login:
    username: str
    password: str = field(repr=False)


class NoCredentials(PlatformError):
    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, name: str, role: str) -> None:
        super().__init__(name, role)
        self.what = f"there are no credentials of {role} for {name}: the secret databases/{name}/{role} does not exist"
        self.untouched = f"everything stored in {name}"
        self.next_step = (
            "run `drp up`, which makes them for embedded servers; elsewhere store fields username and password"
        )


def read_login(name: str, role: LoginRole, secrets: SecretStore) -> Login:
    fields = secrets.read(f"databases/{name}/{role}")
    if fields is None:
        raise NoCredentials(name, role)
    return Login(fields["username"], fields["password"])


def is_loopback(host: str) -> bool:
    """Whether a connection to this host stays on the machine."""
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def certificate_authorities() -> str | None:
    return os.environ.get(CA_VARIABLE) or None


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """Required off loopback: what leaves the machine is encrypted, and the server is verified."""
    if is_loopback(endpoint.host):
        return None
    import ssl

    return ssl.create_default_context(cafile=certificate_authorities())


Answer = tuple[bool | None, str]
"""Good, bad or could not look, and why; without any stored data."""


Look = tuple[str, str, Callable[[], Answer]]
"""Name of a finding, the clause it serves, and how to look."""


def measure(looks: Sequence[Look]) -> tuple[Finding, ...]:
    """One finding per look. A look that fails says so and does not hide the others; after a server
    that did not answer once, it is not asked again, or the whole would take a time-out for each."""
    findings: list[Finding] = []
    silent = False
    for name, clause, look in looks:
        if silent:
            findings.append(Finding(name, None, "could not look: the server does not answer", clause))
            continue
        try:
            passed, detail = look()
        except Exception as exc:  # noqa: BLE001 - drivers raise unrelated types; the type alone is safe to show
            passed, detail = None, f"could not look: {type(exc).__name__}"
            silent = isinstance(exc, DatabaseUnreachable)
        findings.append(Finding(name, passed, detail, clause))
    return tuple(findings)


def listens_on_loopback_only(endpoint: Endpoint) -> Answer:
    """Read from the kernel which addresses are bound to the port; for servers of this machine."""
    import psutil

    bound = {
        connection.laddr.ip
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == endpoint.port
    }
    if not bound:
        return None, f"no listening socket on port {endpoint.port} to be seen on this machine"
    open_to_others = sorted(address for address in bound if not is_loopback(address.removeprefix("::ffff:")))
    if open_to_others:
        return False, f"port {endpoint.port} is also bound to {', '.join(open_to_others)}"
    return True, f"port {endpoint.port} is bound to {', '.join(sorted(bound))} only"


def transmission(endpoint: Endpoint) -> Answer:
    """Loopback only, or TLS: off loopback the adapters connect with verified TLS or not at all."""
    if is_loopback(endpoint.host):
        return listens_on_loopback_only(endpoint)
    return True, "the connection is encrypted and the server's certificate was verified"


def all_refused(what: str, tried: int, admitted: int) -> Answer:
    """The verdict over attempts that must all fail."""
    if admitted:
        return False, f"{admitted} of {tried} {what} were admitted"
    return True, f"all {tried} {what} were refused"
