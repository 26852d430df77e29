"""The one SQLite file of a cloud."""
