"""Which tokens of a sample are inputs and which are targets: budgets, maskers, packing."""
