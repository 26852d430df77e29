"""The table of all commands: where each lives and its line in the overview.

``stackctl --help`` is made from this table alone; the module of a command is imported when the
command is called or completed. A command whose module is not there is not listed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


@dataclass(frozen=True)
class Entry:
    """One command: its module under stackctl.cli, its line of help, its heading."""

    module: str
    help: str
    panel: str


PANELS = (
    "Servers",
    "Clusters",
    "Networks",
    "Volumes",
    "Images and flavors",
    "Hosts",
    "Keeping order",
    "Lab",
    "Cloud",
)

COMMANDS: dict[str, Entry] = {
    "boot": Entry("server", "Boot servers", "Servers"),
    "list": Entry("server", "List servers", "Servers"),
    "show": Entry("server", "Show a server", "Servers"),
    "delete": Entry("server", "Delete servers", "Servers"),
    "restore": Entry("server", "Take a deletion back", "Servers"),
    "start": Entry("server", "Start servers", "Servers"),
    "stop": Entry("server", "Stop servers", "Servers"),
    "reboot": Entry("server", "Reboot servers", "Servers"),
    "pause": Entry("server", "Freeze servers in memory", "Servers"),
    "unpause": Entry("server", "Let paused servers go on", "Servers"),
    "suspend": Entry("server", "Save servers' memory to disk, switch off", "Servers"),
    "resume": Entry("server", "Let suspended servers go on", "Servers"),
    "adopt": Entry("adopt", "Make a running domain of libvirt a server", "Servers"),
    "rebuild": Entry("rebuild", "Make a server anew from an image", "Servers"),
    "rescue": Entry("rebuild", "Boot a server from another disk", "Servers"),
    "unrescue": Entry("rebuild", "Boot it from its own disk again", "Servers"),
    "resize": Entry("resize", "Give a server another flavor", "Servers"),
    "resize-confirm": Entry("resize", "Keep a resized server as it is", "Servers"),
    "resize-revert": Entry("resize", "Give it its old flavor back", "Servers"),
    "migrate": Entry("migrate", "Move a server to another host", "Servers"),
    "migration-list": Entry("migrate", "List moves of servers", "Servers"),
    "live-migrate": Entry("live_migration", "Move a server while it runs", "Servers"),
    "live-migration-abort": Entry("live_migration", "Call such a move off", "Servers"),
    "image-snapshot": Entry("snapshot", "Make an image of a server's disk", "Servers"),
    "backup": Entry("snapshot", "The same, keeping the newest few", "Servers"),
    "shelve": Entry("shelving", "Keep servers as images, free their hosts", "Servers"),
    "shelve-offload": Entry("shelving", "Free the hosts of shelved servers", "Servers"),
    "unshelve": Entry("shelving", "Start shelved servers again", "Servers"),
    "evacuate": Entry("evacuate", "Make servers of a lost host anew", "Servers"),
    "lock": Entry("server_set", "Protect servers against changes", "Servers"),
    "unlock": Entry("server_set", "Take the lock from servers", "Servers"),
    "rename": Entry("server_set", "Give a server another name", "Servers"),
    "server-set": Entry("server_set", "Change name, properties, tags", "Servers"),
    "server-unset": Entry("server_set", "Remove properties or tags", "Servers"),
    "meta": Entry("server_set", "Set or delete a server's properties", "Servers"),
    "reset-state": Entry("server_set", "Say ERROR or ACTIVE of servers", "Servers"),
    "interface-attach": Entry("interface", "Give a server another NIC", "Servers"),
    "interface-detach": Entry("interface", "Take a NIC from a server", "Servers"),
    "interface-list": Entry("interface", "List a server's NICs", "Servers"),
    "console": Entry("console", "Sit down at a server's serial console", "Servers"),
    "console-log": Entry("server", "Print a server's serial console", "Servers"),
    "vnc-console": Entry("vnc", "Look at a server's display", "Servers"),
    "console-screenshot": Entry("vnc", "Save what a display shows", "Servers"),
    "set-password": Entry("password", "Set a password in a guest", "Servers"),
    "ssh": Entry("login", "Log in to a server", "Servers"),
    "add-secgroup": Entry("security_group", "Add a security group to a server", "Servers"),
    "remove-secgroup": Entry("security_group", "Take one from a server", "Servers"),
    "list-secgroup": Entry("security_group", "List a server's security groups", "Servers"),
    "explain": Entry("explain", "Say why a server is where, or nowhere", "Servers"),
    "server-group-create": Entry("server_group", "Create a server group", "Servers"),
    "server-group-list": Entry("server_group", "List server groups", "Servers"),
    "server-group-show": Entry("server_group", "Show a server group", "Servers"),
    "server-group-delete": Entry("server_group", "Delete server groups", "Servers"),
    "cluster-create": Entry("cluster", "Make a cluster computer", "Clusters"),
    "cluster-list": Entry("cluster", "List clusters", "Clusters"),
    "cluster-show": Entry("cluster", "Show a cluster", "Clusters"),
    "cluster-scale": Entry("cluster", "Change the number of nodes", "Clusters"),
    "cluster-delete": Entry("cluster", "Delete a cluster and its nodes", "Clusters"),
    "cluster-hostfile": Entry("cluster", "Print a host file for MPI or Slurm", "Clusters"),
    "net-create": Entry("network", "Create a network", "Networks"),
    "net-list": Entry("network", "List networks", "Networks"),
    "net-show": Entry("network", "Show a network", "Networks"),
    "net-set": Entry("network", "Change a network", "Networks"),
    "net-delete": Entry("network", "Delete networks", "Networks"),
    "subnet-create": Entry("subnet", "Create a subnet", "Networks"),
    "subnet-list": Entry("subnet", "List subnets", "Networks"),
    "subnet-show": Entry("subnet", "Show a subnet", "Networks"),
    "subnet-set": Entry("subnet", "Change a subnet", "Networks"),
    "subnet-delete": Entry("subnet", "Delete subnets", "Networks"),
    "port-create": Entry("port", "Create a port", "Networks"),
    "port-list": Entry("port", "List ports", "Networks"),
    "port-show": Entry("port", "Show a port", "Networks"),
    "port-set": Entry("port", "Change a port", "Networks"),
    "port-delete": Entry("port", "Delete ports", "Networks"),
    "trunk-create": Entry("trunk", "Create a trunk of a port", "Networks"),
    "trunk-list": Entry("trunk", "List trunks", "Networks"),
    "trunk-show": Entry("trunk", "Show a trunk", "Networks"),
    "trunk-set": Entry("trunk", "Change a trunk", "Networks"),
    "trunk-unset": Entry("trunk", "Take subports from a trunk", "Networks"),
    "trunk-delete": Entry("trunk", "Delete trunks", "Networks"),
    "trunk-subport-add": Entry("trunk", "Add subports to a trunk", "Networks"),
    "trunk-subport-delete": Entry("trunk", "Take subports from a trunk", "Networks"),
    "trunk-subport-list": Entry("trunk", "List the subports of a trunk", "Networks"),
    "router-create": Entry("router", "Create a router", "Networks"),
    "router-list": Entry("router", "List routers", "Networks"),
    "router-show": Entry("router", "Show a router", "Networks"),
    "router-set": Entry("router", "Change a router", "Networks"),
    "router-unset": Entry("router", "Take a gateway or routes from a router", "Networks"),
    "router-delete": Entry("router", "Delete routers", "Networks"),
    "router-move": Entry("router", "Move a router to another host", "Networks"),
    "router-interface-add": Entry("router", "Connect a router with a subnet", "Networks"),
    "router-interface-delete": Entry("router", "Disconnect it again", "Networks"),
    "router-port-add": Entry("router", "Connect a router by a port made for it", "Networks"),
    "router-port-delete": Entry("router", "Disconnect it again", "Networks"),
    "router-gateway-set": Entry("router", "Connect a router with the outside", "Networks"),
    "router-gateway-clear": Entry("router", "Disconnect it again", "Networks"),
    "floatingip-create": Entry("floatingip", "Take an address of an external network", "Networks"),
    "floatingip-list": Entry("floatingip", "List floating IPs", "Networks"),
    "floatingip-show": Entry("floatingip", "Show a floating IP", "Networks"),
    "floatingip-delete": Entry("floatingip", "Give floating IPs back", "Networks"),
    "floatingip-associate": Entry("floatingip", "Let it stand for a port or server", "Networks"),
    "floatingip-disassociate": Entry("floatingip", "Let it stand for nothing", "Networks"),
    "add-floating-ip": Entry("floatingip", "Give a server a floating IP", "Networks"),
    "remove-floating-ip": Entry("floatingip", "Take it from the server", "Networks"),
    "security-group-create": Entry("security_group", "Create a security group", "Networks"),
    "security-group-list": Entry("security_group", "List security groups", "Networks"),
    "security-group-show": Entry("security_group", "Show a group and its rules", "Networks"),
    "security-group-set": Entry("security_group", "Change a security group", "Networks"),
    "security-group-delete": Entry("security_group", "Delete security groups", "Networks"),
    "security-group-rule-create": Entry("security_group", "Allow something", "Networks"),
    "security-group-rule-list": Entry("security_group", "List rules", "Networks"),
    "security-group-rule-show": Entry("security_group", "Show a rule", "Networks"),
    "security-group-rule-delete": Entry("security_group", "Delete rules", "Networks"),
    "topology": Entry("topology", "Draw networks, routers and servers", "Networks"),
    "reachability": Entry("reachability", "Show who can reach whom", "Networks"),
    "trace": Entry("trace", "Follow a packet from host to host", "Networks"),
    "volume-create": Entry("volume", "Create a volume", "Volumes"),
    "volume-list": Entry("volume", "List volumes", "Volumes"),
    "volume-show": Entry("volume", "Show a volume", "Volumes"),
    "volume-set": Entry("volume", "Change a volume", "Volumes"),
    "volume-extend": Entry("volume", "Make a volume larger", "Volumes"),
    "volume-retry": Entry("volume", "Try again to make volumes", "Volumes"),
    "volume-delete": Entry("volume", "Delete volumes", "Volumes"),
    "volume-attach": Entry("volume", "Give a server a volume", "Volumes"),
    "volume-detach": Entry("volume", "Take a volume from a server", "Volumes"),
    "volume-snapshot-create": Entry("volume_snapshot", "Copy a volume as it is now", "Volumes"),
    "volume-snapshot-list": Entry("volume_snapshot", "List snapshots", "Volumes"),
    "volume-snapshot-show": Entry("volume_snapshot", "Show a snapshot", "Volumes"),
    "volume-snapshot-delete": Entry("volume_snapshot", "Delete snapshots", "Volumes"),
    "volume-type-create": Entry("volume_type", "Name a place for volumes", "Volumes"),
    "volume-type-list": Entry("volume_type", "List volume types", "Volumes"),
    "volume-type-show": Entry("volume_type", "Show a volume type", "Volumes"),
    "volume-type-delete": Entry("volume_type", "Forget volume types", "Volumes"),
    "image-create": Entry("image", "Register an image", "Images and flavors"),
    "image-catalogue": Entry("image", "List the distributions' images", "Images and flavors"),
    "image-upload": Entry("image_content", "Give a queued image its content", "Images and flavors"),
    "image-list": Entry("image", "List images", "Images and flavors"),
    "image-show": Entry("image", "Show an image", "Images and flavors"),
    "image-set": Entry("image", "Change what is said about an image", "Images and flavors"),
    "image-unset": Entry("image", "Remove properties and tags of an image", "Images and flavors"),
    "image-deactivate": Entry(
        "image_content", "Let no server boot from images", "Images and flavors"
    ),
    "image-activate": Entry("image_content", "Let images be booted again", "Images and flavors"),
    "image-save": Entry("image_content", "Write an image to a file", "Images and flavors"),
    "image-copy": Entry("image_content", "Keep an image in one more store", "Images and flavors"),
    "image-member-add": Entry("image_members", "Share an image", "Images and flavors"),
    "image-member-list": Entry("image_members", "List an image's projects", "Images and flavors"),
    "image-member-delete": Entry("image_members", "Share an image no more", "Images and flavors"),
    "image-cache-list": Entry("image_cache", "List what hosts have", "Images and flavors"),
    "image-prefetch": Entry("image_cache", "Bring an image to hosts", "Images and flavors"),
    "image-prune": Entry("image_cache", "Remove unused images of hosts", "Images and flavors"),
    "image-delete": Entry("image", "Delete images", "Images and flavors"),
    "flavor-create": Entry("flavor", "Create a flavor", "Images and flavors"),
    "flavor-list": Entry("flavor", "List flavors", "Images and flavors"),
    "flavor-show": Entry("flavor", "Show a flavor", "Images and flavors"),
    "flavor-set": Entry("flavor", "Give a flavor extra specs", "Images and flavors"),
    "flavor-unset": Entry("flavor", "Take extra specs from a flavor", "Images and flavors"),
    "flavor-key": Entry("flavor", "The same in nova's words", "Images and flavors"),
    "flavor-delete": Entry("flavor", "Delete flavors", "Images and flavors"),
    "keypair-add": Entry("keypair", "Add or generate an SSH key pair", "Images and flavors"),
    "keypair-list": Entry("keypair", "List key pairs", "Images and flavors"),
    "keypair-show": Entry("keypair", "Show a key pair", "Images and flavors"),
    "keypair-delete": Entry("keypair", "Delete key pairs", "Images and flavors"),
    "host-add": Entry("hosts", "Add a host and pin its key", "Hosts"),
    "host-prepare": Entry("hosts", "Install what a host needs", "Hosts"),
    "host-list": Entry("hosts", "List hosts", "Hosts"),
    "host-show": Entry("hosts", "Show a host", "Hosts"),
    "host-set": Entry("hosts", "Change a host's settings", "Hosts"),
    "host-delete": Entry("hosts", "Take a host out of the cloud", "Hosts"),
    "host-drain": Entry("live_migration", "Move all servers of a host away", "Hosts"),
    "host-fence": Entry("hosts", "Say that a silent host is off", "Hosts"),
    "host-evacuate": Entry("evacuate", "Make all its servers anew on others", "Hosts"),
    "host-return": Entry("hosts", "Take a fenced host back", "Hosts"),
    "aggregate-create": Entry("aggregate", "Create an aggregate of hosts", "Hosts"),
    "aggregate-list": Entry("aggregate", "List aggregates", "Hosts"),
    "aggregate-show": Entry("aggregate", "Show an aggregate", "Hosts"),
    "aggregate-set": Entry("aggregate", "Change an aggregate", "Hosts"),
    "aggregate-unset": Entry("aggregate", "Remove properties of one", "Hosts"),
    "aggregate-set-metadata": Entry("aggregate", "Set properties in nova's words", "Hosts"),
    "aggregate-delete": Entry("aggregate", "Delete aggregates", "Hosts"),
    "aggregate-add-host": Entry("aggregate", "Put a host into an aggregate", "Hosts"),
    "aggregate-remove-host": Entry("aggregate", "Take a host out of one", "Hosts"),
    "availability-zone-list": Entry("aggregate", "List availability zones", "Hosts"),
    "what-if-drain": Entry("what_if", "Where a host's servers would go", "Hosts"),
    "what-if-fit": Entry("what_if", "How many of a flavor fit, and where", "Hosts"),
    "converge": Entry("operations", "Make hosts agree with the database", "Keeping order"),
    "drift": Entry("operations", "Show what differs on hosts", "Keeping order"),
    "recover": Entry("operations", "Settle interrupted operations", "Keeping order"),
    "events": Entry("operations", "Who did what, where, and why not", "Keeping order"),
    "lab-up": Entry("lab", "Start a practice fleet on this machine", "Lab"),
    "lab-status": Entry("lab", "Show the practice fleet", "Lab"),
    "lab-image": Entry("lab", "Build a small guest image", "Lab"),
    "lab-down": Entry("lab", "Remove the practice fleet", "Lab"),
    "lab-kill": Entry("lab", "Pull the plug of a host of the practice fleet", "Lab"),
    "lab-start": Entry("lab", "Start a host of the practice fleet again", "Lab"),
    "init": Entry("cloud", "Make a new cloud", "Cloud"),
    "version": Entry("cloud", "Print the version", "Cloud"),
    "completion": Entry("cloud", "Print the completion script of a shell", "Cloud"),
}

# How OpenStack's own client begins such a command: (noun) -> what stands before our verb.
NOUNS = {
    "aggregate": "aggregate-",
    "availability zone": "availability-zone-",
    "cluster": "cluster-",
    "flavor": "flavor-",
    "host": "host-",
    "hypervisor": "host-",
    "image": "image-",
    "keypair": "keypair-",
    "network": "net-",
    "network trunk": "trunk-",
    "port": "port-",
    "security group": "security-group-",
    "security group rule": "security-group-rule-",
    "router": "router-",
    "server": "",
    "server group": "server-group-",
    "subnet": "subnet-",
    "volume": "volume-",
    "volume snapshot": "volume-snapshot-",
    "volume type": "volume-type-",
    "what-if": "what-if-",
}

# Where the verb is another word, too; an option says what the words behind it mean.
SPELLINGS = {
    ("aggregate", "add", "host"): "aggregate-add-host",
    ("aggregate", "remove", "host"): "aggregate-remove-host",
    ("aggregate-details",): "aggregate-show",
    ("aggregate-update",): "aggregate-set",
    ("server-group-get",): "server-group-show",
    ("console", "log", "show"): "console-log",
    ("console", "url", "show"): "vnc-console",
    ("get-vnc-console",): "vnc-console",
    ("floating", "ip", "create"): "floatingip-create",
    ("floating", "ip", "delete"): "floatingip-delete",
    ("floating", "ip", "list"): "floatingip-list",
    ("floating", "ip", "set"): "floatingip-associate",
    ("floating", "ip", "show"): "floatingip-show",
    ("floating", "ip", "unset"): "floatingip-disassociate",
    ("floating-ip-associate",): "add-floating-ip",
    ("floating-ip-disassociate",): "remove-floating-ip",
    ("image", "add", "project"): "image-member-add",
    ("image", "import"): "image-upload",
    ("image", "member", "list"): "image-member-list",
    ("image", "remove", "project"): "image-member-delete",
    ("image-download",): "image-save",
    ("image-import",): "image-upload",
    ("image-reactivate",): "image-activate",
    ("force-delete",): "delete --force",
    ("image-update",): "image-set",
    ("member-create",): "image-member-add",
    ("member-delete",): "image-member-delete",
    ("member-list",): "image-member-list",
    ("keypair", "create"): "keypair-add",
    ("live-migration",): "live-migrate",
    ("server", "migration", "abort"): "live-migration-abort",
    ("net-update",): "net-set",
    ("network", "subport", "list"): "trunk-subport-list",
    ("port-update",): "port-set",
    ("secgroup-add-rule",): "security-group-rule-create",
    ("secgroup-create",): "security-group-create",
    ("secgroup-delete",): "security-group-delete",
    ("secgroup-list",): "security-group-list",
    ("secgroup-list-rules",): "security-group-rule-list",
    ("secgroup-update",): "security-group-set",
    ("security-group-update",): "security-group-set",
    ("server", "add", "security", "group"): "add-secgroup",
    ("server", "remove", "security", "group"): "remove-secgroup",
    ("server", "add", "fixed", "ip"): "interface-attach --by=net",
    ("server", "add", "network"): "interface-attach --by=net",
    ("server", "add", "port"): "interface-attach",
    ("server", "remove", "port"): "interface-detach",
    ("router", "add", "port"): "router-port-add",
    ("router", "add", "subnet"): "router-interface-add",
    ("router", "remove", "port"): "router-port-delete",
    ("router", "remove", "subnet"): "router-interface-delete",
    ("router-update",): "router-set",
    ("subnet-update",): "subnet-set",
    ("server", "add", "floating", "ip"): "add-floating-ip",
    ("server", "add", "volume"): "volume-attach",
    ("server", "create"): "boot",
    ("server", "backup", "create"): "backup",
    ("server", "image", "create"): "image-snapshot",
    ("server", "migrate", "confirm"): "resize-confirm",
    ("server", "migrate", "revert"): "resize-revert",
    ("server", "migration", "confirm"): "resize-confirm",
    ("server", "migration", "list"): "migration-list",
    ("server", "migration", "revert"): "resize-revert",
    ("server", "resize", "confirm"): "resize-confirm",
    ("server", "resize", "revert"): "resize-revert",
    ("server", "set"): "server-set",
    ("server", "unset"): "server-unset",
    ("server", "event", "list"): "events",
    ("server", "remove", "fixed", "ip"): "interface-detach",
    ("server", "remove", "floating", "ip"): "remove-floating-ip",
    ("server", "remove", "volume"): "volume-detach",
    ("server", "volume", "list"): "volume-list --server",
    ("server-migration-list",): "migration-list --server",
    ("volume-attachments",): "volume-list --server",
    ("volume-update",): "volume-set",
    ("instance-action-list",): "events",
    ("get-serial-console",): "console",
    ("update",): "server-set",
    ("host-evacuate-live",): "host-drain",
    ("host-servers-migrate",): "host-drain",
    ("compute", "service", "list"): "host-list",
    ("hypervisor-list",): "host-list",
    ("hypervisor-show",): "host-show",
    ("hypervisor-servers",): "list --host",
    ("service-list",): "host-list",
    ("service-enable",): "host-set --enable",
    ("service-disable",): "host-set --disable",
    ("service-force-down",): "host-fence",
    ("cached", "image", "list"): "image-cache-list",
    ("cached", "image", "queue"): "image-prefetch",
    ("cached", "image", "clear"): "image-prune",
    ("cache-list",): "image-cache-list",
    ("cache-queue",): "image-prefetch",
    ("cache-clear",): "image-prune",
    ("extend",): "volume-extend",
    ("snapshot-list",): "volume-snapshot-list",
    ("snapshot-show",): "volume-snapshot-show",
    ("snapshot-delete",): "volume-snapshot-delete",
    ("type-list",): "volume-type-list",
    ("type-show",): "volume-type-show",
    ("type-delete",): "volume-type-delete",
}

# What OpenStack has and this cloud has not, or has in other words: what to do instead.
INSTEAD = {
    ("get-password",): "It asks the metadata service for a password that the guest has encrypted "
    "and posted there, and guests here have nowhere to post: they read a config drive. Have their "
    "agent set one (set-password SERVER --generate), or log in by key (ssh).",
    ("clear-password",): "No password is kept anywhere here, so there is none to clear.",
    ("server", "tag"): "Tags are set by server-set SERVER --tag TAG, removed by server-unset.",
    ("server-tag-add",): "Tags are set by server-set SERVER --tag TAG.",
    ("server-tag-delete",): "Tags are removed by server-unset SERVER --tag TAG.",
    ("server-tag-list",): "Tags are shown by show SERVER -c Tags.",
    ("image-tag-update",): "Tags are set by image-set IMAGE --tag TAG.",
    ("image-tag-delete",): "Tags are removed by image-unset IMAGE --tag TAG.",
    ("member-update",): "A member decides by image-set IMAGE --accept, --reject or --pending.",
    ("server", "event", "show"): "The events of a server, each with its reason, are told by "
    "events SERVER.",
    (
        "instance-action",
    ): "The events of a server, each with its reason, are told by events SERVER.",
    ("server", "migration", "show"): "The moves of a server, each with its reason, are told by "
    "migration-list --server SERVER.",
    ("server", "remove", "network"): "A NIC is taken away by interface-detach SERVER PORT, where "
    "PORT is its address, its MAC or its port, as interface-list SERVER tells.",
    ("aggregate", "cache", "image"): "Images are brought to hosts by image-prefetch IMAGE HOST ...",
    ("compute", "service", "set"): "Hosts are disabled and enabled by host-set HOST --disable "
    "--reason TEXT and host-set HOST --enable; that one is off is said by host-fence HOST.",
    ("image", "stores", "info"): "Stores are described in the cloud's config.yaml, and named by "
    "image-create --store and image-copy --to.",
    ("stores-info",): "Stores are described in the cloud's config.yaml, and named by "
    "image-create --store and image-copy --to.",
    ("image", "stage"): "There is no staging: image-upload IMAGE --file FILE takes the content.",
    ("image-stage",): "There is no staging: image-upload IMAGE --file FILE takes the content.",
    ("create",): "Servers are made by boot NAME, volumes by volume-create NAME --size GB.",
    ("snapshot-create",): "A volume is copied by volume-snapshot-create NAME --volume VOLUME, a "
    "server's disk by image-snapshot SERVER NAME.",
    ("upload-to-image",): "No image is made of a volume here; a volume becomes another one by "
    "volume-create NAME --source VOLUME.",
    ("volume", "backup"): "Volumes are copied by volume-snapshot-create NAME --volume VOLUME.",
    (
        "volume",
        "migrate",
    ): "A volume stays where it was made; shared ones (volume-type-create) need no move.",
}


def listed() -> dict[str, Entry]:
    """The commands whose modules are there."""
    here = Path(__file__).parent
    modules = {path.stem for path in here.glob("*.py")}
    return {name: entry for name, entry in COMMANDS.items() if entry.module in modules}


def load(name: str) -> click.Command | None:
    """The command of this name, from its module; None when there is none."""
    import click

    entry = listed().get(name)
    if entry is None:
        return None
    module = importlib.import_module(f"stackctl.cli.{entry.module}")
    found = (item for item in vars(module).values() if isinstance(item, click.Command))
    return next((command for command in found if command.name == name), None)


def spelled(words: list[str]) -> tuple[str, int] | None:
    """The same for spellings that are more than a noun and our verb."""
    for spelling, name in SPELLINGS.items():
        if tuple(words[: len(spelling)]) == spelling:
            return name, len(spelling)
    return None


def instead(words: list[str]) -> tuple[str, str] | None:
    """What OpenStack calls something that is not here, and what to do instead; or None."""
    for spelling, advice in INSTEAD.items():
        if tuple(words[: len(spelling)]) == spelling:
            return " ".join(spelling), advice
    return None


def translate(words: list[str]) -> tuple[str, int] | None:
    """The command that OpenStack's spelling means (perhaps with an option of it) and how many
    words it took, or None."""
    found = spelled(words)
    if found is not None:
        return found
    for count in (3, 2, 1):
        noun = " ".join(words[:count])
        if len(words) > count and noun in NOUNS:
            name = f"{NOUNS[noun]}{words[count]}"
            return (name, count + 1) if name in COMMANDS else None
    return None
