"""Training samples: the item at a position is a pure function of (seed, position), whatever process asks for it.

In: token shards and, for continuous inputs and modalities not tokenized, raw data. Out: `PackedSample`.

Position p is place p % n of epoch p // n, whose order is a permutation. A sample with nothing to show or to ask for
under any component of the mixture (its files missing or unusable) is replaced by the next of the permutation; its place
keeps its generator. A modality that cannot be read is left out of its sample, whose budgets are then drawn again
without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fourm_engine.batch import PackedSample
from fourm_engine.data.aligned import AlignedData, BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.order import epoch_order, sample_rng
from fourm_engine.data.splits import Split
from fourm_engine.data.tokens import VIEWS_FOLDER, RecordedViews, TokenShards, check_made_with, digest, shard_paths
from fourm_engine.data.views import SampleViews, ViewDrawer, view_of
from fourm_engine.masking.budgets import Budgets, Drawn
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.masking.pack import build_maskers, ordered, pack, patchify
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.masker import Masker
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
# Two epochs meet in one batch; more orders need not be kept.
_order = lru_cache(maxsize=2)(epoch_order)
#: Crops that are not recorded are drawn afresh each time, among this many.
_UNRECORDED_VIEWS = 1 << 20
#: Files of a modality whose size and time are compared with those that the tokens were made from.
_COMPARED = 10_000


class TrainingData(Dataset[PackedSample]):
    """Samples of one split.

    Args:
        modalities, vocabulary: those of the model.
        tokenizers: modality -> its fitted tokenizer; needed for sequences and for whatever `tokens` lacks.
        raw: raw data; None where everything is in `tokens`.
        tokens: folder of token shards; None to tokenize every sample when it is read.
        split: which of the samples in `raw` and `tokens` are used.
        views: views of a sample that are drawn where none are recorded and crops are not random.

    Raises ValueError where `tokens` were made by other tokenizers or through other views, or there is no data."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        vocabulary: Vocabulary,
        masking: MaskingConfig,
        *,
        raw: AlignedData | None,
        tokens: Path | None,
        split: Split,
        drawer: ViewDrawer,
        seed: int,
        views: int = 1,
        cache_mb: int = 0,
        masker_class: Callable[[str], type[Masker]] | None = None,
    ) -> None:
        self.modalities, self.tokenizers, self.vocabulary = dict(modalities), dict(tokenizers), vocabulary
        self.masking, self.raw, self.seed, self.split = masking, raw, seed, split
        self.maskers = build_maskers(modalities, tokenizers, masker_class)
        self.budgets = Budgets(masking, (m.spec for m in modalities.values()))
        self._drawer, self._cache = drawer, _Cache(cache_mb << 20)
        self._recorded: RecordedViews | None = None
        self._shards: dict[str, TokenShards] = {}
        if tokens is not None and shard_paths(tokens / VIEWS_FOLDER):
            self._open_tokens(tokens)
        elif raw is None:
            raise ValueError(f"neither raw data nor tokens in {tokens}; set data.train and data.tokens")
        elif tokens is not None:
            log.warning("no tokens in %s: every sample is tokenized when it is read; run `fourm tokenize`", tokens)
        if self._recorded is None:
            self.names = raw.names if raw else []
        else:
            # By name: the order in which shards were made must not decide what is drawn.
            self.names = sorted(split.select(self._recorded.names, quiet=raw is not None))
            if not self.names:
                raise ValueError(
                    f"{tokens}: none of its {len(self._recorded.names)} samples is in split {split.name!r} of "
                    f"data.{split.part}; run `fourm tokenize` again, or correct data.{split.part}_split"
                )
        self.views = self._recorded.views if self._recorded else _UNRECORDED_VIEWS if drawer.augment else views
        if self._recorded and raw and (absent := sorted(set(raw.names) - set(self.names))):
            log.warning(
                "%s lacks %d of %d samples, such as %s, which are left out; run `fourm tokenize` again",
                tokens,
                len(absent),
                len(raw.names),
                absent[0],
            )
        if raw is not None:
            self._compare_files(raw)
        unread = [name for name in self.modalities if name not in self._shards and not (raw and raw.counts.get(name))]
        if unread:
            log.warning("no data of %s; samples are used without", ", ".join(unread))
        self._aspects: dict[str, dict[str, float]] = {}
        self._check_trainable()

    def _check_trainable(self) -> None:
        """Raise ValueError where no sample is of any use, and why it is so, as far as names and files tell."""
        if empty := [name for name, shards in self._shards.items() if not shards.names]:
            raise ValueError(
                f"no tokens of {', '.join(empty)}: none of the files could be used when they were made; mend them and "
                f"run `fourm tokenize` again, or leave {', '.join(empty)} out of modalities.select"
            )
        if not any(self.budgets.serve(self.has(name)) for name in self.names):
            about = f"; {self.raw.report()}" if self.raw else ""
            raise ValueError(
                f"none of the {len(self.names)} samples has inputs and targets for any component of "
                f"masking.mixture{about}"
            )
        if self.raw is not None:
            self.raw.check_usable(m for m in self.modalities if m not in self._shards)

    @classmethod
    def from_config(
        cls,
        config: DataConfig,
        masking: MaskingConfig,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        vocabulary: Vocabulary,
        *,
        seed: int,
        training: bool = True,
        masker_class: Callable[[str], type[Masker]] | None = None,
    ) -> TrainingData:
        """The training split of a config, or with `training=False` the validation split, seen through centre crops."""
        split = Split.from_config(config, training=training)
        tokens, raw = config.tokens / split.part if config.tokens else None, None
        if (
            split.root is not None
            and tokens is not None
            and not split.root.is_dir()
            and shard_paths(tokens / VIEWS_FOLDER)
        ):
            log.warning("data.%s: %s is not there; %s alone is used", split.part, split.root, tokens)
        elif split.root is not None:
            raw = AlignedData.from_config(modalities, config, training=training)
        return cls(
            modalities,
            tokenizers,
            vocabulary,
            masking,
            raw=raw,
            tokens=tokens,
            split=split,
            drawer=ViewDrawer.from_config(modalities, config, training=training, seed=seed),
            seed=seed,
            views=config.views if training else 1,
            cache_mb=config.cache_mb,
            masker_class=masker_class,
        )

    def _open_tokens(self, folder: Path) -> None:
        self._recorded = RecordedViews(folder)
        for name, modality in self.modalities.items():
            spec = modality.spec
            if spec.continuous or not shard_paths(folder / name):
                if spec.alignment is not None and spec.alignment not in self._recorded.groups:
                    raise ValueError(
                        f"{folder}: no views of group {spec.alignment!r} of {name}; run `fourm tokenize` again"
                    )
                continue
            assert spec.token_space is not None
            shards = TokenShards(folder / name, size=spec.token_space.size)
            check_made_with(modality, dict(zip(shards.paths, shards.metadata)))
            tokenizer = self.tokenizers.get(name)
            if tokenizer is not None and tokenizer.fingerprint != shards.fingerprint:
                raise ValueError(
                    f"{folder / name}: made by tokenizer {shards.fingerprint}, but the tokenizer of {name} is "
                    f"{tokenizer.fingerprint}; run `fourm tokenize` again into an empty folder"
                )
            self._check_views(folder / name, shards, spec.alignment)
            if lacking := len(self._recorded.paths) - len(shards.paths):
                log.warning("%s lacks %d shards of others there; run `fourm tokenize` again", folder / name, lacking)
            self._shards[name] = shards

    def _check_views(self, folder: Path, shards: TokenShards, group: str | None) -> None:
        """Raise ValueError where tokens show something else than what is recorded, and pixels would be read through."""
        assert self._recorded is not None
        recorded = self._recorded.digests(f"digest.{group}") if group is not None else {}
        if other := [n for n, view in shards.digests("view").items() if n in recorded and view != recorded[n]]:
            raise ValueError(
                f"{folder}: {len(other)} samples, such as {other[0]}, were made through other views than those in "
                f"{VIEWS_FOLDER}; run `fourm tokenize` again"
            )

    def _compare_files(self, raw: AlignedData) -> None:
        """Say of which samples the files may have changed since they were tokenized, or have vanished."""
        for name, shards in self._shards.items():
            made, having = shards.digests("stamp"), raw.having(name)
            if gone := [sample for sample in self.names if sample in made and not raw.exists(sample, name)]:
                log.info(
                    "%s: the files of %d samples, such as %s, are no longer there; their tokens are used "
                    "(`fourm tokenize --prune` drops them)",
                    name,
                    len(gone),
                    gone[0],
                )
            both = [sample for sample in self.names if sample in made and sample in having]
            both = both[:: max(1, len(both) // _COMPARED)]
            if changed := [sample for sample in both if digest(raw.stamp(sample, name)) != made[sample]]:
                log.warning(
                    "%s: size or time of %d of %d files, such as %s, is not that of when they were tokenized; if they "
                    "have changed, run `fourm tokenize` again",
                    name,
                    len(changed),
                    len(both),
                    raw.where(changed[0], name),
                )

    def describe(self) -> str:
        """How many samples of which split are used, and where they come from, in one line."""
        places = [str(self.raw.root)] if self.raw is not None else []
        if self._recorded is not None:
            places.append(f"tokens in {self._recorded.paths[0].parent.parent}")
        return self.split.describe(len(self.names), " and ".join(places))

    def __len__(self) -> int:
        """Samples of an epoch; positions go on beyond."""
        return len(self.names)

    @property
    def views_digest(self) -> str:
        """Says through which recorded crops the tokens were made; the same for the same crops. '' where none are."""
        return self._recorded.digest(self._recorded.groups, self.names) if self._recorded else ""

    def __getitem__(self, position: int) -> PackedSample:
        epoch, index = divmod(position, len(self.names))
        order = _order(len(self.names), self.seed, epoch)
        for ahead in range(len(order)):
            sample = self._draw(self.names[order[(index + ahead) % len(order)]], epoch, index)
            if sample is not None:
                return sample
        raise ValueError(
            f"none of the {len(self.names)} samples has inputs and targets for any component of masking.mixture"
        )

    @property
    def drawn(self) -> dict[str, Any]:
        """The settings by which views are drawn; empty where they are recorded."""
        return {} if self._recorded else {**self._drawer.settings(), "views": self.views}

    def _draw(self, name: str, epoch: int, index: int) -> PackedSample | None:
        # What an earlier visit found unusable is not remembered: the item must not depend on earlier items.
        available = self.has(name)
        while True:
            rng = sample_rng(self.seed, epoch, index)
            view = int(rng.integers(self.views))
            drawn = self.budgets.draw(rng, available)
            if drawn is None:
                return None
            try:
                contents = {modality: self.load(name, modality, view) for modality in drawn.modalities}
            except BadFile as bad:
                assert self.raw is not None
                self.raw.skip(name, bad)
                available = available - {bad.modality}
                continue
            return self.mask(contents, drawn, rng)

    def mask(self, contents: Mapping[str, np.ndarray], drawn: Drawn, rng: np.random.Generator) -> PackedSample:
        """contents: ids, or patches of continuous inputs, as `load` gives them, of the modalities with a budget."""
        masked = {}
        for name in ordered(self.vocabulary, drawn.modalities):
            content, shown, asked = contents[name], drawn.inputs.get(name, 0), drawn.targets.get(name, 0)
            ids = np.arange(len(content)) if self.modalities[name].spec.continuous else content
            m = self.maskers[name].mask(ids, input_budget=shown, target_budget=asked, keep=drawn.keep[name], rng=rng)
            if len(m.input_ids) > shown or len(m.labels) > asked:
                raise ValueError(
                    f"masker {type(self.maskers[name]).__name__} of {name} gave {len(m.input_ids)} inputs and "
                    f"{len(m.labels)} targets for budgets {shown} and {asked}"
                )
            masked[name] = m
        return pack(self.vocabulary, masked, contents, drawn.component)

    def has(self, name: str) -> frozenset[str]:
        """Modalities of a sample that can be loaded, as far as is known without reading it."""
        raw = self.raw.has(name) if self.raw else ()
        return frozenset(m for m in self.modalities if (name in self._shards[m] if m in self._shards else m in raw))

    def load(self, name: str, modality: str, view: int = 0) -> np.ndarray:
        """int64 ids (tokens,), or float32 patches (tokens, patch_dim) of a continuous input. Raises BadFile."""
        spec = self.modalities[modality].spec
        if modality in self._shards:
            return self._shards[modality].ids(name, view)
        assert self.raw is not None
        array = self.raw.normalise(name, modality, self._augmented(name, modality, view))
        if spec.continuous:
            assert isinstance(array, np.ndarray)
            return patchify(array, spec)
        if modality not in self.tokenizers:
            raise ValueError(
                f"no tokens and no tokenizer of {modality}; run `fourm tokenizer fit`, then `fourm tokenize`"
            )
        return self.tokenizers[modality].encode([array])[0]

    def sample_views(self, name: str, view: int = 0) -> SampleViews:
        """The crops of a sample: as recorded, or drawn."""
        if self._recorded is not None:
            return self._recorded.get(name, view)
        assert self.raw is not None
        if name not in self._aspects:
            self._aspects[name] = self._drawer.aspects(self.raw, name)
        return self._drawer.draw(name, view, self._aspects[name])

    def _augmented(self, name: str, modality: str, view: int) -> Any:
        assert self.raw is not None
        key = (modality, name, view)
        value = self._cache.get(key)
        if value is None:
            spec = self.modalities[modality].spec
            seen = view_of(spec, self.sample_views(name, view), view)
            value = self.raw.augment(name, modality, self.raw.value(name, modality), seen)
            if self.views < _UNRECORDED_VIEWS:  # otherwise it is never asked for again
                self._cache.put(key, value)
        return value


class _Cache:
    """Arrays up to a budget of bytes; the first to come stay. Not handed to other processes.

    They are copied into slabs: thousands of small arrays that live on between large ones that come and go would keep
    the allocator from giving anything back (measured: 2 GB held for a budget of 256 MB)."""

    SLAB_BYTES = 8 << 20

    def __init__(self, budget: int) -> None:
        self.budget, self._bytes = budget, 0
        self._arrays: dict[tuple, np.ndarray] = {}
        self._free: dict[tuple, list[np.ndarray]] = {}  # (shape, dtype) -> rows of a slab not used yet

    def get(self, key: tuple) -> np.ndarray | None:
        return self._arrays.get(key)

    def put(self, key: tuple, value: Any) -> None:
        if not isinstance(value, np.ndarray) or self._bytes + value.nbytes > self.budget:
            return
        rows = self._free.setdefault((value.shape, value.dtype), [])
        if not rows:
            number = max(1, min(self.SLAB_BYTES, self.budget - self._bytes) // max(1, value.nbytes))
            rows.extend(np.empty((number, *value.shape), value.dtype))
        row = rows.pop()
        row[...] = value
        self._arrays[key] = row
        self._bytes += value.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {"budget": self.budget, "_arrays": {}, "_bytes": 0, "_free": {}}
