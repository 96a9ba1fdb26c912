"""The network: attention, blocks, embeddings, heads and the encoder-decoder; nothing here knows a modality by name."""
