"""Where samples come from. In: raw files or token shards, and a position in the endless, seeded order. Out: samples of
integer ids, drawn and packed, and the batches of the loader."""
