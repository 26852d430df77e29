"""A step of the schema: types of volumes, which name the places that hold them."""

BACKENDS = """
-- location: a path (folder), server:/export (nfs) or a storage pool's name (pool). shared: it is
-- the same on all hosts that have it. claimed: host_id has made the cloud's own place in it.
CREATE TABLE volume_types (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  driver TEXT NOT NULL CHECK (driver IN ('folder', 'nfs', 'pool')),
  location TEXT NOT NULL,
  shared INTEGER NOT NULL,
  format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
  host_id TEXT REFERENCES hosts(id),
  claimed INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX volume_types_name ON volume_types(name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX volume_types_location ON volume_types(driver, location)
  WHERE deleted_at IS NULL;

-- What hosts last said: whether they have it, and if not, why.
CREATE TABLE volume_type_hosts (
  type_id TEXT NOT NULL REFERENCES volume_types(id),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  usable INTEGER NOT NULL,
  why TEXT NOT NULL DEFAULT '',
  free_gb INTEGER NOT NULL DEFAULT 0,
  total_gb INTEGER NOT NULL DEFAULT 0,
  seen_at TEXT NOT NULL,
  PRIMARY KEY (type_id, host_id)
) STRICT, WITHOUT ROWID;

-- type_id: NULL is the folder of the host itself. A shared volume's host_id is the one host that
-- makes, grows and removes it just now; another may take it over when this one has reported of the
-- row as it is (settled_version), or is fenced. held: making it failed, it waits to be named.
ALTER TABLE volumes ADD COLUMN type_id TEXT REFERENCES volume_types(id);
ALTER TABLE volumes ADD COLUMN settled_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volumes ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume_snapshots ADD COLUMN type_id TEXT REFERENCES volume_types(id);
ALTER TABLE volume_snapshots ADD COLUMN settled_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tombstones ADD COLUMN type_id TEXT REFERENCES volume_types(id);
"""
