"""Tokenizers: arrays of a modality to discrete tokens and back, how they are fitted, and how they are stored."""
