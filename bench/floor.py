"""The floor: what libvirt itself needs to define and start the same domains, from threads.

The domains' XML is that of servers which stackctl booted, with other names, UUIDs, MACs and taps;
disks and taps are made beforehand, and connections opened. A helper runs inside each host (with
the distribution's libvirt bindings), and waits for a word so that all hosts begin at once.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.measuring import CommandFailed, Taken

HELPER = r"""
import json, os, re, subprocess, sys, threading, uuid
import libvirt

def other(number, xml):
    fresh = str(uuid.UUID(int=uuid.uuid4().int))
    xml = re.sub(r"<uuid>.*?</uuid>", "<uuid>%s</uuid>" % fresh, xml)
    xml = re.sub(r"<name>.*?</name>", "<name>floor-%d</name>" % number, xml)
    xml = re.sub(r"fa:16:3e:..:..:..", "fa:16:3e:ff:ff:%02x" % number, xml)
    tap = "floortap%d" % number
    subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
    subprocess.run(["ip", "link", "set", tap, "up"], check=True)
    xml = re.sub(r"dev=['\"]tap[0-9a-f-]+['\"]", "dev='%s'" % tap, xml)
    for path in set(re.findall(r"file=['\"]([^'\"]+)['\"]", xml)):
        made = "/var/tmp/floor-%d-%s" % (number, os.path.basename(path))
        if path.endswith((".qcow2", ".iso")):  # an image below a disk stays where it is
            subprocess.run(["cp", path, made], check=True)
        if path.endswith((".qcow2", ".iso", ".log")):
            xml = xml.replace(path, made)
    return xml

failures = []

def start(xml, connection):
    try:
        connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).create()
    except Exception as error:
        failures.append(str(error))

wanted = json.loads(sys.stdin.readline())
connection = libvirt.open("qemu:///system")
known = connection.listAllDomains()
texts = [other(i, xml) for i, xml in enumerate(wanted)]
connection.getCapabilities()
# libvirt carries out the calls of one connection one after another: each thread has its own.
own = [libvirt.open("qemu:///system") for _ in texts]
[one.getLibVersion() for one in own]
threads = [threading.Thread(target=start, args=each) for each in zip(texts, own)]
print("ready", flush=True)
sys.stdin.readline()
[t.start() for t in threads]
[t.join() for t in threads]
print("done" if not failures else "failed: %s" % failures, flush=True)
sys.stdin.readline()
for domain in connection.listAllDomains():
    if domain.name().startswith("floor-"):
        domain.isActive() and domain.destroy()
        domain.undefine()
for number in range(len(wanted)):
    subprocess.run(["ip", "link", "delete", "floortap%d" % number])
subprocess.run("rm -f /var/tmp/floor-*", shell=True)
print("clean", flush=True)
"""


@dataclass(frozen=True)
class FloorHost:
    """A lab host, by the pid of its init as the machine sees it."""

    name: str
    pid: int

    def argv(self, *words: str) -> list[str]:
        """A command inside the host."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net"]
        return [*enter, "--pid", "--", *words]


def domain_xml(host: FloorHost, server_id: str) -> str:
    """The definition of a server's domain, with what libvirt itself gave it left out."""
    argv = host.argv("virsh", "-q", "dumpxml", "--inactive", server_id)
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


class Floor:
    """Domains of several hosts, with all that they need made, ready to be started at once."""

    def __init__(self, domains: Sequence[tuple[FloorHost, list[str]]]) -> None:
        self._helpers = [_Helper(host, texts) for host, texts in domains]
        try:
            for helper in self._helpers:
                helper.expect("ready")
        except BaseException:
            self.end()
            raise

    def measure(self) -> Taken:
        """Start them: the time until the last one runs. Nothing of them is left afterwards."""
        try:
            begun = time.monotonic()
            for helper in self._helpers:
                helper.say()
            for helper in self._helpers:
                helper.expect("done")
            taken = time.monotonic() - begun
            for helper in self._helpers:
                helper.say()
                helper.expect("clean")
        finally:
            self.end()
        return Taken(taken)

    def end(self) -> None:
        """Be sure that no helper is left."""
        for helper in self._helpers:
            helper.end()


class _Helper:
    def __init__(self, host: FloorHost, texts: list[str]) -> None:
        self._host = host
        self._process = subprocess.Popen(
            host.argv("/usr/bin/python3", "-I", "-c", HELPER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.say(json.dumps(texts))

    def say(self, text: str = "") -> None:
        """Give the helper a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def expect(self, word: str) -> None:
        """Wait for its word."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.strip() != word:
            why = line or self._process.communicate(timeout=10)[1][-500:]
            raise CommandFailed(f"the floor on {self._host.name}: {why.strip()}")

    def end(self) -> None:
        """Be sure that it is gone."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
