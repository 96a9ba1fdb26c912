"""Fit tokenizers: from the arrays of a token space to a fitted tokenizer in its folder, and its metrics.

`fitting.fit_network(tokenizer, arrays)` fits one in memory."""
