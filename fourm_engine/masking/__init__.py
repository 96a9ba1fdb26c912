"""Masking: which tokens of a sample are inputs and which are targets. From its ids and the config's mixture it makes a
`PackedSample`, input and target tokens chosen by budgets and maskers, as a pure function of (seed, position)."""
