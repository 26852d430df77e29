"""Open vSwitch over dummy devices: what it does with a packet, without any rights."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from agent.resources.flow_text import Flow


class DummySwitch:
    """ovs-vswitchd over dummy devices: needs no rights, and traces packets through real tables."""

    def __init__(self, cookie: int, folder: Path) -> None:
        self.cookie = cookie
        self.env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "OVS_RUNDIR": str(folder),
            "OVS_LOGDIR": str(folder),
            "OVS_DBDIR": str(folder),
        }
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        database, socket = self.folder / "conf.db", self.folder / "db.sock"
        self.run("ovsdb-tool", "create", str(database), "/usr/share/openvswitch/vswitch.ovsschema")
        self.spawn("ovsdb-server", str(database), f"--remote=punix:{socket}")
        while not socket.exists():
            time.sleep(0.01)
        self.run("ovs-vsctl", "--no-wait", "init")
        self.spawn("ovs-vswitchd", f"unix:{socket}", "--enable-dummy=override", "--disable-system")
        self.run("ovs-vsctl", "--timeout=10", "show")

    def spawn(self, *argv: str) -> None:
        words = [*argv, "-vconsole:off", "--pidfile"]
        self.processes.append(subprocess.Popen(words, env=self.env))

    def run(self, *argv: str, text: str = "") -> str:
        done = subprocess.run(
            argv, env=self.env, input=text, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)

    def build(
        self, tables: dict[str, list[Flow]], ports: dict[str, dict[str, tuple[int, str]]]
    ) -> None:
        for bridge, members in ports.items():
            argv = ["ovs-vsctl", "--timeout=10", "add-br", bridge, "--", "set", "bridge", bridge]
            argv += ["fail_mode=secure", "datapath_type=dummy"]
            for name, (ofport, options) in members.items():
                argv += ["--", "add-port", bridge, name]
                argv += ["--", "set", "Interface", name, f"ofport_request={ofport}"]
                argv += options.split() if "peer" in options else ["type=dummy"]
                argv += ["--", "set", "Port", name, options] if "tag" in options else []
            self.run(*argv)
            lines = "\n".join(f"add {flow.text(self.cookie)}" for flow in tables[bridge])
            self.run(
                "ovs-ofctl", "-O", "OpenFlow13", "--bundle", "add-flows", bridge, "-", text=lines
            )

    def trace(self, bridge: str, packet: str, *states: str, frame: bytes = b"") -> str:
        """What leaves: ``drop``, or datapath actions with port names. ``packet`` says where it
        comes in, and what it is unless there is a ``frame``.

        ``states`` are what connection tracking says of the packet, each time that it is asked;
        "trk,new" without them.
        """
        words = [frame.hex()] if frame else []
        after = [word for state in states for word in ("--ct-next", state)]
        out = self.run("ovs-appctl", "ofproto/trace", "--names", *after, bridge, packet, *words)
        return ",".join(re.findall(r"^Datapath actions: (.*)$", out, re.MULTILINE))
