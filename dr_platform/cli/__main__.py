"""``python -m dr_platform.cli`` is ``drp``."""

from dr_platform.cli import main

main()
