"""Who gives which image to whom: no network, many threads."""

import threading
from contextlib import contextmanager

import pytest

from agent.spec import Image
from stackctl.errors import AgentFailed
from stackctl.operation.spreading import GIVEN_AT_ONCE, MIB, Spreading

IMAGE = Image("i", "a" * 64, 100 * MIB, "raw")


class Hosts:
    """Hosts that fetch the image at once; counts who gave it, and how many at a time."""

    def __init__(self, count, *, broken=(), local=(), least_mb=64, fail_first=False, keepers=()):
        self.rows = [
            {"id": f"h{n}", "address": f"10.0.0.{n}", "transport": "local" if n in local else "ssh"}
            for n in range(count)
        ]
        self.broken = {f"h{n}" for n in broken}
        self.fail_first = fail_first
        self.given: list[tuple[str, str]] = []
        self.most: dict[str, int] = {}
        self.now: dict[str, int] = {}
        self.opened = 0
        self.lock = threading.Lock()
        kept = [self.rows[n] for n in keepers]
        self.spread = Spreading(least_mb, self.act, keepers=lambda _: kept)

    @contextmanager
    def act(self, row):
        self.opened += 1
        hosts = self

        class Session:
            def act(self, name, arguments):
                if row["id"] in hosts.broken:
                    raise AgentFailed("no")
                assert arguments["address"] == row["address"]
                return {"port": 1000 + int(row["id"][1:])}

        yield Session()
        self.opened -= 1

    def fetch(self, row):
        with self.spread.part(row, (IMAGE,)) as part:
            peer = part.peer(IMAGE.sha256)
            giver = "controller" if peer is None else f"h{peer.port - 1000}"
            with self.lock:
                self.given.append((giver, row["id"]))
                self.now[giver] = self.now.get(giver, 0) + 1
                self.most[giver] = max(self.most.get(giver, 0), self.now[giver])
            threading.Event().wait(0.01)
            with self.lock:
                self.now[giver] -= 1
            if self.fail_first and giver == "controller" and len(self.given) == 1:
                return
            part.arrived(())

    def run(self):
        threads = [threading.Thread(target=self.fetch, args=(row,)) for row in self.rows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        self.spread.close()
        assert self.opened == 0
        return [giver for giver, _ in self.given]


def test_the_controller_sends_once():
    hosts = Hosts(16)
    givers = hosts.run()
    assert givers.count("controller") == 1
    assert len(givers) == 16
    assert len(set(givers)) > 2  # those who got it give it on
    assert max(hosts.most.values()) <= GIVEN_AT_ONCE


@pytest.mark.parametrize("least_mb", [None, 101])
def test_small_images_come_from_the_controller(least_mb):
    assert set(Hosts(4, least_mb=least_mb).run()) == {"controller"}


def test_a_broken_giver_is_not_asked_again():
    hosts = Hosts(6, broken=range(6))
    assert set(hosts.run()) == {"controller"}


def test_when_the_first_one_fails_the_next_one_is_first():
    givers = Hosts(5, fail_first=True).run()
    assert givers.count("controller") == 2


def test_the_controller_as_a_host_gives_nothing():
    hosts = Hosts(1, local=[0])
    assert hosts.run() == ["controller"]
    assert hosts.spread._givers == {}


def test_a_host_that_had_it_gives_it():
    hosts = Hosts(2)
    with hosts.spread.part(hosts.rows[0], (IMAGE,)) as part:
        part.arrived(())
    with hosts.spread.part(hosts.rows[1], (IMAGE,)) as part:
        assert part.peer(IMAGE.sha256).port == 1000
        assert part.peer("b" * 64) is None
    hosts.spread.close()


def test_a_giver_that_did_not_give_is_not_named_again():
    hosts = Hosts(3)
    with hosts.spread.part(hosts.rows[0], (IMAGE,)) as part:
        part.arrived(())
    with hosts.spread.part(hosts.rows[1], (IMAGE,)) as part:
        assert part.peer(IMAGE.sha256).port == 1000
        assert part.peer(IMAGE.sha256, failed=True) is None
        part.arrived(())
    with hosts.spread.part(hosts.rows[2], (IMAGE,)) as part:
        assert part.peer(IMAGE.sha256).port == 1001
    hosts.spread.close()


@pytest.mark.parametrize("least_mb", [None, 64, 101])
def test_what_only_hosts_have_comes_from_one_that_answers(least_mb):
    hosts = Hosts(4, least_mb=least_mb, keepers=[0, 1, 2], broken=[1])
    with hosts.spread.part(hosts.rows[3], (IMAGE,)) as part:
        assert part.peer(IMAGE.sha256).port == 1000
    with hosts.spread.part(hosts.rows[0], (IMAGE,)) as part:
        assert part.peer(IMAGE.sha256).port == 1002
    hosts.spread.close()
