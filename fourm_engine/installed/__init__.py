"""Installed plugins: describes each one, and checks everything that a run needs."""
