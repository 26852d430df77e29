"""Pure: from rows to the one document that tells a host what to be."""
