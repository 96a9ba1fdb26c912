"""DepthLabeller: depth from pictures, with a depth estimation model of `transformers` (Depth Anything, ZoeDepth, …).

In: pictures uint8 (H, W, 3). Out: float32 (H, W). A model that predicts metres gives metres. One that predicts inverse
depth up to an unknown scale and offset gives depths from 1 (the nearest point) to `far` (the farthest), which tell what
is in front of what, but nothing about metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fourm_plugins import Labeller, SampleError
from fourm_plugins.labelling import NetworkOptions, PictureNetwork

Output = Literal["metric", "inverse"]

#: Model types whose published models all predict metres. Others say what they predict in their config, or not at all.
_METRIC = ("zoedepth", "glpn", "depth_pro")


class DepthOptions(NetworkOptions):
    #: What the model predicts: metres, or inverse depth up to scale and offset; `auto` trusts its config.
    output: Literal["auto", "metric", "inverse"] = "auto"
    #: For inverse depth: how many times as far as a picture's nearest point its farthest is assumed to be.
    far: float = Field(default=20.0, gt=1)


class DepthLabeller(Labeller):
    """`output` says what the labels are. Raises ValueError if neither the model nor an option does."""

    def __init__(self, model: str, options: DepthOptions) -> None:
        kinds = ("AutoModelForDepthEstimation",)
        self._net = PictureNetwork(model, kinds, what="a depth model", install="fourm-depth[label]", options=options)
        self.output: Output = _output_of(model, self._net.config) if options.output == "auto" else options.output
        self._far = options.far

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        def compute(inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Any]:
            depths = self._net.processor.post_process_depth_estimation(self._net.network(**inputs), target_sizes=sizes)
            return [x["predicted_depth"].float().cpu().numpy() for x in depths]

        return [self._depth(predicted) for predicted in self._net.run(values, compute)]

    def _depth(self, predicted_HW: np.ndarray) -> np.ndarray | SampleError:
        known = np.isfinite(predicted_HW)
        if self.output == "metric":
            known &= predicted_HW > 0
            if not known.any():
                return SampleError("the model predicts no positive depth anywhere")
            return np.where(known, predicted_HW, np.nan).astype(np.float32)
        if not known.any():
            return SampleError("the model predicts nothing finite")
        low, high = predicted_HW[known].min(), predicted_HW[known].max()
        nearness = (predicted_HW - low) / max(high - low, 1e-12)  # 1 at the nearest point, 0 at the farthest
        return np.where(known, 1 / (1 / self._far + (1 - 1 / self._far) * nearness), np.nan).astype(np.float32)


def _output_of(model: str, config: Any) -> Output:
    estimated = getattr(config, "depth_estimation_type", None)  # of Depth Anything
    if estimated == "metric" or config.model_type in _METRIC:
        return "metric"
    if estimated == "relative":
        return "inverse"
    raise ValueError(
        f"{model}: a {config.model_type} does not say whether it predicts metres; give the option output: metric, or "
        f"output: inverse (as the models after MiDaS do)"
    )
