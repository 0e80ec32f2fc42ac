"""A real S3 server for tests: ``DRP_TEST_S3`` names a program, else one built once from its Go module.

It is versitygw (Apache-2.0), which keeps objects in a folder. It differs from Amazon's in that it takes objects
without a checksum where a bucket has a default retention, and in that a removed key is not free there. The build
takes 2 to 5 minutes on 2 cores and stays in the cache. It is asked for by hand and never started by a test:
``python -m tests.s3_server``, then ``pytest -m s3``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.go_program import GoProgram, free_port, wait_until

VERSION = "v1.8.0"
GO_MOD = f"""module dr-platform/s3

go 1.25

require github.com/versity/versitygw {VERSION}
"""
S3 = GoProgram("S3 server", "versitygw", "github.com/versity/versitygw/cmd/versitygw", GO_MOD, "DRP_TEST_S3")
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    address: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> Mapping[str, str]:
        """What an operator sets for a service that is not Amazon's own."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request past the adapter under test, signed by AWS Signature Version 4."""
        url = httpx.URL(f"{self.address}{path}", params=dict(sorted((query or {}).items())))
        digest = hashlib.sha256(body).hexdigest()
        sent = {
            **(headers or {}),
            "host": url.netloc.decode(),
            "x-amz-date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
            "x-amz-content-sha256": digest,
        }
        sent["authorization"] = self._signature(method, path, query or {}, sent)
        return httpx.request(method, url, content=body, headers=sent, timeout=20)

    def _signature(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        names = ";".join(sorted(headers))
        asked = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join([method, path, asked, lines, names, headers["x-amz-content-sha256"]])
        moment = headers["x-amz-date"]
        scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"

    def make_bucket(self, name: str) -> None:
        self.call("PUT", f"/{name}").raise_for_status()

    def make_locked_bucket(self, name: str) -> None:
        """Versioned; what is put there stays for a day, whoever asks (``COMPLIANCE``)."""
        self.call("PUT", f"/{name}", headers={"x-amz-bucket-object-lock-enabled": "true"}).raise_for_status()
        rule = (
            b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
            b"<Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        )
        checksum = {"content-md5": _md5(rule)}
        self.call("PUT", f"/{name}", {"object-lock": ""}, rule, checksum).raise_for_status()


def _md5(body: bytes) -> str:
    return b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@contextlib.contextmanager
def running_s3(program: Path) -> Iterator[S3Server]:
    """On loopback, with credentials and folders of its own; both are gone afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="drp-s3-") as home:
        folders = {name: Path(home) / name for name in ("objects", "versions", "attributes")}
        for folder in folders.values():
            folder.mkdir()
        access_key, secret_key = secrets.token_hex(10).upper(), secrets.token_hex(20)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "ROOT_ACCESS_KEY_ID": access_key,
            "ROOT_SECRET_ACCESS_KEY": secret_key,
        }
        command = [str(program), "--port", f"127.0.0.1:{port}", "--region", REGION, "--quiet", "posix"]
        # Not in extended attributes, which not every file system has for every user.
        command += ["--versioning-dir", str(folders["versions"]), "--sidecar", str(folders["attributes"])]
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen([*command, str(folders["objects"])], env=environment, stdout=log, stderr=log)
        server = S3Server(f"http://127.0.0.1:{port}", access_key, secret_key, process)
        try:
            wait_until(lambda: _answers(server), process, "the S3 server")
            yield server
        finally:
            process.kill()
            process.wait(timeout=20)


def _answers(server: S3Server) -> bool:
    try:
        return server.call("GET", "/").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    print(S3.built())
