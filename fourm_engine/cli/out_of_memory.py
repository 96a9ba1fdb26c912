"""A device that runs out of memory, as one line that names the settings which need less."""

from __future__ import annotations

import sys

_TRAINING = (
    "raise train.accumulate (the same steps in smaller parts), set train.activation_checkpointing to full, or over "
    "several GPUs train.parallel to shard"
)
_ON_CPU = ", or set --device cpu"
_BATCH = f"lower --batch-size{_ON_CPU}"
#: Command -> what to do.
REMEDIES = {
    "train": f"{_TRAINING}; --dry-run shows what needs how much",
    "finetune": _TRAINING,
    "extend": _TRAINING,
    "tokenizer": "lower tokenizers.fit.batch_size",
    "generate": _BATCH,
    "embed": _BATCH,
    "probe": _BATCH,
}
ELSEWHERE = "close what else uses its memory, or choose another device (CUDA_VISIBLE_DEVICES; '' for the CPU)"


def out_of_memory(error: Exception, arguments: list[str]) -> str | None:
    """The line for a command with these `arguments`; None where the error is another one. Imports no torch."""
    torch, text = sys.modules.get("torch"), str(error)
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    if isinstance(error, MemoryError):
        said = f"out of memory: {text}".rstrip(": ")
    elif on_gpu:
        said = ". ".join(text.split(". ")[:3])
    elif "DefaultCPUAllocator: can't allocate memory" in text:
        said = "out of memory" + text.rpartition("can't allocate memory")[2]
    else:
        return None
    remedy = REMEDIES.get(arguments[0], ELSEWHERE)
    return f"{said.strip().rstrip('.')}; {remedy if on_gpu else remedy.removesuffix(_ON_CPU)}"
