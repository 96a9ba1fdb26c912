"""Reads the YAML of configs: one file, dotted overrides, bounded in size; every error names file and key."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fourm_plugins.errors import one_line
from fourm_plugins.explain import explain
from fourm_plugins.suggest import nearest, nearest_path

Model = TypeVar("Model", bound=BaseModel)

#: A config is written by hand; anything larger is a mistake or an attack. Values repeated by aliases count each time,
#: as they are also processed each time.
MAX_CONFIG_BYTES, MAX_VALUES, MAX_DEPTH = 1 << 20, 50_000, 50


#: Sub-folders of a run that contain an exported model.
_EXPORTS = ("model", "model-ema", "head", "best")


class ConfigError(ValueError):
    """An invalid config; one line per error, with file, key and remedy."""


def read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; {_config_of(path)}")
    if (remote := re.match(r"[\w+.-]+:/", str(path))) and not path.exists():
        raise ConfigError(f"{remote[0]}/…: a config is a local file; download it")  # the rest may contain a password
    if not path.is_file():
        beside = os.listdir(path.parent) if path.parent.is_dir() and os.access(path.parent, os.R_OK) else []
        near = nearest(path.name, (name for name in beside if name.endswith((".yaml", ".yml"))))
        meant = path.parent / near if near else None if beside else nearest_path(path)
        remedy = f"; did you mean {meant}?" if meant else ""
        raise ConfigError(f"{path}: no such config file{remedy}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is not a config")
    try:
        raw = _parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; name a YAML config") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_reason(error)}") from None
    if not isinstance(raw, dict):
        held = "the file is empty" if raw is None else f"it holds a {type(raw).__name__}"
        raise ConfigError(f"{path}: expected sections such as `data:` and `train:`, but {held}")
    return raw


def _config_of(folder: Path) -> str:
    """The config to suggest instead of a folder: that of a run or of a data set."""
    run = folder.parent if folder.name in _EXPORTS else folder
    if (run / "config.yaml").is_file():
        return f"its config is {run / 'config.yaml'}"
    if configs := configs_beside(folder):
        return f"did you mean {configs[0]}?"
    return "name a YAML config; `fourm init FOLDER` writes one for a folder of data"


def configs_beside(folder: Path) -> list[Path]:
    """Configs named after a data folder, as `fourm init` names them, in the working directory or next to it."""
    names = [f"{Path(os.path.abspath(folder)).name}{end}" for end in (".yaml", ".yml")]
    return [path for path in (*map(Path, names), *(folder.parent / name for name in names)) if path.is_file()]


def run_of_data(folder: Path) -> str:
    """The end of a message about a folder without a run: the run of the config of this data; "" if there is none."""
    configs = configs_beside(folder)
    run = _run_of(configs[0]) if configs else None
    if run is None:
        return ""
    if Path(run).is_dir():
        return f"; did you mean {run}, the run of {configs[0]}?"
    return f"; the run of {configs[0]}, {run}, is not there yet; run `fourm train {shlex.quote(str(configs[0]))}` first"


def _run_of(config: Path) -> str | None:
    """The run that a config names; None if it cannot be read, or names none."""
    try:
        run = read_yaml(config).get("run")
    except (ConfigError, OSError):
        return None
    return run if isinstance(run, str) else None


def not_a_run(file: Path) -> str:
    """The message for a file that was given instead of a run's folder."""
    inside = next((folder for folder in list(file.parents)[:2] if (folder / "model").is_dir()), None)
    if inside is not None and inside != Path():
        return f"{file}: is a file; did you mean the run {inside}?"
    run = _run_of(file) if file.suffix in (".yaml", ".yml") else None
    if run is None:
        return f"{file}: is a file; name the folder of a run or an exported model"
    if Path(run).is_dir():
        return f"{file}: is a config; its run is {run}"
    return f"{file}: is a config, and its run {run} is not there yet; run `fourm train {shlex.quote(str(file))}` first"


