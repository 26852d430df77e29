"""A libvirt made for a test: domains that run, into which devices are plugged and which let go."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from agent.resources import nic
from agent.system import libvirt_conn
from agent.system.libvirt_conn import DomainView, LibvirtError


class RunningDomains:
    """Domains by their ids; ``tag`` is the kind of device that the test is about.

    A stubborn guest releases nothing; a libvirt that ``refuses`` says so when a device comes.
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.domains: dict[str, DomainView] = {}
        self.stubborn = False
        self.refuses = ""
        self.asked = 0

    def replaces(self, monkeypatch, *more: str) -> None:
        """Stand in for the real one, whose guests need not be waited for long."""
        for name in ("running", "plug", "unplug", *more):
            monkeypatch.setattr(libvirt_conn, name, getattr(self, name))
        for name, seconds in (("PATIENCE_S", 0.3), ("AGAIN_S", 0.1), ("POLL_S", 0.01)):
            monkeypatch.setattr(nic, name, seconds)

    def running(self, wanted):
        return {key: view for key, view in self.domains.items() if key in wanted}

    def plug(self, domain_id, device):
        if self.refuses:
            raise LibvirtError(self.refuses)
        self._change(domain_id, lambda devices: devices.append(ElementTree.fromstring(device)))

    def unplug(self, domain_id, alias):
        self.asked += 1

        def release(devices):
            for found in devices.findall(self.tag):
                if not self.stubborn and found.find("alias").get("name") == alias:
                    devices.remove(found)

        self._change(domain_id, release)

    def run(self, view: DomainView) -> None:
        """Have a domain that runs; libvirt gives its devices their aliases."""
        self.domains[view.id] = view
        self._change(view.id, lambda devices: None)

    def _change(self, domain_id, work) -> None:
        view = self.domains[domain_id]
        root = ElementTree.fromstring(view.xml)
        devices = root.find("devices")
        work(devices)
        for number, found in enumerate(devices.findall(self.tag)):
            if found.find("alias") is None:
                ElementTree.SubElement(found, "alias", name=f"{self.tag}{number}")
        self.domains[domain_id] = replace(view, xml=ElementTree.tostring(root, encoding="unicode"))
