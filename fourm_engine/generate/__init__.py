"""Generation, from tokens to tokens: inputs from a user and a plan of stages, one a target, give the ids of the
targets. `FourM` decodes them to values."""
