"""The section `loss` of a config: how the modalities' losses are combined."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """The loss of a step is an average over modalities of each one's mean cross-entropy (4M, section 2.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Average over: `present`, the modalities that have targets in the step; `all` that can be a target, an absent one
    #: counting as 0, as in the published models; `shares`, those present, each weighted by the share of its tokens that
    #: are targets, so that a modality of which the step predicts little counts little.
    average_over: Literal["present", "all", "shares"] = "present"
    #: {modality: number of ids that share its targets}, as a perplexity: the true one and, the less the further their
    #: codes are from its code, those like it (mc-BEiT, arXiv 2203.15371). For quantities, such as depth, of small data;
    #: other modalities have the true id alone, as in 4M. Held-out losses are those of the true ids.
    soft_targets: dict[str, Annotated[float, Field(gt=1, le=1024)]] = Field(default_factory=dict)
