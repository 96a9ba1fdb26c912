"""Extending a trained model with new modalities: the grown model, its training, and what it gains and forgets."""
