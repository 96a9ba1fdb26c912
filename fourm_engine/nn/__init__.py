"""The network: embeddings, attention, blocks, heads. In: a `Batch`, of which only the tokens that are kept are
embedded. Out: a loss for each modality in training, logits in generation; nothing here knows a modality by name."""
