"""Who is asking, in which project, within which quota."""
