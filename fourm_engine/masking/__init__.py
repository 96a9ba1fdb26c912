"""What of a sample is input and what is target. In: its ids and the mixture of the config. Out: a `PackedSample`, input
and target tokens drawn by budgets and maskers, a pure function of (seed, position)."""
