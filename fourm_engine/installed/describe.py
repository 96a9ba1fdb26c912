"""Describes one plugin: the output of `fourm plugins info`.

In: the plugin host, a name, optionally a folder of fitted tokenizers. Out: a dictionary of plain values, printed as
JSON or as text.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.installed.settings import describe_options, describe_settings
from fourm_engine.tokenizers.store import read_document
from fourm_plugins.activation import activate
from fourm_plugins.distributions import find_distribution
from fourm_plugins.hub import check_there
from fourm_plugins.manager import Plugin, PluginError, PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.view import View

if TYPE_CHECKING:
    from fourm_engine.recipes.config import RunConfig


#: The report of the conformance kit, inside a plugin's package.
CONFORMANCE = "fourm-conformance.json"
_MAX_REPORT = 1 << 22
#: How a user selects what the package provides.
_USE = {
    "observer": "observers: [{name}]",
    "optimiser": "train.optimiser={name}",
    "schedule": "train.schedule={name}",
    "order": "--scheme {name}",
    "head": "task.head={name}",
    "source": "data.train={name}:LOCATION",
    "command": "fourm {name} --help",
}
_ORDERS = {"grid": "unordered, decoded in parallel", "vector": "unordered, decoded in parallel"}


def describe(name: str, config: RunConfig | None, manager: PluginManager, run: Path | None) -> list[dict[str, Any]]:
    """Every plugin called `name`, at most one of each kind; with a config also the instances that it configures. `run`:
    folder with fitted tokenizers, instead of the config's. Raises ValueError."""
    folder = tokenizers_of(run) if run is not None else config.tokenizers.folder if config is not None else None
    settings = dict(config.modalities.settings.get(name, {})) if config is not None else {}
    entry_point = settings.pop("plugin", name)
    descriptions = []
    for kind in dict.fromkeys(p.kind for p in manager.plugins if p.name == entry_point):
        plugin = manager.find(kind, entry_point)
        if kind == "modality":
            modality = manager.modality(name, plugin=entry_point, **settings)
            descriptions.append(describe_modality(manager, modality, plugin, folder))
        elif kind in _USE:
            descriptions.append(describe_hook(plugin, activate(plugin)))
        else:
            cls = manager.tokenizer_class(name) if kind == "tokenizer" else manager.masker_class(name)
            descriptions.append(describe_class(plugin, cls))
    if not descriptions:
        known = {p.name for p in manager.plugins}
        raise PluginError(f"no installed plugin is called {entry_point!r}; {did_you_mean(entry_point, known)}")
    return descriptions


def describe_modality(
    manager: PluginManager, modality: Modality, plugin: Plugin, tokenizers: Path | None = None
) -> dict[str, Any]:
    """A configured modality. `tokenizers`: folder of fitted tokenizers, of a run or of an exported model."""
    spec, layout = modality.spec, modality.spec.layout
    space = spec.token_space
    return {
        **_origin(plugin, type(modality)),
        "description": spec.description,
        "layout": layout.model_dump(),
        "tokens": layout.num_tokens,
        "order": _ORDERS.get(layout.kind, "in sequence, decoded left to right"),
        "array": spec.array.model_dump(),
        "token space": space.model_dump() if space else f"none: {spec.patch_dim:,} numbers per token are projected",
        "tokenizer": _tokenizer(manager, modality, tokenizers),
        "masker": spec.masker or "the layout's default",
        "used as": " and ".join(role for role, on in (("input", spec.input), ("target", spec.target)) if on),
        "files": [f"{spec.source}/<sample>.{extension}" for extension in spec.extensions],
        "aligned with": spec.alignment or "nothing",
        "published as": spec.published_name,
        "licence": spec.licence,
        "metrics": [
            {"name": m.name, "unit": m.unit, "better": "higher" if m.higher_is_better else "lower"}
            for m in modality.metrics()
        ],
        "normalisation": _normalisation(modality),
        "settings": [asdict(setting) for setting in describe_settings(modality.Settings, modality.settings)],
        "spec fingerprint": spec.fingerprint(),
        "conformance": conformance(plugin),
    }


