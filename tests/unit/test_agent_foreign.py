"""Domains of others: what is read of them, what their next start loses, why they are refused."""

from __future__ import annotations

import pytest

from agent.foreign import ForeignDisk, ForeignNic, read

DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/><source file='/images/wiki.qcow2'/><backingStore/>
  <target dev='vda' bus='virtio'/>
</disk>"""

NIC = """
<interface type='bridge'>
  <mac address='52:54:00:AA:bb:01'/><source bridge='br0'/><target dev='vnet3'/>
  <model type='virtio'/>
</interface>"""

CPU = "<cpu mode='host-model'/>"
OS = "<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>"


def domain(devices=DISK + NIC, *, os=OS, more="", memory=524288, cpu=CPU) -> str:
    """The XML of a domain."""
    return f"""
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>wiki</name><uuid>11111111-1111-4111-8111-111111111111</uuid>
  <memory unit='KiB'>{memory}</memory><currentMemory unit='KiB'>{memory}</currentMemory>
  <vcpu placement='static'>2</vcpu>{os}{cpu}
  <features><acpi/><apic/></features><clock offset='utc'/>{more}
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}
    <controller type='pci' index='0' model='pci-root'/><memballoon model='virtio'/>
  </devices>
</domain>"""


def found(*args, **more):
    """What is read of such a domain."""
    xml = domain(*args, **more)
    return read(xml, xml)


def test_a_plain_domain_is_taken_over_whole():
    plain = found()
    assert (plain.name, plain.vcpus, plain.ram_mb) == ("wiki", 2, 512)
    assert (plain.machine_type, plain.cpu_mode) == ("pc-i440fx-7.2", "host-model")
    assert (plain.disk_bus, plain.nic_model) == ("virtio", "virtio")
    assert plain.disks == (ForeignDisk("/images/wiki.qcow2", "qcow2", "vda"),)
    assert plain.nics == (ForeignNic("52:54:00:aa:bb:01", "vnet3", "br0"),)
    assert (plain.lost, plain.refused) == ((), ())


def test_a_nic_says_in_which_vlan_it_shall_be():
    tagged = NIC.replace("<model", "<vlan><tag id='101'/></vlan><model")
    assert found(DISK + tagged).nics == (ForeignNic("52:54:00:aa:bb:01", "vnet3", "br0", 101),)


def test_the_disk_that_is_booted_from_comes_first():
    second = DISK.replace("vda", "vdb").replace("wiki", "boot")
    first = second.replace("<target", "<boot order='1'/><target")
    assert [disk.target for disk in found(DISK + first + NIC).disks] == ["vdb", "vda"]
    assert [disk.target for disk in found(DISK + second + NIC).disks] == ["vda", "vdb"]


def test_the_cpu_is_read_from_what_would_start_next():
    runs = domain(cpu="<cpu mode='custom' match='exact'><model>Skylake</model></cpu>")
    assert read(runs, domain()).cpu_mode == "host-model"
    assert read(domain(), runs).cpu_mode == "Skylake"
    assert read(domain(), domain(cpu="")).lost == ("qemu's default CPU",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"more": "<memoryBacking><hugepages/></memoryBacking>"}, "hugepages"),
        ({"more": "<cputune><shares>5</shares></cputune>"}, "pinning"),
        ({"more": "<somethingNew/>"}, "<somethingNew>"),
        ({"memory": 524289}, "524289 KiB of memory, which become 513 MB"),
        ({"devices": DISK + "<graphics type='vnc'/><sound model='ich9'/>"}, "sound ich9"),
        (
            {
                "devices": f"{DISK}<disk type='file' device='cdrom'><source file='/i.iso'/>"
                "<target dev='hda' bus='ide'/></disk>"
            },
            "cdrom hda with /i.iso",
        ),
        ({"devices": DISK.replace("type='qcow2'", "type='qcow2' cache='none'")}, "cache mode none"),
        ({"devices": DISK.replace("<target", "<serial>S1</serial><target")}, "the serial S1"),
        ({"devices": DISK + NIC.replace("<model", "<bandwidth/><model")}, "bandwidth"),
        ({"cpu": "<cpu mode='host-model'><topology sockets='1'/></cpu>"}, "the topology"),
    ],
)
def test_what_the_next_start_loses_is_named(changes, words):
    lossy = found(**changes)
    assert lossy.refused == ()
    assert words in ", ".join(lossy.lost)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": NIC}, "it has no disk"),
        ({"devices": DISK + "<hostdev mode='subsystem' type='pci'/>"}, "passed through"),
        ({"devices": DISK + "<filesystem type='mount'/>"}, "shares a folder"),
        ({"devices": DISK + "<tpm model='tpm-crb'/>"}, "TPM"),
        ({"devices": DISK + "<gadget/>"}, "not known here: gadget"),
        (
            {
                "devices": "<disk type='block' device='disk'><driver type='raw'/>"
                "<source dev='/dev/sdb'/><target dev='vda' bus='virtio'/></disk>"
            },
            "the raw block device /dev/sdb",
        ),
        ({"devices": DISK.replace("type='file'", "type='network'")}, "of the type network"),
        ({"devices": DISK.replace("device='disk'", "device='lun'")}, "is lun"),
        ({"devices": DISK.replace("'qcow2'", "'vmdk'")}, "format vmdk"),
        (
            {
                "devices": DISK.replace(
                    "<backingStore/>", "<backingStore><source file='/b'/></backingStore>"
                )
            },
            "stands on another file, /b",
        ),
        ({"devices": DISK.replace("<target", "<mirror/><target")}, "being copied"),
        ({"devices": DISK.replace("<target", "<encryption/><target")}, "encrypted"),
        ({"devices": DISK.replace("<target", "<shareable/><target")}, "shareable"),
        (
            {"devices": DISK.replace("<target", f"<serial>{'1' * 36}</serial><target")},
            "of another cloud",
        ),
        (
            {"devices": DISK + DISK.replace("'vda' bus='virtio'", "'sda' bus='sata'")},
            "on the buses virtio and sata",
        ),
        ({"devices": DISK.replace("bus='virtio'", "bus='xen'")}, "on the bus xen"),
        (
            {
                "devices": DISK.replace("bus='virtio'", "bus='scsi'")
                + "<controller type='scsi' model='lsilogic'/>"
            },
            "SCSI controller is lsilogic",
        ),
        ({"devices": DISK + NIC.replace("'bridge'", "'user'", 1)}, "of the type user"),
        ({"devices": DISK + NIC.replace("<model", "<driver queues='4'/><model")}, "4 queues"),
        (
            {"devices": DISK + NIC.replace("<model", "<vlan trunk='yes'/><model")},
            "carries several VLANs",
        ),
        ({"devices": DISK + NIC.replace("'virtio'", "'netfront'")}, "the model netfront"),
        (
            {"devices": DISK + NIC + NIC.replace("'virtio'", "'e1000'")},
            "the models virtio and e1000",
        ),
        ({"os": OS.replace("<os>", "<os firmware='efi'>")}, "by UEFI"),
        ({"os": OS.replace("<boot", "<loader type='pflash'/><boot")}, "by UEFI"),
        ({"os": OS.replace("<boot", "<kernel>/vmlinuz</kernel><boot")}, "boots a kernel"),
        ({"os": OS.replace("x86_64", "aarch64")}, "no x86_64"),
        ({"more": "<qemu:commandline/>"}, "qemu options"),
        ({"more": "<launchSecurity type='sev'/>"}, "encrypted"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(changes, words):
    assert words in "; ".join(found(**changes).refused)
