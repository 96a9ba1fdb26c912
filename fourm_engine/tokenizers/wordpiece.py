"""WordPiece for sequences: captions, boxes as text, any words. Kind `wordpiece`.

In: strings. Out: int64 ids without an end marker. The ids are laid out as in the published models:

    [PAD] 0   [UNK] 1   [SOS] 2   [EOS] 3   sentinels [S_0]…[S_199] 4…203   coordinates v0=0…v3=999 from 204
    then `words` (class names, one id each, also where they stand in running text), then pieces of words

Text is lower-cased, accents are stripped, and it is split at white space and punctuation before it is cut into pieces.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from pydantic import Field, field_validator, model_validator
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from fourm_plugins.errors import check_permitted, one_line
from fourm_plugins.settings import Settings
from fourm_plugins.spec import ModalitySpec, Text
from fourm_plugins.tokenizer import TextTokenizer

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[SOS]", "[EOS]"
SENTINELS = tuple(f"[S_{i}]" for i in range(200))
CONTROL = (PAD, UNKNOWN, START, END, *SENTINELS)
COORDINATES = 4  # v0…v3: xmin, ymin, xmax, ymax
CONTINUES = "##"  # begins a piece that continues a word
#: Always in the vocabulary, so that any text can be spelt.
ALPHABET = string.ascii_lowercase + string.digits
MIN_COUNT = 2  # a pair seen once is not a pattern
FILE = "wordpiece.json"
MAX_FILE_BYTES = 1 << 26


class WordPieceSettings(Settings):
    """`words` are class names and other terms that stay whole."""

    #: Steps into which box coordinates divide the width and the height of a picture.
    coordinate_bins: int = Field(default=1000, ge=1, le=10000)
    words: tuple[str, ...] = ()
    #: A vocabulary in the JSON format of the `tokenizers` library, used as it is instead of learning one. Coordinates
    #: and words are then the file's.
    vocabulary: Path | None = None

    @field_validator("words")
    @classmethod
    def _clean(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        lowered = [word.lower() for word in words]
        for word in words:
            if not word.strip() or word != " ".join(word.split()):
                raise ValueError(f"words: {word!r} is empty or has stray white space")
            if lowered.count(word.lower()) > 1:
                raise ValueError(f"words: {word!r} appears twice (upper and lower case are one)")
            if word in CONTROL or _COORDINATE.fullmatch(word):
                raise ValueError(f"words: {word!r} is a special token already")
        return words

    @model_validator(mode="after")
    def _one_source(self) -> WordPieceSettings:
        if self.vocabulary is not None and self.words:
            raise ValueError("words cannot be added to a vocabulary that is loaded; leave one of them out")
        return self


#: Components of a file of the `tokenizers` library, and their permitted values.
_PARTS: dict[str, tuple[str | None, ...]] = {
    "model": ("WordPiece",),
    "normalizer": ("BertNormalizer",),
    "pre_tokenizer": ("BertPreTokenizer",),
    "decoder": ("WordPiece", None),
    "post_processor": (None,),
    "truncation": (None,),
    "padding": (None,),
}
_COORDINATE = re.compile(r"v[0-3]=\d+")
#: Spaces that the library's decoder leaves between tokens and no text has: "right : a ( small ) cube".
_STRAY_SPACE = re.compile(r" (?=[:;)])|(?<=\() ")


class WordPieceTokenizer(TextTokenizer):
    """One instance serves every modality of a shared token space."""

    kind = "wordpiece"
    Settings = WordPieceSettings

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        super().__init__(specs, **settings)
        for spec in self.specs:
            if not isinstance(spec.array, Text):
                raise ValueError(f"{spec.name}: a wordpiece tokenizer takes text, not a {spec.array.kind}")
        self._names = "/".join(spec.name for spec in self.specs)
        self._max_characters = max(s.array.max_characters for s in self.specs if isinstance(s.array, Text))
        self._decoder = decoders.WordPiece(prefix=CONTINUES, cleanup=True)
        first = len(CONTROL) + COORDINATES * self.settings.coordinate_bins
        self._words: dict[int, str] = dict(enumerate(self.settings.words, first))
        self._use(self._untrained())

    def _special(self) -> list[AddedToken]:
        if self.settings.vocabulary is not None:  # the file contains its own vocabulary
            return [AddedToken(text, special=True, normalized=False) for text in CONTROL]
        bins = range(self.settings.coordinate_bins)
        coordinates = [f"v{axis}={i}" for axis in range(COORDINATES) for i in bins]
        tokens = [AddedToken(text, special=True, normalized=False) for text in (PAD, UNKNOWN, START, END)]
        for text in (*SENTINELS, *coordinates):
            tokens.append(AddedToken(text, special=True, normalized=False, single_word=True))
        # `normalized`: words are found in text of any case.
        words = [AddedToken(text, special=True, normalized=True, single_word=True) for text in self.settings.words]
        return tokens + words

    def _untrained(self, pieces: Iterable[str] = ()) -> tokenizers.Tokenizer:
        special = self._special()
        if len(special) > self.size:
            raise ValueError(
                f"{self._names}: a token space of {self.size} ids does not hold {len(special)} special tokens "
                f"({COORDINATES} x {self.settings.coordinate_bins} coordinates, {len(self.settings.words)} words); "
                f"enlarge it or lower coordinate_bins"
            )
        vocabulary: dict[str, int] = {}
        for text in [*(token.content for token in special), *pieces]:
            vocabulary.setdefault(text, len(vocabulary))
        model = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
        model.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
        )
        model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        model.decoder = self._decoder
        model.add_special_tokens(special)
        return model

    def _use(self, model: tokenizers.Tokenizer) -> None:
        """Use a vocabulary. Raises ValueError if it lacks special tokens or is too large."""
        ids: dict[str, int] = {}
        for text in CONTROL:
            id_ = model.token_to_id(text)
            if id_ is None:
                raise ValueError(f"{self._names}: the vocabulary has no {text}; it is not a vocabulary of this format")
            ids[text] = id_
        if model.get_vocab_size() > self.size:
            raise ValueError(
                f"{self._names}: the vocabulary has {model.get_vocab_size()} ids, its token space {self.size}; set the "
                f"space's size to {model.get_vocab_size()}"
            )
        if (highest := max(model.get_vocab().values())) >= self.size:
            raise ValueError(f"{self._names}: the vocabulary has the id {highest}, its token space {self.size} ids")
        self._model = model
        self._control = frozenset(ids.values())
        self._unknown = ids[UNKNOWN]
        self._end = ids[END]
        self._sentinels = tuple(ids[text] for text in SENTINELS)

    @property
    def end_id(self) -> int:
        return self._end

    @property
    def ordinal_ranges(self) -> Sequence[range]:
        """The ids of each coordinate's steps."""
        ranges, id_of = list[range](), self._model.token_to_id
        for axis in range(COORDINATES):
            if (first := id_of(f"v{axis}=0")) is not None:
                steps = 1
                while id_of(f"v{axis}={steps}") == first + steps:
                    steps += 1
                ranges.append(range(first, first + steps))
        return tuple(ranges)

    @property
    def sentinel_ids(self) -> Sequence[int]:
        return self._sentinels

    @property
    def fingerprint(self) -> str:
        # A vocabulary's path does not matter: its content is part of the model.
        settings = self.settings.model_dump(mode="json", exclude={"vocabulary"})
        facts = [self.kind, settings, self.size, json.loads(self._model.to_str())]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def starting_point(self) -> str:
        """Digest of the vocabulary's file; "" if one is learnt."""
        path = self.settings.vocabulary
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path is not None and path.is_file() else ""

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Learn pieces until the token space is full or no pair of pieces occurs twice."""
        if self.settings.vocabulary is not None:
            self._read(self.settings.vocabulary)
            return {"size": float(self._model.get_vocab_size())}
        self._use(self._untrained(self._learn(arrays, self.size - len(self._special()))))
        return {"size": float(self._model.get_vocab_size())}

    def _learn(self, arrays: Callable[[], Iterable[Any]], room: int) -> list[str]:
        """At most `room` pieces: single characters, then merged pieces as the library's trainer found them.

        The trainer breaks ties between equally frequent pairs by the ids of their parts. By default it numbers
        characters within words in the order of a hash table whose seed differs in each process; here they are all
        passed in a fixed order, so that the same texts always give the same pieces."""
        model = self._untrained()

        def plain() -> Iterable[str]:
            for text in arrays():
                self._check_text(text)
                yield model.normalizer.normalize_str(_COORDINATE.sub(" ", text))

        counts: Counter[str] = Counter()
        for text in plain():
            counts.update(text)
        rare_last = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
        characters = [*ALPHABET, *(CONTINUES + c for c in ALPHABET), *string.punctuation]
        characters = list(dict.fromkeys([*characters, *(p for c in rare_last for p in (c, CONTINUES + c))]))
        if len(characters) >= room:
            return characters[:room]
        learner = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        learner.pre_tokenizer = model.pre_tokenizer
        trainer = trainers.WordPieceTrainer(
            vocab_size=room,
            min_frequency=MIN_COUNT,
            show_progress=False,
            special_tokens=characters,
            limit_alphabet=0,  # in addition to those passed
            continuing_subword_prefix=CONTINUES,
        )
        learner.train_from_iterator(plain(), trainer)
        ids = learner.get_vocab()
        return sorted(ids, key=ids.__getitem__)[:room]

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        for text in arrays:
            self._check_text(text)
        # "[EOS]" in a caption is five characters of text, not the end: control tokens are never parsed from text.
        drop = self._control - {self._unknown}
        encoded = self._model.encode_batch(list(arrays), add_special_tokens=False)
        return [np.array([i for i in e.ids if i not in drop], np.int64) for e in encoded]

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        """Strings without control tokens and [UNK]; coordinates and words are kept. Ids without a token are skipped."""
        return [self._decode(np.asarray(row).tolist()) for row in ids]

    def _decode(self, ids: list[int]) -> str:
        # The library stores words in lower case only.
        texts = [self._words.get(i) or self._model.id_to_token(i) for i in ids if i not in self._control]
        return _STRAY_SPACE.sub("", self._decoder.decode([text for text in texts if text is not None]))

    def _check_text(self, text: Any) -> None:
        if not isinstance(text, str):
            raise ValueError(f"{self._names}: expected a string, found {type(text).__name__}")
        if len(text) > self._max_characters:
            raise ValueError(
                f"{self._names}: a text of {len(text)} characters, at most {self._max_characters} are taken; shorten "
                f"it or raise the modality's max_characters"
            )

    def _read(self, path: Path) -> None:
        check_permitted(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes; this is not a vocabulary")
            text = path.read_text(encoding="utf-8")
            _check_form(json.loads(text))
            model = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            reason = one_line(error)
            raise ValueError(f"{path}: not a WordPiece vocabulary: {reason}; fit it again") from None
        self._use(model)

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(self._model.to_str(), encoding="utf-8")

    def load(self, folder: Path) -> None:
        self._read(folder / FILE)


def _check_form(data: Any) -> None:
    """Raise ValueError unless this is a vocabulary of the expected format. The library's files may contain much more,
    such as padding to any length, or replacements that turn a short text into a long one."""
    for part, known in _PARTS.items():
        value = data.get(part)
        kind = value.get("type", "an object") if isinstance(value, dict) else value
        if kind not in known:
            raise ValueError(f"its {part} is {kind!r:.40}, not {known[0]!r}")
