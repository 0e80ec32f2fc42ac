"""Where releases are kept: one object each, written once and verified at every read.

Here: keys, the stored form, and what is wrong with a damaged one. Not here: what a release is
(``bundle``) or which store the objects lie in (``dr_platform.objects``).

An object ``releases/<name>.json`` is ``{"digest": …, "release": …}``. The digest shows damage and
careless edits. Somebody who may write the store can compute another one, so what must hold against
that person, such as an approval, names the digest elsewhere.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.objects import AlreadyExists, NoSuchObject, ObjectStore
from dr_platform.releases.bundle import ReleaseBundle, canonical, digest_of

_FOLDER = "releases"
_SUFFIX = ".json"


class UnknownRelease(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.what = f"{name[:80]}: no release of this name was created"
        self.untouched = "every release"
        choice = f"choose one of {', '.join(known)}, or " if known else ""
        self.next_step = f"{choice}create it with `drp release create`"


class ReleaseExists(PlatformError):
    """Never overwritten: somebody may have approved or deployed what is stored."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"release {name} exists already, with another content"
        self.untouched = f"the stored release {name}"
        self.next_step = f"compare with `drp release show {name}`, and give the new one a name of its own"


class DamagedRelease(PlatformError):
    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.what = f"the stored release {name} cannot be trusted: {why}"
        self.untouched = "every environment, and the stored object"
        self.next_step = f"restore the object {_key(name)} from a backup, or create the release under another name"


class ReleaseStore:
    """Releases in an object store, which creates conditionally: of two writers of a name one wins."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def add(self, bundle: ReleaseBundle) -> ReleaseBundle:
        """Store a release and return what is stored under its name: with the same content that may
        be an earlier one. Raises ``ReleaseExists`` for another content, and changes nothing."""
        document = {"digest": bundle.digest, "release": bundle.model_dump(mode="json")}
        try:
            self._objects.put(_key(bundle.name), canonical(document))
        except AlreadyExists:
            stored = self.get(bundle.name)
            if not stored.same_content(bundle):
                raise ReleaseExists(bundle.name) from None
            return stored
        return self.get(bundle.name)

    def get(self, name: str) -> ReleaseBundle:
        """Raises ``UnknownRelease``, and ``DamagedRelease`` where the content is not what was stored."""
        try:
            content = self._objects.get(_key(name))
        except NoSuchObject:
            raise UnknownRelease(name, self.names()) from None
        bundle = _verified(name, content)
        if bundle.name != name:
            raise DamagedRelease(name, "it is another release under this name")
        return bundle

    def names(self) -> tuple[str, ...]:
        """Sorted; also of damaged ones."""
        found = (info.key.removeprefix(f"{_FOLDER}/") for info in self._objects.list(_FOLDER))
        return tuple(key.removesuffix(_SUFFIX) for key in found if key.endswith(_SUFFIX))


def _key(name: str) -> str:
    return f"{_FOLDER}/{name}{_SUFFIX}"


def _verified(name: str, content: bytes) -> ReleaseBundle:
    try:
        document: Any = json.loads(content)
        digest, release = document["digest"], document["release"]
        matches = digest_of(release) == digest
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DamagedRelease(name, "it is no stored release") from None
    if not matches:
        raise DamagedRelease(name, "its content does not have its digest")
    try:
        bundle = ReleaseBundle.model_validate(release)
    except ValidationError:
        raise DamagedRelease(name, "this version does not understand its fields") from None
    # A field that reading drops or spells differently would make two digests of one release.
    if bundle.digest != digest:
        raise DamagedRelease(name, "this version would give it another digest")
    return bundle
