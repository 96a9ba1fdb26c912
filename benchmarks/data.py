"""Reading training samples of a large data set: how soon, how fast, and how long a step waits for them.

    OMP_NUM_THREADS=1 python -m benchmarks.data FOLDER

makes two sets of token shards in FOLDER (seven modalities of 16 tokens, 1,000 samples a shard), of a thousand and of a
million samples (or `--samples`), the second time it finds them, and prints

- the seconds from the start of a process to its first batch, without what it imports;
- samples per second that one worker loads, masks and collates: from files that the operating system has read before;
  from an HTTP server on this machine, copying each shard to an empty cache; from the full cache; by the clock, and of
  processor time, which other work on the machine does not change;
- the share of a step of 4M-Ti in which the process waits for its two workers.
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from benchmarks.data_index import build
from fourm_engine.batch import Batch
from fourm_engine.data.config import DataConfig
from fourm_engine.data.loader import batches
from fourm_engine.data.order import Share
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.nn.config import SIZES, ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from tests.fakes import Labels

MODALITIES = {f"m{number}": Labels(f"m{number}") for number in range(7)}
VOCABULARY = Vocabulary.build([modality.spec for modality in MODALITIES.values()])
MASKING = MaskingConfig(input_tokens=56, target_tokens=56)
SHARD = 1000


def open_samples(tokens: str, cache: str | None = None) -> MaskedSamples:
    remote = {} if cache is None else {"remote": {"cache": cache}}
    config = DataConfig.model_validate({"tokens": tokens, "lanes": 64, **remote})
    return MaskedSamples.from_config(config, MASKING, MODALITIES, {}, VOCABULARY, seed=0)


def start(tokens: str) -> float:
    """Seconds from opening the data to the first batch, in a process of its own."""
    program = (
        "import time; from benchmarks.data import *; began = time.perf_counter(); "
        f"next(batches(open_samples({tokens!r}), Share(batch_size=64))); print(time.perf_counter() - began)"
    )
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def rate(loaded: Iterator[Batch], steps: int, size: int) -> float:
    """Samples per second, after the worker has started."""
    next(loaded)
    began = time.perf_counter()
    for _ in islice(loaded, steps):
        pass
    return steps * size / (time.perf_counter() - began)


def processor_rate(data: MaskedSamples, steps: int) -> float:
    """Samples per second of processor time, in this process: what a worker reaches that has a core to itself."""
    loaded = batches(data, Share(batch_size=64), workers=0)
    next(loaded)
    began = time.process_time()
    for _ in islice(loaded, steps):
        pass
    return steps * 64 / (time.process_time() - began)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder on an HTTP server, in a process of its own."""
    handler = partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        process.terminate()
        threading.Thread(target=server.server_close).start()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def waiting(data: MaskedSamples, steps: int) -> tuple[float, float]:
    """(share of the time in which a step waits for two workers, seconds of a step), 4M-Ti, 16 samples."""
    model = Transformer(ModelConfig(**SIZES["Ti"]), VOCABULARY)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loaded, waited, worked = batches(data, Share(batch_size=16), workers=2), 0.0, 0.0
    for step in range(steps + 1):
        began = time.perf_counter()
        batch = next(loaded)
        read = time.perf_counter()
        sum(total / max(1, count) for total, count in model(batch).values()).backward()  # type: ignore[union-attr]
        optimiser.step()
        optimiser.zero_grad()
        if step:  # the first one waits for the workers to start
            waited, worked = waited + read - began, worked + time.perf_counter() - read
    return waited / (waited + worked), (waited + worked) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=200, help="batches of 64 samples that are timed")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    few, many = options.folder / "few", options.folder / "many"
    for folder, samples in ((few, SHARD), (many, options.samples)):
        if not (folder / "train/_index").is_dir():
            build(folder / "train", samples, samples // SHARD, MODALITIES)
    for _ in range(2):
        print(f"first batch: {start(str(few)):.2f} s of {SHARD} samples, {start(str(many)):.2f} s of {options.samples}")

    share = Share(batch_size=64)
    for _ in range(2):
        print(
            f"files: {rate(batches(open_samples(str(many)), share, workers=1), options.batches, 64):,.0f} samples/s, "
            f"{processor_rate(open_samples(str(many)), options.batches):,.0f} of processor time"
        )
    with served(options.folder) as url, tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for what in ("HTTP, empty cache", "HTTP, full cache"):
            clock = rate(batches(open_samples(f"{url}/many", one), share, workers=1), options.batches, 64)
            used = processor_rate(open_samples(f"{url}/many", other), options.batches)
            print(f"{what}: {clock:,.0f} samples/s, {used:,.0f} of processor time")
    waits, seconds = waiting(open_samples(str(many)), options.steps)
    print(f"a step of 4M-Ti, 16 samples of 56 + 56 tokens: {seconds:.2f} s, of which it waits {waits:.2%}")


if __name__ == "__main__":
    main()
