"""Connection tracking zones: what an agent that died has left behind."""

from dataclasses import replace

from agent.resources import switch, zones
from agent.resources.base import Host
from agent.system import ovs
from tests import agent_networks as net


def host_with_switch(tmp_path) -> Host:
    host = Host(data=tmp_path, boot_id="", boot_id_before=None, blob=lambda _: b"")
    bridge = ovs.Bridge("br-int", "secure", "netdev", {}, ())
    host.seen["ovs"] = ovs.Switch(bridges={"br-int": bridge})
    return host


def test_a_zone_begun_for_a_network_that_left_is_emptied_and_its_mark_goes(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(ovs, "flush_zone", flushed.append)
    host = host_with_switch(tmp_path)
    mark = switch.pending_file(host, "zone-7")
    mark.parent.mkdir(parents=True)
    mark.touch()
    spec = replace(net.host_spec(1), networks=(), ports=())
    (step,) = zones.KIND.removals(host, spec)
    assert (step.id, step.result) == ("zone-7", "removed")
    step.apply()
    assert flushed == [7]
    assert not mark.exists()
    assert list(zones.KIND.removals(host, spec)) == []
