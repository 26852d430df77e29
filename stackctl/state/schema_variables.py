"""A step of the schema: UEFI variables are a disk of their server like any other."""

VARIABLES = """
-- kind nvram: what a server's firmware keeps, which the guest does not see as a disk; size_bytes is
-- 0, for it is as large as the firmware makes it.
CREATE TABLE disks_of_all_kinds (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL DEFAULT 1,
  server_id TEXT NOT NULL REFERENCES servers(id),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  kind TEXT NOT NULL CHECK (kind IN ('root', 'ephemeral', 'swap', 'nvram')),
  position INTEGER NOT NULL,
  format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
  size_bytes INTEGER NOT NULL,
  image_id TEXT REFERENCES images(id),
  state TEXT NOT NULL CHECK (state IN ('build', 'built', 'deleted')),
  created_at TEXT NOT NULL,
  deleted_at TEXT,
  source_id TEXT,
  aside INTEGER NOT NULL DEFAULT 0,
  serial TEXT,
  path TEXT
) STRICT;
INSERT INTO disks_of_all_kinds (id, version, server_id, host_id, kind, position, format, size_bytes,
    image_id, state, created_at, deleted_at, source_id, aside, serial, path)
  SELECT id, version, server_id, host_id, kind, position, format, size_bytes,
    image_id, state, created_at, deleted_at, source_id, aside, serial, path FROM disks;
DROP TABLE disks;
ALTER TABLE disks_of_all_kinds RENAME TO disks;
CREATE INDEX disks_server ON disks(server_id) WHERE deleted_at IS NULL;
CREATE INDEX disks_host ON disks(host_id) WHERE deleted_at IS NULL;

-- Those of servers from before lie in their folders, by this id; their hosts give them their place.
INSERT INTO disks (id, server_id, host_id, kind, position, format, size_bytes, state, created_at)
  SELECT json_extract(hardware_json, '$.nvram'), id, host_id, 'nvram', 1000, 'raw', 0,
    CASE WHEN launched_at IS NULL THEN 'build' ELSE 'built' END, created_at FROM servers
  WHERE json_extract(hardware_json, '$.nvram') IS NOT NULL
    AND host_id IS NOT NULL AND deleted_at IS NULL;
UPDATE servers SET before_resize_json =
    json_insert(before_resize_json, '$.disks[#]', json_extract(hardware_json, '$.nvram'))
  WHERE json_extract(hardware_json, '$.nvram') IS NOT NULL AND deleted_at IS NULL
    AND before_resize_json IS NOT NULL
    AND json_extract(before_resize_json, '$.migration') IS NULL;

-- What its UEFI variables became when it was shelved.
ALTER TABLE servers ADD COLUMN shelved_nvram_id TEXT REFERENCES images(id);
CREATE INDEX servers_shelved_nvram ON servers(shelved_nvram_id)
  WHERE deleted_at IS NULL AND shelved_nvram_id IS NOT NULL;
"""
