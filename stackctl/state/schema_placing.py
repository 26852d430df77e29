"""A step of the schema: server groups, aggregates, hints, extra specs of flavors."""

# A host's zone stays a column of its own: an aggregate with a zone gives it to the hosts put in.
PLACING = """
ALTER TABLE flavors ADD COLUMN extra_specs_json TEXT NOT NULL DEFAULT '{}';

-- How many servers in a row could not be built there; 0 again with the first that could.
ALTER TABLE hosts ADD COLUMN build_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN build_failed_at TEXT;

CREATE TABLE server_groups (
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES projects(id),
  name TEXT NOT NULL,
  policy TEXT NOT NULL CHECK (
    policy IN ('affinity', 'anti-affinity', 'soft-affinity', 'soft-anti-affinity')),
  max_per_host INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX server_groups_name ON server_groups(project_id, name)
  WHERE deleted_at IS NULL;

-- What was asked of its place and its flavor then: it must hold wherever the server goes.
ALTER TABLE servers ADD COLUMN group_id TEXT REFERENCES server_groups(id);
ALTER TABLE servers ADD COLUMN hints_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE servers ADD COLUMN extra_specs_json TEXT NOT NULL DEFAULT '{}';
CREATE INDEX servers_group ON servers(group_id) WHERE deleted_at IS NULL AND group_id IS NOT NULL;

CREATE TABLE aggregates (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  zone TEXT,
  metadata_json TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  deleted_at TEXT
) STRICT;
CREATE UNIQUE INDEX aggregates_name ON aggregates(name) WHERE deleted_at IS NULL;

CREATE TABLE aggregate_hosts (
  aggregate_id TEXT NOT NULL REFERENCES aggregates(id),
  host_id TEXT NOT NULL REFERENCES hosts(id),
  PRIMARY KEY (aggregate_id, host_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX aggregate_hosts_host ON aggregate_hosts(host_id);

INSERT OR IGNORE INTO quotas (project_id, resource, maximum)
  SELECT projects.id, kind.resource, -1 FROM projects,
    (SELECT 'server_groups' AS resource UNION ALL SELECT 'server_group_members') AS kind
  WHERE projects.name = 'admin';
"""
