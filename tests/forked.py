"""Runs stackctl's commands in forks of one process that has imported everything.

A fault test runs hundreds of commands; each would import for half a second. Started as a program
with ``-m tests.forked``, it reads requests on stdin, a line of JSON each: argv, environment, and
the files that get stdout and stderr; and answers each with a line: the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from typing import Any, NoReturn

NOT_COMMANDS = ("stackctl.lab.init", "stackctl.fleet.bootstrap", "stackctl.__main__")


def preload() -> None:
    """Import whatever a command may import."""
    import paramiko  # noqa: F401 - commands import it when they reach a host

    import stackctl

    for module in pkgutil.walk_packages(stackctl.__path__, "stackctl."):
        if module.name not in NOT_COMMANDS:
            importlib.import_module(module.name)


def command(request: dict[str, Any]) -> NoReturn:
    """Be the command that was asked for."""
    from stackctl import killpoint
    from stackctl.cli.main import main

    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    # Read when it was imported, which was before this command had its environment.
    importlib.reload(killpoint)
    sys.argv = ["stackctl", *request["argv"]]
    main()


def serve() -> None:
    """Answer requests until there are no more."""
    preload()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                command(json.loads(line))
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(end.code if isinstance(end.code, int) else 70)
            finally:
                os._exit(70)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
