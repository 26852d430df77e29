"""The step that gives images their whole life: states, members, tags, stores."""

# The whole life of an image. A status of its own name for each of Glance's; ``protected`` leaves
# the properties, where Glance never had it. operation_id: who brings its content now.
IMAGES = """
ALTER TABLE images RENAME COLUMN status TO old_status;
ALTER TABLE images ADD COLUMN status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN
  ('queued', 'saving', 'importing', 'active', 'deactivated', 'deleted'));
UPDATE images SET status = CASE old_status
  WHEN 'active' THEN 'active' WHEN 'deleted' THEN 'deleted' ELSE 'queued' END;
ALTER TABLE images DROP COLUMN old_status;
ALTER TABLE images ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN tags_json TEXT NOT NULL DEFAULT '[]';
ALTER TABLE images ADD COLUMN operation_id TEXT;
UPDATE images SET protected = 1 WHERE
  lower(json_extract(properties_json, '$.protected')) IN ('1', 'true', 'yes', 'on');
UPDATE images SET properties_json = json_remove(properties_json, '$.protected');
CREATE INDEX images_sha256 ON images(sha256) WHERE deleted_at IS NULL;

-- Where an image's content is: in stores by name, or (store http) at a URL where it stays.
CREATE TABLE image_locations (
  image_id TEXT NOT NULL REFERENCES images(id),
  store TEXT NOT NULL,
  url TEXT,
  created_at TEXT NOT NULL,
  PRIMARY KEY (image_id, store)
) STRICT, WITHOUT ROWID;
INSERT INTO image_locations (image_id, store, created_at)
  SELECT id, 'local', created_at FROM images WHERE sha256 <> '' AND deleted_at IS NULL;

-- What we put, or began to put, into stores other than the local one. One that no live image has
-- a location for is deleted there, then here.
CREATE TABLE image_objects (
  store TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  created_at TEXT NOT NULL,
  PRIMARY KEY (store, sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE image_members (
  image_id TEXT NOT NULL REFERENCES images(id),
  project_id TEXT NOT NULL REFERENCES projects(id),
  status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'rejected')),
  created_at TEXT NOT NULL,
  PRIMARY KEY (image_id, project_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_members_project ON image_members(project_id);
"""
