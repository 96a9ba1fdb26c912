"""Masking: chooses which tokens of a sample are inputs and which are targets. Given ids and the config's mixture it
returns a `PackedSample`, with input and target tokens chosen by budgets and maskers, as a pure function of (seed,
position)."""
