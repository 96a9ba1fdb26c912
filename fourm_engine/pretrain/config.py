"""The sections `loss` and `extend` of a config: how the modalities' losses are combined, and how a trained model
grows."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """The loss of a step is the average over modalities of each one's mean cross-entropy (4M, section 2.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: "present": over the modalities that the step has targets of. "all": over every modality that can be a target, so
    #: that an absent one counts as 0, as in the published models.
    average_over: Literal["present", "all"] = "present"
    #: Targets that are the steps of a scale, such as coordinates of boxes, are spread over their neighbours as a normal
    #: distribution whose standard deviation is this share of the scale, so that few samples teach where things are; 0,
    #: as in the published models: near counts as wrong as far.
    neighbours: float = Field(default=0.0, ge=0, le=0.5)
