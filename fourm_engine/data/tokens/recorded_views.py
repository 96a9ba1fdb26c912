"""RecordedViews: the views of all samples of a folder of tokens, read lazily from their shards."""

from __future__ import annotations

from fourm_engine.data.tokens.index import Index
from fourm_engine.data.tokens.shard_files import ShardFiles
from fourm_engine.data.tokens.view_shards import ViewShard
from fourm_engine.data.views import SampleViews


class RecordedViews:
    """The views of the samples of `index`, recorded by `fourm tokenize`."""

    def __init__(self, index: Index, files: ShardFiles) -> None:
        self.index, self.files, self.views, self.groups = index, files, index.views, index.groups

    def get(self, name: str, number: int) -> SampleViews:
        """Raises KeyError for an unknown sample, ValueError for a damaged shard."""
        row = self.index.names.row(name)
        if row is None:
            raise KeyError(name)
        shard, at = self.index.locate(row)
        file = self.files.get(0, shard)
        assert isinstance(file, ViewShard)
        return {group: file.view(group, at, number) for group in self.groups}
