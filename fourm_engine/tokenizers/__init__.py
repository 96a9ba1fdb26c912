"""Arrays of a modality to discrete tokens and back. In: arrays and a recipe (kind and settings). Out: ids, arrays, and
the folder that a fitted tokenizer is stored in."""
