"""Converts arrays of a modality to discrete tokens and back. In: arrays and a recipe (kind and settings). Out: ids,
arrays, and the folder of a fitted tokenizer."""
