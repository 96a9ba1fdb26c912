"""Held-out samples that show one input, or one set of inputs, and predict every other modality.

In: the held-out samples of a run. Out: the same samples with other masks, in the shape of the run's batches, so that a
matrix of losses from each input to each target costs a few forward passes and no recompilation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_plugins.spec import ModalitySpec

NOTHING = "nothing"
#: Concentration so large that every modality gets its equal share of a total.
EVEN = 1000.0


def paired(
    held_out: MaskedSamples, specs: Mapping[str, ModalitySpec], inputs: Sequence[Sequence[str]] | None
) -> dict[str, MaskedSamples]:
    """Label of the inputs ("a", "a + b", "nothing") -> `held_out` with only these inputs. `inputs`: sets of modalities;
    None: the empty set, and each possible input that occurs in a sample, alone.

    The encoder's rows are filled with as many input tokens as fit; the targets share the decoder's rows evenly.

    Raises ValueError for a modality that cannot be an input, and for a set that no held-out sample has."""
    kinds = held_out.store.kinds()
    if inputs is None:
        alone = [[name] for name, spec in sorted(specs.items()) if spec.input]
        inputs = [[], *(names for names in alone if any(names[0] in kind for kind in kinds))]
    sets = {}
    for names in inputs:
        if unknown := [name for name in names if name not in specs or not specs[name].input]:
            known = ", ".join(name for name, spec in sorted(specs.items()) if spec.input)
            raise ValueError(f"train.pairs_inputs: {unknown[0]!r} is not an input of this run; there are {known}")
        if not any(spec.target and name not in names for name, spec in specs.items()):
            continue
        budgets = Budgets(_masking(held_out.masking, names), specs.values())
        if not any(map(budgets.serve, kinds)):
            raise ValueError(f"train.pairs_inputs: no held-out sample has {' and '.join(names)} and another target")
        sets[" + ".join(names) or NOTHING] = MaskedSamples(
            held_out.store, budgets, held_out.mask.maskers, held_out.vocabulary, seed=held_out.seed
        )
    return sets


def _masking(masking: MaskingConfig, names: Sequence[str]) -> MaskingConfig:
    """`masking` with `names` as inputs and everything else as targets, in batches of the same shape."""
    shown, predicted = masking.encoder_tokens if names else 0, masking.decoder_tokens
    component = Component(
        name=" + ".join(names) or NOTHING,
        input=dict.fromkeys(names, EVEN),
        target={"*": EVEN, **dict.fromkeys(names, 0.0)},
        keep={"*": "all"},
        require=tuple(names),
    )
    return MaskingConfig(
        input_tokens=(shown, shown),
        target_tokens=(predicted, predicted),
        encoder_capacity=masking.encoder_tokens,
        decoder_capacity=predicted,
        mixture=(component,),
    )
