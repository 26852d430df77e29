"""Tables of a cloud's database, and the steps that bring an older file to today's shape.

Rows that people make carry ``deleted_at`` and leave for history when they are deleted; unique
indexes are partial, over live rows. Times are ISO 8601 in UTC. Columns ending in ``_json`` hold
JSON. Sizes and limits carry their unit in the name.
"""

from stackctl.state.schema_adopting import ADOPTING
from stackctl.state.schema_backends import BACKENDS
from stackctl.state.schema_guests import GUESTS
from stackctl.state.schema_images import IMAGES
from stackctl.state.schema_lifecycle import LIFECYCLE
from stackctl.state.schema_live import LIVE_MIGRATION
from stackctl.state.schema_moving import MOVING
from stackctl.state.schema_networking import NETWORKING
from stackctl.state.schema_placing import PLACING
from stackctl.state.schema_shelving import SHELVING
from stackctl.state.schema_trunks import TRUNKS
from stackctl.state.schema_variables import VARIABLES
from stackctl.state.schema_volumes import VOLUMES

APPLICATION_ID = 0x73746B63  # "stkc"

_BASE = """
CREATE TABLE cloud (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  prefix TEXT NOT NULL,
  serial INTEGER NOT NULL,
  nonce TEXT NOT NULL,
  created_at TEXT NOT NULL
) STRICT;

CREATE TABLE projects (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX projects_name ON projects(name) WHERE deleted_at IS NULL;

CREATE TABLE users (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX users_name ON users(name) WHERE deleted_at IS NULL;

-- A limit of -1 is unlimited; a project without a row for a resource has Nova's default.
CREATE TABLE quotas (
  project_id TEXT NOT NULL REFERENCES projects(id),
  resource TEXT NOT NULL,
  maximum INTEGER NOT NULL,
  PRIMARY KEY (project_id, resource)
) STRICT;

-- issued_serial: the newest transaction that changed what this host must be;
-- sent_*: the newest pair sent to it; applied_serial: the newest it carried out.
CREATE TABLE hosts (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  transport TEXT NOT NULL CHECK (transport IN ('ssh', 'local')),
  address TEXT NOT NULL,
  ssh_port INTEGER NOT NULL,
  ssh_user TEXT NOT NULL,
  host_key TEXT NOT NULL,
  enabled INTEGER NOT NULL DEFAULT 1,
  disabled_reason TEXT NOT NULL DEFAULT '',
  zone TEXT NOT NULL DEFAULT 'nova',
  virt_type TEXT NOT NULL DEFAULT 'auto',
  datapath TEXT NOT NULL DEFAULT 'auto',
  on_boot TEXT NOT NULL DEFAULT 'none',
  tunnel_address TEXT,
  bridge_mappings_json TEXT NOT NULL DEFAULT '[]',
  vcpus INTEGER NOT NULL,
  ram_mb INTEGER NOT NULL,
  disk_gb INTEGER NOT NULL,
  declared_json TEXT NOT NULL DEFAULT '{}',
  reserved_ram_mb INTEGER NOT NULL DEFAULT 512,
  cpu_ratio REAL NOT NULL DEFAULT 4.0,
  ram_ratio REAL NOT NULL DEFAULT 1.0,
  disk_ratio REAL NOT NULL DEFAULT 1.0,
  facts_json TEXT NOT NULL DEFAULT '{}',
  boot_id TEXT NOT NULL DEFAULT '',
  issued_serial INTEGER NOT NULL DEFAULT 0,
  sent_serial INTEGER NOT NULL DEFAULT 0,
  sent_nonce TEXT NOT NULL DEFAULT '',
  applied_serial INTEGER NOT NULL DEFAULT 0,
  seen_at TEXT,
  unreachable_since TEXT,
  unreachable_why TEXT NOT NULL DEFAULT '',
  fenced INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX hosts_name ON hosts(name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX hosts_address ON hosts(address, ssh_port)
  WHERE deleted_at IS NULL AND transport = 'ssh';

CREATE TABLE images (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('queued', 'saving', 'active', 'deleted', 'error')),
  disk_format TEXT NOT NULL,
  container_format TEXT NOT NULL DEFAULT 'bare',
  visibility TEXT NOT NULL DEFAULT 'shared',
  size_bytes INTEGER NOT NULL DEFAULT 0,
  virtual_size_bytes INTEGER NOT NULL DEFAULT 0,
  sha256 TEXT NOT NULL DEFAULT '',
  source_url TEXT,
  host_may_fetch INTEGER NOT NULL DEFAULT 0,
  min_disk_gb INTEGER NOT NULL DEFAULT 0,
  min_ram_mb INTEGER NOT NULL DEFAULT 0,
  kernel_id TEXT REFERENCES images(id),
  ramdisk_id TEXT REFERENCES images(id),
  properties_json TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX images_name ON images(name) WHERE deleted_at IS NULL;

CREATE TABLE flavors (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  vcpus INTEGER NOT NULL,
  ram_mb INTEGER NOT NULL,
  disk_gb INTEGER NOT NULL,
  ephemeral_gb INTEGER NOT NULL DEFAULT 0,
  swap_mb INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX flavors_name ON flavors(name) WHERE deleted_at IS NULL;

CREATE TABLE keypairs (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users(id),
  name TEXT NOT NULL,
  public_key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX keypairs_name ON keypairs(user_id, name) WHERE deleted_at IS NULL;

CREATE TABLE networks (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  type TEXT NOT NULL CHECK (type IN ('vxlan', 'gre', 'vlan', 'flat')),
  physical_network TEXT,
  segmentation_id INTEGER,
  mtu INTEGER NOT NULL,
  domain TEXT NOT NULL,
  shared INTEGER NOT NULL DEFAULT 0,
  external INTEGER NOT NULL DEFAULT 0,
  admin_up INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX networks_name ON networks(name) WHERE deleted_at IS NULL;
-- Tunnel ids are one space per type; VLANs one per physical network; one flat network on each.
CREATE UNIQUE INDEX networks_segment
  ON networks(type, ifnull(physical_network, ''), ifnull(segmentation_id, 0))
  WHERE deleted_at IS NULL;

CREATE TABLE subnets (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  network_id TEXT NOT NULL REFERENCES networks(id),
  name TEXT NOT NULL,
  number INTEGER NOT NULL,
  cidr TEXT NOT NULL,
  gateway TEXT,
  dhcp INTEGER NOT NULL DEFAULT 1,
  pools_json TEXT NOT NULL,
  dns_nameservers_json TEXT NOT NULL DEFAULT '[]',
  host_routes_json TEXT NOT NULL DEFAULT '[]',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX subnets_number ON subnets(number) WHERE deleted_at IS NULL;
CREATE INDEX subnets_network ON subnets(network_id) WHERE deleted_at IS NULL;

CREATE TABLE ports (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  network_id TEXT NOT NULL REFERENCES networks(id),
  name TEXT NOT NULL DEFAULT '',
  mac TEXT NOT NULL,
  device_owner TEXT NOT NULL DEFAULT '',
  device_id TEXT NOT NULL DEFAULT '',
  nic_index INTEGER NOT NULL DEFAULT 0,
  hostname TEXT NOT NULL DEFAULT '',
  admin_up INTEGER NOT NULL DEFAULT 1,
  port_security INTEGER NOT NULL DEFAULT 1,
  made_for_server INTEGER NOT NULL DEFAULT 0,
  status TEXT NOT NULL DEFAULT 'DOWN',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX ports_mac ON ports(mac) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX ports_hostname ON ports(network_id, hostname)
  WHERE deleted_at IS NULL AND hostname <> '';
CREATE INDEX ports_device ON ports(device_id) WHERE deleted_at IS NULL;
CREATE INDEX ports_network ON ports(network_id) WHERE deleted_at IS NULL;

-- Every address in use, whatever for. A released one rests until all hosts that may know it
-- have applied a later serial (released_serial), and is given again when no fresher one is free.
CREATE TABLE addresses (
  id INTEGER PRIMARY KEY,
  network_id TEXT NOT NULL REFERENCES networks(id),
  subnet_id TEXT NOT NULL REFERENCES subnets(id),
  port_id TEXT REFERENCES ports(id),
  kind TEXT NOT NULL CHECK (kind IN ('fixed', 'gateway', 'dhcp', 'floating')),
  address TEXT NOT NULL,
  number TEXT NOT NULL,
  released_serial INTEGER,
  released_at TEXT
) STRICT;
CREATE UNIQUE INDEX addresses_live ON addresses(network_id, address)
  WHERE released_serial IS NULL;
CREATE INDEX addresses_port ON addresses(port_id) WHERE released_serial IS NULL;
CREATE INDEX addresses_subnet ON addresses(subnet_id, released_serial);
-- number is the address as 32 hex digits, which sort as addresses do.
CREATE INDEX addresses_number ON addresses(network_id, number);

CREATE TABLE bindings (
  port_id TEXT NOT NULL REFERENCES ports(id),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  role TEXT NOT NULL CHECK (role IN ('active', 'incoming', 'outgoing')),
  PRIMARY KEY (port_id, host_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX bindings_host ON bindings(host_id);

-- The tag of a network on br-int of one host; kept while the host may still carry it.
CREATE TABLE host_networks (
  host_id TEXT NOT NULL REFERENCES hosts(id),
  network_id TEXT NOT NULL REFERENCES networks(id),
  local_vlan INTEGER NOT NULL CHECK (local_vlan BETWEEN 1 AND 4094),
  released_serial INTEGER,
  PRIMARY KEY (host_id, network_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX host_networks_vlan ON host_networks(host_id, local_vlan);
CREATE INDEX host_networks_network ON host_networks(network_id);

CREATE TABLE servers (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  user_id TEXT NOT NULL REFERENCES users(id),
  name TEXT NOT NULL,
  hostname TEXT NOT NULL,
  host_id TEXT REFERENCES hosts(id),
  image_id TEXT REFERENCES images(id),
  flavor_id TEXT NOT NULL REFERENCES flavors(id),
  flavor_name TEXT NOT NULL,
  vcpus INTEGER NOT NULL,
  ram_mb INTEGER NOT NULL,
  disk_gb INTEGER NOT NULL,
  ephemeral_gb INTEGER NOT NULL DEFAULT 0,
  swap_mb INTEGER NOT NULL DEFAULT 0,
  key_name TEXT,
  public_keys_json TEXT NOT NULL DEFAULT '[]',
  metadata_json TEXT NOT NULL DEFAULT '{}',
  files_json TEXT NOT NULL DEFAULT '[]',
  user_data_sha256 TEXT,
  launch_index INTEGER NOT NULL DEFAULT 0,
  zone TEXT NOT NULL DEFAULT 'nova',
  zone_asked INTEGER NOT NULL DEFAULT 0,
  host_asked TEXT,
  machine_type TEXT,
  cpu_mode TEXT,
  disk_bus TEXT NOT NULL DEFAULT 'virtio',
  nic_model TEXT NOT NULL DEFAULT 'virtio',
  vm_state TEXT NOT NULL,
  task_state TEXT,
  power_state TEXT NOT NULL DEFAULT 'NOSTATE',
  power_serial INTEGER NOT NULL DEFAULT 1,
  power_action TEXT NOT NULL DEFAULT 'start',
  held INTEGER NOT NULL DEFAULT 0,
  moving INTEGER NOT NULL DEFAULT 0,
  build_attempts INTEGER NOT NULL DEFAULT 1,
  fault_json TEXT,
  cluster_id TEXT,
  operation_id TEXT,
  observed_at TEXT,
  launched_at TEXT,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX servers_host ON servers(host_id) WHERE deleted_at IS NULL;
CREATE INDEX servers_name ON servers(name) WHERE deleted_at IS NULL;
CREATE INDEX servers_project ON servers(project_id) WHERE deleted_at IS NULL;
CREATE INDEX servers_cluster ON servers(cluster_id) WHERE deleted_at IS NULL;

-- One row per incarnation; destroyed only through a tombstone.
CREATE TABLE disks (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  server_id TEXT NOT NULL REFERENCES servers(id),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  kind TEXT NOT NULL CHECK (kind IN ('root', 'ephemeral', 'swap')),
  position INTEGER NOT NULL,
  format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
  size_bytes INTEGER NOT NULL,
  image_id TEXT REFERENCES images(id),
  state TEXT NOT NULL CHECK (state IN ('build', 'built', 'deleted')),
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX disks_server ON disks(server_id) WHERE deleted_at IS NULL;
CREATE INDEX disks_host ON disks(host_id) WHERE deleted_at IS NULL;

CREATE TABLE tombstones (
  kind TEXT NOT NULL CHECK (kind IN ('domain', 'disk')),
  id TEXT NOT NULL,
  host_id TEXT NOT NULL REFERENCES hosts(id),
  server_id TEXT NOT NULL,
  created_serial INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  acknowledged_at TEXT,
  PRIMARY KEY (kind, id, host_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_host ON tombstones(host_id) WHERE acknowledged_at IS NULL;

-- Contents that go to hosts by name: user data, keys, files for guests.
CREATE TABLE blobs (
  sha256 TEXT PRIMARY KEY,
  content BLOB NOT NULL,
  created_at TEXT NOT NULL
) STRICT;

CREATE TABLE clusters (
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  network_id TEXT NOT NULL REFERENCES networks(id),
  owns_network INTEGER NOT NULL DEFAULT 0,
  head_id TEXT REFERENCES servers(id),
  node_spec_json TEXT NOT NULL,
  next_index INTEGER NOT NULL DEFAULT 1,
  public_key TEXT NOT NULL,
  private_key_sha256 TEXT NOT NULL REFERENCES blobs(sha256),
  user_data_sha256 TEXT REFERENCES blobs(sha256),
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX clusters_name ON clusters(project_id, name) WHERE deleted_at IS NULL;

-- lock_file is held by flock for the life of the owner: a free lock is a dead owner.
CREATE TABLE operations (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  summary TEXT NOT NULL,
  project_id TEXT NOT NULL REFERENCES projects(id),
  user_name TEXT NOT NULL,
  parent_id TEXT REFERENCES operations(id),
  request_id TEXT,
  arguments_sha256 TEXT NOT NULL,
  phase TEXT NOT NULL,
  outcome TEXT NOT NULL CHECK (outcome IN ('running', 'done', 'partly', 'failed', 'interrupted')),
  hosts_json TEXT NOT NULL DEFAULT '[]',
  result_json TEXT NOT NULL DEFAULT '{}',
  lock_file TEXT NOT NULL,
  owner_pid INTEGER NOT NULL,
  serial INTEGER NOT NULL,
  started_at TEXT NOT NULL,
  finished_at TEXT
) STRICT;
CREATE UNIQUE INDEX operations_request ON operations(project_id, request_id)
  WHERE request_id IS NOT NULL;
CREATE INDEX operations_running ON operations(outcome) WHERE outcome = 'running';

CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  at TEXT NOT NULL,
  level TEXT NOT NULL CHECK (level IN ('info', 'warning', 'error')),
  operation_id TEXT,
  user_name TEXT NOT NULL,
  action TEXT NOT NULL,
  kind TEXT NOT NULL,
  resource_id TEXT NOT NULL,
  name TEXT NOT NULL,
  host TEXT NOT NULL,
  message TEXT NOT NULL,
  seconds REAL
) STRICT;
CREATE INDEX events_resource ON events(resource_id);

-- Why servers went where they went, or nowhere: each host's numbers as the scheduler saw them.
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY,
  at TEXT NOT NULL,
  operation_id TEXT,
  name TEXT NOT NULL,
  server_id TEXT,
  project_id TEXT NOT NULL,
  decision_json TEXT NOT NULL
) STRICT;
CREATE INDEX decisions_server ON decisions(server_id);
CREATE INDEX decisions_name ON decisions(name);
"""

MIGRATIONS: tuple[str, ...] = (
    _BASE,
    NETWORKING,
    IMAGES,
    PLACING,
    LIFECYCLE,
    VOLUMES,
    MOVING,
    LIVE_MIGRATION,
    ADOPTING,
    GUESTS,
    SHELVING,
    BACKENDS,
    TRUNKS,
    VARIABLES,
)
"""Script n brings a file from user_version n to n + 1."""

SCHEMA_VERSION = len(MIGRATIONS)
