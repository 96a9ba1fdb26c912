"""Conversion from and to the published 4M format. In: published checkpoints and tokenizers, or a network and its
vocabulary. Out: the same numbers under our names, or under the published ones."""
