"""Adding modalities to a trained model. In: an exported model and the names of new modalities. Out: a `Task` that
trains them, an exported model with all modalities, and a report of gains and forgetting."""
