"""The step of the schema for the life of servers: locks, tags, rescue, resize."""

LIFECYCLE = """
ALTER TABLE servers ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE servers ADD COLUMN lock_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE servers ADD COLUMN tags_json TEXT NOT NULL DEFAULT '[]';

-- rescued, resized or soft-delete: its vm_state until somebody ends that, whatever its guest does.
ALTER TABLE servers ADD COLUMN kept_state TEXT;
ALTER TABLE servers ADD COLUMN rescue_image_id TEXT REFERENCES images(id);

-- When it was deleted softly: it can be restored until the cloud's interval is over.
ALTER TABLE servers ADD COLUMN soft_deleted_at TEXT;

-- Flavor and sizes before a resize that is neither confirmed nor reverted.
ALTER TABLE servers ADD COLUMN before_resize_json TEXT;

-- A rescue disk is a root disk before the first one (position -1). source_id: the disk that this
-- one is made a copy of; aside: kept on the host, in no guest.
ALTER TABLE disks ADD COLUMN source_id TEXT;
ALTER TABLE disks ADD COLUMN aside INTEGER NOT NULL DEFAULT 0;
"""
