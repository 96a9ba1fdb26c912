"""Training samples: masked and packed from a store. The item at a position is a pure function of (seed, position),
whatever process computes it.

Position p is entry p % n of epoch p // n, whose order is a permutation of the n samples. A sample with nothing to show
or to predict under any component of the mixture (its files missing or unusable) is replaced by the next of the
permutation; the generator stays that of the position. A modality that cannot be read is left out of its sample, whose
budgets are then drawn again without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from torch.utils.data import Dataset

from fourm_engine.batch import PackedSample
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.order import epoch_order, sample_rng
from fourm_engine.data.store import Store
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.masking.draw import BatchMasker, Unmasked
from fourm_engine.masking.pack import build_maskers
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.masker import Masker
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

# Two epochs meet in one batch; more orders need not be kept.
_order = lru_cache(maxsize=2)(epoch_order)


class MaskedSamples(Dataset[PackedSample]):
    """The samples of `store`, masked by `maskers` (modality -> masker) within `budgets`, as rows of `vocabulary`.

    Raises ValueError where no sample has inputs and targets, as far as names tell."""

    def __init__(
        self, store: Store, budgets: Budgets, maskers: Mapping[str, Masker], vocabulary: Vocabulary, *, seed: int
    ) -> None:
        self.store, self.budgets, self.vocabulary, self.seed = store, budgets, vocabulary, seed
        self.mask = BatchMasker(maskers, vocabulary)
        if not any(map(budgets.serve, store.kinds())):
            raise ValueError(f"{self._nothing()}; {store.report()}")

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
    ) -> MaskedSamples:
        """The training samples of a config, or with `training=False` the validation samples; see
        `DataStore.from_config`. Raises ValueError."""
        maskers = build_maskers(modalities, tokenizers, masker_class)
        budgets = Budgets(masking, (modality.spec for modality in modalities.values()))
        store = DataStore.from_config(config, modalities, tokenizers, training=training, seed=seed)
        return cls(store, budgets, maskers, vocabulary, seed=seed)

    @property
    def masking(self) -> MaskingConfig:
        return self.budgets.config

    def __len__(self) -> int:
        """Samples of an epoch; positions go on beyond."""
        return len(self.store)

    def __getitem__(self, position: int) -> PackedSample:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[PackedSample]:
        """The samples of a micro-batch, masked together: each is what `self[position]` is. A DataLoader calls it."""
        return self.mask([self._unmasked(position) for position in positions])

    def _unmasked(self, position: int) -> Unmasked:
        epoch, index = divmod(position, len(self))
        order = _order(len(self), self.seed, epoch)
        for ahead in range(len(order)):
            sample = self._draw(int(order[(index + ahead) % len(order)]), epoch, index)
            if sample is not None:
                return sample
        raise ValueError(self._nothing())

    def _nothing(self) -> str:
        return f"none of the {len(self)} samples has inputs and targets for any component of masking.mixture"

    def _draw(self, row: int, epoch: int, index: int) -> Unmasked | None:
        # What an earlier visit found unusable is not remembered: the item must not depend on earlier items.
        available = self.store.has(row)
        while True:
            rng = sample_rng(self.seed, epoch, index)
            view = int(rng.integers(self.store.views))
            drawn = self.budgets.draw(rng, available)
            if drawn is None:
                return None
            try:
                contents = {modality: self.store.load(row, modality, view) for modality in drawn.modalities}
            except BadFile as bad:
                self.store.skip(row, bad)
                available = available - {bad.modality}
                continue
            return Unmasked(contents, drawn, rng)
