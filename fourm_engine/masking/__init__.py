"""Which tokens of a sample are shown and which are asked for: budgets, maskers, packing."""
