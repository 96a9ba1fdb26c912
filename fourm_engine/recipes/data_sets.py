"""Implements `fourm data index`, `pack` and `unpack`: indexes data sets, and converts to and from WebDataset shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fourm_engine.data.raw.catalogue import Catalogue, open_catalogue
from fourm_engine.data.raw.index import INDEX
from fourm_engine.data.raw.names import say as report
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.pack import Packed
from fourm_engine.data.raw.pack import pack as pack_shards
from fourm_engine.data.raw.pack import unpack as unpack_files
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import DataRoot, data_root
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.progress import PrintFn, Progress, print_line, warn
from fourm_engine.storage.url import parse, refuse_remote, scheme_of
from fourm_engine.yaml_config import validated
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager


def index(
    folder: Path | str, *, modalities: Sequence[str] = (), config: Path | None = None, print_fn: PrintFn = print_line
) -> Catalogue:
    """Write `folder/_index/`, so that later starts need not scan for samples; scans only what has changed.

    Args:
        modalities: the modalities to index; () for all installed ones, or all of `config`.
        config: a config whose `modalities` section defines how to read the folder, such as the `source` of each.

    Raises ValueError for data that cannot be used, Busy and CannotWrite."""
    there = _open(folder, modalities, config, index=True, print_fn=print_fn)
    assert isinstance(there.root, Path)
    size = sum(path.stat().st_size for path in (there.root / INDEX).rglob("*.npy"))
    per_sample = size / max(1, len(there.names))
    print_fn(f"{shown(there.root)}: {_has(there)}; {INDEX}/ takes {per_sample:.0f} bytes per sample")
    return there


def pack(
    folder: Path | str,
    out: Path,
    *,
    samples_per_shard: int = 1000,
    modalities: Sequence[str] = (),
    config: Path | None = None,
    print_fn: PrintFn = print_line,
) -> Packed:
    """Write the samples of `folder` as WebDataset shards in `out`. Existing shards are kept, so an interrupted call
    continues. Raises ValueError and CannotWrite."""
    if samples_per_shard < 1:
        raise ValueError(f"--samples-per-shard {samples_per_shard}: must be at least 1")
    there = _open(folder, modalities, config, print_fn=print_fn)
    progress = Progress(f"{out}", print_fn)
    done = pack_shards(there, out, samples_per_shard=samples_per_shard, progress=progress)
    if done.dotted:
        warn(
            f"{counted(len(done.dotted), 'name holds', 'names hold')} a dot, such as {shown(done.dotted[0])}: other "
            "readers of WebDataset take the part before the first dot as the sample's name"
        )
    return _told(done, there, out, print_fn)


def unpack(
    folder: Path | str,
    out: Path,
    *,
    modalities: Sequence[str] = (),
    config: Path | None = None,
    print_fn: PrintFn = print_line,
) -> Packed:
    """Write the samples of `folder` as `out/<source>/<sample>.<extension>`. Existing files are kept, so an interrupted
    call continues. Raises ValueError and CannotWrite."""
    there = _open(folder, modalities, config, print_fn=print_fn)
    return _told(unpack_files(there, out, progress=Progress(f"{out}", print_fn)), there, out, print_fn)


def _told(done: Packed, there: Catalogue, out: Path, print_fn: PrintFn) -> Packed:
    for bad in done.bad:
        warn(f"left out {bad}")
    left = counted(len(done.bad), "file")
    print_fn(f"{out}: {counted(done.samples, 'sample')} written, {done.kept} kept, {left} left out")
    return done


def _open(
    folder: Path | str, names: Sequence[str], config: Path | None, *, index: bool | None = None, print_fn: PrintFn
) -> Catalogue:
    chosen = ModalitiesConfig() if config is None else load_config(config, needed=()).modalities
    if names:
        chosen = validated(ModalitiesConfig, chosen.model_dump() | {"select": list(names)}, "modalities.")
    manager = load_manager(chosen)
    specs = [modality.spec for modality in load_modalities(chosen, manager).values()]
    root, shards = _located(folder, manager)
    if index and isinstance(root, PluginRoot):
        raise ValueError(f"{shown(root)}: opened by {root.origin}; only folders can be indexed")
    there = open_catalogue(root, specs, shards=shards, index=index, print_fn=print_fn)
    for note in dict.fromkeys([*there.notes, *(note for source in there.sources.values() for note in source.notes)]):
        report(str(note))
    if not there.sources:
        wanted = ", ".join(sorted({spec.source for spec in specs}))
        remedy = "; where your folders are called otherwise, give their config with --config" if config is None else ""
        raise ValueError(f"{shown(root)}: holds no data of any modality; looked for {wanted}{remedy}")
    return there


def _located(folder: Path | str, manager: PluginManager) -> DataRoot:
    """The data in `folder`. Raises ValueError if there is none."""
    if scheme_of(str(folder)) is not None and not Path(folder).exists():
        return DataRoot(PluginRoot(str(folder), manager), None)
    refuse_remote(parse(folder), "FOLDER", "work on a local copy, then upload that")
    there = data_root(folder)
    if not isinstance(there.folder, Path) or not there.folder.is_dir():
        what = "a file, no folder" if Path(str(there.folder)).exists() else "no such folder"
        raise ValueError(f"{shown(there.folder)}: {what}; name the folder that holds your data")
    return there


def _has(there: Catalogue) -> str:
    counts = {source: int(there.present[source, extensions].sum()) for source, extensions in there.sources}
    parts = [f"{source} {n}" for source, n in sorted(counts.items())]
    return f"{counted(len(there.names), 'sample')}; {', '.join(parts)}"
