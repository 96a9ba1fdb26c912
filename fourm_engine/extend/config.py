"""The `extend` section of a config: how a trained model grows by new modalities."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class LoraConfig(BaseModel):
    """Low-rank adapters beside every matrix of attention and MLP (LoRA, arXiv 2106.09685)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=8, ge=1, le=4096)
    #: What an adapter adds is scaled by alpha / rank.
    alpha: float = Field(default=16.0, gt=0)


class ExtendConfig(BaseModel):
    """A run that extends a trained model by new modalities; `fourm extend` writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Folder of the run or of the exported model that is extended, or a Hub id.
    source: str
    #: The new modalities.
    add: list[str] = Field(min_length=1)
    #: What learns. "rows": what the new modalities brought (rows of the tables, modality vectors, projections,
    #: positions) and nothing else, so that all else keeps its bits. "lora": these, and adapters in every block, which
    #: are added to the weights at the end. "all": every weight.
    train: Literal["rows", "lora", "all"] = "rows"
    lora: LoraConfig = LoraConfig()
    #: Share of the training samples drawn by `masking.mixture` as it stands, in which a "*" includes the new
    #: modalities. Of the others, two thirds ask for a new modality and a third shows one. null: 0.5, and with "rows",
    #: which cannot forget, 0.
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
