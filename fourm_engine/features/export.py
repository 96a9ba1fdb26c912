"""Export an encoder to one file that runs without this package: an ONNX graph, or a program of `torch.export`.

In: an `Encoder` with the inputs that the file takes. Out: the file, written only after its outputs have been compared
with the encoder's, and `FileFacts`, also stored in the file as JSON (metadata `fourm.json`). The graph takes one tensor
per input, for any number of samples B, in the order of the vocabulary:

- continuous modalities: the array, float32 (B, *shape), normalised as by the plugin; a patch with a NaN is missing;
- all others: token ids, int64 (B, n), -1 for missing ones.

It returns `pooled` (B, D), `tokens` (B, N, D) and `valid` (B, N), with the tokens of the inputs concatenated; with a
head on the encoder, the head's `output`.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.features.encoder import Encoder, ReadSample
from fourm_engine.files import replacing_file
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.parts import without
from fourm_plugins.errors import one_line
from fourm_plugins.extras import optional
from fourm_plugins.spec import FeatureMap, ModalitySpec

Format = Literal["onnx", "torch"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
#: Maximum difference of a file's outputs from the encoder's.
TOLERANCE = 1e-4
#: Protocol buffers, and hence ONNX files, must be smaller than 2 GiB.
MAX_ONNX_BYTES = 2**31 - 2**24
OPSET = 18
_KEY = "fourm.json"
_INSTALL = {"what": "ONNX files need", "install": "fourm-engine[onnx]"}


@dataclass(frozen=True)
class FileFacts:
    """Inputs and outputs of an exported file. `inputs`: name -> modality, dtype, shape, and meaning of the values;
    `outputs`: name -> shape; `encoder`: its fingerprint; `task`: meaning of the head's output, if there is a head."""

    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, list[Any]]
    encoder: str
    task: dict[str, Any] | None = None


class Exportable(nn.Module):
    """The encoder for fixed inputs, {name: modality}, as a module that takes and returns tensors only."""

    def __init__(self, encoder: Encoder, inputs: Mapping[str, str]) -> None:
        super().__init__()
        embedding = encoder.network.embedding
        self.network = without(encoder.network, {"embedding"})
        self.specs = [encoder.reader.modalities[modality].spec for modality in inputs.values()]
        self.registers = encoder.network.config.registers
        for i, spec in enumerate(self.specs):
            entry, n = encoder.vocabulary[spec.name], spec.layout.num_tokens
            pos = torch.arange(n, device=encoder.device)[None]
            mod = torch.full_like(pos, entry.index)
            pos_embed = embedding.position_embedding(pos, mod, embedding.encoder_positions)
            self.register_buffer(f"pos_embed{i}", pos_embed.detach().clone())
            rows = embedding.encoder_table[entry.start : entry.stop]
            weights = embedding.projections.get_parameter(f"{spec.name}.weight") if spec.continuous else rows
            self.register_buffer(f"weights{i}", weights.detach().clone())
            if spec.name in embedding.stems:
                self.add_module(f"stem{i}", embedding.stems[spec.name])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        content, pos_embed, valid = [], [], []
        for i, (spec, x) in enumerate(zip(self.specs, inputs, strict=True)):
            weights, position = getattr(self, f"weights{i}"), getattr(self, f"pos_embed{i}")
            if spec.continuous:
                patches = patchified(x, spec)
                missing = patches.isnan().any(-1)
                patches = torch.where(missing[..., None], 0.0, patches)
                content.append(F.linear(patches, weights))
                if hasattr(self, f"stem{i}"):
                    content[-1] = content[-1] + getattr(self, f"stem{i}")(patches, ~missing)
            else:
                missing = x < 0
                content.append(F.embedding(x.clamp(min=0), weights))
            valid.append(~missing)
            pos_embed.append(position.expand(content[-1].shape))
        states, _, _ = self.network.encode_embedded(torch.cat(content, 1), torch.cat(pos_embed, 1), torch.cat(valid, 1))
        x_BND, valid_BN = states[0][:, self.registers :], torch.cat(valid, 1)
        kept = torch.where(valid_BN[..., None], x_BND, 0.0)
        return kept.sum(1) / valid_BN.sum(1, keepdim=True).clamp(min=1), kept, valid_BN


def patchified(x: Tensor, spec: ModalitySpec) -> Tensor:
    """Like `fourm_engine.masking.pack.patchify`, for a batch."""
    if not isinstance(spec.array, FeatureMap):
        return x.flatten(1).unflatten(1, (spec.layout.num_tokens, -1))
    (ph, pw), array = spec.patch, spec.array
    rows, columns = array.height // ph, array.width // pw
    parts = x.reshape(-1, array.channels, rows, ph, columns, pw).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(-1, rows * columns, ph * pw * array.channels)


