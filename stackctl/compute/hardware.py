"""The machine that a server gets: what its image and flavor say, by the rules of Nova. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stackctl.errors import Conflict, UsageError
from stackctl.image.hardware_words import (
    NO,
    WATCHDOG_ACTIONS,
    YES,
    check_count,
    check_hardware,
    is_yes,
)
from stackctl.state import Row

PARTS = ("sockets", "cores", "threads")
UNLIMITED = 65536
USUAL_VIDEO = "vga"

Numbers = tuple[int, int, int]
Hardware = dict[str, Any]
"""What differs from the usual, by the names of ``agent.spec.Hardware``."""


@dataclass(frozen=True)
class Wish:
    """What a machine is made of: properties of an image, extra specs and CPUs of a flavor, and
    whether somebody asked for a display (None: nobody said)."""

    properties: Mapping[str, str]
    specs: Mapping[str, str]
    vcpus: int
    vnc: bool | None = None


def has_nvram(server: Row) -> bool:
    """Whether a server boots by UEFI, whose variables are a disk of it (``disks.NVRAM``)."""
    return bool(json.loads(server["hardware_json"]).get("nvram"))


def wish_of(image: Row | None, sizes: Row, vnc: bool | None = None) -> Wish:
    """The same from rows: ``sizes`` is a flavor, or a server as it is now."""
    properties = json.loads(image["properties_json"]) if image else {}
    return Wish(properties, json.loads(sizes["extra_specs_json"]), sizes["vcpus"], vnc)


def display_wanted(asked: int | None, image: Row | None, everybody: bool) -> bool | None:
    """Whether a server has a display: as asked, else as its image says (None), else as all of its
    cloud."""
    if asked is not None:
        return bool(asked)
    properties = json.loads(image["properties_json"]) if image else {}
    return True if everybody and not properties.get("hw_video_model") else None


def hardware_of(wish: Wish) -> Hardware:
    """A new machine; UsageError or Conflict when there can be none like it."""
    check_hardware(wish.properties)
    firmware = wish.properties.get("hw_firmware_type")
    found = _flavored(wish) | {"video": video_of(wish)}
    found["nvram"] = True if firmware == "uefi" else None
    found["guest_agent"] = is_yes(wish.properties.get("hw_qemu_guest_agent", "yes"))
    found["quiesce"] = is_yes(wish.properties.get("os_require_quiesce", "no"))
    found["cdrom"] = wish.properties.get("hw_cdrom_bus")
    return _unusual(found)


def resized(before: Hardware, wish: Wish) -> Hardware:
    """The same machine with what another flavor makes different about it."""
    check_hardware(wish.properties)
    return _unusual(before | _flavored(wish))


def with_display(before: Hardware, wish: Wish) -> Hardware:
    """The same machine with a display or without."""
    return _unusual(before | {"video": video_of(wish)})


def video_of(wish: Wish) -> str | None:
    """The model of the display; none unless the image names one or somebody asked for it."""
    model = wish.properties.get("hw_video_model", "")
    named = model not in ("", "none")
    if wish.vnc is None:
        return model if named else None
    return (model if named else USUAL_VIDEO) if wish.vnc else None


def shown(hardware: Hardware) -> dict[str, str]:
    """What is unusual about a machine, in words of the images' properties."""
    words = {key: _word(value) for key, value in hardware.items() if key != "nvram"}
    return words | ({"firmware": "uefi"} if "nvram" in hardware else {})


def check_specs(specs: Mapping[str, str]) -> None:
    """UsageError when an extra spec of a flavor has a value that no machine can be made of."""
    for part in PARTS:
        for key in (f"hw:cpu_{part}", f"hw:cpu_max_{part}"):
            if key in specs:
                check_count(f"Extra spec {key}", specs[key])
    _one_of(specs, "hw:watchdog_action", WATCHDOG_ACTIONS)
    _one_of(specs, "hw_rng:allowed", (*YES, *NO))


