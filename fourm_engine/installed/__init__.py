"""Reports on installed plugins, for people and programs, and checks of everything that a run needs."""
