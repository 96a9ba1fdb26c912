"""The report of `fourm data check`: one HTML page and a sheet of examples.

In: a `DataCheck`. Out: `report.html`, which is self-contained, and `sheet.png`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.check import DataCheck
from fourm_engine.data.checks.files import CONSTANT, USABLE
from fourm_engine.data.checks.part import Part
from fourm_engine.data.checks.statistics import Moments, Statistics
from fourm_engine.data.raw.aspect import array_aspect
from fourm_engine.drawing import Cell, png, sheet
from fourm_engine.evaluate.pictures import SamplePictures
from fourm_engine.evaluate.report import environment
from fourm_engine.files import write_together
from fourm_plugins import calls
from fourm_plugins.counting import counted, number
from fourm_plugins.modality import Modality
from fourm_plugins.view import View

REPORT, SHEET = "report.html", "sheet.png"
#: Names listed per finding on the page; the JSON has more.
ITEMS = 50
#: Channels and classes shown in a table; the JSON has all.
CHANNELS, CLASSES = 6, 12
#: Number of samples shown per part.
EXAMPLES = 8


def write_report(folder: Path, check: DataCheck, *, title: str) -> list[Path]:
    """Writes the page and, if a sample can be shown, the sheet."""
    examples = {part.name: _examples(check, part) for part in check.parts}
    page = environment().get_template("data_report.html.jinja")
    facts: dict[str, Any] = {"title": title, "check": check, "examples": examples, "tables": tables(check)}
    text = page.render(items=ITEMS, item=describe_item, number=number, **facts)
    files: dict[Path, str | bytes] = {folder / REPORT: text + "\n"}
    rows = [
        (f"{part}: {sample.sample}", [Cell(shown, name) for name, shown in sample.inputs.items()])
        for part, samples_of_part in examples.items()
        for sample in samples_of_part
    ]
    if rows:
        files[folder / SHEET] = png(sheet(rows, title=[title], cell=128))
    write_together(files)
    return list(files)


def _examples(check: DataCheck, part: Part) -> list[SamplePictures]:
    """Examples, drawn with the check's seed among the samples with the most modalities."""
    usable = {key: np.isin(rows["state"], (USABLE, CONSTANT)) for key, rows in part.survey.rows.items()}
    if not usable or not len(part.read):
        return []
    most = np.sum(list(usable.values()), axis=0)
    drawn = np.random.default_rng(check.seed).permutation(len(part.read))
    rows = sorted(drawn, key=lambda row: -int(most[row]))[:EXAMPLES]  # stable: drawn among equals
    examples = []
    for row in sorted(rows):
        name = part.names_read[row]
        values = {}
        for key, modalities in part.readers.items():
            for modality in modalities if usable[key][row] else ():
                values[modality] = check.modalities[modality].read(part.opened.sources[key].files(name))
        shown = {m: _render(check.modalities[m], values[m], _shape(check, values)) for m in values}
        if shown:
            examples.append(SamplePictures(name, shown, []))
    return examples


def _shape(check: DataCheck, values: dict[str, Any]) -> dict[str, float]:
    """Alignment group -> width / height."""
    shapes: dict[str, float] = {}
    for name, value in values.items():
        aspect = check.modalities[name].aspect(value)
        if aspect is not None:
            shapes.setdefault(check.modalities[name].spec.alignment or "", aspect)
    return shapes


def _render(modality: Modality, value: Any, shapes: dict[str, float]) -> Any:
    """Renders a value as the model sees it: the centre crop, at the modality's size."""
    target = array_aspect(modality.spec) or 1.0
    view = View()
    if modality.spec.alignment is not None:
        view = View.centre(source_aspect=shapes.get(modality.spec.alignment, target), target_aspect=target)
    return calls.render(modality, modality.augment(value, view))


def describe_item(item: Any) -> str:
    """Describes an item of a finding in one line."""
    if isinstance(item, dict):
        return f"{item['file']}: {item['reason']}" if "file" in item else ", ".join(f"{k} {v}" for k, v in item.items())
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)


