"""From the words of a boot request to rows; what cannot be booted is refused here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stackctl.compute.hints import Hints, read_hints
from stackctl.compute.scheduling.policy import Policy, policy_of
from stackctl.compute.types import GIB, BootRequest, Nic
from stackctl.compute.vendor_data import vendor_data_of
from stackctl.errors import Conflict, UsageError
from stackctl.identity.context import Context, find_own
from stackctl.image.service import usable_image
from stackctl.image.states import require_active
from stackctl.names import checked_name
from stackctl.network.finding import own_groups, visible_network
from stackctl.operation import volume_keepers as keeping
from stackctl.state import Reader, Row, find
from stackctl.volume import states
from stackctl.volume.service import own_volume

USER_DATA_LIMIT_BYTES = 65535
MAX_COUNT = 1000


@dataclass(frozen=True)
class Resolved:
    """A boot request with its words turned into rows."""

    request: BootRequest
    image: Row
    flavor: Row
    networks: tuple[Row, ...]
    ports: tuple[Row | None, ...]
    public_keys: tuple[tuple[str, str], ...]
    disk_gb: int
    policy: Policy
    hints: Hints
    group_ids: tuple[str, ...] | None = None
    volume: Row | None = None
    vendor_data: bytes | None = None


def resolve(context: Context, reader: Reader, request: BootRequest) -> Resolved:
    """Names become rows; what cannot be booted is refused before anything is placed."""
    _check_words(request)
    volume = None if request.volume is None else _root_volume(context, reader, request)
    if volume is None:
        image = usable_image(context, reader, request.image)
    else:
        image = reader.get("images", volume["image_id"])
        request = replace(request, host=_host_of(reader, volume, request))
    flavor = find(reader, "flavors", request.flavor, noun="flavor")
    keys = list(request.public_keys)
    if request.key_name is not None:
        keypair = keypair_row(context, reader, request.key_name)
        keys.insert(0, (keypair["name"], keypair["public_key"]))
    nics = request.nics or _default_nics(context, reader)
    ports = tuple(_port(context, reader, nic) for nic in nics)
    networks = tuple(
        reader.get("networks", port["network_id"])
        if port
        else visible_network(context, reader, nic.network or "")
        for nic, port in zip(nics, ports, strict=True)
    )
    disk_gb = root_disk_gb(image, flavor) if volume is None else 0
    groups, policy = request.security_groups, policy_of(context.cloud.config["scheduler"])
    return Resolved(
        replace(request, nics=nics),
        image,
        flavor,
        networks,
        ports,
        tuple(keys),
        disk_gb,
        policy,
        read_hints(context, reader, request.hints, policy),
        None if groups is None else tuple(own_groups(context, reader, groups)),
        volume,
        vendor_data_of(context.cloud),
    )


def _root_volume(context: Context, reader: Reader, request: BootRequest) -> Row:
    """The volume to boot from: free, and made of something that boots."""
    if request.image:
        raise UsageError("A server boots from an image or from a volume: give one of the two.")
    if request.count > 1:
        raise UsageError("A volume can be given to one server only (--count 1).")
    volume = own_volume(context, reader, request.volume or "")
    states.require(reader, volume, "attach")
    if volume["image_id"] is None:
        raise Conflict(
            f"Block Device {volume['name']} is not bootable: it was not made of an image. Nothing "
            "was booted.",
            hint=f"stackctl volume-create NAME --image IMAGE --size {volume['size_gb']}",
        )
    return volume


def _host_of(reader: Reader, volume: Row, request: BootRequest) -> str | None:
    """A volume that has its place already decides where its server is."""
    if volume["host_id"] is None or keeping.is_shared(reader, volume):
        return request.host
    there = reader.get("hosts", volume["host_id"])
    if request.host is None or find(reader, "hosts", request.host, noun="host") == there:
        return str(there["id"])
    raise Conflict(
        f"Volume {volume['name']} is a file on host {there['name']}: a server that boots from it "
        f"cannot be on {request.host}. Nothing was booted."
    )


def keypair_row(context: Context, reader: Reader, word: str) -> Row:
    """The asker's key pair of this name."""
    where = "user_id = ?"
    return find(
        reader, "keypairs", word, noun="keypair", where=where, parameters=(context.user_id,)
    )


def refuse_long_user_data(user_data: bytes | None) -> None:
    """UsageError when user data are longer than guests are told."""
    if user_data is not None and len(user_data) > USER_DATA_LIMIT_BYTES:
        raise UsageError(
            f"User data has {len(user_data)} bytes; at most {USER_DATA_LIMIT_BYTES} fit."
        )


def root_disk_gb(image: Row, flavor: Row) -> int:
    """The root disk's size in GB; Nova's words when the flavor is too small for the image."""
    require_active(image)
    if flavor["ram_mb"] < image["min_ram_mb"]:
        raise Conflict(
            f"Flavor's memory is too small for requested image: {flavor['ram_mb']} MB, "
            f"{image['name']} needs {image['min_ram_mb']} MB."
        )
    image_gb = -(-image["virtual_size_bytes"] // GIB)
    if flavor["disk_gb"] == 0:
        return int(max(image_gb, image["min_disk_gb"], 1))
    if flavor["disk_gb"] < image["min_disk_gb"]:
        raise Conflict(
            f"Flavor's disk is smaller than the minimum size specified in image metadata: "
            f"{flavor['disk_gb']} GB, minimum {image['min_disk_gb']} GB."
        )
    if flavor["disk_gb"] * GIB < image["virtual_size_bytes"]:
        raise Conflict(
            f"Flavor's disk is too small for requested image. Flavor disk is "
            f"{flavor['disk_gb'] * GIB} bytes, image is {image['virtual_size_bytes']} bytes."
        )
    return int(flavor["disk_gb"])


def _check_words(request: BootRequest) -> None:
    if not 1 <= request.count <= MAX_COUNT:
        raise UsageError(f"--count {request.count}: between 1 and {MAX_COUNT} servers at a time.")
    checked_name("server", request.name)
    refuse_long_user_data(request.user_data)
    if request.count > 1 and any(nic.address or nic.port for nic in request.nics):
        raise UsageError("A fixed address or a port can be given to one server only (--count 1).")


def _default_nics(context: Context, reader: Reader) -> tuple[Nic, ...]:
    """Nova's rule when no NIC is named: the only network there is, none, or a refusal."""
    networks = reader.all(
        "SELECT id FROM networks WHERE deleted_at IS NULL AND (project_id = ? OR shared = 1) "
        "AND external = 0",
        context.project_id,
    )
    if len(networks) > 1:
        raise Conflict(
            "Multiple possible networks found, use a Network ID to be more specific.",
            hint="stackctl boot ... --nic net=NETWORK   (stackctl net-list shows them)",
        )
    return tuple(Nic(network=row["id"]) for row in networks)


def _port(context: Context, reader: Reader, nic: Nic) -> Row | None:
    if nic.port is None:
        return None
    return find_own(context, reader, "ports", nic.port, noun="port")