class ExportedHead(Protocol):
    """A head to export with its encoder."""

    #: The shape of its output, and what it means.
    shape: list[Any]
    facts: dict[str, Any]

    def on(self, encoder: Exportable) -> nn.Module:
        """The module from the file's inputs to `output`."""

    def output(self, samples: Sequence[ReadSample]) -> np.ndarray:
        """What `output` must be for some samples, each with an input."""


def arrays_of(encoder: Encoder, samples: Sequence[ReadSample], inputs: Mapping[str, str]) -> list[np.ndarray]:
    """The arrays that an exported file takes for `samples`, in its order."""
    return [_filled(encoder, samples, modality) for modality in inputs.values()]


def _filled(encoder: Encoder, samples: Sequence[ReadSample], modality: str) -> np.ndarray:
    spec = encoder.reader.modalities[modality].spec
    n = spec.layout.num_tokens
    shown = [sample.shown.get(modality, Shown.tokens([])) for sample in samples]
    if not spec.continuous:
        ids = np.full((len(samples), n), -1, np.int64)
        for row, part in zip(ids, shown, strict=True):
            row[part.pos] = part.ids
        return ids
    patches: np.ndarray = np.full((len(samples), n, spec.patch_dim), np.nan, np.float32)
    for row, part in zip(patches, shown, strict=True):
        if part.features is not None:
            row[part.pos] = part.features
    if not isinstance(spec.array, FeatureMap):
        return patches.reshape(len(samples), -1)
    (ph, pw), array = spec.patch, spec.array
    rows, columns = array.height // ph, array.width // pw
    parts = patches.reshape(-1, rows, columns, ph, pw, array.channels).transpose(0, 5, 1, 3, 2, 4)
    return parts.reshape(-1, array.channels, array.height, array.width)


def export(
    encoder: Encoder, path: Path, format: Format = "onnx", head: ExportedHead | None = None
) -> tuple[FileFacts, float]:
    """Write the encoder with all its `inputs`, and a head on it, to `path`, replacing an existing file. Returns the
    file's inputs and outputs, and the largest difference of its outputs from the encoder's. Moves the encoder to the
    CPU.

    Raises ValueError for a file name with the suffix of another format, missing packages, an encoder too large for the
    format, and outputs that differ from the encoder's by more than `TOLERANCE`."""
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path}: files of format {format} end in {SUFFIXES[format]}; change --out or --format")
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            optional(package, **_INSTALL)
    encoder = encoder.to("cpu").eval()
    given: dict[str, str] = {}
    for name, modality in sorted(encoder.inputs.items(), key=lambda pair: encoder.vocabulary[pair[1]].index):
        if modality in given.values():
            raise ValueError(f"inputs: {name!r} is {modality!r}, which is there already; give one of the two")
        given[name] = modality
    exportable = Exportable(encoder, given)
    module = (exportable if head is None else head.on(exportable)).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if format == "onnx" and size > MAX_ONNX_BYTES:
        problem = f"{size / 2**30:.1f} GiB of weights, more than the 2 of an ONNX file"
        raise ValueError(f"{path}: {problem}; use --format torch")
    samples = _samples(encoder, given)[: None if head is None else -1]
    tensors = [torch.from_numpy(array) for array in arrays_of(encoder, samples, given)]
    described = {name: _described(encoder, modality) for name, modality in given.items()}
    n, width = sum(spec.layout.num_tokens for spec in exportable.specs), encoder.num_features
    outputs: dict[str, list[Any]] = {"pooled": ["batch", width], "tokens": ["batch", n, width], "valid": ["batch", n]}
    if head is not None:
        outputs = {"output": head.shape}
    facts = FileFacts(described, outputs, encoder.fingerprint(), None if head is None else head.facts)
    write, load = (_write_onnx, _load_onnx) if format == "onnx" else (_write_torch, _load_torch)
    with replacing_file(path) as temporary:
        # torch infers the format from the file name.
        written = temporary.with_name(temporary.name + SUFFIXES[format])
        try:
            with _tracing(head):
                write(module, tensors, list(given), facts, written)
            difference = _difference(encoder, head, samples, tensors, load(written))
            written.replace(temporary)
        finally:
            written.unlink(missing_ok=True)
        if not difference <= TOLERANCE:
            far = f"differ from the encoder's by {difference:.1e}, more than {TOLERANCE:.0e}"
            what = "or the model's are not finite" if np.isnan(difference) else far
            raise ValueError(f"{path}: the file's outputs {what}; nothing is written")
    return facts, difference


