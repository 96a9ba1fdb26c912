"""Conversion from and to the published 4M format. In: published checkpoints and tokenizers, or a network and its
vocabulary. Out: the same weights under our names, or under the published ones."""
