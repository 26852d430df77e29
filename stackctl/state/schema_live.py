"""A step of the schema: servers that change their host while they run."""

LIVE_MIGRATION = """
-- What the guest sees of a disk, when it is that of an incarnation before this one.
ALTER TABLE disks ADD COLUMN serial TEXT;

CREATE INDEX migrations_arriving ON migrations(target_host_id)
  WHERE status IN ('preparing', 'running');
CREATE INDEX bindings_moving ON bindings(port_id) WHERE role <> 'active';
"""