@contextmanager
def _tracing(head: ExportedHead | None) -> Iterator[None]:
    """Raises ValueError, in one line, if torch cannot trace a head, which may be a plugin's."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of any type
        if head is None:
            raise
        where = f"task.head={head.facts['head']}"
        raise ValueError(f"{where}: torch.export cannot follow it: {one_line(error):.300}") from error


def _described(encoder: Encoder, modality: str) -> dict[str, Any]:
    spec = encoder.reader.modalities[modality].spec
    if not spec.continuous:
        dtype, shape = "int64", [spec.layout.num_tokens]
    elif isinstance(spec.array, FeatureMap):
        dtype, shape = "float32", [spec.array.channels, spec.array.height, spec.array.width]
    else:
        dtype, shape = "float32", [spec.layout.num_tokens * spec.patch_dim]
    identity = encoder.reader.modalities[modality].identity()
    return {"modality": modality, "dtype": dtype, "shape": ["batch", *shape], "identity": identity}


def _samples(encoder: Encoder, given: Mapping[str, str]) -> list[ReadSample]:
    """Random samples for the comparison: one with all inputs, one without each input, one with partial inputs, and an
    empty one."""
    rng, whole = np.random.default_rng(0), {}
    for modality in given.values():
        spec = encoder.reader.modalities[modality].spec
        n = spec.layout.num_tokens
        if spec.continuous:
            features = rng.normal(size=(n, spec.patch_dim)).astype(np.float32)
            whole[modality] = Shown(np.arange(n), np.full(n, -1, np.int64), features)
        else:
            assert spec.token_space is not None
            whole[modality] = Shown.tokens(rng.integers(spec.token_space.size, size=n))
    parts = {name: shown.at(rng.random(len(shown)) < 0.5) for name, shown in whole.items()}
    without = [{name: shown for name, shown in whole.items() if name != left_out} for left_out in whole]
    return [ReadSample(shown, {}) for shown in (whole, *without, parts, {})]


@torch.inference_mode()
def _difference(
    encoder: Encoder,
    head: ExportedHead | None,
    samples: Sequence[ReadSample],
    tensors: Sequence[Tensor],
    run: Callable[[Sequence[Tensor]], list[np.ndarray]],
) -> float:
    """The largest difference, over batches of one sample and of all samples; infinite if `valid` differs, NaN if an
    output is not finite."""
    worst = 0.0
    for rows in (slice(0, 1), slice(0, len(samples))):
        if head is not None:
            (output,) = run([tensor[rows] for tensor in tensors])
            worst = float(np.maximum(worst, np.abs(output - head.output(samples[rows])).max()))
            continue
        features = encoder.forward_features(samples[rows])
        pooled, tokens, valid = run([tensor[rows] for tensor in tensors])
        if valid.sum(1).tolist() != features.valid.sum(1).tolist():
            return float("inf")
        differences = [pooled - features.pooled().numpy(), tokens[valid] - features.values[features.valid].numpy()]
        worst = float(np.max([worst, *(np.abs(d).max() for d in differences if d.size)]))
    return worst


def _shapes(names: Sequence[str]) -> tuple[tuple[dict[int, Any], ...]]:
    batch = torch.export.Dim("batch", min=1)
    return (tuple({0: batch} for _ in names),)


def _write_torch(
    module: nn.Module, tensors: Sequence[Tensor], names: Sequence[str], facts: FileFacts, path: Path
) -> None:
    program = torch.export.export(module, tuple(tensors), dynamic_shapes=_shapes(names))
    # Into memory first, since torch aborts the process if the disk is full.
    torch.export.save(program, buffer := io.BytesIO(), extra_files={_KEY: json.dumps(asdict(facts))})
    with open(path, "wb") as file:
        file.write(buffer.getbuffer())


def _load_torch(path: Path) -> Callable[[Sequence[Tensor]], list[np.ndarray]]:
    module = torch.export.load(path).module()
    return lambda tensors: [output.numpy() for output in module(*tensors)]


def _write_onnx(
    module: nn.Module, tensors: Sequence[Tensor], names: Sequence[str], facts: FileFacts, path: Path
) -> None:
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(tensors),
            input_names=list(names),
            output_names=list(facts.outputs),
            dynamic_shapes=_shapes(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[_KEY] = json.dumps(asdict(facts))
    program.save(path, external_data=False)


def _load_onnx(path: Path) -> Callable[[Sequence[Tensor]], list[np.ndarray]]:
    session = optional("onnxruntime", **_INSTALL).InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda tensors: session.run(None, dict(zip(names, [tensor.numpy() for tensor in tensors], strict=True)))
