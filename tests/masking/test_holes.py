"""The masker "holes": from one block in the middle of what is shown to scattered targets."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.masking.holes import HoleMasker
from fourm_engine.modalities import ModalitiesConfig, load_manager
from tests.grids import features, map_spec, text_spec

SPEC = map_spec(features(), tokens=8)
IDS = np.arange(100, 164)


def masked(inputs, targets, seed=0):
    masker = HoleMasker(SPEC)
    return masker.mask(IDS, input_budget=inputs, target_budget=targets, keep="random", rng=np.random.default_rng(seed))


@pytest.mark.parametrize(("inputs", "targets"), [(40, 64), (0, 64), (64, 10), (20, 8), (-1, 3)])
def test_budgets_are_kept_and_no_token_is_both_shown_and_asked_for(inputs, targets):
    m = masked(inputs, targets)
    shown = min(max(inputs, 0), 64)
    assert len(m.input_ids) == shown
    assert len(m.labels) == min(targets, 64 - shown)
    assert not set(m.input_pos) & set(m.target_pos)
    assert (m.input_ids == IDS[m.input_pos]).all()
    assert (m.labels == IDS[m.target_pos]).all()


def test_targets_lie_together_more_than_scattered_ones_and_sometimes_in_one_block():
    def boxed(positions):  # cells of the smallest rectangle around them
        rows, columns = np.divmod(positions, 8)
        return (np.ptp(rows) + 1) * (np.ptp(columns) + 1)

    sizes = np.array([boxed(masked(52, 64, seed).target_pos) for seed in range(200)])
    assert (sizes <= 20).mean() > 0.1  # of 12 targets
    assert (sizes >= 49).mean() > 0.1


def test_it_is_installed_by_name_and_for_grids_alone():
    assert load_manager(ModalitiesConfig()).masker_class("holes") is HoleMasker
    with pytest.raises(ValueError, match="'holes' is for grids"):
        HoleMasker(text_spec())
