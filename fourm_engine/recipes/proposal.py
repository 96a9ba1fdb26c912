"""Propose a config for a data set and a machine, as text with a comment per line.

In: a `Survey`, the split of its samples, a `Machine`. Out: YAML that `load_config` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.recognition import Match
from fourm_engine.data.raw.survey import Survey
from fourm_engine.device import Machine
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, Grid

_WIDTH, _COLUMN = 120, 44
#: Number of words for which a vocabulary of 1,024 suffices, with one token per word: COCO's 80 labels (92 words) take
#: 1,000.
FEW_WORDS = 100
#: Share of the samples that show a complete picture and predict everything else, the most common use of a model.
WHOLE = 0.9
#: From this many epochs on, a comment notes that small data needs them: at 240, the last still help (docs/training.md).
MANY = 100
#: A line of a config: (depth, "key: value", comment).
Line = tuple[int, str, str]


@dataclass(frozen=True)
class Chosen:
    """How the samples are split: the keys of `data`, with comments, and the number of samples in each part."""

    keys: Mapping[str, tuple[Any, str]]
    train: int
    val: int
    said: str


@dataclass(frozen=True)
class Sizes:
    """Sizes for a CPU, on which training must take at most an hour, and for a GPU of at least 6 GiB."""

    large: bool
    side: int
    patch: int
    codes: int | None
    model: dict[str, Any]
    batch: int
    fit_batch: int
    fit_steps: int
    steps: int
    lr: float
    views: int
    vocabulary: int

    @classmethod
    def fitting(cls, survey: Survey, samples: int, machine: Machine) -> Sizes:
        large = machine.gpu_memory >= 6
        shorter = [min(match.recognised.size) for match in survey.matches if match.recognised.size]
        side = max(16, min([224 if large else 64, *shorter]))
        # 8 x 8 tokens per picture on a CPU, 16 pixels per token for large pictures.
        patch = 16 if large and side >= 128 else max(2, side // 8)
        side -= side % patch
        if not large:
            # Convolutions take the time of a block, and pixels need them more (docs/ablations.md).
            pixels = any(match.modality.spec.pixel_patch for match in survey.matches)
            model: dict[str, Any] = {"width": 128, "encoder_blocks": 3, "decoder_blocks": 3, "heads": 4}
            model |= {"encoder_blocks": 2, "stem": "conv"} if pixels else {}
        else:
            size = "B" if samples >= 100_000 and machine.gpu_memory >= 20 else "S" if samples >= 10_000 else "Ti"
            model = {"size": size}
        # In the same time, small batches and more steps learn more than the reverse (docs/ablations.md).
        batch = 64 if large else 8
        # 0 if the plugin does not say; its texts may hold any number of words.
        words = [match.recognised.words for match in survey.matches if has_text(match.modality)]
        return cls(
            large=large,
            side=side,
            patch=patch,
            codes=(None if samples >= 10_000 else 2048) if large else 512,
            model=model,
            batch=batch,
            fit_batch=16 if large else 8,
            fit_steps=min(40_000 if large else 3000, max(2000 if large else 600, 20 * samples)),
            steps=min(100_000, max(1000, 20 * samples)) if large else min(10_000, max(1200, 40 * samples)),
            lr=5e-4 if large else 2e-3,
            views=max(1, min(16, 3200 // max(1, samples))),
            # Each row costs parameters and time at every step, used or not.
            vocabulary=1024 if all(words) and sum(words) <= FEW_WORDS else 4096,
        )

    def shows(self, samples: int) -> str:
        """How often training shows each sample."""
        crops = f", {self.views} crops of each" if self.views > 1 else ""
        many = "; usual for so little data" if self.steps * self.batch >= MANY * samples else ""
        return f"{_passes(self.steps, self.batch, samples)}{crops}{many}"

    @property
    def why(self) -> str:
        return "sized for a GPU" if self.large else "sized for a CPU"

    def resizes(self, modality: Modality[Any]) -> bool:
        """Whether a modality is a square map, cropped like the pictures. Any other shape, such as a spectrogram's, is
        left to its plugin."""
        square = isinstance(grid := modality.spec.layout, Grid) and grid.height == grid.width
        sized = {"image_size", "patch_size"} <= type(modality.settings).model_fields.keys()
        return sized and square and modality.spec.alignment is not None

    def soft_targets(self, survey: Survey) -> dict[str, int]:
        """`loss.soft_targets` for few samples: of quantities, whose codes are near where their values are (see "On real
        photographs" in docs/ablations.md)."""
        specs = [match.modality.spec for match in survey.matches if self.views > 1 and not self.large]
        quantities = [s for s in specs if s.target and s.tokenizer is not None and isinstance(s.array, FeatureMap)]
        return {spec.name: 32 for spec in quantities if spec.tokenizer is not None and spec.tokenizer.kind == "vqvae"}

    def of(self, match: Match) -> dict[str, tuple[Any, str]]:
        """Settings of a modality that follow from the machine, if its plugin has them."""
        fields = type(match.modality.settings).model_fields
        tokens = (self.side // self.patch) ** 2
        given: dict[str, tuple[Any, str]] = {}
        if self.resizes(match.modality):
            given["image_size"] = self.side, f"pixels per side that tokens describe; {self.why}, 2x costs 4x"
            given["patch_size"] = self.patch, f"pixels per side of a token: {tokens:,} tokens per sample"
        if "codebook_size" in fields and self.codes and match.modality.spec.tokenizer is not None:
            given["codebook_size"] = self.codes, "different tokens; more keep more detail, and need more data"
        if has_text(match.modality) and not self.large:
            text = {"vocabulary_size": self.vocabulary, "coordinate_bins": 100}
            given["text"] = text, "pieces of words, and steps across a picture for boxes: alike wherever text occurs"
        return given


def has_text(modality: Modality[Any]) -> bool:
    return "text" in type(modality.settings).model_fields


def config_text(
    survey: Survey, chosen: Chosen, sizes: Sizes, machine: Machine, *, folders: Mapping[str, str], command: str
) -> str:
    """The text of the config. `folders`: where `run`, `tokens` and `tokenizers` go."""
    lines = list(_lines(survey, chosen, sizes, folders))
    head = [
        f"# Written by `{command}` for {counted(len(survey.samples), 'sample')}",
        f"# on {machine}.",
        "# Change what you like; docs/data.md in the repository tells more.",
        "# Next: fourm data check, tokenizer fit, tokenize, train and evaluate, as printed.",
    ]
    return "\n".join((*(shown(line) for line in head), "", *_written(lines))) + "\n"


def _lines(survey: Survey, chosen: Chosen, sizes: Sizes, folders: Mapping[str, str]) -> Iterator[Line]:
    n = chosen.train
    yield 0, _pair("run", folders["run"]), "folder of the trained model, its checkpoints, curves and report"
    yield 0, _pair("seed", 0), "decides every random choice: the same seed, the same result"
    yield 0, "", ""
    yield 0, "modalities:", ""
    names = sorted(match.name for match in survey.matches)
    yield 1, _pair("select", names), "these take part, whatever else is installed; shorten the list to leave one out"
    yield 1, "settings:", ""
    explained: set[str] = set()
    for match in survey.matches:
        yield 2, f"{_flow(match.name)}:", _about(match)
        if match.name != match.plugin.name:
            yield 3, _pair("plugin", match.plugin.name), "the installed modality that reads it"
        for key, (value, why) in match.recognised.settings.items():
            yield 3, _pair(key, value), why
        where = "the data folder itself" if match.source == "." else "the sub-folder"
        if "source" in type(match.modality.settings).model_fields:
            yield 3, _pair("source", match.source), f"{where} that is read"
        given = sizes.of(match)
        for key, (value, why) in given.items():
            yield 3, _pair(key, value), "as above" if key in explained else why
        explained |= given.keys()
    yield 0, "", ""
    yield 0, "data:", ""
    for key, (value, why) in chosen.keys.items():
        yield 1, _pair(key, value), why
    yield 1, _pair("tokens", folders["tokens"]), "where `fourm tokenize` writes, and `fourm train` reads"
    crops = (
        f"{sizes.views} crops of each sample, since {n} are few"
        if sizes.views > 1
        else f"{counted(n, 'sample is', 'samples are')} enough"
    )
    yield 1, _pair("views", sizes.views), f"crops of a training sample that are tokenized: {crops}"
    yield 1, _pair("augment", sizes.views > 1), "whether crops are random, half of them mirrored, or the centre"
    yield 1, _pair("on_error", "skip"), "a file that cannot be used is named and left out; raise stops there"
    yield 0, "", ""
    yield 0, "tokenizers:", ""
    yield 1, _pair("folder", folders["tokenizers"]), "where fitted tokenizers are kept, one per kind of token"
    yield 1, "fit:", "how each of them learns"
    yield 2, _pair("steps", sizes.fit_steps), _passes(sizes.fit_steps, sizes.fit_batch, n)
    yield 2, _pair("batch_size", sizes.fit_batch), "samples per step; many small steps learn more than few large ones"
    yield 2, _pair("lr", 1.5e-3), "learning rate at its highest"
    yield 2, _pair("warmup", sizes.fit_steps // 20), "steps in which the rate rises from 0"
    yield 0, "", ""
    yield from _masking(survey, sizes)
    yield 0, "", ""
    convolutions = ", with convolutions over pixels" * ("stem" in sizes.model)
    words = (
        "a size of the paper, Ti, S, B, L or XL"
        if sizes.large
        else f"a small model, for a CPU{convolutions}; a GPU takes size: Ti, S, B, L or XL"
    )
    average = "a modality of which a step asks for little counts little; present: all alike, as in the paper"
    yield 0, "loss:", "how predictions are compared with the targets"
    yield 1, _pair("average_over", "shares"), average
    if soft := sizes.soft_targets(survey):
        yield 1, _pair("soft_targets", soft), "tokens like the true one share a target, since samples are few"
    yield 0, "", ""
    yield 0, _pair("model", sizes.model), words
    yield 0, "", ""
    yield 0, "train:", ""
    yield 1, _pair("batch_size", sizes.batch), "samples per step; halve it if memory runs out"
    yield 1, _pair("steps", sizes.steps), sizes.shows(n)
    yield 1, _pair("lr", sizes.lr), "learning rate at its highest; lower it if the loss jumps"
    yield 1, _pair("warmup", sizes.steps // 20), "steps in which the rate rises from 0"
    yield 1, _pair("checkpoint_every", max(1, sizes.steps // 5)), "steps; `fourm train` goes on from the newest"
    if chosen.val:
        yield 1, _pair("eval_every", max(1, sizes.steps // 10)), "steps between measures of the held-out samples"
        kept = f"also keep the weights that were best on them, in {folders['run']}/best"
        yield 1, _pair("keep_best", True), kept
    yield 1, _pair("log_every", max(1, min(100, sizes.steps // 20))), "steps between lines of progress"
    yield 1, _pair("device", "auto"), "a GPU if there is one, else the CPU"


def _masking(survey: Survey, sizes: Sizes) -> Iterator[Line]:
    specs = [match.modality.spec for match in survey.matches]
    grid = (sizes.side // sizes.patch) ** 2
    resized = {match.modality.spec.name for match in survey.matches if sizes.resizes(match.modality)}
    counts = {s.name: grid if s.name in resized else s.layout.num_tokens for s in specs}
    most_shown, most_predicted = (256, 512) if sizes.large else (128, 320)
    targets = [s for s in specs if s.target]
    whole = [s for s in specs if s.continuous]
    # The tokens of a shown picture are redundant targets, used only if there are no others.
    others = {s.name: [t for t in targets if t.files != s.files] or targets for s in whole}
    tokens = min(most_shown, max(2, sum(counts[s.name] for s in specs if s.input and not s.continuous)))
    shown_tokens = max((counts[s.name] for s in whole), default=tokens)
    predicted = max(sum(counts[t.name] for t in names) for names in (*others.values(), [] if whole else targets))
    yield 0, "masking:", "what the model sees of a sample, and predicts"
    yield 1, _pair("sampler", "fill"), "tokens that one modality cannot take go to others; dirichlet: as in the paper"
    yield 1, _pair("input_tokens", [1, shown_tokens]), "tokens shown, a number drawn anew each time"
    predicted = min(most_predicted, max(1, predicted))
    yield 1, _pair("target_tokens", predicted), "tokens to predict; more teach more per step, which takes longer"
    yield 1, "mixture:", "kinds of tasks, drawn by weight"
    for spec in whole:
        yield 2, _pair("- name", f"{spec.name} to all"), "a whole picture predicts everything else"
        yield 3, _pair("weight", round(WHOLE / len(whole), 3)), "how often: what a model is mostly used for"
        yield 3, _pair("input", {spec.name: 1000}), "shown alone"
        yield 3, _pair("input_tokens", "all"), "as a whole, whatever its size"
        if left_out := {t.name: 0 for t in targets if t not in others[spec.name]}:
            yield 3, _pair("target", {"*": 0.5, **left_out}), "all but its own tokens"
        if sum(counts[t.name] for t in others[spec.name]) <= most_predicted:
            yield 3, _pair("target_tokens", "all"), "as a whole, too"
    rest = round(1 - WHOLE, 3) if whole else 1.0
    yield 2, _pair("- name", "any to any"), "a part of one modality or more predicts the others"
    yield 3, _pair("weight", rest), "for all else that a model is asked"
    # What was best in docs/ablations.md, "Which masks?".
    yield 3, _pair("input", {"*": 0.1}), "small: mostly one modality at a time; 1: several"
    yield 3, _pair("target", {"*": 1.0}), "1: several at a time; small: mostly one"


def _about(match: Match) -> str:
    where = "the folder" if match.source == "." else f"{shown(match.source)}/"
    size = f", median size {match.recognised.size[1]}x{match.recognised.size[0]}" if match.recognised.size else ""
    rivals = f"; may also be {', '.join(match.rivals)}" if match.rivals else ""
    return f"{counted(len(match.samples), 'sample')} in {where}: {described(match, size)}{rivals}"


def described(match: Match, size: str = "") -> str:
    """A description of the files, which notes if a modality has no tokens."""
    return f"{match.recognised.what}{size}" + ", read without a tokenizer, input only" * match.modality.spec.continuous


def _passes(steps: int, batch: int, samples: int) -> str:
    passes = steps * batch / samples
    return (
        f"{passes:.0f} passes over {counted(samples, 'sample')}"
        if passes >= 2
        else f"{passes:.1f} of {counted(samples, 'sample')}"
    )


def _pair(key: str, value: Any) -> str:
    return f"{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value as YAML, on one line."""
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.6g}" if "e" not in f"{value:.6g}" else f"{value:.1e}"
    if isinstance(value, Path):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _written(lines: list[Line]) -> Iterator[str]:
    """The lines, with comments to the right if they fit, otherwise above."""
    for depth, text, comment in lines:
        code, about = "  " * depth + text, f"# {shown(comment)}"
        if len(code) > _WIDTH and code.endswith("]"):  # a long list, which YAML allows to break at any comma
            code = _broken(code, "  " * (depth + 1))
        if not comment:
            yield code
        elif len(line := f"{code:<{_COLUMN}}  {about}") <= _WIDTH:
            yield line
        else:
            yield "  " * depth + about
            yield code


def _broken(code: str, indent: str) -> str:
    """A line, broken after commas."""
    lines, line = [], ""
    for part in code.split(", "):
        if line and len(line) + len(part) + 3 > _WIDTH:
            lines.append(line)
            line = indent + part
        else:
            line = f"{line}, {part}" if line else part
    return ",\n".join([*lines, line])