def describe_class(plugin: Plugin, cls: type) -> dict[str, Any]:
    """A tokenizer or masker."""
    settings = getattr(cls, "Settings", None)
    return {
        **_origin(plugin, cls),
        "settings": [asdict(setting) for setting in describe_settings(settings)] if settings else [],
        "conformance": conformance(plugin),
    }


def describe_hook(plugin: Plugin, provided: Any) -> dict[str, Any]:
    """What docs/hooks.md describes: an optimiser, an observer, a command, and so on. `provided`: the object that the
    entry point names. Options are the parameters with defaults; a command explains its own with `--help`."""
    app = plugin.kind == "command" and not inspect.isroutine(provided)  # a Typer app, with typer's docstring
    described = {
        **asdict(plugin),
        "used as": _USE[plugin.kind].format(name=plugin.name),
        "about": "" if app else inspect.cleandoc(provided.__doc__ or ""),
        "settings": [],
    }
    if plugin.kind == "observer":
        described["hooks"] = [name for name in dir(provided) if name.startswith("fourm_")]
    elif plugin.kind != "command":
        described["settings"] = [asdict(setting) for setting in describe_options(provided)]
    return described


def _origin(plugin: Plugin, cls: type) -> dict[str, Any]:
    module = sys.modules.get(cls.__module__)
    about = inspect.getdoc(module) if module else None
    return {**asdict(plugin), "about": about or inspect.getdoc(cls) or ""}


def _tokenizer(manager: PluginManager, modality: Modality, folder: Path | None) -> dict[str, Any] | None:
    recipe, space = modality.spec.tokenizer, modality.spec.token_space
    if recipe is None or space is None:
        return None
    description: dict[str, Any] = {"kind": recipe.kind, "settings": recipe.settings}
    try:
        plugin = manager.find("tokenizer", recipe.kind)
        description["provided by"] = f"{plugin.distribution} {plugin.version}"
    except PluginError as error:
        description["provided by"] = f"nothing usable: {error}"
    if folder is None:
        return description
    fitted = folder / space.name
    document = read_document(fitted)
    if document is None:
        description["fitted"] = f"not in {fitted}; run `fourm tokenizer fit`"
        return description
    by = f"{document['distribution']} {document['version']}"
    description["fitted"] = {
        "folder": str(fitted),
        "fingerprint": document["fingerprint"],
        "kind": document["kind"],
        "by": by,
    }
    return description


def tokenizers_of(run: Path) -> Path:
    """The folder of fitted tokenizers of a run or an exported model, or that folder itself. Raises ValueError."""
    for folder in (run / "model" / "tokenizers", run / "tokenizers", run):
        if folder.is_dir() and any((child / "tokenizer.json").is_file() for child in folder.iterdir()):
            return folder
    check_there(run)
    raise ValueError(f"{run}: holds no fitted tokenizers; give a run, an exported model or `tokenizers.folder`")


def _normalisation(modality: Modality) -> dict[str, Any]:
    """The author's description, and an example: its value, its array, and the error after converting back."""
    said = type(modality).normalise.__doc__  # not inherited: the base's docstring describes no particular modality
    description: dict[str, Any] = {"in words": inspect.cleandoc(said) if said else "", "example": None}
    samples = modality.example_samples(1, 0)
    if not samples:
        return description
    value = modality.read(samples[0])
    aspect = modality.aspect(value)
    array_spec = modality.spec.array
    target = getattr(array_spec, "width", 1) / getattr(array_spec, "height", 1)
    view = View.centre(source_aspect=aspect, target_aspect=target) if aspect else View()
    seen = modality.augment(value, view)
    array = modality.normalise(seen)
    back = modality.denormalise(array)
    description["example"] = {"value": _numbers(seen), "array": _numbers(array)}
    if isinstance(seen, np.ndarray) and isinstance(back, np.ndarray) and seen.shape == back.shape:
        difference = np.abs(seen.astype(np.float64) - back.astype(np.float64))
        description["example"]["largest difference after denormalising"] = float(f"{np.nanmax(difference):.3g}")
    return description


