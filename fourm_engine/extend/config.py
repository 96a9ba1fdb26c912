"""The `extend` section of a config: extending a trained model with new modalities."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fourm_engine.nn.config import LoraConfig


class ExtendConfig(BaseModel):
    """Extends a trained model with new modalities; written by `fourm extend`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Folder of the run or exported model to extend, or a Hub id.
    source: str
    #: The new modalities.
    add: list[str] = Field(min_length=1)
    #: What is trained: `rows`, only the parameters of the new modalities (table rows, modality vectors, projections,
    #: positions), while everything else keeps every bit; `lora`, also adapters in every block, merged at the end;
    #: `all`, every weight.
    train: Literal["rows", "lora", "all"] = "rows"
    #: The adapters of `lora`.
    lora: LoraConfig = LoraConfig()
    #: Share of the training samples drawn from `masking.mixture`, whose `"*"` includes the new modalities. Of the
    #: others, two thirds have a new modality as target and a third as input. null: 0.5, or 0 with `rows`, which cannot
    #: forget.
    replay: float | None = Field(default=None, ge=0, le=1)

    @field_validator("add")
    @classmethod
    def _once(cls, add: list[str]) -> list[str]:
        if twice := [name for name in add if add.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} appears twice")
        return add

    @property
    def replay_share(self) -> float:
        return self.replay if self.replay is not None else 0.0 if self.train == "rows" else 0.5
