"""The section `loss` of a config: how the modalities' losses are combined."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class LossConfig(BaseModel):
    """The loss of a step is an average over modalities of each one's mean cross-entropy (4M, section 2.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Average over: `present`, the modalities that have targets in the step; `all` that can be a target, an absent one
    #: counting as 0, as in the published models; `shares`, those present, each weighted by the share of its tokens that
    #: are targets, so that a modality of which the step predicts little counts little.
    average_over: Literal["present", "all", "shares"] = "present"
