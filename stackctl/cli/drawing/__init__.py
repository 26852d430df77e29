"""The networks of a project drawn: as text, in Graphviz's language, as SVG. Pure."""
