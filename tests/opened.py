"""In the place of the global options of ``drp``: a platform that is open already."""

from __future__ import annotations

from dataclasses import dataclass

from dr_platform.platform import Platform


@dataclass(frozen=True)
class Opened:
    opened: Platform

    def platform(self) -> Platform:
        return self.opened