def topology_of(wish: Wish) -> Numbers | None:
    """Sockets, cores and threads: the fewest threads and the most sockets that satisfy the most
    of what is preferred, within the limits. None when nobody asked for anything."""
    limits = _limits(wish)
    preferred = _preferred(wish, limits)
    if not any(preferred) and all(limit == UNLIMITED for limit in limits):
        return None
    most = [min(limit, wish.vcpus) for limit in limits]
    possible = [
        (sockets, cores, wish.vcpus // (sockets * cores))
        for sockets in range(1, most[0] + 1)
        for cores in range(1, most[1] + 1)
        if wish.vcpus % (sockets * cores) == 0 and wish.vcpus // (sockets * cores) <= most[2]
    ]
    if not possible:
        raise Conflict(
            f"Requested vCPU limits {_text(most)} (sockets:cores:threads) are impossible to "
            f"satisfy for vcpus count {wish.vcpus}. Nothing was changed.",
            hint="stackctl image-show IMAGE   (hw_cpu_max_...), stackctl flavor-show FLAVOR",
        )
    return max(possible, key=lambda each: (_score(each, preferred), each[0] * each[1], each[0]))


def _flavored(wish: Wish) -> Hardware:
    """What the flavor has a say in."""
    check_specs(wish.specs)
    topology = topology_of(wish)
    action = wish.properties.get("hw_watchdog_action") or wish.specs.get("hw:watchdog_action")
    return {
        "topology": list(topology) if topology else None,
        "watchdog": action if action != "disabled" else None,
        "rng": is_yes(wish.specs.get("hw_rng:allowed", "yes")),
    }


def _unusual(hardware: Hardware) -> Hardware:
    usual = {"rng": True, "guest_agent": True, "quiesce": False}
    return {key: value for key, value in hardware.items() if value != usual.get(key)}


def _limits(wish: Wish) -> Numbers:
    """The image's limits, which must not exceed the flavor's; else the flavor's."""
    flavor, image = _read(wish, "cpu_max_")
    if any(limit and mine > limit for limit, mine in zip(flavor, image, strict=True)):
        raise Conflict(
            f"Image vCPU limits {_text(image)} (sockets:cores:threads) exceed permitted "
            f"{_text(flavor)} of the flavor. Nothing was changed.",
            hint="stackctl image-unset IMAGE --property hw_cpu_max_sockets",
        )
    first, second, third = (
        mine or limit or UNLIMITED for limit, mine in zip(flavor, image, strict=True)
    )
    return first, second, third


def _preferred(wish: Wish, limits: Numbers) -> Numbers:
    """The image's preference if it has any; the flavor's when that is within the limits."""
    flavor, image = _read(wish, "cpu_")
    if any(mine > limit for mine, limit in zip(image, limits, strict=True)):
        raise Conflict(
            f"Image vCPU topology {_text(image)} (sockets:cores:threads) exceeds permitted "
            f"{_text(limits)}. Nothing was changed.",
            hint="stackctl flavor-show FLAVOR   (hw:cpu_max_...)",
        )
    if any(image):
        return image
    within = all(mine <= limit for mine, limit in zip(flavor, limits, strict=True))
    return flavor if within else (0, 0, 0)


def _read(wish: Wish, prefix: str) -> tuple[Numbers, Numbers]:
    """The three numbers of the flavor and of the image; 0 where one has none."""
    flavor = [_number(wish.specs, f"hw:{prefix}{part}") for part in PARTS]
    image = [_number(wish.properties, f"hw_{prefix}{part}") for part in PARTS]
    return (flavor[0], flavor[1], flavor[2]), (image[0], image[1], image[2])


def _number(words: Mapping[str, str], key: str) -> int:
    return check_count(key, words[key]) if key in words else 0


def _score(topology: Numbers, preferred: Numbers) -> int:
    return sum(mine == wanted for mine, wanted in zip(topology, preferred, strict=True) if wanted)


def _text(numbers: Numbers | list[int]) -> str:
    return ":".join(str(number or "-") for number in numbers)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ":".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value))


def _one_of(specs: Mapping[str, str], key: str, known: tuple[str, ...]) -> None:
    if key in specs and specs[key].lower() not in known:
        raise UsageError(f"Extra spec {key} is '{specs[key][:80]}': use {', '.join(known)}.")
