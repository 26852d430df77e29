"""A step of the schema: trunk ports."""

TRUNKS = """
-- A port (its parent) that carries others as VLANs. The device_owner of a subport is trunk:subport
-- (it has no device_id), and it is bound wherever the parent is.
CREATE TABLE trunks (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  port_id TEXT NOT NULL REFERENCES ports(id),
  admin_up INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX trunks_name ON trunks(project_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX trunks_parent ON trunks(port_id) WHERE deleted_at IS NULL;

CREATE TABLE trunk_subports (
  port_id TEXT PRIMARY KEY REFERENCES ports(id),
  trunk_id TEXT NOT NULL REFERENCES trunks(id),
  segmentation_id INTEGER NOT NULL CHECK (segmentation_id BETWEEN 1 AND 4094),
  UNIQUE (trunk_id, segmentation_id)
) STRICT;

-- What a server or router sends by: its own ports, and those that these carry as VLANs.
CREATE VIEW device_ports AS
  SELECT id AS port_id, device_id, NULL AS parent_id, NULL AS vlan
  FROM ports WHERE deleted_at IS NULL AND device_id <> ''
  UNION ALL
  SELECT trunk_subports.port_id, parent.device_id, parent.id, trunk_subports.segmentation_id
  FROM ports AS parent
  JOIN trunks ON trunks.port_id = parent.id AND trunks.deleted_at IS NULL
  JOIN trunk_subports ON trunk_subports.trunk_id = trunks.id
  WHERE parent.deleted_at IS NULL AND parent.device_id <> '';
"""
