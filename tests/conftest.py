"""What holds for every test: it leaves nothing behind.

A test that leaves a file descriptor, a thread or a child process open fails. A module of tests
that leaves processes (even detached ones) fails. A run that leaves network namespaces, network
devices or bridge ports on the machine fails; it is the whole run, as its workers make and remove
such things side by side. On a machine where others work at the same time, set
STACKCTL_SHARED_MACHINE=1: then only what this run started itself is counted.
"""

import gc
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.engines import (  # noqa: F401 - fixtures that system and fault tests share
    direct_boot,
    fleet,
    guest_image,
    lab,
    lab_cloud,
    lab_key,
    shell,
)

ROOT = Path(__file__).parents[1]
# Inherited by everything that the run starts, however far it detaches itself.
MARK = f"STACKCTL_TEST_RUN={uuid.uuid4()}"
SHARED = os.environ.get("STACKCTL_SHARED_MACHINE") == "1"
PATIENCE_S = 5.0
MACHINE = pytest.StashKey[Counter]()
LEFT = pytest.StashKey[str]()

os.environ.update([MARK.split("=", 1)])
# A test never meets the clouds, colours or options of whoever runs it.
for _name in ("STACKCTL_CLOUD", "STACKCTL_CLOUDS", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
    os.environ.pop(_name, None)
os.environ["TERM"] = "xterm"


def pytest_collection_modifyitems(items):
    """What needs the lab comes first: its bare hosts, then those that are hosts of a cloud."""

    def place(item):
        if not {"system", "faults"} & set(item.path.parts):
            return 2
        return int("fleet" in item.fixturenames)

    items.sort(key=place)


def pytest_sessionstart(session):
    if is_whole_run(session):
        session.stash[MACHINE] = machine()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """The workers have ended by now, if there are any."""
    if is_whole_run(session):
        try:
            settle(lambda: (machine() - session.stash[MACHINE],))
        except pytest.fail.Exception as error:
            session.stash[LEFT] = str(error)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    left = terminalreporter._session.stash.get(LEFT, "")
    if left:
        terminalreporter.section("the machine", sep="=", red=True)
        terminalreporter.line(f"ERROR {left}")


def is_whole_run(session) -> bool:
    """Whether this process answers for the run, and is no worker of it."""
    return not hasattr(session.config, "workerinput")


@pytest.fixture(autouse=True)
def leaves_nothing_open():
    before = (descriptors(), threads(), children())
    yield
    settle(lambda: (descriptors() - before[0], threads() - before[1], children() - before[2]))


@pytest.fixture(scope="module", autouse=True)
def leaves_no_process(request):
    # What the session keeps (a lab) is there before it is counted, whichever test needs it first.
    for name in sorted(kept_by_the_session(request)):
        request.getfixturevalue(name)
    before = our_processes()
    yield
    settle(lambda: (our_processes() - before,))


def kept_by_the_session(request) -> set[str]:
    """The fixtures of session scope that tests of this module use."""
    found = set()
    for item in request.session.items:
        if item.path == request.path:
            fixtures = item._fixtureinfo.name2fixturedefs
            found |= {name for name, kinds in fixtures.items() if kinds[-1].scope == "session"}
    return found - {"request"}


@pytest.fixture
def clouds(tmp_path, monkeypatch):
    """A folder of clouds of its own, so that no test meets a real one."""
    folder = tmp_path / "clouds"
    monkeypatch.setenv("STACKCTL_CLOUDS", str(folder))
    return folder


def settle(leaks) -> None:
    """Fail unless nothing is left within a moment (an ending process needs one)."""
    deadline = time.monotonic() + PATIENCE_S
    left = leaks()
    while any(left) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
        left = leaks()
    if any(left):
        pytest.fail("left behind: " + "; ".join(str(dict(kind)) for kind in left if kind))


def descriptors() -> Counter:
    """What this process has open, by what it points to."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            continue
        # Sockets and pipes differ by number each time; their count is what matters.
        kind = target.partition(":[")[0]
        if kind != f"/proc/{os.getpid()}/fd":
            found.append(kind)
    return Counter(found)


def threads() -> Counter:
    return Counter(thread.name for thread in threading.enumerate() if not thread.daemon)


def children() -> Counter:
    """Children of this process, by name; the dead ones that nobody waited for, too."""
    me = str(os.getpid())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if rest.split()[1] == me:
            found.append(name.partition("(")[2])
    return Counter(found)


def our_processes() -> Counter:
    """Everything that this run started and that still runs, by name."""
    mark = MARK.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((folder / "comm").read_text().strip())
        except OSError:
            continue
    return Counter(found)


def machine() -> Counter:
    """Network namespaces, network devices and bridge ports of this machine."""
    if SHARED:
        return Counter()
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob("*")]
    found += [f"device {path.name}" for path in Path("/sys/class/net").glob("*")]
    found += [f"bridge port {name}" for name in bridge_ports()]
    return Counter(found)


def bridge_ports() -> list[str]:
    if not Path("/run/openvswitch/db.sock").exists() or shutil.which("ovs-vsctl") is None:
        return []
    command = ["ovs-vsctl", "--timeout=5", "--bare", "--columns=name", "list", "Port"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()
