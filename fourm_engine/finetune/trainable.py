"""Choose the weights of a fine-tuned network to train.

In: the network, the `finetune` section. Out: the same network with frozen parameters and adapters.
"""

from __future__ import annotations

from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.nn.adapt import add_lora, freeze
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer

REGISTERS, STEMS = "registers", "embedding.stems."


def adapt(network: Transformer, settings: FinetuneConfig, trained: ModelConfig) -> None:
    """Freeze parameters and add adapters. `trained`: the shape of the model that the weights come from. Raises
    ValueError, naming the setting, for a name that matches no parameter."""
    for name in ("encoder_blocks", "decoder_blocks"):
        if settings.lora is not None and getattr(network.config, name) > getattr(trained, name):
            problem = "new blocks learn as a whole, not by finetune.lora"
            raise ValueError(f"model.{name}: {problem}; leave one of the two out")
    patterns = settings.freeze
    if patterns is None and settings.lora is not None:
        new = [REGISTERS] if trained.registers != network.config.registers else []
        new += [STEMS] if trained.stem != network.config.stem else []
        patterns = [name for name, _ in network.named_parameters() if not name.startswith(tuple(new))]
    freeze(network, patterns or (), setting="finetune.freeze")
    if settings.lora is not None:
        add_lora(network, **settings.lora.model_dump(), setting="finetune.lora.matrices")
