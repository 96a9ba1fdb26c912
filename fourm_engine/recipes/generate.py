"""Implements `fourm generate` and `fourm edit`: generates and edits with a trained model, into files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.drawing import png
from fourm_engine.evaluate.animation import Steps, animated, check_animation
from fourm_engine.evaluate.edit_sheet import edit_sheet, read_given
from fourm_engine.files import write_atomically
from fourm_engine.generate.edit import edit_request
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.paste import Original, originals
from fourm_engine.generate.paste import paste as pasted
from fourm_engine.generate.regions import Regions, with_regions
from fourm_engine.generate.result import Generated, Results
from fourm_engine.generate.tiles import generate_tiled
from fourm_engine.generate.vary import Variation
from fourm_engine.lock import at_work
from fourm_engine.model import FourM
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.generated_record import refuse_recorded
from fourm_engine.recipes.progress import PrintFn, choose_threads, print_line
from fourm_engine.transfer.answers import DenseMap
from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

#: The contact sheet of several samples, or of an edit.
SHEET = "sheet.png"


def generate(
    run: str | Path,
    inputs: Mapping[str, Any],
    targets: Sequence[str] | None,
    out: Path | None,
    *,
    edit: Mapping[str, Any] | None = None,
    paste: bool = False,
    explain: bool = False,
    animate: Path | None = None,
    overlap: int | None = None,
    regions: Regions | None = None,
    print_fn: PrintFn = print_line,
    **options: Any,
) -> Results:
    """Write each target to `out`, as files of its modality's format and a picture to look at.

    Args:
        inputs: modality -> value, as in `FourM.generate`; `Typed` text is never a path.
        targets: modalities to generate; None: all that are not given.
        out: folder for the files; may be None with `explain`.
        edit: mask, change, keep and halo of `FourM.edit`, which determine the targets; `targets` is empty.
        paste: write the results of an edit at the size of the inputs, as `FourM.edit` does.
        explain: only report what would run.
        animate: a .gif or .png of the (first) sample after each step, written beside the results.
        overlap: tokens shared by neighbouring tiles of a picture that is generated tile by tile (`generate_tiled`).
        regions: input -> weights of its regions.
        options: those of `open_model`; seed, n_samples, reduce, plan and decoding options, as in `FourM.generate`.

    Raises ValueError for problems that a user can fix."""
    if animate is not None:
        check_animation(animate)
        if explain:
            raise ValueError("--animate needs a run, which --explain does not make; leave one of them out")
    if out is None and not explain:
        raise ValueError("--out is missing; name a folder for the results")
    if out is not None and not explain:
        refuse_recorded(out)
    with nullcontext() if out is None or explain else at_work(out):
        model, options = open_model(run, **options)
        given, into = None, dict[str, Original]()
        if edit is not None:
            sample = inputs
            inputs, targets = edit_request(sample, model.reader.find, **edit)
            given = read_given(model, sample, edit.get("change") or {})
            into = originals(inputs, targets, model.reader) if paste else {}
        inputs = with_regions(inputs, regions or {})
        steps = Steps(model)
        with nullcontext() if animate is None else steps.record():
            if overlap is None:
                results = model.generate(inputs, targets, explain=explain, **options)
            else:
                results = _tiled(model, inputs, targets, overlap=overlap, animate=animate, explain=explain, **options)
        frames = [] if animate is None else steps.frames(inputs, results.samples[0])
        final = pasted(results, into) if paste else results
        if out is not None and not explain:
            _write_results(final, out, print_fn)
            if given is not None or len(results.samples) > 1:
                write_atomically(out / SHEET, png(results.grid() if given is None else edit_sheet(given, results)))
                print_fn(str(out / SHEET))
        if animate is not None:
            write_atomically(animate, animated(frames, animate))
            print_fn(f"{animate}: {counted(len(frames), 'frame')}")
        return final


def vary(
    run: str | Path,
    inputs: Mapping[str, Any],
    targets: Sequence[str] | None,
    axes: Mapping[str, Sequence[Any]],
    out: Path,
    *,
    regions: Regions | None = None,
    print_fn: PrintFn = print_line,
    **options: Any,
) -> Variation:
    """Write the sheet of `FourM.vary` to `out`. `options`: those of `open_model` and of `FourM.vary`. Raises ValueError
    for problems that a user can fix."""
    with at_work(out, replaced=True):
        model, options = open_model(run, **options)
        options = {key: value for key, value in options.items() if value is not None}
        variation = model.vary(with_regions(inputs, regions or {}), targets, vary=axes, **options)
        write_atomically(out, png(variation.sheet()))
    print_fn(f"{out}: {counted(len(variation.results), 'result')}")
    return variation


def open_model(
    run: str | Path,
    *,
    guide: tuple[float | list[float], str | Path] | None = None,
    device: str | None = None,
    tokenizers: Mapping[str, str | Path] | None = None,
    providers: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[FourM, dict[str, Any]]:
    """The model of a run, and the other `options`, with its guide.

    Args:
        run: folder of a run, an exported model, or a Hub id.
        guide: the weight (a number or a schedule) and the run of a weaker, guiding model.
        tokenizers: modality -> folder or Hub id of a tokenizer that is not stored with the model.
        providers: plugin -> the distribution that provides it; by default those that the run chose."""
    manager = PluginManager(providers=providers) if providers else manager_of_run(run)
    choose_threads(device)
    model = FourM.from_pretrained(run, device=device, tokenizers=tokenizers, manager=manager)
    if guide is None:
        return model, {**options, "guide": None}
    weight, other = guide
    try:
        weaker = FourM.from_pretrained(other, device=model.device, manager=manager_of_run(other))
    except ValueError as error:
        raise ValueError(f"--guide: {error}") from error
    return model, {**options, "guide": Guide(weaker, weight)}


def _tiled(
    model: FourM, inputs: Mapping[str, Any], targets: Sequence[str] | None, *, overlap: int, **options: Any
) -> Results:
    if targets is None or len(targets) != 1:
        raise ValueError(f"--overlap: tiles are of one --target; given: {', '.join(targets or ()) or 'none'}")
    without = {"n_samples": 1, "reduce": None, "plan": None, "animate": None, "explain": False}
    if idle := [name for name, value in without.items() if options.pop(name, value) != value]:
        raise ValueError(f"--overlap: --{idle[0].replace('_', '-')} has no effect on tiles; leave it out")
    return Results({targets[0]: generate_tiled(model, inputs, targets[0], overlap=overlap, **options)})


def _write_results(results: Results, out: Path, print_fn: PrintFn) -> None:
    """Write all samples, or if they were combined, the result and its spread."""
    made_one = any(one.spread is not None for one in results.values())
    samples = [results] if made_one else results.samples
    for number, sample in enumerate(samples):
        suffix = f"-{number}" if len(samples) > 1 else ""
        for name, generated in sample.items():
            for path in write(generated, out, f"{name}{suffix}"):
                print_fn(str(path))
            picture = generated.render()
            if isinstance(picture, str):
                print_fn(f"{name}: {picture}")
            if remark := generated.remark():
                print_fn(f"{name}: {remark}")
            if generated.decoded_from == "probabilities":
                print_fn(f"{name}: decoded from the model's probabilities; --temperature above 0 draws samples")


def write(generated: Generated | DenseMap, out: Path, stem: str) -> list[Path]:
    """Write the modality's files and a preview, `stem.view.png`; a spread as `stem.spread.npy` and `stem.spread.png`.
    Returns the paths."""
    written = calls.write(generated.modality, generated.value)
    files = {f"{stem}.{extension}": content for extension, content in written.items()}
    picture = generated.show()
    if not isinstance(picture, str):
        files[f"{stem}.view.png"] = png(picture)
    if isinstance(generated, Generated) and isinstance(generated.spread, np.ndarray):
        np.save(buffer := io.BytesIO(), generated.spread.astype(np.float32), allow_pickle=False)
        files[f"{stem}.spread.npy"] = buffer.getvalue()
        if not isinstance(spread := generated.show_spread(), str):
            files[f"{stem}.spread.png"] = png(spread)
    for name, content in files.items():
        write_atomically(out / name, content)
    return [out / name for name in files]
