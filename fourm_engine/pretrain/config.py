"""The section `loss` of a config: how the modalities' losses are combined."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """The loss of a step is an average over modalities of each one's mean cross-entropy (4M, section 2.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Average over: `present`, the modalities that have targets in the step; `all` that can be a target, an absent one
    #: counting as 0, as in the published models; `shares`, those present, each weighted by the share of its tokens that
    #: are targets, so that a modality of which the step predicts little counts little.
    average_over: Literal["present", "all", "shares"] = "present"
    #: Number of ids that share a target: the true one and, the less the further their codes are from its code, those
    #: like it; as a perplexity (mc-BEiT, arXiv 2203.15371). For tokens that have codes; null: the true id alone, as in
    #: 4M. Against learning small data by heart; not part of held-out losses.
    soft_targets: float | None = Field(default=None, gt=1, le=1024)
