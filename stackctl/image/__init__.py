"""Images: registry, stores and header inspection."""
