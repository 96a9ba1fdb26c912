"""Token shards. In: raw data and fitted tokenizers, or existing shards. Out: token shards with their index, and the ids
of a modality in a row."""
