"""A step of the schema: servers that change their host."""

MOVING = """
-- One row for each move of a server (and each resize), kept as history. status has Nova's words.
-- claim_host_id: a host beside the server's own on which the move holds vcpus, ram_mb and disk_gb:
-- the one where it goes before it is there, then the one where its old disks wait for a word.
-- ran: whether the guest ran when it began. before_json: what is put back when it comes to nothing;
-- after_json: the columns of the server that are to be others there.
CREATE TABLE migrations (
  id TEXT PRIMARY KEY,
  server_id TEXT NOT NULL REFERENCES servers(id),
  operation_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('cold', 'resize', 'live', 'evacuate')),
  source_host_id TEXT NOT NULL REFERENCES hosts(id),
  target_host_id TEXT NOT NULL REFERENCES hosts(id),
  status TEXT NOT NULL CHECK (status IN ('queued', 'preparing', 'running', 'pre-migrating',
    'migrating', 'post-migrating', 'finished', 'confirmed', 'reverting', 'reverted', 'completed',
    'cancelled', 'failed', 'error')),
  progress_json TEXT NOT NULL DEFAULT '{}',
  reason TEXT NOT NULL DEFAULT '',
  ran INTEGER NOT NULL DEFAULT 0,
  before_json TEXT NOT NULL DEFAULT '{}',
  after_json TEXT NOT NULL DEFAULT '{}',
  claim_host_id TEXT REFERENCES hosts(id),
  vcpus INTEGER NOT NULL DEFAULT 0,
  ram_mb INTEGER NOT NULL DEFAULT 0,
  disk_gb INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
) STRICT;
CREATE INDEX migrations_server ON migrations(server_id);
CREATE INDEX migrations_operation ON migrations(operation_id);
CREATE INDEX migrations_claim ON migrations(claim_host_id) WHERE claim_host_id IS NOT NULL;
"""
