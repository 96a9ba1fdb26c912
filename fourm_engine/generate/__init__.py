"""Generation: a plan of stages, the sampler that executes it, and what comes out."""

from fourm_engine.generate.inputs import Condition
from fourm_engine.generate.plan import Stage, default_plan
from fourm_engine.generate.result import Generated

__all__ = ["Condition", "Generated", "Stage", "default_plan"]
