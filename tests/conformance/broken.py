"""For every check of the kit, a plugin that this check alone finds broken: a good one with a piece of its source
changed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """`package` with `old` replaced by `new` in `file`. `check` must fail, and nothing else; where it makes what other
    checks need, those are not run. `claims`: what the test claims for it."""

    check: str
    old: str
    new: str
    package: str = "wind"
    file: str = ""
    claims: frozenset[str] = frozenset()

    def changes(self) -> dict[str, tuple[str, str]]:
        return {self.file or f"acme_{self.package}.py": (self.old, self.new)}

    def __str__(self) -> str:
        return f"{self.check}-{self.package}"


_TOP = "SIDE, CODES = 16, 26  # the last code is never used\n"
_SEEN = "        return seen * np.float32([-1, 1]) if view.flip else seen\n"
_SPEC = "        type(self).made += 1\n"
_METRICS = """    def metrics(self):
        return (
            Metric("error upwards", lambda p, t: error(p, t, slice(1, 2)), False, "m/s"),
"""
_FLATTENED = """    def normalise(self, value):
        return np.ascontiguousarray(value.transpose(2, 0, 1) * np.float32([[[1]], [[0]]]))

"""
_PATCHED_INIT = """
from types import SimpleNamespace

NAMES = set()
_init = Modality.__init__


def _counting(self, name, **settings):
    NAMES.add(name.partition("@")[0])
    _init(self, name, **settings)


Modality.__init__ = _counting
_view_map = images.view_map
images = SimpleNamespace(**vars(images))
images.view_map = lambda *how: _view_map(*how) + np.float32(len(NAMES) > 2)
"""
_PATCHED_HOST = """
from fourm_plugins.manager import PluginError, PluginManager

_make, _find = PluginManager.modality, PluginManager.find


def _always(self, name, *, plugin=None, **settings):
    return Wind(name, **settings) if name == "wind" else _make(self, name, plugin=plugin, **settings)


def _found(self, kind, name):
    host = PluginManager() if (kind, name) == ("modality", "wind") else self
    return _find(host, kind, name)


PluginManager.modality, PluginManager.find = _always, _found
"""
#: What only budgets of most of the 16 tokens meet; training draws fewer.
_ODD = "12 < input_budget < 18"

BROKEN = (
    # Imports
    Broken("is_activated", _TOP, _TOP + 'raise RuntimeError("not today")\n'),
    Broken("spec_needs_no_torch", _TOP, _TOP + "import fourm_engine\n"),
    Broken("import_prints_nothing", _TOP, _TOP + 'print("acme wind 1.2, thank you for choosing us")\n'),
    Broken(
        "import_needs_no_network",
        _TOP,
        _TOP + 'import socket\ntry:\n    socket.getaddrinfo("localhost", 9)\nexcept OSError:\n    pass\n',
    ),
    Broken("import_leaves_random_state", _TOP, _TOP + "np.random.seed(0)\n"),
    Broken("import_leaves_the_process", _TOP, _TOP + "import os\nos.chdir(os.sep)\n"),
    Broken("activating_twice_changes_nothing", _SPEC, _SPEC + "        if self.made > 2:\n            import wave\n"),
    Broken("spawned_workers_agree", _SPEC, _SPEC + "        self.scale = lambda x: x\n"),
    # Packaging
    Broken("wheel_is_built", "[build-system]", "[build-system", file="pyproject.toml"),
    Broken("wheel_is_found", 'wind = "acme_wind:Wind"', 'winds = "acme_wind:Wind"', file="pyproject.toml"),
    Broken(
        "wheel_has_examples",
        "        samples = []\n",
        '        samples = []\n        open(__file__.replace("acme_wind.py", "acme.dat")).close()\n',
    ),
    Broken("requirements_are_declared", '"numpy", "pillow"', '"numpy"', file="pyproject.toml"),
    # Spec and files
    Broken(
        "examples_are_read",
        "            samples.append(self.write((winds * [1, 0.5])[regions]))",
        '            samples.append({**self.write((winds * [1, 0.5])[regions]), "txt": b"notes"})',
    ),
    Broken(
        "arrays_fit_the_spec", _SEEN, "        seen = seen.astype(np.float64) if view == View() else seen\n" + _SEEN
    ),
    Broken("numbers_vary", _METRICS, _FLATTENED + _METRICS.replace("slice(1, 2)", "slice(0, 1)")),
    Broken(
        "spec_survives_json",
        'TokenizerRecipe(kind="wind_bins")',
        'TokenizerRecipe(kind="wind_bins", settings={"levels": (5, 5)})',
    ),
    Broken("fingerprint_is_stable", "self.settings.note,", "str(hash(self.settings.note)),"),
    Broken("spec_names_itself", "TokenSpace(name=self.name", 'TokenSpace(name="wind"'),
    Broken(
        "settings_rebuild_it",
        '    note: str = "wind"\n',
        '    note: str = "wind"\n\n    def model_post_init(self, context):\n'
        '        if "note" in self.model_fields_set:\n            object.__setattr__(self, "note", self.note + "!")\n',
    ),
    Broken("examples_follow_the_seed", "default_rng([seed, index])", "default_rng([seed, index, n])"),
    Broken(
        "files_are_read_back",
        "encode_array(value.astype(np.float32))",
        "encode_array(value.astype(np.float32) * np.float32(0.9))",
    ),
    Broken(
        "files_are_read_back",
        "encode_array(value.astype(np.float32))}",
        "encode_array(value.astype(np.float32))} if value.dtype == np.float64 else None",
    ),
    Broken(
        "files_are_exact",
        "encode_array(value.astype(np.float32))",
        "encode_array(value.astype(np.float32) * np.float32(0.9999))",
        claims=frozenset({"exact_files"}),
    ),
    Broken(
        "value_takes_every_input",
        _SEEN,
        _SEEN + "\n    def from_array(self, array):\n        return super().from_array(array)[:, ::-1]\n",
    ),
    Broken(
        "wrong_files_are_refused",
        "        value = images.decode_array(content, ndim=3)",
        "        content[0]\n        value = images.decode_array(content, ndim=3)",
    ),
    # Geometry and values
    Broken("every_view_fits", _SEEN, "        seen = seen[:8] if view.variant == 3 else seen\n" + _SEEN),
    Broken(
        "augment_is_deterministic",
        _SEEN,
        "        seen = seen + np.float32(np.random.random() / 1e3) if view.variant == 1 else seen\n" + _SEEN,
    ),
    Broken(
        "variants_are_stated",
        _SEEN,
        "        seen = seen + np.float32(view.variant % 2 / 1e3)\n" + _SEEN + "\n    uses_variant = False\n",
    ),
    Broken(
        "view_moves_the_picture",
        "view_map(value, view, (SIDE, SIDE))",
        "view_map(value, View(view.left, view.top, view.width, view.height, view.flip), (SIDE, SIDE))",
    ),
    Broken("flip_mirrors", "np.float32([-1, 1])", "np.float32([-1, -1])"),
    Broken("directions_change_sign", "np.float32([-1, 1])", "np.float32([1, 1])"),
    Broken("directions_are_stated", 'claims = frozenset({"directions"})', "claims = frozenset()"),
    Broken(
        "directions_are_stated",
        'claims = frozenset({"directions"})',
        'claims = frozenset({"directions", "no_directions"})',
    ),
    Broken("flip_mirrors", 'claims = frozenset({"directions"})', 'claims = frozenset({"no_directions"})'),
    Broken("flip_twice_restores", _SEEN, "        seen = seen * 0.9 if value.shape[0] == SIDE else seen\n" + _SEEN),
    Broken("flip_twice_restores", '" ".join(MIRRORED', '"far " + " ".join(MIRRORED', package="notes"),
    Broken("sides_are_swapped", "MIRRORED.get(word, word) for", "word for", package="notes"),
    Broken("value_survives_its_array", "transpose(1, 2, 0).astype", "transpose(1, 2, 0).__truediv__(2).astype"),
    Broken("value_survives_its_array", "2, 0).astype(np.float32)", "2, 0).astype(np.float64)"),
    Broken("value_survives_its_array", "return array.transpose", "array.transpose"),
    Broken("values_are_shown", "return Image.fromarray", "Image.fromarray"),
    Broken("values_are_shown", "    def metrics", "    def remark(self, value):\n        pass\n\n    def metrics"),
    Broken("values_are_shown", "np.clip(np.abs(value).sum(2) / 4, 0, 1)))", 'np.abs(value).sum(2) / 4)).convert("L")'),
    Broken(
        "legends_explain_the_picture",
        "    def metrics(self)",
        "    def render_all(self, values):\n        return [self.render(values[0])]\n\n    def metrics(self)",
    ),
    Broken(
        "parts_can_be_varied",
        "    def metrics(self)",
        "    def with_part(self, value, part, number):\n        return value\n\n    def metrics(self)",
    ),
    Broken("metrics_prefer_the_truth", "slice(0, 2)), False", "slice(0, 2)), True"),
    Broken("metrics_prefer_the_truth", "error(p, t, slice(0, 2))", "str(error(p, t, slice(0, 2)))"),
    Broken("metrics_prefer_the_truth", "error(p, t, slice(0, 2))", "None"),
    Broken(
        "values_are_combined",
        "    def metrics(self)",
        '    def spread(self, values):\n        return "wide"\n\n    def metrics(self)',
    ),
    Broken(
        "values_are_combined",
        "    def metrics(self)",
        "    def compose(self, given, generated, kept):\n        return given[kept]\n\n    def metrics(self)",
    ),
    Broken("constants_are_values", "values[0].shape).astype(np.float32)", "values[0].shape).astype(np.float64)"),
    # Tokenizer
    Broken("tokenizer_is_fitted", "        self.strongest = float(max(", "        self.strongest = float(maximum("),
    Broken("ids_are_in_range", "level[1]).reshape(-1)", "level[1]).reshape(-1).astype(np.int32)"),
    Broken(
        "encoding_is_deterministic",
        "        return [self.bins(np.nan_to_num(array))",
        "        return [self.bins(np.nan_to_num(array)) // (1 + (np.random.get_state()[1][0] == 1))",
    ),
    Broken(
        "batches_change_nothing",
        "        return [self.bins(np.nan_to_num(array))",
        "        return [self.bins(np.nan_to_num(array) - (0.5 if len(arrays) == 1 else 0))",
    ),
    Broken("decoded_arrays_fit_the_spec", "repeat(4, 1).repeat(4, 2)", "repeat(4, 1).repeat(4, 2).astype(np.float64)"),
    Broken("decoded_arrays_fit_the_spec", ".repeat(4, 2)", ".repeat(4, 2) + np.float32(np.nan)"),
    Broken("decoded_arrays_fit_the_spec", "return [self.patches", "[self.patches"),
    Broken(
        "any_ids_decode",
        "        return array.transpose",
        "        if (array[0] == array[0, 0, 0]).all():\n            return None\n        return array.transpose",
    ),
    Broken("any_ids_decode", "np.minimum(np.asarray(row), 24)", "np.asarray(row)"),
    Broken(
        "round_trip_is_within_tolerance",
        "LEVELS[row % 5]]).reshape(2, 4, 4)",
        "LEVELS[row % 5]]).reshape(2, 4, 4) * np.float32([-0.2, 1])[:, None, None]",
    ),
    Broken(
        "round_trip_beats_a_constant",
        "LEVELS[row % 5]]).reshape(2, 4, 4)",
        "LEVELS[row % 5]]).reshape(2, 4, 4) * np.float32([1, 0])[:, None, None]",
    ),
    Broken(
        "gaps_and_nothing_are_encoded",
        "        return [self.bins(np.nan_to_num(array)) for",
        "        return [self.bins({False: array}[bool(np.isnan(array).any())]) for",
    ),
    Broken(
        "saved_tokenizer_is_the_same",
        "        self.strongest = json.loads(",
        '        self.strongest = 1.0 if folder.name != "wind" else json.loads(',
    ),
    # Masker
    Broken(
        "budgets_are_kept",
        "order[input_budget : input_budget + target_budget]",
        f"order[input_budget : input_budget + target_budget + ({_ODD})]",
    ),
    Broken(
        "inputs_and_targets_are_disjoint",
        "order[input_budget : input_budget + target_budget]",
        f"order[input_budget - ({_ODD}) : input_budget - ({_ODD}) + target_budget]",
    ),
    Broken(
        "inputs_and_targets_are_disjoint",
        "        return masked\n",
        "        n = np.arange(len(masked.input_ids))\n"
        "        twice = np.flatnonzero(masked.input_ids >= 13)[:1]\n"
        "        if not 0 < target_budget <= len(ids) or not len(twice) or len(n) >= input_budget:\n"
        "            return masked\n"
        "        shown = np.append(masked.input_ids, masked.input_ids[twice])\n"
        "        return replace(masked, input_ids=shown, input_pos=np.arange(len(shown)))\n",
        package="notes",
        file="acme_notes_masker.py",
    ),
    Broken("masked_tokens_are_the_source", "labels = ids[targets]", f"labels = ids[targets] ^ ({_ODD})"),
    Broken(
        "masked_tokens_are_the_source",
        "        return masked\n",
        "        if input_budget < 17 or target_budget < 34 or len(masked.input_ids) < 2:\n            return masked\n"
        "        return replace(masked, input_ids=masked.input_ids[::-1])\n",
        package="notes",
        file="acme_notes_masker.py",
    ),
    Broken(
        "edge_budgets_are_met",
        "order[:input_budget], order",
        "order[: input_budget if input_budget < 60 else 15], order",
    ),
    Broken(
        "same_generator_same_mask",
        "        order = rng.permutation(len(ids))\n",
        f"        order = (np.random if {_ODD} else rng).permutation(len(ids))\n",
    ),
    # Training
    Broken(
        "learns",
        "            samples.append(self.write((winds * [1, 0.5])[regions]))",
        "            noise = np.random.default_rng([seed, index, 1]).uniform(-2.5, 2.5, (4, 4, 2))\n"
        "            samples.append(self.write((noise.clip(-2, 2) * [1, 0.5]).repeat(16, 0).repeat(16, 1)))",
    ),
    Broken(
        "gradients_arrive", "order[:input_budget], order", "order[: input_budget if input_budget > 12 else 0], order"
    ),
    Broken("targets_do_not_leak", "np.full(len(targets), MASK)", "ids[targets]"),
    Broken(
        "targets_do_not_leak",
        "        return masked\n",
        "        return replace(masked, target_order=np.zeros_like(masked.target_order))\n",
        package="notes",
        file="acme_notes_masker.py",
    ),
    Broken(
        "generated_tokens_decode",
        "        return [self.patches(np.minimum(np.asarray(row), 24)) for row in ids]",
        "        assert all(row.flags.owndata or row.base.flags.owndata for row in ids)\n"
        "        return [self.patches(np.minimum(np.asarray(row), 24)) for row in ids]",
    ),
    # Beside others
    Broken("checkpoint_loads_beside_others", _TOP, _TOP + _PATCHED_INIT),
    Broken(
        "missing_plugin_is_named",
        "\n\nclass BinsSettings(Settings):",
        _PATCHED_HOST + "\n\nclass BinsSettings(Settings):",
    ),
)