def _numbers(x: Any) -> str:
    if not isinstance(x, np.ndarray):
        return f"{type(x).__name__} {x!r:.100}"
    low, mean, high = (float(f(x)) for f in (np.nanmin, np.nanmean, np.nanmax))
    return f"{x.dtype} {x.shape}, {low:.4g} to {high:.4g}, mean {mean:.4g}"


def conformance(plugin: Plugin) -> dict[str, Any] | None:
    """The counts of the conformance report in the plugin's package; None without a report.

    Raises ValueError naming the file if it cannot be read."""
    path = _report(plugin)
    if path is None:
        return None
    try:
        if path.stat().st_size > _MAX_REPORT:
            raise ValueError(f"larger than {_MAX_REPORT} bytes")
        report = json.loads(path.read_text(encoding="utf-8"))
        counts = {key: int(report[key]) for key in ("ran", "failed", "expected", "not_claimed")}
        counts["not_run"] = int(report.get("not_run", 0))
        modality, version = str(report["modality"]), str(report["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a report of the conformance kit: {error!r:.200}") from None
    summary: dict[str, Any] = {"report": str(path), "modality": modality, "version": version, **counts}
    if version != plugin.version:
        summary["note"] = f"made with version {version}, installed is {plugin.version}"
    return summary


def _report(plugin: Plugin) -> Path | None:
    spec = importlib.util.find_spec(plugin.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / CONFORMANCE).is_file():
            return Path(folder) / CONFORMANCE
    try:
        files = find_distribution(plugin.distribution).files or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name == CONFORMANCE]
    return next((path for path in paths if path.is_file()), None)


_WIDTH = 18


def print_description(description: dict[str, Any]) -> None:
    """Print what `describe` made of one plugin."""
    print(f"{description['kind']} {description['name']}: {description['distribution']} {description['version']}")
    _line("from", f"{description['value']} in {description['location']}")
    for key in ("description", "tokens", "order"):
        _line(key, description.get(key))
    for key in ("layout", "array", "token space"):
        _line(key, _plain(description.get(key)))
    tokenizer = description.get("tokenizer")
    if tokenizer:
        _line("tokenizer", f"{tokenizer['kind']}, provided by {tokenizer['provided by']}")
        _line("  settings", _plain(tokenizer["settings"]))
        _line("  fitted", _plain(tokenizer.get("fitted")))
    for key in ("masker", "used as", "aligned with", "published as", "licence"):
        _line(key, description.get(key))
    _line("files", ", ".join(description.get("files", ())))
    for metric in description.get("metrics", ()):
        unit = f" ({metric['unit']})" if metric["unit"] else ""
        _line("metric", f"{metric['name']}{unit}, {metric['better']} is better")
    normalisation = description.get("normalisation") or {}
    _line("normalisation", normalisation.get("in words"))
    for what, numbers in (normalisation.get("example") or {}).items():
        _line(f"  {what}" if len(what) < _WIDTH else "  round trip", numbers)
    _line("spec fingerprint", description.get("spec fingerprint"))
    _line("hooks", ", ".join(description.get("hooks", ())))
    if "conformance" in description:
        _line("conformance", _plain(description["conformance"]) or "no report")
    if description["about"]:
        print("\n" + "\n".join(f"  {line}" for line in description["about"].splitlines()))
    if description["settings"]:
        print("\nsettings")
    for setting in description["settings"]:
        default = "required" if setting["required"] else f"default {setting['default']!r}"
        changed = f", here {setting['value']!r}" if setting["value"] != setting["default"] else ""
        print(f"  {setting['name']} ({setting['type']}, {default}{changed})")
        if setting["meaning"]:
            print(f"      {setting['meaning']}")
    print()


def _line(key: str, value: Any) -> None:
    if value not in (None, "", ()):
        print(f"{key:{_WIDTH}}{value}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return "" if value is None else str(value)
