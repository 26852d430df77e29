"""A database that is older than what its hosts have accepted; owners; a second command."""

import os
import signal
import time

import pytest

from stackctl.compute import commanding, elsewhere, service
from stackctl.errors import HostAhead, HostUnreachable
from stackctl.operation import adopt, exchange
from stackctl.operation.owner import owner_is_alive, take_ownership
from stackctl.state import write


def set_back(world, name, serial=0, nonce="another"):
    """The host has accepted more than this database ever sent."""
    state = world.fleet.state(name)
    row = world.host(name)
    world.fleet.save(name, state | {"accepted": [row["sent_serial"] + serial, nonce]})


class TestAhead:
    @pytest.mark.parametrize("serial", [0, 1, 500])
    def test_it_is_refused_and_adopted(self, pair, serial):
        pair.booted("old", host="h1")
        set_back(pair, "h1", serial)
        before = pair.fleet.state("h1")
        with pytest.raises(HostAhead, match="never sent") as caught:
            pair.boot("new", host="h1").check()
        assert (caught.value.exit_status, "adopt" in caught.value.hint) == (11, True)
        assert pair.fleet.state("h1") == before
        assert pair.servers() == {"old": "ACTIVE"}
        assert adopt(pair.context, None) == ["h1"]
        assert adopt(pair.context, None) == []
        pair.booted("new", host="h1")
        assert pair.value("SELECT serial FROM cloud") > before["accepted"][0]

    def test_another_host_takes_the_servers_and_it_is_said(self, pair):
        pair.booted("old", host="h1")
        set_back(pair, "h1", 5)
        done = pair.boot("new", count=2)
        assert {server.host for server in done.value} == {"h2"}
        with pytest.raises(Exception, match="never sent") as caught:
            done.check()
        assert caught.value.exit_status == 40

    def test_adopting_goes_past_hosts_that_are_down(self, pair):
        pair.booted(count=2)
        set_back(pair, "h2", 5)
        pair.trouble("h1", unreachable=True)
        assert adopt(pair.context, None) == ["h2"]
        assert len(pair.warnings) == 1
        with pytest.raises(HostUnreachable):
            adopt(pair.context, "h1")

    def test_a_host_that_lost_its_memory_is_not_ahead(self, pair):
        pair.booted(host="h1")
        pair.fleet.save("h1", pair.fleet.state("h1") | {"accepted": None})
        assert adopt(pair.context, None) == []
        pair.converge("h1").check()


class TestOwners:
    def test_a_held_lock_is_a_living_owner(self, world):
        owner = take_ownership(world.cloud, "one")
        assert owner_is_alive(str(owner.path), "one")
        assert not owner_is_alive(str(owner.path), "two")
        owner.release()
        assert not owner_is_alive(str(owner.path), "one")
        assert owner.path.exists()

    def test_two_own_two_files(self, world):
        one, two = take_ownership(world.cloud, "one"), take_ownership(world.cloud, "two")
        assert one.path != two.path
        one.release()
        two.release()
        again = take_ownership(world.cloud, "three")
        assert again.path == one.path
        assert not owner_is_alive(str(one.path), "one")
        again.release()

    def test_who_asks_is_not_taken_for_the_owner(self, world, monkeypatch):
        """Two who ask at once: the second, while the first has the file open."""
        owner = take_ownership(world.cloud, "one")
        owner.release()
        answers = []
        real = os.close

        def ask_meanwhile(descriptor):
            if not answers:
                answers.append(None)
                answers.append(owner_is_alive(str(owner.path), "one"))
            real(descriptor)

        monkeypatch.setattr("stackctl.operation.owner.os.close", ask_meanwhile)
        assert not owner_is_alive(str(owner.path), "one")
        assert answers == [None, False]

    def test_no_file_no_owner(self, world):
        assert not owner_is_alive(str(world.cloud.locks / "nothing"), "one")

    def test_killed_owners_are_dead_at_once(self, world):
        pid = os.fork()
        if pid == 0:
            take_ownership(world.cloud, "child")
            signal.pause()
        path = str(world.cloud.locks / "owner-0.lock")
        while not owner_is_alive(path, "child"):
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not owner_is_alive(path, "child")


class TestMeanwhile:
    """Another command reaches a host that this one did not: nothing may be done twice."""

    def test_servers_that_a_host_was_told_of_are_not_moved(self, pair, monkeypatch):
        pair.trouble("h1", unreachable=True)
        self.reach_in_between(pair, monkeypatch)
        done = pair.boot(count=2)
        done.check()
        assert {server.host for server in done.value} == {"h1", "h2"}
        assert len(pair.fleet.domains()) == 2

    def reach_in_between(self, pair, monkeypatch):
        """Let somebody converge h1 just before the boot looks for another place."""
        real = elsewhere._Retries._place_elsewhere

        def first_another(*arguments):
            monkeypatch.setattr(elsewhere._Retries, "_place_elsewhere", real)
            pair.trouble("h1")
            pair.converge("h1").check()
            return real(*arguments)

        monkeypatch.setattr(elsewhere._Retries, "_place_elsewhere", first_another)

    def test_a_power_command_that_was_carried_out_is_not_taken_back(self, pair, monkeypatch):
        pair.booted(host="h1")
        pair.trouble("h1", unreachable=True)
        real = commanding.take_back

        def first_another(*arguments):
            pair.trouble("h1")
            pair.converge("h1").check()
            real(*arguments)

        monkeypatch.setattr(commanding, "take_back", first_another)
        service.change_power(pair.context, "stop", ["vm"])
        assert pair.servers() == {"vm": "SHUTOFF"}
        monkeypatch.setattr(commanding, "take_back", real)
        service.change_power(pair.context, "start", ["vm"]).check()
        assert pair.servers() == {"vm": "ACTIVE"}

    def test_a_late_word_does_not_make_a_host_look_behind(self, pair):
        pair.booted(host="h1")
        newest = pair.host("h1")["applied_serial"]
        with write(pair.cloud) as writer:
            exchange._applied(writer, pair.host("h1")["id"], newest - 1)
        assert pair.host("h1")["applied_serial"] == newest
