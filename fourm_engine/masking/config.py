"""The `masking` section of a config: a mixture of strategies, each a pair of distributions of tokens over modalities
(4M, arXiv 2312.06647, section 2.3 and appendix on masking; the mixtures of 4M-21, arXiv 2406.09406)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fourm_plugins.spec import ModalitySpec

#: Far more than any sample has: memory and time of a draw grow with the number.
MAX_TOKENS = 1 << 24
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Capacity = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


def _as_range(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_range(value: Any) -> Any:
    value = _as_range(value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) for v in value):
        lo, hi = value
        if not 0 <= lo <= hi <= MAX_TOKENS:
            most = f"{MAX_TOKENS:,}"
            raise ValueError(f"tokens {lo} to {hi}: give a number, or [low, high] with 0 <= low <= high <= {most}")
    return value


def _check_count(value: Any) -> Any:
    if value == "all":
        return value
    value = _check_range(value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int for v in value):
        return value
    raise ValueError("give a number of tokens, [least, most], or all")


#: An inclusive range of tokens, a single number n being n to n; or "all": as many as the modalities hold that a
#: strategy shows, or asks for; see `MaskingConfig.counted`.
TokenCount = Annotated[tuple[int, int] | Literal["all"], BeforeValidator(_check_count)]
Alpha = Annotated[float, Field(ge=0, le=1e6)]
Keep = Literal["random", "all", "binary"]
#: How a total is divided among modalities; see `fourm_engine.masking.samplers`.
Sampler = Literal["dirichlet", "fill", "aion"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Component(BaseModel):
    """One strategy of the mixture. Keys of `input`, `target` and `keep` are names of modalities; "*" means every
    modality that is not named there and can be an input (target). To exclude one from the wildcard, name it with 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: For messages and reports.
    name: str
    #: How often it is drawn, relative to the others.
    weight: float = Field(default=1.0, gt=0)
    #: {modality: Dirichlet concentration}: a large one alone takes all tokens, 0 never any. With the sampler `aion`,
    #: weights: twice as large is filled first twice as often. `"*"`: all modalities not named.
    input: dict[str, Alpha] = Field(default_factory=lambda: {"*": 0.5})
    target: dict[str, Alpha] = Field(default_factory=lambda: {"*": 0.5})
    #: {modality: how much of a sequence is shown}: `random`, a share drawn uniformly; `all` that fits; `binary`, all or
    #: nothing.
    keep: dict[str, Keep] = Field(default={"*": "random"})
    #: Token totals of this strategy; null: those of `masking`. 0 inputs: nothing is shown.
    input_tokens: TokenCount | None = None
    target_tokens: TokenCount | None = None
    #: How the totals are divided; null: as in `masking`.
    sampler: Sampler | None = None
    #: Drawn only for samples that have all of these modalities, whether or not they are inputs or targets.
    require: tuple[str, ...] = ()
    #: {modality: factor} that multiplies the weight for samples that have the modality: above 1 prefers them, below 1
    #: avoids them.
    prefer: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    #: Modalities that are neither inputs nor targets, as if samples lacked them.
    ignore: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Component:
        for setting in ("require", "prefer", "ignore"):
            if "*" in getattr(self, setting):
                raise ValueError(f'component {self.name!r}: {setting} has "*"; name the modalities')
        used = {name for alphas in (self.input, self.target) for name, alpha in alphas.items() if alpha > 0}
        for name in self.ignore:
            if name in used:
                raise ValueError(f"component {self.name!r} ignores {name!r}, one of its inputs or targets; remove one")
        return self


