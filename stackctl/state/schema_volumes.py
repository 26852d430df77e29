"""A step of the schema: volumes."""

VOLUMES = """
-- host_id: where its file is, NULL until the first server needs it. built: the file was made, and
-- its absence is a fault from then on. image_id: what it was made of at first, if that boots;
-- source_id: the volume or snapshot that it is a copy of. server_id and device are set while it is
-- attached, or is being detached.
CREATE TABLE volumes (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  size_gb INTEGER NOT NULL CHECK (size_gb > 0),
  format TEXT NOT NULL DEFAULT 'qcow2' CHECK (format IN ('qcow2', 'raw')),
  host_id TEXT REFERENCES hosts(id),
  image_id TEXT REFERENCES images(id),
  source_id TEXT,
  status TEXT NOT NULL CHECK (status IN ('creating', 'available', 'attaching', 'in-use',
    'detaching', 'error', 'deleted')),
  built INTEGER NOT NULL DEFAULT 0,
  server_id TEXT REFERENCES servers(id),
  device TEXT,
  delete_on_termination INTEGER NOT NULL DEFAULT 0,
  fault_json TEXT,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX volumes_host ON volumes(host_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX volumes_name ON volumes(project_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX volumes_device ON volumes(server_id, device)
  WHERE deleted_at IS NULL AND server_id IS NOT NULL;

-- A snapshot is a copy on the same host, which stands by itself; the volume may go. consistency:
-- what the copy is worth, as the host said when it took it.
CREATE TABLE volume_snapshots (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  volume_id TEXT NOT NULL REFERENCES volumes(id),
  size_gb INTEGER NOT NULL CHECK (size_gb > 0),
  format TEXT NOT NULL DEFAULT 'qcow2' CHECK (format IN ('qcow2', 'raw')),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  image_id TEXT REFERENCES images(id),
  status TEXT NOT NULL CHECK (status IN ('creating', 'available', 'error', 'deleted')),
  built INTEGER NOT NULL DEFAULT 0,
  consistency TEXT NOT NULL DEFAULT '',
  taken_at TEXT,
  fault_json TEXT,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE INDEX volume_snapshots_host ON volume_snapshots(host_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX volume_snapshots_name ON volume_snapshots(project_id, name)
  WHERE deleted_at IS NULL;

-- Volumes and snapshots have tombstones, too, both of the kind volume. server_id is empty in those.
CREATE TABLE tombstones_of_all (
  kind TEXT NOT NULL CHECK (kind IN ('domain', 'disk', 'volume')),
  id TEXT NOT NULL,
  host_id TEXT NOT NULL REFERENCES hosts(id),
  server_id TEXT NOT NULL,
  created_serial INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  acknowledged_at TEXT,
  PRIMARY KEY (kind, id, host_id)
) STRICT, WITHOUT ROWID;
INSERT INTO tombstones_of_all
  SELECT kind, id, host_id, server_id, created_serial, created_at, acknowledged_at FROM tombstones;
DROP TABLE tombstones;
ALTER TABLE tombstones_of_all RENAME TO tombstones;
CREATE INDEX tombstones_host ON tombstones(host_id) WHERE acknowledged_at IS NULL;

INSERT OR IGNORE INTO quotas (project_id, resource, maximum)
  SELECT projects.id, kind.resource, -1 FROM projects,
    (SELECT 'volumes' AS resource UNION ALL SELECT 'gigabytes'
     UNION ALL SELECT 'snapshots') AS kind
  WHERE projects.name = 'admin';
"""
