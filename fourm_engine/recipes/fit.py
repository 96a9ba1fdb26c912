"""Implements `fourm tokenizer fit`: fits the tokenizer of every token space."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.sets import data_sets, say_unused_lists
from fourm_engine.data.views import DrawnViews, ViewDrawer
from fourm_engine.device import rank_and_world, usable_cores
from fourm_engine.fit.fitting import base_first, check_settings, fit_tokenizer
from fourm_engine.fit.samples import at_sizes, held_out_values, training_arrays
from fourm_engine.fit.task import LOGGED
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, activate_kinds, load_manager
from fourm_engine.recipes.agreement import check_agreement
from fourm_engine.recipes.config import CONFIG, RunConfig
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.train.distributed import FILES, SETTINGS, check_same, processes, together, world_size
from fourm_engine.train.watchdog import watched
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

log = logging.getLogger(__name__)
#: Folder below that of the tokenizers, where several processes watch each other from before plugins are imported.
WATCH = ".fit/.watch"


@dataclass(frozen=True)
class FitReport:
    """How one token space was fitted. `scores`: modality -> {metric: number} on held-out samples, as in `Fitted`."""

    space: str
    fresh: bool  # False: an up-to-date tokenizer was kept
    seconds: float
    data: list[str]  # the samples and splits that were used
    left_out: dict[str, int]  # modality -> number of unusable files
    scores: dict[str, dict[str, float]]

    def lines(self) -> list[str]:
        """The data that was used and left out, and a line per modality."""
        took = f"fitted in {self.seconds:.0f} s" if self.fresh else "up to date"
        lines = [f"for tokenizer {self.space}, {part}" for part in self.data]
        for name, count in sorted(self.left_out.items()):
            lines.append(f"tokenizer {self.space}: {counted(count, 'file')} of {name} left out, see above")
        for name, scores in self.scores.items():
            shown = ", ".join(f"{LOGGED.get(metric, metric)} {value:.3g}" for metric, value in scores.items())
            lines.append(f"tokenizer {self.space}, {name}: {shown or 'no held-out scores'} ({took})")
        return lines


def fit(
    config: RunConfig,
    *,
    spaces: Collection[str] = (),
    jobs: int = 1,
    refit: bool = False,
    print_fn: PrintFn = print_line,
) -> list[FitReport]:
    """Fit tokenizers into `tokenizers.folder`, keeping up-to-date ones and resuming interrupted ones.

    Args:
        spaces: token spaces to fit; by default all.
        jobs: token spaces to fit in parallel. Above 1, each has its own process, which prints its report; none are
            returned.
        refit: replace tokenizers that were fitted under other settings of their modalities.

    Raises ValueError for an unknown token space, missing data, an unreadable file, a tokenizer fitted under other
    settings, and a config that fine-tunes a model, whose tokenizers are fixed."""
    if config.finetune is not None:
        source = config.finetune.source
        raise ValueError(f"finetune: {source} knows the ids of its tokenizers alone; name their tokenizers.folder")
    folder = config.tokenizers.folder
    several = rank_and_world()[1] > 1  # one process alone is watched in each run
    if several and (not folder.is_dir() or os.access(folder, os.W_OK)):  # elsewhere all are fitted, or it is an error
        with watched(folder / WATCH, config.tokenizers.fit.watchdog_s, brief=True):
            return _fit(config, spaces, jobs=jobs, refit=refit, print_fn=print_fn)
    return _fit(config, spaces, jobs=jobs, refit=refit, print_fn=print_fn)


def _fit(config: RunConfig, spaces: Collection[str], *, jobs: int, refit: bool, print_fn: PrintFn) -> list[FitReport]:
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    activate_kinds(modalities, manager, maskers=False)
    known = modalities.token_spaces
    if unknown := sorted(set(spaces) - set(known)):
        raise ValueError(f"no token space {', '.join(unknown)}; choose from {', '.join(known)}")
    if not spaces and (unknown := sorted(set(config.tokenizers.spaces) - set(known))):
        log.warning("tokenizers.spaces: left out, not among %s: %s", ", ".join(known), ", ".join(unknown))
    chosen = [name for name in known if not spaces or name in spaces]
    if not refit:  # check all spaces before fitting the first
        for name in chosen:
            check_settings([modalities[spec.name] for spec in known[name]], config.tokenizers.folder, manager)
    if jobs > 1 and rank_and_world()[1] > 1:
        raise ValueError("--jobs is for one machine; under torchrun all processes fit each token space together")
    if jobs > 1 and len(chosen) > 1:
        on_gpu = {name for name in chosen if config.tokenizers.fit_of(name).device != "cpu"}
        with tempfile.TemporaryDirectory(prefix="fourm-fit-") as folder:
            path = Path(folder) / CONFIG
            config.save(path)
            fit_in_processes(path, ["--refit"] * refit, chosen, jobs, on_gpu, print_fn=print_fn)
        return []
    config.activate(manager, *(config.tokenizers.fit_of(name) for name in chosen))
    manager.freeze()
    raw = RawData.open(config, modalities)
    for part in raw.train:  # fail before fitting the first
        part.check_usable(spec.name for name in chosen for spec in known[name] if spec.name in part.modalities)
    reports = []
    with processes(config.tokenizers.fit):  # joined once for all spaces
        check_agreement(config, modalities, manager)
        check_same({"tokenizers": chosen, "refit": refit}, SETTINGS)
        raw.check_same()
        for name in chosen:
            reports.append(fit_space(config, manager, modalities, name, raw, refit=refit, print_fn=print_fn))
    return reports


@dataclass(frozen=True)
class RawData:
    """The raw data of a run, opened once for all token spaces, with all modalities: the crop of a list of boxes depends
    on the picture beside it."""

    drawn: list[DrawnViews]
    held_out: AlignedData | None

    @classmethod
    def open(cls, config: RunConfig, modalities: Modalities) -> RawData:
        """Raises ValueError if the config names no data."""
        if config.data.train is None:
            raise ValueError("data.train is not set: name the folder of the training data")
        train, sets = [], data_sets(config.data, modalities)
        say_unused_lists(sets)
        for one in sets:
            if one.config.folder is not None:
                with one.named():
                    train.append(AlignedData.from_config(one.modalities, one.config, training=True))
        if not train:
            raise ValueError("no entry of the list data.train has a path: name the folders of the training data")
        drawer = ViewDrawer.from_config(modalities, config.data, training=True, seed=config.seed)
        drawn = [DrawnViews(drawer, part, config.data.views) for part in train]
        held_out = None
        if config.data.val is not None:
            held_out = AlignedData.from_config(modalities, config.data, training=False)
        return cls(drawn, held_out)

    def check_same(self) -> None:
        """Raise RankMismatch, naming the rank and the modality, if processes see other data."""
        parts = {f"data.train.{number}": part for number, part in enumerate(self.train)}
        if self.held_out is not None:
            parts["data.val"] = self.held_out

        def contents() -> dict[str, Any]:
            each = {key: part.contents(part.modalities) for key, part in parts.items()}
            return {f"{key}.{fact}": value for key, facts in each.items() for fact, value in facts.items()}

        if world_size() > 1:
            check_same(together(contents), FILES)

    @property
    def train(self) -> list[AlignedData]:
        """All samples of all data sets, whatever their weights."""
        return [views.data for views in self.drawn]


def fit_space(
    config: RunConfig,
    manager: PluginManager,
    modalities: Modalities,
    space: str,
    raw: RawData,
    *,
    refit: bool = False,
    print_fn: PrintFn = print_line,
) -> FitReport:
    """Fit one token space, and report it in the first process. `refit`: see `fit_tokenizer`."""
    with at_work(config.tokenizers.folder / space, replaced=True, needed=False):
        report = _fit_space(config, manager, modalities, space, raw, refit=refit)
    for line in report.lines():
        first_only(print_fn)(line)
    return report


def _fit_space(
    config: RunConfig, manager: PluginManager, modalities: Modalities, space: str, raw: RawData, *, refit: bool
) -> FitReport:
    data, began = config.data, time.monotonic()
    fit_config = config.tokenizers.fit_of(space)
    members = base_first([modalities[spec.name] for spec in modalities.token_spaces[space]])
    is_grid, cache = members[0].spec.layout.kind == "grid", fit_config.cache_mb << 20
    if config.tokenizers.adapts(space) and not is_grid:
        raise ValueError(f"tokenizers.spaces.{space}.adapt: {members[0].name} is not a grid and has only one size")
    sizes = fit_config.adapt.sizes if fit_config.adapt is not None and is_grid else ()
    if sizes:
        cache //= 2  # one half for the modality's size, one for the other sizes
    names = [member.name for member in members]
    train = {m: training_arrays(raw.drawn, m, views=data.views, cache_bytes=cache) for m in names}
    val: dict[str, list[Any]] = {}
    if raw.held_out is not None:
        centre = ViewDrawer.from_config(modalities, data, training=False)
        val = {m: held_out_values(raw.held_out, m, centre) for m in names}
    others = []
    if sizes:
        others = at_sizes(members[0], sizes, raw.train, raw.held_out, data, seed=config.seed, cache_bytes=cache)
    folder = config.tokenizers.folder
    fitted = fit_tokenizer(
        members, train, val, fit_config, folder, manager, seed=config.seed, sizes=others, refit=refit
    )
    described = [part.describe() for part in (*raw.train, raw.held_out) if part is not None]
    seconds = time.monotonic() - began
    errors = sum((Counter(part.errors) for part in raw.train), Counter[str]())
    left_out = {name: count for name, count in errors.items() if name in names}
    return FitReport(space, fitted.fresh, seconds, described, left_out, fitted.report)


def fit_in_processes(
    config: Path,
    arguments: list[str],
    spaces: list[str],
    jobs: int,
    on_gpu: Container[str] = (),
    *,
    print_fn: PrintFn = print_line,
) -> None:
    """Run `fourm tokenizer fit CONFIG ARGUMENTS --space SPACE` for each space, `jobs` at a time. The spaces in `on_gpu`
    see one GPU each.

    Signals that stop this process (Ctrl-C, SIGTERM, SIGHUP) are forwarded once, so that each child saves its state.
    After all have ended, raises ValueError with the names of those that failed."""
    command = [sys.executable, "-m", "fourm_engine.cli", "tokenizer", "fit", str(config), *arguments, "--space"]
    waiting, running, failed = list(spaces), dict[str, subprocess.Popen[bytes]](), list[str]()
    gpus, taken = visible_gpus(), dict[str, str]()  # taken: running space -> its GPU
    with unwinding_on_signals():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    space = waiting.pop(0)
                    share = max(1, usable_cores() // jobs)  # cores per job, unless the config sets the threads
                    environment = {"OMP_NUM_THREADS": str(share), **os.environ}
                    if space in on_gpu and (gpu := least_busy(gpus, taken.values())) is not None:
                        environment["CUDA_VISIBLE_DEVICES"] = taken[space] = gpu
                        print_fn(f"tokenizer {space}: on GPU {gpu}")
                    # In a new session: otherwise Ctrl-C would reach it besides our signal, and two kill it at once.
                    running[space] = subprocess.Popen([*command, space], env=environment, start_new_session=True)
                time.sleep(0.1)
                for space, process in list(running.items()):
                    if process.poll() is not None:
                        del running[space]
                        taken.pop(space, None)
                        failed += [space] * (process.returncode != 0)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise ValueError(f"fitting failed for {', '.join(failed)}; the reason is above")


@contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Raise SystemExit within the block on signals that end this process."""
    stops = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def visible_gpus() -> list[str]:
    """The visible GPUs, by number or as named in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else [x.strip() for x in named.split(",")][:count]


def least_busy(gpus: Sequence[str], taken: Iterable[str]) -> str | None:
    """The first GPU with the fewest jobs; None without GPUs."""
    jobs = Counter(taken)
    return min(gpus, key=lambda gpu: jobs[gpu], default=None)
