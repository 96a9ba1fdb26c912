"""Extending a trained model by new modalities: what it becomes, how it is trained, what it forgets."""
