"""The network: embeddings, attention, blocks, heads.

In: a `Batch`; only kept tokens are embedded. Out: a loss per modality in training, logits in generation. Nothing here
refers to a modality by name.
"""
