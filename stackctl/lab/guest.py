"""A small guest image, made from the distribution's own packages.

The disk has a FAT partition with boot loaders for BIOS and UEFI, the kernel and a small ramdisk,
and an ext4 partition with the system: busybox, dropbear and the scripts of playbooks/images/guest.
The kernel and ramdisk pair holds the same system in its ramdisk.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import playbooks
from stackctl.lab import partitions
from stackctl.lab.commands import run
from stackctl.lab.errors import LabError
from stackctl.lab.partitions import Payload, allocate, join, make_boot
from stackctl.lab.requirements import ADMIN_PATH

Progress = Callable[[str], None]

SCRIPTS = Path(playbooks.__file__).parent / "images" / "guest"
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon", "virtio_console",
    "virtio_scsi", "sd_mod", "sr_mod", "ata_piix", "ahci", "isofs", "button", "evdev", "e1000",
    "e1000e", "8021q", "ext4",
)  # fmt: skip
"""Drivers in the ramdisk; a kernel that lacks some (the cloud kernel has no ahci) goes without."""
PROGRAMS = (
    "/usr/sbin/dropbear", "/usr/bin/dbclient", "/usr/bin/dropbearkey", "/usr/bin/dropbearconvert",
)  # fmt: skip
NAME_SERVICE = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
BOOT_MIB, ROOT_MIB = 40, 48
CMDLINE = "console=tty0 console=ttyS0 quiet mitigations=off panic=10"
"""Also the command line for a direct kernel boot."""
EPOCH = "1700000000"
CLOCK = {"SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH, "TZ": "UTC"}
"""What makes the file system tools write the same bytes at any time of day."""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\ntty:x:5:\n",
    "etc/shells": "/bin/sh\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/profile": "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\nPS1='\\u@\\h:\\w# '\n",
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nexec /sbin/poweroff\n",
}
PLACES = {
    "init": "init",
    "inittab": "etc/inittab",
    "ssh": "usr/bin/ssh",
    **{
        name: f"lib/guest/{name}"
        for name in ("boot", "functions", "metadata", "finish", "dhcp", "console")
    },
    "json.awk": "lib/guest/json.awk",
}
FOLDERS = (
    "dev", "proc", "sys", "run", "tmp", "root", "sysroot", "mnt", "etc/dropbear", "var/lib/guest",
    "var/log", "var/spool/cron", "lib64",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """A kernel package's file and its module folder."""

    image: Path
    version: str


@dataclass(frozen=True)
class DirectBoot:
    """What a domain needs to start the guest without a disk."""

    kernel: Path
    ramdisk: Path
    cmdline: str


def build_guest_image(target: Path, *, progress: Progress) -> Path:
    """Make the bootable qcow2 image; one made of the same inputs is left as it is."""
    with fresh(target, f"disk {inputs_digest()}") as temporary:
        if temporary is not None:
            progress(f"making the guest image {target.name}")
            with workspace() as folder:
                disk = _build_disk(folder)
                convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"]
                run([*convert, str(disk), str(temporary)])
    return target


def build_kernel_and_ramdisk(folder: Path, *, progress: Progress = lambda _: None) -> DirectBoot:
    """Make the pair for a direct kernel boot: the whole system lives in the ramdisk."""
    folder.mkdir(parents=True, exist_ok=True)
    kernel, ramdisk = folder / "guest-vmlinuz", folder / "guest-ramdisk"
    with fresh(ramdisk, f"ramdisk {inputs_digest()}") as temporary:
        if temporary is not None:
            progress(f"making the guest ramdisk {ramdisk.name}")
            with workspace() as work:
                system = _stage_system(work / "system")
                _stage_ramdisk(system, find_kernel())
                _pack(system, temporary)
                shutil.copyfile(find_kernel().image, work / "vmlinuz")
                shutil.move(work / "vmlinuz", kernel)
    return DirectBoot(kernel, ramdisk, CMDLINE)


@contextmanager
def fresh(target: Path, recipe: str) -> Iterator[Path | None]:
    """Give a file to write in place of the target, or None when the target is up to date.

    The digest of the inputs lies beside it; a lock makes two builders take turns.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = target.with_name(target.name + ".inputs")
    digest = f"{recipe}\n"
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if target.exists() and mark.exists() and mark.read_text() == digest:
            yield None
            return
        temporary = target.with_name(target.name + ".new")
        yield temporary
        mark.unlink(missing_ok=True)
        temporary.rename(target)
        mark.write_text(digest)
    finally:
        os.close(descriptor)


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stackctl-guest-") as name:
        yield Path(name)


def find_kernel() -> Kernel:
    """The newest installed kernel package, a cloud kernel before others."""
    kernels = [
        Kernel(image, image.name.removeprefix("vmlinuz-"))
        for image in Path("/boot").glob("vmlinuz-*")
        if Path("/lib/modules", image.name.removeprefix("vmlinuz-")).is_dir()
    ]
    if not kernels:
        raise LabError("No kernel package is installed: install linux-image-cloud-amd64.")
    return max(kernels, key=_preference)


def _preference(kernel: Kernel) -> tuple[bool, list[int]]:
    return "cloud" in kernel.version, [int(number) for number in re.findall(r"\d+", kernel.version)]


def inputs_digest() -> str:
    """SHA-256 of everything that the image is made of."""
    kernel = find_kernel()
    digest = hashlib.sha256(Path(__file__).read_bytes())
    files = [
        Path(partitions.__file__),
        *partitions.uefi_loader(),
        kernel.image,
        _program("busybox"),
        *map(Path, PROGRAMS),
        *sorted(SCRIPTS.iterdir()),
    ]
    for file in files:
        digest.update(f"\n{file.name} {kernel.version}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _program(name: str) -> Path:
    found = shutil.which(name, path=ADMIN_PATH)
    if found is None:
        raise LabError(f"{name} is not installed on this machine.")
    return Path(found)


def _stage_system(root: Path) -> Path:
    """Lay out the guest's root file system."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    _install_busybox(root)
    for program in map(Path, PROGRAMS):
        _install(program, root / str(program).lstrip("/"))
    for library in sorted(_libraries(PROGRAMS)):
        _install(Path(library), root / library.lstrip("/"))
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    for name, place in PLACES.items():
        if place != "init":
            _install(SCRIPTS / name, root / place)
    (root / "etc" / "shadow").chmod(0o600)
    return root