def tables(check: DataCheck) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows) of every table, for the terminal and the page."""
    of_parts = [_overlap(part) for part in check.parts if len(part.present) > 1]
    of_parts += [_sets(part) for part in check.parts if len(part.sets()) > 1]
    contents = [_channels(check), _classes(check), _texts(check), _tokens(check)]
    return [_used(table) for table in (_counts(check), _sizes(check), *of_parts, *contents) if table[2]]


Table = tuple[str, list[str], list[list[str]]]


def _used(table: Table) -> Table:
    """Drop the columns that are empty in all rows, such as pixels of text-only data."""
    title, columns, rows = table
    used = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    return title, [columns[k] for k in used], [[row[k] for k in used] for row in rows]


def _counts(check: DataCheck) -> Table:
    columns = ["part", "read by", "samples", "lacking", "read", "unusable"]
    rows = []
    for part in check.parts:
        for key, names in part.readers.items():
            present = int(part.present[key].sum())
            here = part.present[key][part.read]
            read = int(here.sum())
            state = part.survey.rows[key]["state"]
            bad = int((here & ~np.isin(state, (USABLE, CONSTANT))).sum())
            counts = present, len(part.names) - present, read, bad
            rows.append([part.name, ", ".join(names), *(f"{n:,}" for n in counts)])
    return "files", columns, rows


def _sizes(check: DataCheck) -> Table:
    rows = []
    for part in check.parts:
        for key, names in part.readers.items():
            sizes = part.sizes(key)
            pixels = ""
            if "width" in sizes:
                w, h = sizes["width"], sizes["height"]
                pixels = " / ".join(f"{w[k]}×{h[k]}" for k in ("min", "median", "max"))
                pixels = f"{w['min']}×{h['min']}" if sizes["distinct_sizes"] == 1 else pixels
            number = sizes.get("bytes")
            spread = " / ".join(_bytes(number[k]) for k in ("min", "median", "max")) if number else ""
            total = _bytes(number["total"]) if number else ""
            rows.append([part.name, ", ".join(names), pixels, spread, total])
    columns = ["part", "read by", "width × height", "bytes a file", "in all"]
    return "sizes of the files read: least / median / most", columns, rows


def _overlap(part: Part) -> Table:
    both = part.both()
    rows = [[a, *(f"{both[a][b]:,}" for b in both)] for a in both]
    return f"{part.name}: samples that have both", ["", *both], rows


def _sets(part: Part) -> Table:
    rows = [[", ".join(keys) or "nothing", f"{n:,}"] for keys, n in part.sets()[:CLASSES]]
    return f"{part.name}: samples by what they have", ["have just", "samples"], rows


def _channels(check: DataCheck) -> Table:
    columns = ["part", "modality", "", "channel", "mean", "spread", "lowest", "highest", "gaps", "at ±1, all channels"]
    rows = []
    for part in check.parts:
        first = {names[0] for names in part.readers.values()}  # the others read the same files
        for name, statistics in part.survey.statistics.items():
            values = statistics.values if name in first else None
            for what, moments in (("file", values), ("model", statistics.arrays)):
                if moments is not None:
                    rows += _of_channels(part.name, name, what, statistics, moments)
    return "numbers: as read from the file, and as the model sees them", columns, rows


def _of_channels(part: str, name: str, what: str, statistics: Statistics, moments: Moments) -> list[list[str]]:
    rows = []
    share = moments.gaps / np.maximum(moments.count + moments.gaps, 1)
    ends = statistics.at_ends / max(int(moments.count.sum()), 1) if what == "model" else None
    if len(moments.count) > CHANNELS:
        low, high = f"{number(float(moments.mean.min()))} to {number(float(moments.mean.max()))}", moments.deviation
        spread = f"{number(float(high.min()))} to {number(float(high.max()))}"
        ends_of = number(float(moments.low.min())), number(float(moments.high.max()))
        every = f"all {len(moments.count)}"
        return [[part, name, what, every, low, spread, *ends_of, _share(share.mean()), _share(ends)]]
    for k in range(len(moments.count)):
        numbers = (moments.mean[k], moments.deviation[k], moments.low[k], moments.high[k])
        cells = [number(float(x)) if math.isfinite(x) else "–" for x in numbers]
        first = [part, name, what] if k == 0 else ["", "", ""]
        rows.append([*first, str(k), *cells, _share(share[k]), _share(ends) if k == 0 else ""])
    return rows


def _classes(check: DataCheck) -> Table:
    rows = []
    for part in check.parts:
        for name, statistics in part.survey.statistics.items():
            pixels = statistics.class_pixels
            if not pixels.sum():
                continue
            order = np.argsort(-pixels, kind="stable")
            some = [k for k in order[:CLASSES] if pixels[k]]
            for line, k in enumerate(some):
                first = [part.name, name] if line == 0 else ["", ""]
                share = pixels[k] / pixels.sum()
                rows.append([*first, statistics.class_name(k), _share(share), f"{statistics.class_samples[k]:,}"])
            if (rest := int((pixels > 0).sum()) - len(some)) > 0:
                left = pixels[order[CLASSES:]].sum() / pixels.sum()
                rows.append(["", "", counted(rest, "other"), _share(left), ""])
            none = statistics.unlabelled / (pixels.sum() + statistics.unlabelled)
            rows.append(["", "", "no class (of all pixels)", _share(none), ""])
    return "classes: shares of the pixels that have one", ["part", "modality", "class", "share", "samples"], rows


def _texts(check: DataCheck) -> Table:
    columns = ["part", "modality", "", "texts", "least", "median", "95%", "longest", "most", "truncated"]
    rows = []
    for part in check.parts:
        for name, statistics in part.survey.statistics.items():
            facts = statistics.to_json()
            for what in ("characters", "tokens"):
                if what in facts:
                    rows.append([part.name, name, what, *_lengths(facts[what])])
    return "texts, all alternatives of a sample", columns, rows


def _lengths(facts: dict[str, Any]) -> list[str]:
    cells = [f"{facts[key]:,}" for key in ("texts", "least", "median", "95%", "longest")]
    return [*cells, str(facts["most"]), _share(facts["truncated"])] if "most" in facts else [*cells, "", ""]


def _tokens(check: DataCheck) -> Table:
    columns = ["part", "modality", "samples", "views", "ids", "used", "perplexity", "one id alone", "damaged", "tokens"]
    rows = []
    for e in check.tokens:
        numbers = [f"{e[key]:,}" for key in ("samples", "views", "ids", "used")]
        length = ""
        if "tokens" in e:
            t = e["tokens"]
            length = f"{t['median']} (longest {t['longest']} of {t['most']}; {_share(t['truncated'])} truncated)"
        checked = [number(e["perplexity"]), str(e["constant"]), str(e["damaged"])]
        rows.append([e["part"], e["modality"], *numbers, *checked, length])
    return "token shards", columns, rows


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return "0" if share == 0 else f"{100 * share:.3g}%"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
