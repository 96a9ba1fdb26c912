"""Raw files and token shards in, packed training samples out."""
