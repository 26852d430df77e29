"""Run one stackctl command in this process and say how many connections and channels it opened.

Started as ``python -I bench/counting.py ROOT FILE WORDS...``; writes JSON to FILE at the end.
"""

from __future__ import annotations

import atexit
import json
import sys
from pathlib import Path


def main() -> None:
    """Count, then do what bin/stackctl does."""
    root, file = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, root)
    sys.argv = [sys.argv[0], *sys.argv[3:]]
    from stackctl.cli.main import main as stackctl
    from stackctl.fleet import counters

    def tell() -> None:
        counted = {"connections": dict(counters.connections), "channels": dict(counters.channels)}
        file.write_text(json.dumps(counted), encoding="utf-8")

    atexit.register(tell)
    stackctl()


if __name__ == "__main__":
    main()
