"""Every action in every state that a real domain can be brought to: done, or refused in words."""

from __future__ import annotations

import pytest

from stackctl.compute.lifecycle import TRANSITIONS
from tests.fleet import Fleet, paragraph

ACTIONS = {
    "start": ("start", "vm"),
    "stop": ("stop", "vm"),
    "reboot": ("reboot", "vm"),
    "reboot-hard": ("reboot", "--hard", "vm"),
    "pause": ("pause", "vm"),
    "unpause": ("unpause", "vm"),
    "suspend": ("suspend", "vm"),
    "resume": ("resume", "vm"),
    "rebuild": ("rebuild", "vm", "--yes"),
    "rescue": ("rescue", "vm"),
    "unrescue": ("unrescue", "vm"),
    "resize": ("resize", "vm", "turned"),
    "confirm-resize": ("resize-confirm", "vm"),
    "revert-resize": ("resize-revert", "vm"),
    "migrate": ("migrate", "vm"),
    "live-migrate": ("live-migrate", "vm"),
    "snapshot": ("image-snapshot", "vm", "never-made"),
    "backup": ("backup", "vm", "never-made", "daily", "1"),
    "shelve": ("shelve", "vm"),
    "shelve-offload": ("shelve-offload", "vm"),
    "unshelve": ("unshelve", "vm"),
    "attach-interface": ("interface-attach", "vm", "--net", "faults"),
    "set-password": ("set-password", "vm", "--generate"),
}

STATES = {
    "active": ((), ("ACTIVE", "running")),
    "stopped": ((("stop", "vm"),), ("SHUTOFF", "shut off")),
    "paused": ((("start", "vm"), ("pause", "vm")), ("PAUSED", "paused")),
    "suspended": ((("unpause", "vm"), ("suspend", "vm")), ("SUSPENDED", "shut off")),
    "rescued": ((("resume", "vm"), ("rescue", "vm")), ("RESCUE", "running")),
    "resized": ((("unrescue", "vm"), ("resize", "vm", "turned")), ("VERIFY_RESIZE", "running")),
    "shelved_offloaded": (
        (("resize-revert", "vm"), ("shelve", "vm")),
        ("SHELVED_OFFLOADED", ""),
    ),
}
"""By vm_state: how it is reached from the one before, and what is seen then: here, and there."""


def domain(fleet: Fleet) -> str:
    """What libvirt says of the server's domain, if there is one, without its clock."""
    id_ = fleet.servers()["vm"]["ID"]
    told = fleet.inside("host1", "virsh", "-q", "dominfo", f"sc-{id_}", check=False)
    return "\n".join(line for line in told.splitlines() if not line.startswith("CPU time:"))


@pytest.fixture(scope="module")
def turning(fleet: Fleet) -> Fleet:
    """The fleet with a server and a flavor that it can be given."""
    fleet.run("flavor-create", "turned", "--ram", "80", "--disk", "1", "--vcpus", "1")
    fleet.boot("vm", "--host", "host1")
    return fleet


def test_every_action_in_every_state_is_done_or_refused(turning: Fleet) -> None:
    for state, (way, (status, seen)) in STATES.items():
        for argv in way:
            turning.run(*argv)
        assert turning.statuses() == {"vm": status}
        before = domain(turning)
        assert seen in before
        for action, argv in ACTIONS.items():
            if state not in TRANSITIONS[action].allowed:
                text, _ = paragraph(turning.run(*argv, exit=4))
                assert f"Cannot '{action}' instance vm" in text
                assert f"vm_state {state}" in text
        assert (turning.statuses(), domain(turning)) == ({"vm": status}, before)
    turning.run("unshelve", "vm", "--host", "host1")
    assert turning.statuses() == {"vm": "ACTIVE"}
    turning.check_at_rest()
    turning.delete_all()
    turning.run("flavor-delete", "turned")
