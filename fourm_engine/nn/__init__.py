"""The network: embeddings, attention, blocks, heads.

In: a `Batch`; only tokens that are kept are embedded. Out: a loss per modality in training, logits in generation.
Nothing here knows a modality by name.
"""
