"""Adding modalities to a trained model. In: an exported model and the names of new modalities. Out: a `Task` that
learns them, an exported model that knows all, and a report of what was gained and forgotten."""
