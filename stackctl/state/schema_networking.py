"""The second step of the schema: routers, floating IPs, security groups, IPv6."""

_UUID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)"
    " || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)
_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

# Routers, floating IPs, security groups, IPv6. Ports that are there already join their project's
# default group, as they would have from the start.
NETWORKING = f"""
ALTER TABLE networks ADD COLUMN port_security INTEGER NOT NULL DEFAULT 1;

-- slaac, dhcpv6-stateful or dhcpv6-stateless; NULL in IPv4 subnets and where nothing is advertised.
ALTER TABLE subnets ADD COLUMN ipv6_mode TEXT;

ALTER TABLE ports ADD COLUMN allowed_pairs_json TEXT NOT NULL DEFAULT '[]';
ALTER TABLE ports ADD COLUMN dhcp_options_json TEXT NOT NULL DEFAULT '[]';
ALTER TABLE ports ADD COLUMN egress_kbps INTEGER;
ALTER TABLE ports ADD COLUMN egress_burst_kb INTEGER;
ALTER TABLE ports ADD COLUMN ingress_kbps INTEGER;
ALTER TABLE ports ADD COLUMN ingress_burst_kb INTEGER;

-- host_id: where it is; NULL until it has an interface or a gateway. Its ports are rows of ports
-- with device_id = its id, bound to that host; with the role incoming while it is still on its way
-- there from another one. host_asked: the only host that it may be on.
CREATE TABLE routers (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  host_id TEXT REFERENCES hosts(id),
  host_asked TEXT REFERENCES hosts(id),
  admin_up INTEGER NOT NULL DEFAULT 1,
  snat INTEGER NOT NULL DEFAULT 1,
  routes_json TEXT NOT NULL DEFAULT '[]',
  status TEXT NOT NULL DEFAULT 'DOWN',
  fault_json TEXT,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX routers_name ON routers(project_id, name) WHERE deleted_at IS NULL;
CREATE INDEX routers_host ON routers(host_id) WHERE deleted_at IS NULL;

-- The address itself is a row of addresses, of kind floating. port_id, fixed_address and router_id
-- are set while it is associated.
CREATE TABLE floating_ips (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  network_id TEXT NOT NULL REFERENCES networks(id),
  subnet_id TEXT NOT NULL REFERENCES subnets(id),
  address TEXT NOT NULL,
  port_id TEXT REFERENCES ports(id),
  fixed_address TEXT,
  router_id TEXT REFERENCES routers(id),
  description TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL DEFAULT 'DOWN',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX floating_ips_fixed ON floating_ips(network_id, port_id, fixed_address)
  WHERE deleted_at IS NULL AND port_id IS NOT NULL;
CREATE INDEX floating_ips_router ON floating_ips(router_id) WHERE deleted_at IS NULL;
CREATE INDEX floating_ips_port ON floating_ips(port_id) WHERE deleted_at IS NULL;

CREATE TABLE security_groups (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX security_groups_name ON security_groups(project_id, name)
  WHERE deleted_at IS NULL;

-- protocol is an IP protocol number; port_min and port_max are ports, or ICMP type and code.
CREATE TABLE security_group_rules (
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES projects(id),
  group_id TEXT NOT NULL REFERENCES security_groups(id),
  direction TEXT NOT NULL CHECK (direction IN ('ingress', 'egress')),
  ethertype TEXT NOT NULL CHECK (ethertype IN ('IPv4', 'IPv6')),
  protocol INTEGER,
  port_min INTEGER,
  port_max INTEGER,
  remote_cidr TEXT,
  remote_group_id TEXT REFERENCES security_groups(id),
  description TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX security_group_rules_same ON security_group_rules(group_id, direction,
  ethertype, ifnull(protocol, -1), ifnull(port_min, -1), ifnull(port_max, -1),
  ifnull(remote_cidr, ''), ifnull(remote_group_id, '')) WHERE deleted_at IS NULL;
CREATE INDEX security_group_rules_remote ON security_group_rules(remote_group_id)
  WHERE deleted_at IS NULL AND remote_group_id IS NOT NULL;

CREATE TABLE port_security_groups (
  port_id TEXT NOT NULL REFERENCES ports(id),
  group_id TEXT NOT NULL REFERENCES security_groups(id),
  PRIMARY KEY (port_id, group_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX port_security_groups_group ON port_security_groups(group_id);

UPDATE ports SET port_security = 0 WHERE device_owner LIKE 'network:%';
INSERT INTO security_groups (id, project_id, name, description, created_at)
  SELECT {_UUID}, id, 'default', 'Default security group', {_NOW} FROM projects;
INSERT INTO security_group_rules
  (id, project_id, group_id, direction, ethertype, remote_group_id, created_at)
  SELECT {_UUID}, project_id, id, way.direction, kind.ethertype,
    CASE way.direction WHEN 'ingress' THEN id END, {_NOW}
  FROM security_groups,
    (SELECT 'egress' AS direction UNION ALL SELECT 'ingress') AS way,
    (SELECT 'IPv4' AS ethertype UNION ALL SELECT 'IPv6') AS kind;
INSERT INTO port_security_groups (port_id, group_id)
  SELECT ports.id, security_groups.id FROM ports
  JOIN security_groups ON security_groups.project_id = ports.project_id
  WHERE ports.deleted_at IS NULL AND ports.device_owner NOT LIKE 'network:%'
    AND ports.port_security = 1;
INSERT INTO quotas (project_id, resource, maximum)
  SELECT projects.id, kind.resource, -1 FROM projects,
    (SELECT 'routers' AS resource UNION ALL SELECT 'floating_ips'
     UNION ALL SELECT 'security_groups' UNION ALL SELECT 'security_group_rules') AS kind
  WHERE projects.name = 'admin';
UPDATE cloud SET serial = serial + 1, nonce = lower(hex(randomblob(8)));
UPDATE hosts SET issued_serial = (SELECT serial FROM cloud) WHERE deleted_at IS NULL;
"""
