"""Training samples: read from a store, masked and packed. The item at a position is a pure function of (seed,
position), whichever process computes it.

An `Order` maps positions to rows of the store. A sample without inputs or targets under every component of the mixture
(its files are missing or unusable) is replaced by the next one of its lane, with the same generator. A modality that
cannot be read is dropped from its sample, and the budgets are redrawn without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from fourm_engine.batch import PackedSample
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.mixture import MixedOrder, Mixture
from fourm_engine.data.order import PIECE, Order, sample_rng
from fourm_engine.data.sets import data_sets
from fourm_engine.data.store import Store
from fourm_engine.device import rank_and_world
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.masking.draw import BatchMasker, Unmasked
from fourm_engine.masking.pack import build_maskers
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import counted
from fourm_plugins.masker import Masker
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer


class Read(NamedTuple):
    """A sample of a store, read through one of its views, and its files that cannot be used."""

    row: int
    view: int
    sample: Unmasked
    bad: list[BadFile]


class MaskedSamples(Dataset[PackedSample]):
    """The samples of `store`, masked by `maskers` (modality -> masker) within `budgets`, as rows of `vocabulary`.

    Args: lanes, window: of the order, as in `DataConfig`. batch_size, world: samples per step, and number of processes,
    for choosing the lanes automatically.

    Raises ValueError if, judging by file names, a data set of a `Mixture` has no sample with inputs and targets."""

    def __init__(
        self,
        store: Store,
        budgets: Budgets,
        maskers: Mapping[str, Masker],
        vocabulary: Vocabulary,
        *,
        seed: int,
        lanes: int | None = None,
        window: int = 4,
        batch_size: int | None = None,
        world: int = 1,
    ) -> None:
        self.store, self.budgets, self.vocabulary, self.seed = store, budgets, vocabulary, seed
        self.mask = BatchMasker(maskers, vocabulary)
        self.order: Order | MixedOrder
        read: dict[str, Any] = {"lanes": lanes, "window": window, "batch_size": batch_size, "world": world}
        if isinstance(store, Mixture):
            stores, self.order = store.stores, store.order(seed, **read)
        else:
            stores = {"": store}
            self.order = Order.choose(store.shard_sizes, seed, remote=store.reads_ahead, **read)
        # Number of positions after which a lane moves on to another shard, which is prefetched.
        rows = len(store) // max(1, len(store.shard_sizes))
        self._horizon = self.order.lanes * max(1, min(rows, PIECE))
        for label, one in stores.items():
            if not any(map(budgets.serve, one.kinds())):
                raise ValueError(f"{label}{': ' * bool(label)}{_nothing(len(one))}; {one.report()}")

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
        batch_size: int | None = None,
        masker_class: Callable[[str], type[Masker]] | None = None,
    ) -> MaskedSamples:
        """The training samples of a config, or with `training=False` the validation samples; see
        `DataStore.from_config`. Raises ValueError."""
        maskers = build_maskers(modalities, tokenizers, masker_class)
        budgets = Budgets(masking, (modality.spec for modality in modalities.values()))
        if not training:  # the held-out samples do not depend on how training data is read
            store = DataStore.from_config(config, modalities, tokenizers, training=False, seed=seed)
            return cls(store, budgets, maskers, vocabulary, seed=seed)
        stores: dict[str, Store] = {}
        sets = data_sets(config, modalities)
        for one in sets:
            with one.named():
                parts = one.config, one.modalities, tokenizers
                stores[one.key] = DataStore.from_config(*parts, training=True, seed=seed)
        return cls(
            Mixture(stores, config.sets) if config.sets else stores[sets[0].key],
            budgets,
            maskers,
            vocabulary,
            seed=seed,
            lanes=config.lanes,
            window=config.window,
            batch_size=batch_size,
            world=rank_and_world()[1],
        )

    @property
    def masking(self) -> MaskingConfig:
        return self.budgets.config

    def __len__(self) -> int:
        """Number of samples per epoch; positions continue beyond it."""
        return len(self.store)

    def __getitem__(self, position: int) -> PackedSample:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[PackedSample]:
        """The samples of a micro-batch, masked together; each equals `self[position]`. Called by the DataLoader."""
        if self.store.reads_ahead:
            self.store.ahead([self.order.row(position) for position in positions], now=True)
            self.store.ahead([self.order.row(position + self._horizon) for position in positions])
        return self.mask([self.read(position).sample for position in positions])

    def name(self, position: int) -> str:
        """The name of the sample at a position. Reads the sample, since another one may replace it."""
        return str(self.store.names[self.read(position).row])

    def read(self, position: int, view: int | None = None) -> Read:
        """The sample at a position, or the next usable one of its lane, before masking. `view`: instead of the drawn
        one. Raises ValueError if there is none."""
        epoch, index = divmod(position, len(self))
        tried = 0
        for row in self.order.rows(position):
            read, tried = self._draw(row, epoch, index, view), tried + 1
            if read is not None:
                return read
        raise ValueError(_nothing(tried))

    def _draw(self, row: int, epoch: int, index: int, view: int | None) -> Read | None:
        # Unusable samples are not remembered: an item must not depend on earlier ones.
        available, unusable = self.store.has(row), list[BadFile]()
        while True:
            rng = sample_rng(self.seed, epoch, index)
            chosen = int(rng.integers(self.store.views))
            chosen = chosen if view is None else view
            drawn = self.budgets.draw(rng, available)
            if drawn is None:
                return None
            try:
                contents = {modality: self.store.load(row, modality, chosen) for modality in drawn.modalities}
            except BadFile as bad:
                self.store.skip(row, bad)
                unusable.append(bad)
                available = available - {bad.modality}
                continue
            return Read(row, chosen, Unmasked(contents, drawn, rng), unusable)


def _nothing(samples: int) -> str:
    return f"none of the {counted(samples, 'sample')} has inputs and targets for any component of masking.mixture"
