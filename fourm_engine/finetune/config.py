"""The `finetune` section of a config: training that starts from a model's weights."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.nn.config import LoraConfig


class FinetuneConfig(BaseModel):
    """Starts from a trained model. Its shape, the settings of its modalities and its tokenizers are those of the run
    where the config says nothing else. A modality at another size keeps its rows; its positions are interpolated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Folder of a run or of an exported model, a published model (file or folder), or a Hub id.
    source: str
    #: Draw all weights anew, and take only the shape, modalities and tokenizers from the source: for comparison.
    from_scratch: bool = False
    #: Parameters to freeze, by name or prefix, with `*` for any part, such as `encoder` or `embedding.*_table`. null:
    #: none, or with `lora` all.
    freeze: list[str] | None = Field(default=None, min_length=1)
    #: Low-rank adapters, merged into the exported model; the adapted matrices are frozen. null: none.
    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _learns(self) -> FinetuneConfig:
        if self.from_scratch and (self.freeze is not None or self.lora is not None):
            other = "freeze" if self.freeze is not None else "lora"
            raise ValueError(f"from_scratch draws weights that {other} would keep from learning; leave one of them out")
        return self

    def identity(self, digest: str) -> dict[str, Any]:
        """The section's part of `Task.identity`. `digest`: of the source's weights."""
        facts = {f"finetune.{name}": value for name, value in self.model_dump(mode="json").items()}
        return facts | {"finetune.source": digest}
