"""The agent as hosts run it: the distribution's python3, isolated, from its folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent import wire

AGENT = Path(__file__).parents[2] / "agent"


def run(*argv: str) -> subprocess.CompletedProcess[bytes]:
    command = ["/usr/bin/python3", "-I", str(AGENT), *argv]
    return subprocess.run(command, capture_output=True, timeout=60)


def opening(**changes):
    message = {
        "type": "open",
        "protocol": wire.PROTOCOL,
        "cloud_id": "cloud",
        "host_id": "host",
        "mode": "act",
        "claim": True,
        **changes,
    }
    return wire.encode_message(message)


def answers(*argv: str, said: bytes, count: int) -> list[dict]:
    """The frames that an agent answers; its standard output must hold nothing else."""
    command = ["/usr/bin/python3", "-I", str(AGENT), *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as agent:
        agent.stdin.write(said)
        agent.stdin.flush()
        frames = [wire.read_frame(agent.stdout.read).message for _ in range(count)]
        agent.stdin.write(wire.encode_message({"type": "bye"}))
        agent.stdin.close()
        assert agent.stdout.read() == b""
        assert agent.wait(30) == 0
    return frames


@pytest.mark.parametrize("verb", [[], ["serve"]])
def test_it_answers_in_frames_only(verb):
    (answer,) = answers(*verb, said=opening(protocol=99), count=1)
    assert (answer["type"], answer["code"]) == ("error", "protocol")


def test_a_hello_tells_what_the_host_is(tmp_path):
    (hello,) = answers("serve", str(tmp_path / "data"), said=opening(), count=1)
    assert hello["type"] == "hello"
    assert hello["accepted"] is None
    assert hello["agent_version"] == AGENT.parent.name
    facts = hello["facts"]
    assert facts["vcpus"] >= 1
    assert facts["ram_mb"] > 100
    assert set(facts["disk_gb"]) == {"free", "total"}
    assert facts["virt_type"] in ("kvm", "qemu")
    assert facts["ovs_datapath"] in ("system", "netdev")
    assert "lo" in {nic["name"] for nic in facts["nics"]}
    assert set(facts["versions"]) == {"kernel", "python", "libvirt", "qemu", "ovs", "dnsmasq"}


def test_wrong_words_are_refused():
    done = run("dance")
    assert done.returncode == 2
    assert b"usage" in done.stderr
    assert done.stdout == b""


def test_restoring_a_host_that_was_never_told_anything(tmp_path):
    assert run("restore", str(tmp_path / "data")).returncode == 0
