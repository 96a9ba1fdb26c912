"""Read the classes of samples from a JSON or CSV file, or from a column of the data, as {sample: class}."""

from __future__ import annotations

import json
from pathlib import Path

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.column_types import check_labels
from fourm_engine.data.raw.tables import csv_rows
from fourm_plugins.counting import counted

#: Prefix of a column's name, where a file may be given.
COLUMN = "column:"


def labels_of(given: str | Path, data: AlignedData) -> dict[str, str]:
    """{sample: class} from a file, or from the column NAME of `data` for "column:NAME". Raises ValueError as
    `read_labels` does, and for a column that does not hold a class for each sample."""
    if not str(given).startswith(COLUMN):
        return read_labels(Path(given))
    name = str(given).removeprefix(COLUMN)
    check_labels(data.column_type(name), f"--labels {given}", several=False)
    values = data.column(name)
    for name, value in values.items():
        if not isinstance(value, (str, int)):
            raise ValueError(f"--labels {given}: {name!r}: expected a class, text or an integer, not {value!r:.80}")
    return {name: str(value) for name, value in values.items()}


def read_labels(path: Path) -> dict[str, str]:
    """{sample: class} from a JSON object, or from a CSV file of two columns, with or without the header `sample,class`.
    Raises ValueError if it is neither, or gives a sample two classes."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); --labels is a JSON or CSV file") from None
    if path.suffix.lower() == ".json":
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not (isinstance(table, dict) and table and all(isinstance(c, (str, int)) for c in table.values())):
            raise ValueError(f"{path}: expected an object {{sample: class}} whose classes are text or integers")
        return {name: str(label) for name, label in table.items()}
    classes: dict[str, str] = {}
    for number, row in csv_rows(text, path):
        if not row or (number == 1 and [cell.strip().lower() for cell in row] == ["sample", "class"]):
            continue
        if len(row) != 2:
            columns = counted(len(row), "column")
            raise ValueError(f"{path}: line {number} has {columns}; expected a sample and its class")
        name, label = (cell.strip() for cell in row)
        if classes.setdefault(name, label) != label:
            raise ValueError(f"{path}: line {number}: {name!r} is of class {classes[name]!r} in a line before")
    if not classes:
        raise ValueError(f"{path}: no line with a sample and its class")
    return classes
