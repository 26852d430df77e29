"""A Debian guest with cloud-init, made from the distribution's own packages by mmdebstrap.

What it holds is what Debian's cloud images hold: systemd, cloud-init, OpenSSH, the guest agent. It
is for machines that cannot fetch those images, and for tests that want a real guest.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from stackctl.lab import partitions
from stackctl.lab.commands import run
from stackctl.lab.errors import LabError
from stackctl.lab.guest import CLOCK, Progress, fresh, workspace
from stackctl.lab.partitions import Payload, allocate, join, make_boot

BOOT_MIB, SPARE_MIB = 96, 512
USUAL_SUITE = "bookworm"
USUAL_MIRROR = "http://deb.debian.org/debian"
LABEL = "debian-root"
COMMAND_LINE = f"root=LABEL={LABEL} ro console=tty0 console=ttyS0 mitigations=off"
FETCH_TIMEOUT_S = 3600.0
PACK_TIMEOUT_S = 1800.0

PACKAGES = (
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "ifupdown-",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "linux-image-cloud-amd64",
    "netbase",
    "openssh-server",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
)
"""A name with a dash behind it must not be there: cloud-init would prefer it to networkd."""

MODULES = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "ata_piix", "ahci", "ext4",
)  # fmt: skip
"""What the ramdisk needs to find its disk; with everything it would be twice as large."""

FILES = {
    "etc/cloud/cloud.cfg.d/90-guest.cfg": (
        "datasource_list: [ConfigDrive, NoCloud, None]\n"
        # No locales are installed, and an emulated guest takes minutes for the other keys.
        "locale: false\nssh_genkeytypes: [ed25519]\n"
    ),
    "etc/fstab": f"LABEL={LABEL} / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": "debian\n",
    "etc/initramfs-tools/conf.d/modules": "MODULES=list\n",
    "etc/initramfs-tools/modules": "\n".join([*MODULES, ""]),
}
UNWANTED = ("etc/machine-id", "var/lib/dbus/machine-id", "etc/resolv.conf")


def build_debian_image(target: Path, *, progress: Progress) -> Path:
    """Make the bootable qcow2 image; one made by the same recipe is left as it is."""
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is not installed on this machine: apt-get install mmdebstrap.")
    with fresh(target, f"debian {_recipe()}") as temporary:
        if temporary is not None:
            with workspace() as folder:
                disk = _build_disk(folder, progress)
                progress(f"packing {target.name}")
                convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-m", "2"]
                run([*convert, str(disk), str(temporary)], timeout=PACK_TIMEOUT_S)
    return target


def _build_disk(folder: Path, progress: Progress) -> Path:
    system, boot, root = folder / "system", folder / "boot.img", folder / "root.img"
    progress(f"installing Debian {_suite()} ({len(PACKAGES)} packages and what they need)")
    _install(system, folder)
    progress("making its disk")
    payload = Payload(_newest(system, "vmlinuz-*"), _newest(system, "initrd.img-*"), COMMAND_LINE)
    make_boot(boot, BOOT_MIB, payload, CLOCK)
    used = int(run(["du", "-sm", "--apparent-size", str(system)], timeout=300).split()[0])
    allocate(root, used * 5 // 4 + SPARE_MIB)
    make = ["mkfs.ext4", "-q", "-L", LABEL, "-d", str(system), str(root)]
    run(make, timeout=PACK_TIMEOUT_S)
    return join(folder / "disk.img", boot, root)


def _install(system: Path, folder: Path) -> None:
    """Have mmdebstrap install the packages, with this machine's sources and its way to them."""
    settings = folder / "apt.conf"
    settings.write_text(_fetching())
    before = folder / "before"
    for name, text in FILES.items():
        path = before / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Before the packages: the ramdisk is made by theirs.
    hook = f'cp -rT {before} "$1"'
    options = ["--mode=root", "--variant=minbase", "--format=directory", "--quiet"]
    argv = ["mmdebstrap", *options, f"--aptopt={settings}", f"--include={','.join(PACKAGES)}"]
    forget = [f'--customize-hook=rm -f "$1/{name}"' for name in UNWANTED]
    link = '--customize-hook=ln -s /run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"'
    rest = [
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*',
        '--customize-hook=: > "$1/etc/machine-id"',
        '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
    ]
    argv += [f"--essential-hook={hook}", *forget, link, *rest]
    run([*argv, _suite(), str(system), *_sources()], timeout=FETCH_TIMEOUT_S)


def _newest(system: Path, pattern: str) -> Path:
    found = sorted((system / "boot").glob(pattern))
    if not found:
        raise LabError(f"The Debian system has no /boot/{pattern}.")
    return found[-1]


def _suite() -> str:
    """This machine's own release when it is Debian."""
    release = _release()
    return release["VERSION_CODENAME"] if release.get("ID") == "debian" else USUAL_SUITE


def _release() -> Mapping[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip('"') for name, _, value in pairs}


def _sources() -> list[str]:
    """Where this machine gets Debian from; the usual mirror when it is another distribution."""
    if _release().get("ID") != "debian":
        return [USUAL_MIRROR]
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), folder / "debian.sources"]
    there = [str(path) for path in files if path.exists() and path.read_text().strip()]
    return there or [USUAL_MIRROR]


def _fetching() -> str:
    """How this machine's apt fetches (a proxy, say); the rest of its settings is its own."""
    dump = run(["apt-config", "dump"])
    kept = re.compile(r"Acquire::(https?|Retries|ForceIPv[46])\b")
    return "".join(f"{line}\n" for line in dump.splitlines() if kept.match(line))


def _recipe() -> str:
    """What names an image of this recipe: not the versions of the packages."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(Path(partitions.__file__).read_bytes())
    return f"{_suite()} {digest.hexdigest()}"