def _reason(error: yaml.YAMLError) -> str:
    """The error in a YAML text, and its line number, without quoting the text."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return one_line(error)
    problem = (error.problem or "unreadable").replace("'<stream end>'", "the end of the text")
    context = f" ({error.context})" if error.context else ""
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {problem}{context}"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 3e-4 as a number (YAML 1.1 requires 3.0e-4), and rejects duplicate keys and {key:value}
    without a space, which YAML takes for a key."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.style is not None or value.start_mark != value.end_mark:
                continue  # not plain, or with a value
            name, _, rest = key.value.partition(":")
            if node.flow_style and rest:
                raise yaml.YAMLError(f"{key.value!r} needs a space after the colon: {name}: {rest}")
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if not key.tag.endswith(":merge")]
        seen = set()
        for key in keys:
            if not isinstance(key, Hashable):
                continue  # SafeLoader reports what is wrong with it
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} appears twice, line {node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# A copy of the resolvers, since add_implicit_resolver would otherwise change SafeLoader for the whole process.
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    """The value of a YAML text. Raises YAMLError, also for one that expands far beyond its size."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        values, depth = _extent(node, {})
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.YAMLError(f"{values} values, {depth} deep; at most {MAX_VALUES} and {MAX_DEPTH} are read")
        return _apart(loader.construct_document(node))
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:  # an invalid date or number
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _apart(value: Any) -> Any:
    """A copy in which aliases share nothing, so that an override changes only one of them."""
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def _extent(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(number of values, depth) of a node; one that aliases repeat counts each time, but is visited once."""
    if id(node) in known:
        if (extent := known[id(node)]) is None:
            raise yaml.YAMLError(f"the value in line {node.start_mark.line + 1} holds itself")
        return extent
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    extents = [_extent(child, known) for child in children]
    extent = (1 + sum(values for values, _ in extents), 1 + max((depth for _, depth in extents), default=0))
    known[id(node)] = extent
    return extent


def validated(model: type[Model], raw: Any, origin: str) -> Model:
    """`raw` validated as a `model`. Raises ConfigError, one line per error, each beginning with `origin`."""
    try:
        config = model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(origin + line for line in explain(error, model))) from None
    if empty := [*_empty_paths(raw, config)]:  # to Path, the working directory
        raise ConfigError("\n".join(f"{origin}{key}: is empty; name a path, or remove the key" for key in empty))
    return config


def _empty_paths(raw: Any, value: Any, key: str = "") -> Iterator[str]:
    """The keys of paths that `raw` gives as "". `value`: `raw` as validated."""
    if raw == "" and isinstance(value, Path):
        yield key
    elif isinstance(raw, dict):
        for name, inner in raw.items():
            part = value.get(name) if isinstance(value, dict) else getattr(value, str(name), None)
            yield from _empty_paths(inner, part, f"{key}.{name}" if key else str(name))
    elif isinstance(raw, list) and isinstance(value, (list, tuple)) and len(raw) == len(value):
        for number, (inner, part) in enumerate(zip(raw, value, strict=True)):
            yield from _empty_paths(inner, part, f"{key}.{number}")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value` to the result of `read_yaml`. Raises ConfigError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected section.key=value")
    set_key(raw, key, read_value(value, f"override {override!r}"), f"override {override!r}")


def set_key(raw: dict[str, Any], key: str | Sequence[str], value: Any, origin: str) -> None:
    """Set `section.key`, dotted or in parts, in the result of `read_yaml`; missing sections are created. Raises
    ConfigError, which begins with `origin`."""
    *parents, leaf = key.split(".") if isinstance(key, str) else key
    section: Any = raw
    for parent in parents:
        if isinstance(section, list):
            section = section[_entry(section, parent, origin)]
        else:
            section = section.setdefault(parent, {})
        if not isinstance(section, dict | list):
            raise ConfigError(f"{origin}: {parent!r} is not a section")
    section[_entry(section, leaf, origin) if isinstance(section, list) else leaf] = value


def _entry(entries: list[Any], number: str, origin: str) -> int:
    """The index of an entry of a list. Raises ConfigError if it has no such entry."""
    if not number.isdecimal() or int(number) >= len(entries):
        raise ConfigError(f"{origin}: {number!r} is no entry of the list, which has 0 to {len(entries) - 1}")
    return int(number)


def read_value(text: str, origin: str) -> Any:
    """A value from the command line, parsed as YAML. Raises ConfigError."""
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {_reason(error)}") from None
