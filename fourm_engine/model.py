"""`FourM`: a trained any-to-any model with its modalities and tokenizers, to load, generate with and save.

In: values of any of the model's modalities (pictures, depth in metres, sentences, boxes, files, token ids). Out:
values, tokens and pictures of the targets.

    model = FourM.from_pretrained("runs/demo")
    out = model.generate({given: value}, targets=[target, another], seed=0)
    out[target].value, out[target].tokens, out[target].render()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourm_engine import exported
from fourm_engine.convert.absent import AbsentTokenizer, Undecoded
from fourm_engine.convert.model import save_published
from fourm_engine.device import choose_device
from fourm_engine.exported import ExportedConfig
from fourm_engine.generate import validation
from fourm_engine.generate.chain import Nats, read_nats
from fourm_engine.generate.combine import check_combining, combine, reductions_of
from fourm_engine.generate.decoding import decoded
from fourm_engine.generate.edit import edit_request
from fourm_engine.generate.explain import explain as explain_request
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.inputs import InputReader
from fourm_engine.generate.keywords import DEFAULTS, DecodingOptions, SamplingOptions, shows_options
from fourm_engine.generate.paste import originals
from fourm_engine.generate.paste import paste as pasted
from fourm_engine.generate.prepare import Prepared, prepare
from fourm_engine.generate.result import Generated, Results
from fourm_engine.generate.sample import Sample, SequenceIds
from fourm_engine.generate.sampler import Filled, Sampler
from fourm_engine.generate.vary import Variation
from fourm_engine.generate.vary import vary as variation
from fourm_engine.loading import load_parts
from fourm_engine.masking.pack import pack_inputs
from fourm_engine.modalities import Modalities
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from typing_extensions import Unpack

    from fourm_engine.generate.keywords import GenerateOptions


class FourM:
    """A trained model with its modalities and tokenizers, from training or `from_pretrained`.

    Attributes:
        network: the encoder-decoder, a `torch.nn.Module`.
        modalities: {name: `Modality`} of the modalities that can be inputs or targets.
        tokenizers: {name: `Tokenizer`} of the modalities with tokens.
        vocabulary: all modalities of the network, and their ids, including those whose plugin is not installed; their
            weights are kept and saved again.
        missing: {name: why it is not in `modalities`, and the remedy}.
        device: the network's device."""

    def __init__(
        self,
        network: Transformer,
        modalities: Modalities,
        tokenizers: Mapping[str, Tokenizer],
        vocabulary: Vocabulary,
        *,
        missing: Mapping[str, str] | None = None,
        origin: tuple[Path, ExportedConfig] | None = None,
        published: dict[str, Any] | None = None,
    ) -> None:
        """`origin`: where the model was loaded from. `published`: the arguments of the published model, if this is one.
        Raises ValueError for a modality without the tokenizer that it needs."""
        self.network, self.modalities, self.tokenizers = network, modalities, dict(tokenizers)
        self.vocabulary = vocabulary
        self.missing = dict(missing or {})
        self._origin = origin
        self.published = published
        for name, modality in modalities.items():
            if not modality.spec.continuous and name not in self.tokenizers:
                raise ValueError(f"{name!r} has no tokenizer; fit it with `fourm tokenizer fit`")
        self.reader = InputReader(modalities, self.tokenizers, self._find)
        sequences = {}
        for name, tokenizer in self.tokenizers.items():
            if isinstance(tokenizer, TextTokenizer) and name in modalities:
                # Span masking ends every target with a sentinel, so one after the text means its end.
                stop = frozenset({tokenizer.end_id, *tokenizer.sentinel_ids})
                sequences[name] = SequenceIds(tokenizer.end_id, tokenizer.sentinel_ids[1], stop)
        inputs = {name for name, modality in modalities.items() if modality.spec.input}
        host = getattr(modalities, "manager", None)
        ranges = {name: tokenizer.ordinal_ranges for name, tokenizer in self.tokenizers.items()}
        vocabulary = vocabulary.with_ordinal_ranges(ranges)
        self.sampler = Sampler(network, vocabulary, sequences=sequences, inputs=inputs, host=host)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters())
        lines = [f"<FourM: {parameters / 1e6:.1f} M parameters on {self.device}"]
        for entry in self.vocabulary:
            if entry.name in self.missing:
                lines.append(f"  {entry.name}: missing, {self.missing[entry.name]}")
            elif entry.name in self.modalities:
                spec = self.modalities[entry.name].spec
                roles = " and ".join(role for role in ("input", "target") if getattr(spec, role))
                lines.append(f"  {entry.name}: {roles}, {entry.layout.num_tokens:,} tokens per sample")
        return "\n".join(lines) + ">"

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        device: torch.device | str | None = None,
        domains: Iterable[str] | None = None,
        disable: Iterable[str] = (),
        providers: Mapping[str, str] | None = None,
        manager: PluginManager | None = None,
        revision: str | None = None,
        tokenizers: Mapping[str, str | Path] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        adapter: str | Path | None = None,
    ) -> FourM:
        """Load an exported model (a folder, a run's folder, or a Hugging Face Hub id at `revision`) or a published 4M
        model (a safetensors file, a folder with one, or a Hub id).

        Args:
            device: by default a GPU if there is one.
            domains: load the plugins and tokenizers of these modalities only. A modality whose plugin is not installed
                is listed in `missing`, and is an error only when requested.
            disable, providers: which plugins to use, as in the `modalities` section of a config; or pass the `manager`
                that selected them.
            tokenizers: {modality: file, folder or Hub id of a tokenizer, or a WordPiece vocabulary}, for models that
                do not include them: published models, and some exports of them. A modality without a tokenizer accepts
                and returns token ids only.
            settings: {modality: settings of its plugin}, for published models: override the settings that fit the
                published data.
            adapter: the folder of an adapter for this model (or of the `finetune.lora` run that wrote it), to merge
                into the weights; an adapter of another model is an error.

        Raises ValueError for a file that is missing or damaged, and for a plugin or tokenizer that differs from
        training."""
        parts = load_parts(
            path_or_id,
            device=device,
            domains=domains,
            disable=disable,
            providers=providers,
            manager=manager,
            revision=revision,
            tokenizers=tokenizers,
            settings=settings,
            adapter=adapter,
        )
        return cls(**{name: part for name, part in vars(parts).items() if name != "read"})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model atomically, replacing an earlier export in `folder`. Files of `missing` modalities are copied
        from where the model was loaded."""
        exported.save(
            Path(folder),
            self.network,
            self.modalities,
            {name: t for name, t in self.tokenizers.items() if not isinstance(t, AbsentTokenizer)},
            self.vocabulary,
            missing=self.missing,
            origin=self._origin,
            published=self.published,
        )

    def save_published(self, path: str | Path) -> None:
        """Write `path` (a safetensors file) in the published format, with `config.json` beside it. Raises ValueError
        for anything that the format cannot express."""
        specs = {name: modality.spec for name, modality in self.modalities.items()}
        shorter = {name for name, modality in self.modalities.items() if "max_tokens" in modality.published_settings}
        more: Any = {"shorter": shorter, "missing": self.missing, "arguments": self.published}
        save_published(Path(path), self.network, self.vocabulary, specs, **more)

    # Generating and encoding

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.sampler.device

    def to(self, device: torch.device | str) -> FourM:
        """Move the network and the tokenizers to `device`; returns self. Raises ValueError if there is no such
        device."""
        device = choose_device(device)
        self.network.to(device)
        self.sampler.graphs.clear()
        for tokenizer in self.tokenizers.values():
            tokenizer.to(device)
        return self

    @shows_options(SamplingOptions, DecodingOptions)
    def generate(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Results:
        """Generate the `targets` of one sample, in order; each sees those before it, and the known part of later ones.

        Without temperature, top_p or top_k, targets that the inputs determine are predicted greedily, whatever the
        `seed`.

        Args:
            inputs: name -> anything that `Modality.value` reads (path, bytes, picture, array, tensor, text), token ids
                as `Ids`, or a `Condition`; may be empty.
            targets: names, or one name; by default those of the `plan`, or all modalities that are not inputs.

        Returns {target: `Generated`}: its `value`, in the modality's type and units, and its `tokens`.

        Raises ValueError, one line, for names that the model does not know, values that do not fit, and options that
        are unknown or have no effect."""
        return self.generate_batch([inputs], targets, **options)[0]

    @shows_options(SamplingOptions, DecodingOptions)
    def generate_batch(
        self,
        inputs: Sequence[Mapping[str, Any]],
        targets: Sequence[str] | str | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Results]:
        """Like `generate`, for several samples, `batch_size` at a time. The result of a sample depends only on its
        inputs and seed (`seed` + its index, or its entry in `seeds`), not on the rest of the batch; with `n_samples`,
        the samples of the first input come first.

        If each of `inputs` occurs more than once, with different seeds, this is a request for several samples of each:
        every target is then sampled, as with a temperature above 0."""
        given: dict[str, Any] = {**DEFAULTS, **options}
        batch_size, n_samples, guide = (given.pop(name) for name in ("batch_size", "n_samples", "guide"))
        reduce, best, explain = (given.pop(name) for name in ("reduce", "best", "explain"))
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; given: {batch_size!r:.80}")
        check_combining(n_samples, reduce, best)
        prepared = prepare(
            inputs,
            targets,
            reader=self.reader,
            sampler=self.sampler,
            modalities=self.modalities,
            nats=self._nats,
            seed=given.pop("seed"),
            seeds=seeds,
            n_samples=n_samples,
            plan=given.pop("plan"),
            options=given,
            dry=explain,
        )
        targets, samples = prepared.targets, prepared.samples
        ways = reductions_of(reduce, targets, self.modalities)
        for tokenizer in (self.tokenizers[target] for target in ways):
            if isinstance(tokenizer, AbsentTokenizer):
                tokenizer.decode([])  # raises the error that names it, before anything runs
        if guide is not None:
            made = {stage.target for plan_of_sample in prepared.plans for stage in plan_of_sample}
            guide.check(made.union(*({*sample.shown, *sample.known} for sample in samples)), self)
        if explain:
            explanation = explain_request(prepared, self.sampler, guide)
            print(explanation)
            return [Results(explanation=explanation) for _ in inputs]
        if guide is not None:
            guide.model.network.to(self.device)
        results = self._run(prepared, batch_size, guide)
        if n_samples == 1:
            return results
        return [combine(results[i : i + n_samples], ways, best) for i in range(0, len(results), n_samples)]

    def _run(self, prepared: Prepared, batch_size: int, guide: Guide | None) -> list[Results]:
        results = [Results() for _ in prepared.samples]
        for plan, members in prepared.groups(batch_size):
            samples, seeds = [prepared.samples[i] for i in members], [prepared.seeds[i] for i in members]
            filled = self.sampler.run(samples, plan, seeds, guide)
            for target in prepared.targets:
                values = self._decode(target, [f[target] for f in filled], samples)
                for i, generated in zip(members, values, strict=True):
                    results[i][target] = generated
        return results

    @shows_options(SamplingOptions, DecodingOptions)
    def edit(
        self,
        sample: Mapping[str, Any],
        *,
        mask: Any = None,
        outpaint: float | Sequence[float] | None = None,
        change: Mapping[str, Any] | None = None,
        keep: Iterable[str] | str = (),
        halo: int | None = None,
        paste: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Results:
        """Regenerate a part of `sample` (name -> value, as in `generate`), in its order. Returns the new values.

        With a `mask`, the grids of the sample are edited under it: bool (H, W) of pixels or tokens, True where to edit,
        or a picture or its file, white there. Tokens more than `halo` (1) away from the mask are known. Values have the
        model's size, or with `paste` the input's, into which what the mask marks is pasted, enlarged; pixels that the
        mask does not touch are bitwise equal to the input's. `outpaint` continues the grids beyond their edges by this
        share of their size, or by (left, top, right, bottom); the rest is of the larger picture. `change`, {name: new
        value}, replaces or adds modalities; without a part to edit, all that are not in `keep` are regenerated.
        Modalities in `keep` stay unchanged.

        Raises ValueError, one line, for masks that are empty or do not fit, and if nothing is left to generate."""
        edit: Any = {"mask": mask, "outpaint": outpaint, "change": change, "keep": keep, "halo": halo}
        inputs, targets = edit_request(sample, self._find, **edit)
        into = originals(inputs, targets, self.reader) if paste else {}
        results = self.generate(inputs, targets, **options)
        return pasted(results, into) if paste else results

    @shows_options(DecodingOptions)
    def vary(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | str | None = None,
        *,
        vary: Mapping[str, Sequence[Any]],
        seed: int = 0,
        **options: Unpack[DecodingOptions],
    ) -> Variation:
        """Generate while one or two parameters vary and the rest is fixed. See `Variation.sheet()`.

        Args:
            vary: {parameter: values}. A parameter is a part of an input, "boxes.0.x" (`Modality.parts`); an input, with
                whole values; a weight, "guidance" or "guidance.NAME"; or another option: "seed", "temperature",
                "top_p", "top_k", "steps".
            seed: the random seed of every result.

        Raises ValueError, one line, before anything is generated, for a parameter that cannot vary."""
        return variation(self, inputs, targets, vary, seed=seed, **options)

    def _nats(self) -> Nats:
        """The any-to-any matrix of the run that trained this model."""
        if self._origin is None:
            raise ValueError("plan='auto' reads a run's any-to-any matrix, and this model was not loaded from a run")
        return read_nats(self._origin[0])

    def _decode(self, target: str, filled: Sequence[Filled], samples: Sequence[Sample]) -> list[Generated]:
        modality, tokenizer = self.modalities[target], self.tokenizers[target]
        if isinstance(tokenizer, AbsentTokenizer):
            return [Undecoded(modality, f.ids, tokenizer) for f in filled]
        return decoded(modality, tokenizer, filled, samples)

    @torch.inference_mode()
    def encode(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """Encoder features after the final norm, float (B, N, D), and a mask of valid tokens, bool (B, N); features of
        padding are undefined. For transfer, see also `encoder`, which gives the positions of tokens. Raises ValueError,
        one line, like `generate`."""
        samples = [self.reader.read(sample, ())[0] for sample in validation.inputs_of(inputs)]
        capacity = max((sum(map(len, sample.shown.values())) for sample in samples), default=0)
        tokens, continuous = pack_inputs([s.shown for s in samples], self.vocabulary, capacity, self.device)
        return self.network.eval().encode_features(tokens, continuous)

    def _find(self, name: str) -> Modality:
        if name in self.modalities:
            return self.modalities[name]
        raise ValueError(self.missing.get(name) or validation.no_such(name, self.modalities))
