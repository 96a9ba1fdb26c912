"""Installed distributions of plugins, made up in a folder, as pip would leave them."""

from __future__ import annotations

from pathlib import Path

from tests.installing import write_metadata

GOOD = """
from fourm_plugins import FeatureMap, Grid, Modality, ModalitySpec, Settings, TokenizerRecipe, TokenSpace

class Thermal(Modality):
    class Settings(Settings):
        codes: int = 64
    def make_spec(self):
        return ModalitySpec(
            name=self.name, source="thermal", extensions=("npy",), layout=Grid(height=2, width=2),
            array=FeatureMap(channels=1, height=4, width=4), tokenizer=TokenizerRecipe(kind="vqvae"),
            token_space=TokenSpace(name=self.name, size=self.settings.codes),
        )
    def read(self, files): return files
    def write(self, value): return value
    def augment(self, value, view): return value
    def normalise(self, value): return value
    def denormalise(self, array): return array
    def render(self, value): return str(value)
    def metrics(self): return ()
    def example_samples(self, n, seed): return []
"""


def entry(name: str, value: str, group: str = "fourm.modalities.v1") -> str:
    return f"[{group}]\n{name} = {value}\n"


def put(
    folder: Path,
    distribution: str,
    entry_points: str,
    *,
    source: str = GOOD,
    requires: str = "",
    module: str = "",
    version: str = "1.2",
    files: tuple[str, ...] = (),
) -> None:
    """`source` becomes the module, unless it is empty; `files` are listed in RECORD."""
    module = module or distribution.replace("-", "_")
    info = write_metadata(folder, distribution, version, entry_points, requires=[requires] if requires else [])
    if files:
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    if source:
        (folder / f"{module}.py").write_text(source)
