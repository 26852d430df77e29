"""A step of the schema: servers that are shelved."""

SHELVING = """
-- What its root disk became when it was shelved, until it has a disk made of that again.
ALTER TABLE servers ADD COLUMN shelved_image_id TEXT REFERENCES images(id);
CREATE INDEX servers_shelved ON servers(shelved_image_id)
  WHERE deleted_at IS NULL AND shelved_image_id IS NOT NULL;
"""
