"""Tokens. In: raw data and fitted tokenizers, or shards that were written. Out: token shards with their index, and the
ids of a modality of a row."""
