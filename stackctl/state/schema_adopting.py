"""A step of the schema: servers that libvirt had before they were ours."""

ADOPTING = """
-- adopting: 1 while its domain is still somebody else's, 2 when it is ours but not all is done.
-- adopted_json: what the domain was called, and what its guest will not have any more when it is
-- next started; NULL once it runs by our definition.
ALTER TABLE servers ADD COLUMN adopting INTEGER NOT NULL DEFAULT 0;
ALTER TABLE servers ADD COLUMN adopted_json TEXT;

-- Where an adopted disk lies; NULL: in our own folder.
ALTER TABLE disks ADD COLUMN path TEXT;
"""
