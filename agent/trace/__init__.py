"""The way of one packet through this host: asked of its switch and its routers, nothing sent."""
