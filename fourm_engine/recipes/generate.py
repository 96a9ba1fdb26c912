"""Generate and edit with a trained model, into files: what `fourm generate` and `fourm edit` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.pictures import png
from fourm_engine.files import write_atomically
from fourm_engine.generate.edit import edited
from fourm_engine.generate.result import Generated, Results
from fourm_engine.lock import at_work
from fourm_engine.model import FourM
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.tell import Tell, choose_threads, say
from fourm_engine.transfer.answers import Mapped
from fourm_plugins.manager import PluginManager


def generate(
    run: str | Path,
    inputs: Mapping[str, Any],
    targets: Sequence[str],
    out: Path,
    *,
    edit: Mapping[str, Any] | None = None,
    seed: int = 0,
    samples: int = 1,
    device: str | None = None,
    tokenizers: Mapping[str, str | Path] | None = None,
    providers: Mapping[str, str] | None = None,
    disable: Sequence[str] = (),
    tell: Tell = say,
    **options: Any,
) -> list[Results]:
    """Write each target to `out`, as files of its modality's format and a picture to look at.

    Args:
        run: folder of a run, an exported model, or a Hub id.
        inputs: modality -> what is given, as `FourM.generate` takes it; `Typed` text is never a path.
        edit: the mask, change, keep and halo of `FourM.edit`, from which the targets then follow; `targets` is empty.
        samples: how many answers, with seeds from `seed` on.
        tokenizers: modality -> folder or Hub id of a tokenizer that the model comes without.
        providers, disable: which plugins count; by default what the run chose.
        options: of decoding, as `FourM.generate` takes them.

    Returns the results of each sample, target -> `Generated`. Raises ValueError for what a user can fix."""
    settled = bool(providers or disable)
    manager = PluginManager(disabled=disable, providers=providers) if settled else manager_of_run(run)
    with at_work(out):
        choose_threads(device)
        model = FourM.from_pretrained(run, device=device, tokenizers=tokenizers, manager=manager)
        if edit is not None:
            inputs, targets = edited(inputs, model.reader.find, **edit)
        results = model.generate_batch([inputs] * samples, targets, seed=seed, **options)
        for number, result in enumerate(results):
            suffix = f"-{number}" if samples > 1 else ""
            for name, generated in result.items():
                for path in write(generated, out, f"{name}{suffix}"):
                    tell(str(path))
                picture = generated.render()
                if isinstance(picture, str):
                    tell(f"{name}: {picture}")
                if remark := generated.remark():
                    tell(f"{name}: {remark}")
                if generated.decoded_from == "probabilities":
                    tell(f"{name}: decoded from the model's probabilities; --temperature above 0 draws samples")
        return results


def write(generated: Generated | Mapped, out: Path, stem: str) -> list[Path]:
    """Write the modality's files, and a PNG to look at beside them as `stem.view.png`; returns their paths."""
    paths = []
    for extension, content in generated.modality.write(generated.value).items():
        paths.append(out / f"{stem}.{extension}")
        write_atomically(paths[-1], content)
    picture = generated.render()
    if not isinstance(picture, str):
        paths.append(out / f"{stem}.view.png")
        write_atomically(paths[-1], png(picture))
    return paths
