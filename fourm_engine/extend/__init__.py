"""A trained model grows by modalities. In: an exported model and the names of new ones. Out: a `Task` that learns them,
an exported model that knows both, and a report of what was gained and forgotten."""
