"""The section `loss` of a config: how the modalities' losses are combined."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class LossConfig(BaseModel):
    """The loss of a step is an average over modalities of each one's mean cross-entropy (4M, section 2.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: "present": over the modalities that the step has targets of. "all": over every modality that can be a target, so
    #: that an absent one counts as 0, as in the published models.
    #: "shares": over those present, each weighted by its number of targets over the tokens that it holds, so that one
    #: of which little is asked for counts little.
    average_over: Literal["present", "all", "shares"] = "present"
