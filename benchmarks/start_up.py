"""Memory of each process while a model is started, sharded over all of them, as a multiple of its share of the weights.

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node=4 -m benchmarks.start_up --size L

Prints seconds and, for the process that took most, the peak of its resident memory beyond what it held before; beside
it the share: all parameters in float32 / processes. The vocabulary is that of the published 4M-7 models.

With `--source FILE` the weights are read from a safetensors file, as fine-tuning reads them; the first call writes it.
With `--published`, too, the file is in the published format.
"""

from __future__ import annotations

import argparse
import resource
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.published import Samples
from fourm_engine.convert import published, published_model
from fourm_engine.convert.tensors import Domain
from fourm_engine.device import rank_and_world
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.initial_weights import warm_start
from fourm_engine.pretrain.task import meta_model_of
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import gather_json, processes, rank, world_size
from fourm_engine.train.parallel import build_model
from fourm_engine.train.task import MetaModel
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import read_rows


class Planner:
    """Of a task, what a start needs."""

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, source: Path | None = None, *, is_published: bool = False
    ) -> None:
        self.config, self.vocabulary, self.source, self.is_published = config, vocabulary, source, is_published

    def meta_model(self, seed: int) -> MetaModel:
        if self.source is None:
            return meta_model_of(self.config, self.vocabulary, seed)
        with torch.device("meta"):
            network = Transformer(self.config, self.vocabulary)
        known = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        if self.is_published:
            checkpoint = published_model.open_checkpoint(self.source)
            read = published_model.reader(checkpoint, network, checkpoint.domains, names_of(checkpoint.domains))
        else:
            read = partial(_rows, self.source)
        return warm_start(network, read, known, seed=seed)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [*model.encoder, *model.decoder]  # type: ignore[misc]


def _rows(path: Path, part: Tensor, name: str, first: int) -> None:
    read_rows(path, name, part, first)


def names_of(domains: list[Domain]) -> dict[str, str]:
    return {domain.name: domain.name for domain in domains}


def write(path: Path, config: ModelConfig, vocabulary: Vocabulary, *, is_published: bool) -> None:
    network = Transformer(config, vocabulary)
    if not is_published:
        save_file(network.state_dict(), path)
        return
    domains = [Domain(e.name, e.layout, e.size, e.patch_dim, True, e.size > 0) for e in vocabulary]
    tensors = published_model.to_published(network, vocabulary, domains, names_of(domains))
    published.write_checkpoint(
        path, tensors, published_model.arguments_of(config, domains, image_size=224, patch_size=16)
    )


def resident() -> float:
    """Bytes that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak() -> float:
    """The most bytes that it ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="L", choices=["Ti", "S", "B", "L", "XL"])
    parser.add_argument("--source", type=Path)
    parser.add_argument("--published", action="store_true")
    options = parser.parse_args()
    if options.source is not None and not options.source.exists():
        vocabulary = Samples(tokens=128).vocabulary
        if rank_and_world()[0] == 0:
            write(options.source, ModelConfig(size=options.size), vocabulary, is_published=options.published)
            print(f"{options.source}: written; call it again")
        return
    config = TrainConfig(batch_size=world_size(), steps=1, lr=1e-4, device="cpu", parallel="shard")
    with processes(config) as device:
        vocabulary = Samples(tokens=128).vocabulary
        task = Planner(ModelConfig(size=options.size), vocabulary, options.source, is_published=options.published)
        # What a first collective, mesh and module cost is paid before.
        build_model(Planner(ModelConfig(size="Ti"), task.vocabulary), config, device, seed=0, bf16=False)  # type: ignore
        before, began = resident(), time.perf_counter()
        model = build_model(task, config, device, seed=0, bf16=False)  # type: ignore[arg-type]
        seconds = time.perf_counter() - began
        total = sum(parameter.numel() for parameter in model.parameters())
        share = 4 * total / world_size()
        most = max(gather_json([peak() - before, seconds]))
        held = max(gather_json(resident() - before))
        if rank() == 0:
            print(
                f"{options.size}: {total / 1e6:.0f} M parameters on {world_size()} processes in {most[1]:.0f} s; a "
                f"process held {held / 2**20:.0f} MiB and at most {most[0] / 2**20:.0f} MiB, {most[0] / share:.2f} of "
                f"its share of {share / 2**20:.0f} MiB"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
