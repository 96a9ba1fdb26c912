"""TaskEmbeddings: the embeddings of a retrieval task, for an index and its queries.

In: its run, and inputs of one side. Out: embeddings of length 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fourm_engine.features.encoder import ReadSample, digest_weights
from fourm_engine.transfer.model import TaskModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TaskEmbeddings:
    """`names`: inputs of one side; None: of any. Raises ValueError for inputs of several sides."""

    def __init__(self, model: TaskModel, names: Sequence[str] | None) -> None:
        self.model, self.reader, self.num_features = model, model.reader, model.objective.outputs
        chosen = list(self.model.inputs) if names is None else list(dict.fromkeys(names))
        #: Name -> modality that shows its values.
        self.inputs = {name: self.reader.instance(name, raw=True).name for name in chosen}
        if names is not None:
            self.model.objective.check_inputs(set(self.inputs.values()))

    def fingerprint(self) -> str:
        """16 hex digits of the weights and tokenizers: equal fingerprints, comparable embeddings."""
        tokenizers = {name: t.fingerprint for name, t in sorted(self.model.tokenizers.items())}
        digest = hashlib.sha256(repr(tokenizers).encode())
        digest_weights(self.model.network, digest)
        return digest.hexdigest()[:16]

    def read(self, inputs: Mapping[str, Any]) -> ReadSample:
        """Like `Encoder.read`."""
        return ReadSample(self.model.read(inputs).shown, {})

    def __call__(self, samples: Sequence[ReadSample]) -> Float[Tensor, "B width"]:
        return self.model.outputs([sample.shown for sample in samples])
