"""What a worker cannot read ends a run with the same line as without workers."""

from __future__ import annotations

import os
import pickle
import signal
from itertools import islice

import pytest

from fourm_engine.batch import Batch
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.loader import batches
from fourm_engine.data.order import Share
from fourm_engine.data.store import MemoryStore
from fourm_engine.storage.errors import Away, Changed
from tests.data.test_store import contents, masked


class Unreadable(MemoryStore):
    """Samples from the second on raise `error`."""

    def __init__(self, error):
        super().__init__({str(i): contents(i) for i in range(4)})
        self.error = error

    def load(self, row, modality, view=0):
        if row:
            raise self.error
        return super().load(row, modality, view)

    def skip(self, row, bad):
        raise bad


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        Away("s3://bucket/a: the store stayed away for 300 s"),
        Changed("s3://bucket/a", "5 bytes, not 6"),
        BadFile("a/1.bin", "a", "damaged"),
        OSError(5, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_is_the_error_of_the_run(error, workers):
    stream = islice(batches(masked(Unreadable(error)), Share(batch_size=2), workers=workers), 4)
    with pytest.raises(type(error)) as caught:
        list(stream)
    assert str(caught.value) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


class Killed(Unreadable):
    """The process that reads the second sample ends as one that the system has killed for its memory."""

    def load(self, row, modality, view=0):
        if row:
            os.kill(os.getpid(), signal.SIGKILL)
        return MemoryStore.load(self, row, modality, view)


def test_a_worker_that_is_killed_is_one_line_with_the_setting():
    stream = islice(batches(masked(Killed(None)), Share(batch_size=2), workers=1), 4)
    with pytest.raises(ValueError, match=r"reads data ended .*data\.workers") as caught:
        list(stream)
    assert "\n" not in str(caught.value)


def test_a_trimmed_batch_leaves_out_rows_that_all_samples_leave_empty_and_nothing_else():
    class Short(MemoryStore):
        def has(self, row):
            return frozenset({"a"})

    store = Short({str(i): contents(i) for i in range(4)})
    data = masked(store)
    data.budgets.config = data.budgets.config.model_copy(update={"encoder_capacity": 40, "decoder_capacity": 90})
    whole, trimmed = (next(batches(data, Share(batch_size=2), trim=trim)) for trim in (False, True))
    assert (whole.encoder.shape, whole.decoder.shape) == ((2, 40), (2, 90))
    assert (trimmed.encoder.shape, trimmed.decoder.shape) == ((2, 16), (2, 16))
    for side in ("encoder", "decoder"):
        for of_whole, of_trimmed in zip(vars(getattr(whole, side)).values(), vars(getattr(trimmed, side)).values()):
            assert (of_whole[:, :16] == of_trimmed).all()
        assert (getattr(whole, side).mod[:, 16:] == -1).all()
    assert whole.target_counts == trimmed.target_counts
    assert (whole.target_ids == trimmed.target_ids).all()


def test_workers_without_shared_memory_are_one_line_with_the_remedy(monkeypatch):
    def full(batch):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Batch, "share_memory", full)
    data = masked(MemoryStore({str(i): contents(i) for i in range(4)}))
    assert len(list(islice(batches(data, Share(batch_size=2), workers=0), 2))) == 2
    with pytest.raises(ValueError, match=r"no shared memory .* No space left on device .*--shm-size=1g"):
        next(batches(data, Share(batch_size=2), workers=1))
