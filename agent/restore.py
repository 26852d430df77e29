"""After a reboot: give the host back the network of its last spec, without a controller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agent import facts
from agent.converge import Convergence, Reporter
from agent.resources.base import Host
from agent.resources.registry import NETWORK_KINDS
from agent.store import Store, boot_id
from agent.system import files
from agent.system.run import CommandFailed, run

LOCK_TIMEOUT_S = 120.0
SYSTEMD = Path("/run/systemd/system")
UNIT = Path("/etc/systemd/system/stackctl-restore.service")

_UNIT_TEXT = """\
[Unit]
Description=stackctl: restore the networks of this host
After=network.target openvswitch-switch.service openvswitch.service
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 -I {folder}/agent restore
TimeoutStartSec=300

[Install]
WantedBy=multi-user.target
"""


def restore(data: Path) -> int:
    """Apply the network kinds of the stored spec; the exit status is 1 when one failed."""
    store = Store(data)
    with store.lock(LOCK_TIMEOUT_S):
        spec = store.spec()
        if spec is None:
            return 0
        host = Host(
            data=data, boot_id=boot_id(), boot_id_before=store.boot_id_before(), blob=store.blob
        )
        reporter = Reporter(_tell)
        Convergence(host, spec, reporter, lambda: None).run(NETWORK_KINDS)
    return 1 if host.failed else 0


def install() -> None:
    """Have systemd run this agent's ``restore`` at every boot, where there is a systemd.

    A host where that fails converges all the same, so it is told on stderr only.
    """
    if not SYSTEMD.is_dir():
        return
    text = _UNIT_TEXT.format(folder=facts.agent_folder()).encode()
    if files.read_bytes(UNIT) == text:
        return
    try:
        files.write_atomic(UNIT, text, 0o644)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "enable", UNIT.name])
    except (OSError, CommandFailed) as error:
        sys.stderr.write(f"cannot install {UNIT}: {error}\n")


def _tell(message: dict[str, Any]) -> None:
    for report in message.get("reports", ()):
        if report["fault"] is not None:
            sys.stderr.write(f"{report['kind']} {report['id']}: {report['fault']['message']}\n")
