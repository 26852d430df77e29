"""A step of the schema: the machines of guests, and what else they are told."""

GUESTS = """
-- What differs from the usual machine, by the names of agent.spec.Hardware; a server from before
-- has nothing, and its domain stays as it is. vnc_asked: NULL when nobody asked for or against it.
ALTER TABLE servers ADD COLUMN hardware_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE servers ADD COLUMN vnc_asked INTEGER;

-- For the config drive; random_seed is in base64, NULL for a server from before.
ALTER TABLE servers ADD COLUMN vendor_data_sha256 TEXT;
ALTER TABLE servers ADD COLUMN random_seed TEXT;
"""
