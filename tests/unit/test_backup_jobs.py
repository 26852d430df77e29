"""The copies that libvirt makes of running guests' disks: begun, seen to their end, broken off."""

from types import SimpleNamespace

import pytest

from agent.system import libvirt_conn
from agent.system.libvirt_conn import LibvirtError

NONE, COMPLETED, FAILED, UNBOUNDED = 0, 3, 4, 2
BACKUP, SNAPSHOT = 9, 6


class Domain:
    """A domain with one job, or none; ``done`` lists what was asked."""

    def __init__(self):
        self.job, self.operation, self.ended = NONE, BACKUP, {"type": COMPLETED, "success": True}
        self.done, self.endless, self.active, self.agent = [], False, True, True

    def isActive(self):  # noqa: N802
        return self.active

    def jobInfo(self):  # noqa: N802
        return [self.job]

    def jobStats(self, flags=0):  # noqa: N802
        return self.ended if flags else {"operation": self.operation}

    def abortJob(self):  # noqa: N802
        self.done.append("abort")
        if not self.endless:
            self.job = NONE

    def backupBegin(self, xml, checkpoint, flags):  # noqa: N802
        self.done.append(xml)

    def fsFreeze(self):  # noqa: N802
        if not self.agent:
            raise LibvirtError("the guest agent is not connected")


@pytest.fixture
def domain(monkeypatch):
    made = Domain()
    module = SimpleNamespace(
        VIR_DOMAIN_JOB_NONE=NONE,
        VIR_DOMAIN_JOB_COMPLETED=COMPLETED,
        VIR_DOMAIN_JOB_STATS_COMPLETED=1,
        VIR_DOMAIN_JOB_OPERATION_BACKUP=BACKUP,
    )
    monkeypatch.setattr(libvirt_conn, "_libvirt", lambda: module)
    monkeypatch.setattr(libvirt_conn, "_domain", lambda _: made)
    monkeypatch.setattr(libvirt_conn, "_call", lambda work, timeout_s=0: work())
    return made


def test_a_copy_begins(domain):
    libvirt_conn.backup_begin("id", "job")
    assert domain.done == ["job"]


def test_what_a_dead_agent_began_is_broken_off_first(domain):
    domain.job = UNBOUNDED
    libvirt_conn.backup_begin("id", "job")
    assert domain.done == ["abort", "job"]


@pytest.mark.parametrize("call", ["begin", "abort"])
def test_nothing_but_copies_is_broken_off(domain, call):
    domain.job, domain.operation = UNBOUNDED, SNAPSHOT
    with pytest.raises(LibvirtError, match="at work on the domain with something else"):
        if call == "begin":
            libvirt_conn.backup_begin("id", "job")
        else:
            libvirt_conn.backup_abort("id")
    assert domain.done == []


def test_a_copy_that_does_not_end_is_asked_once(domain, monkeypatch):
    domain.job, domain.endless = UNBOUNDED, True
    monkeypatch.setattr(libvirt_conn, "QUERY_TIMEOUT_S", 0.3)
    with pytest.raises(LibvirtError, match="does not end"):
        libvirt_conn.backup_begin("id", "job")
    assert domain.done == ["abort"]


@pytest.mark.parametrize("active", [True, False])
def test_where_there_is_no_copy_none_is_broken_off(domain, active):
    domain.active = active
    libvirt_conn.backup_abort("id")
    assert domain.done == []


@pytest.mark.parametrize(
    ("job", "ended", "said"),
    [
        (UNBOUNDED, {}, None),
        (NONE, {"type": COMPLETED, "success": True}, ""),
        (NONE, {"type": COMPLETED}, ""),
        (NONE, {"type": COMPLETED, "success": False, "errmsg": "No space left"}, "No space left"),
        (NONE, {"type": FAILED}, "the job was cancelled, or the guest went off"),
        (NONE, {}, "the job was cancelled, or the guest went off"),
    ],
)
def test_how_a_copy_ended_is_said(domain, job, ended, said):
    domain.job, domain.ended = job, ended
    assert libvirt_conn.backup_ended("id") == said


@pytest.mark.parametrize("agent", [True, False])
def test_a_guest_without_an_agent_is_not_frozen(domain, agent):
    domain.agent = agent
    assert libvirt_conn.freeze("id") == agent
