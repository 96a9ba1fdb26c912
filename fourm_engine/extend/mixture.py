"""The masking strategies that train and evaluate an extension, derived from the run's.

In: the run's `MaskingConfig` and the specs of the new modalities. Out: configs of the same capacities, so that batches
keep their shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from fourm_engine.masking.config import Component, MaskingConfig
from fourm_plugins.spec import ModalitySpec

#: Share of the new modalities' samples that have one as target; the others have one as input.
AS_TARGET = 2 / 3


def extended(masking: MaskingConfig, new: Sequence[ModalitySpec], replay: float) -> MaskingConfig:
    """The training mixture: a share `replay` of samples as in `masking`, the others on the new modalities."""
    weights = [(component, component.weight * replay) for component in masking.mixture]
    total = sum(component.weight for component in masking.mixture)
    for spec in new:
        to, shown = as_target(masking, spec), as_input(spec, new)
        share = total * (1 - replay) / len(new)
        targets = share * (AS_TARGET if shown else 1.0) if to else 0.0
        weights += [(component, targets * component.weight) for component in to]
        weights += [(component, share - targets) for component in shown]
    return only(masking, [c.model_copy(update={"weight": weight}) for c, weight in weights if weight > 0])


def known(masking: MaskingConfig, new: Sequence[ModalitySpec]) -> MaskingConfig:
    """The mixture before the extension: new modalities are neither inputs nor targets."""
    zeros = {spec.name: 0.0 for spec in new}
    kept = []
    for component in masking.mixture:
        c = component.model_copy(update={"input": component.input | zeros, "target": component.target | zeros})
        if _positive(c.target) and (_positive(c.input) or masking.input_range(c)[1] == 0):
            kept.append(c)
    return only(masking, kept or [Component(name="any to any", input={"*": 0.5} | zeros, target={"*": 0.5} | zeros)])


def as_target(masking: MaskingConfig, spec: ModalitySpec) -> list[Component]:
    """Every strategy of the run with its inputs, and the new modality as its only target. Weights sum to 1; empty if it
    cannot be a target."""
    if not spec.target:
        return []
    components = []
    for c in masking.mixture:
        shown = c.input | {spec.name: 0.0}
        if _positive(shown) or masking.input_range(c)[1] == 0:
            ignored = tuple(name for name in c.ignore if name != spec.name)
            changes = {"name": f"{c.name} | to {spec.name}", "input": shown, "target": {spec.name: 1.0}}
            components.append(c.model_copy(update=changes | {"ignore": ignored}))
    if not components:
        components = [Component(name=f"to {spec.name}", input={"*": 0.5, spec.name: 0.0}, target={spec.name: 1.0})]
    total = sum(c.weight for c in components)
    return [c.model_copy(update={"weight": c.weight / total}) for c in components]


def as_input(spec: ModalitySpec, new: Sequence[ModalitySpec]) -> list[Component]:
    """From the new modality alone to every known one; empty if it cannot be an input."""
    if not spec.input:
        return []
    target = {"*": 0.5} | {other.name: 0.0 for other in new}
    return [Component(name=f"from {spec.name}", input={spec.name: 1.0}, target=target, keep={"*": "all"})]


def only(masking: MaskingConfig, components: Sequence[Component]) -> MaskingConfig:
    """`masking` with other strategies, for batches of the same shape."""
    capacities = {"encoder_capacity": masking.encoder_tokens, "decoder_capacity": masking.decoder_tokens}
    return MaskingConfig.model_validate(masking.model_dump() | capacities | {"mixture": tuple(components)})


def _positive(alphas: dict[str, float]) -> bool:
    return any(alpha > 0 for alpha in alphas.values())
