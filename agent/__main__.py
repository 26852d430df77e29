"""The agent's entry: ``serve`` holds one exchange on standard input and output, ``restore`` gives
a rebooted host its networks back.

Run as ``python3 -I <folder>/agent serve``. Standard input and output are taken away at once, so
that nothing that prints can corrupt the channel.
"""

from __future__ import annotations

import os
import sys

USAGE = "usage: agent [serve|restore] [DATA_FOLDER]\n"


def main(argv: list[str]) -> int:
    """Run the agent (``serve`` when not told); the exit status is 2 for wrong words."""
    argv = argv or ["serve"]
    if len(argv) > 2 or argv[0] not in ("serve", "restore"):
        sys.stderr.write(USAGE)
        return 2
    os.umask(0o077)
    read_fd, write_fd = _take_stdio()
    # Imported late: a stray print of an import must not reach the channel either.
    from pathlib import Path

    from agent.resources.base import DATA_FOLDER

    data = Path(argv[1]) if len(argv) == 2 else DATA_FOLDER
    if argv[0] == "restore":
        from agent.restore import restore

        return restore(data)
    from agent.channel import Channel
    from agent.exchange import serve

    channel = Channel(read_fd, write_fd)
    channel.start()
    serve(channel, data)
    return 0


def _take_stdio() -> tuple[int, int]:
    """Private copies of stdin and stdout; 0 becomes /dev/null, 1 becomes stderr."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd


if __name__ == "__main__":
    if not __package__:
        # Started as a folder: Python put this package itself on the path instead of its parent.
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.exit(main(sys.argv[1:]))