class MaskingConfig(BaseModel):
    """Totals of input and target tokens per sample, drawn uniformly from inclusive ranges, and the mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Token totals per sample: a number, a range [low, high] drawn uniformly, or `all`.
    input_tokens: TokenCount = (128, 128)
    target_tokens: TokenCount = (128, 128)
    #: {modality: tokens}, the fewest and most of a modality on either side; by default 0, and all that it has. Tokens
    #: above the maximum are lost.
    min_tokens: dict[str, Tokens] = Field(default_factory=dict)
    max_tokens: dict[str, Tokens] = Field(default_factory=dict)
    #: How often a draw that leaves a modality below its minimum is repeated.
    max_tries: int = Field(default=100, ge=1)
    #: How totals are divided among modalities: `dirichlet` as in 4M; `fill`, likewise, but what one modality cannot
    #: take goes to the others; `aion`, for modalities of very different lengths.
    sampler: Sampler = "dirichlet"
    #: With `aion`: the Beta(a, b) distribution of the share of a modality that becomes target; a < b favours few.
    beta: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 1.0)
    #: {modality: probability} of hiding a modality from a sample's inputs; it may still be a target. `"*"`: all
    #: modalities not named. Nothing is dropped if no component would be left.
    input_dropout: dict[str, Probability] = Field(default_factory=dict)
    #: Rows of a sample in the encoder and in the decoder, padding included; null: the largest totals.
    encoder_capacity: Capacity | None = None
    decoder_capacity: Capacity | None = None
    #: The strategies; each sample draws one of those that it can serve.
    mixture: tuple[Component, ...] = Field(default=(Component(name="all2all"),), min_length=1)

    def input_range(self, component: Component) -> tuple[int, int]:
        return _numbers(component.input_tokens or self.input_tokens)

    def target_range(self, component: Component) -> tuple[int, int]:
        return _numbers(component.target_tokens or self.target_tokens)

    @property
    def open(self) -> bool:
        """Whether a total is "all", which is a number only once the modalities are known: until then ranges and the
        shape of a batch raise ValueError."""
        totals = [self.input_tokens, self.target_tokens]
        return "all" in [*totals, *(n for c in self.mixture for n in (c.input_tokens, c.target_tokens))]

    def counted(self, specs: Iterable[ModalitySpec]) -> MaskingConfig:
        """The same with numbers in place of "all". Raises ValueError for totals above the capacities."""
        if not self.open:
            return self
        specs, mixture = list(specs), []
        for component in self.mixture:
            totals: dict[str, TokenCount] = {}
            for side in ("input", "target"):
                alphas, given = getattr(component, side), getattr(component, f"{side}_tokens")
                totals[f"{side}_tokens"] = given or getattr(self, f"{side}_tokens")
                if totals[f"{side}_tokens"] == "all":
                    able = [s for s in specs if getattr(s, side) and s.name not in component.ignore]
                    used = [s for s in able if alphas.get(s.name, alphas.get("*", 0.0)) > 0]
                    held = sum(min(s.layout.num_tokens, self.max_tokens.get(s.name, 1 << 30)) for s in used)
                    totals[f"{side}_tokens"] = (max(1, held),) * 2
            mixture.append(component.model_copy(update=totals))
        # Every component now has its totals.
        closed = {key: (1, 1) for key in ("input_tokens", "target_tokens") if getattr(self, key) == "all"}
        try:
            return MaskingConfig.model_validate(self.model_dump() | closed | {"mixture": tuple(mixture)})
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"masking: with all tokens counted, {why}") from None

    @property
    def encoder_tokens(self) -> int:
        """N, the encoder's rows of every batch; at least 1."""
        return self.encoder_capacity or max(1, *(self.input_range(c)[1] for c in self.mixture))

    @property
    def sample_tokens(self) -> int:
        """Input and target tokens per sample in a batch, padding included."""
        return self.encoder_tokens + self.decoder_tokens

    @property
    def decoder_tokens(self) -> int:
        """M, the decoder's rows of every batch."""
        return self.decoder_capacity or max(1, *(self.target_range(c)[1] for c in self.mixture))

    @model_validator(mode="after")
    def _consistent(self) -> MaskingConfig:
        for name, least in self.min_tokens.items():
            if least > self.max_tokens.get(name, least):
                raise ValueError(f"min_tokens of {name!r} is {least}, above its max_tokens {self.max_tokens[name]}")
        names = [component.name for component in self.mixture]
        if len(set(names)) != len(names):
            raise ValueError(f"two components of the mixture have the same name: {', '.join(names)}; rename one")
        for component in () if self.open else self.mixture:
            for what, (_, high), capacity in (
                ("input", self.input_range(component), self.encoder_tokens),
                ("target", self.target_range(component), self.decoder_tokens),
            ):
                if high > capacity:
                    drawn = f"component {component.name!r} draws up to {high} {what} tokens"
                    remedy = f"raise the capacity or lower {what}_tokens"
                    raise ValueError(f"{drawn}, but the batch holds {capacity}; {remedy}")
            if self.target_range(component)[0] == 0:
                raise ValueError(f"component {component.name!r} may ask for 0 target tokens; start target_tokens at 1")
        return self


def _numbers(total: TokenCount) -> tuple[int, int]:
    if isinstance(total, str):
        raise ValueError('tokens "all" are a number once the modalities are known')
    return total
