"""Generation on tokens. In: a user's inputs and a plan with one stage per target. Out: the token ids of the targets,
which `FourM` decodes to values."""
