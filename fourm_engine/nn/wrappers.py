"""Changes how blocks are executed: a residual stream in bf16, less activation memory, or compilation.

Modifies the blocks of a model in place, in training or not; their outputs, up to rounding, their parameters and
parameter names are unchanged. Only `forward` is replaced, not the module's call, so that hooks (FSDP2 gathers weights
in them) run outside the compiled code and are not repeated in the backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from fourm_engine.nn.config import Checkpointing

_ATEN = torch.ops.aten
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
_KERNELS = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
#: Operations whose results "selective" keeps: matrix products and attention, which take nearly all of the time.
_KEPT = frozenset(
    getattr(_ATEN, name).default
    for name in (*_PRODUCTS, *(f"_scaled_dot_product_{kernel}" for kernel in _KERNELS))
    if hasattr(_ATEN, name)
)


def halve_residual(blocks: Iterable[nn.Module]) -> None:
    """Under bf16 autocast, make the residual stream between the blocks, and the context that they attend to, bf16 too;
    autocast keeps the stream in the dtype of the embeddings, fp32. Call it before `checkpoint_blocks`."""
    for block in blocks:
        block.forward = partial(_halved, block.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module], how: Checkpointing) -> None:
    """Keep for the backward pass only the inputs of each block ("full"), or also the results of its matrix products and
    attention ("selective"), and recompute the rest; "none" changes nothing. Call it before `compile_blocks`."""
    if how == "none":
        return
    context = {} if how == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    logging.getLogger("torch._higher_order_ops.wrap").addFilter(_matters)
    for block in blocks:
        block.forward = partial(_checkpointed, block.forward, context)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block; blocks of one class and shape share a graph."""
    for block in blocks:
        if not getattr(block, "is_compiled", False):
            block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
            block.is_compiled = True  # type: ignore[assignment]


def _halved(forward: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    halved = [x.bfloat16() if x is not None and x.is_floating_point() else x for x in inputs]
    return forward(*halved)


def _checkpointed(forward: Callable[..., Any], context: dict[str, Any], *inputs: Any, **named: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, **context, **named)


def _policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _matters(record: logging.LogRecord) -> bool:
    """Whether a warning is about more than in-place operations in a block, which torch advises against; ours have
    none."""
    return "context_fn is passed to torch.utils.checkpoint" not in record.getMessage()