def _install(source: Path, target: Path) -> None:
    """Copy a file, executable, over whatever link lies there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _install_busybox(root: Path) -> None:
    busybox = _program("busybox")
    _install(busybox, root / "bin" / "busybox")
    for name in run([str(busybox), "--list-full"]).split():
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")


def _libraries(programs: Sequence[str]) -> set[str]:
    """The shared libraries of these programs, with those that look names up for them."""
    found = set(re.findall(r"(/\S+) \(0x", run(["ldd", *programs])))
    folder = next(Path(name).parent for name in sorted(found) if "/libc.so" in name)
    found.update(str(folder / name) for name in NAME_SERVICE if (folder / name).exists())
    return found


def _stage_ramdisk(root: Path, kernel: Kernel) -> Path:
    """Lay out the drivers and the first process."""
    for name in ("dev", "proc", "sys", "sysroot"):
        (root / name).mkdir(parents=True, exist_ok=True)
    _install(SCRIPTS / "init", root / "init")
    modules = root / "lib" / "modules"
    modules.mkdir(parents=True)
    order = []
    for path in _module_files(kernel):
        name = re.sub(r"\.ko.*", ".ko", path.name)
        (modules / name).write_bytes(_unpacked(path))
        order.append(name)
    (modules / "order").write_text("\n".join([*order, ""]))
    return root


def _module_files(kernel: Kernel) -> list[Path]:
    """The files of the wanted modules and what they depend on, in loading order."""
    files: list[Path] = []
    for module in MODULES:
        argv = ["modprobe", "-S", kernel.version, "--show-depends", module]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        for line in done.stdout.splitlines():
            kind, _, rest = line.strip().partition(" ")
            if kind == "insmod" and Path(rest.split()[0]) not in files:
                files.append(Path(rest.split()[0]))
    return files


def _unpacked(path: Path) -> bytes:
    """A module as the kernel loads it: distributions compress them in different ways."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(
            ["zstd", "-dcq", str(path)], capture_output=True, timeout=30, check=True
        ).stdout
    return path.read_bytes()


def _pack(root: Path, target: Path) -> None:
    """Make a compressed cpio archive, the same bytes for the same files."""
    _settle_times(root)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    pack = ["cpio", "--quiet", "-o", "-H", "newc", "--reproducible", "-R", "0:0", "-D", str(root)]
    archive = subprocess.run(
        pack, input="\n".join(names).encode(), capture_output=True, timeout=60, check=True
    )
    packed = subprocess.run(
        ["gzip", "-9", "-n"], input=archive.stdout, capture_output=True, timeout=60, check=True
    )
    target.write_bytes(packed.stdout)


def _settle_times(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)


def _build_disk(folder: Path) -> Path:
    """Make the raw disk: MBR, boot partition, root partition."""
    kernel = find_kernel()
    system = _stage_system(folder / "system")
    _pack(_stage_ramdisk(_bare_ramdisk(folder / "ramdisk-files"), kernel), folder / "ramdisk")
    boot, root = folder / "boot.img", folder / "root.img"
    make_boot(boot, BOOT_MIB, Payload(kernel.image, folder / "ramdisk", CMDLINE), CLOCK)
    _make_root(root, system)
    return join(folder / "disk.img", boot, root)


def _bare_ramdisk(root: Path) -> Path:
    """A ramdisk that only finds the root disk: busybox and nothing else."""
    root.mkdir()
    for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (root / name).mkdir(parents=True)
    _install_busybox(root)
    return root


def _make_root(image: Path, system: Path) -> None:
    _settle_times(system)
    allocate(image, ROOT_MIB)
    identity = "6d5b1c1e-0d0e-4a3b-9d53-73746b63746c"
    options = ["-E", f"hash_seed={identity},root_owner=0:0", "-O", "^metadata_csum,^64bit"]
    argv = ["mkfs.ext4", "-q", "-L", "guest-root", "-U", identity, "-m", "0", *options]
    run([*argv, "-d", str(system), str(image)], environment=CLOCK)
    # mkfs copies the change times of the files that it reads, which nobody can set beforehand.
    names = ["/", *(f"/{path.relative_to(system)}" for path in system.rglob("*"))]
    fields = [f"set_inode_field {n} {t} @{EPOCH}" for n in names for t in ("atime", "ctime")]
    run(["debugfs", "-w", "-f", "-", str(image)], text="\n".join(fields), environment=CLOCK)
