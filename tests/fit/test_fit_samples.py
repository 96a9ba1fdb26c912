"""The data of a fit: each file is decoded once for all views of a sample, its shape once for all tokenizers."""

from collections import Counter

import pytest

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import DrawnViews, ViewDrawer
from fourm_engine.fit.samples import training_arrays
from tests.fakes import fake_modalities, sample_names, write_data


@pytest.fixture
def reads(monkeypatch):
    """Modality -> values read."""
    counted, read = Counter(), AlignedData.value

    def value(self, name, modality, files=None):
        counted[modality] += 1
        return read(self, name, modality, files)

    monkeypatch.setattr(AlignedData, "value", value)
    return counted


@pytest.fixture
def drawn(tmp_path):
    modalities = fake_modalities()
    write_data(tmp_path, modalities, sample_names(3))
    return DrawnViews(ViewDrawer(modalities, augment=True), AlignedData(tmp_path, modalities), 4)


def test_a_sample_is_read_once_for_all_its_views_and_its_shape_once_for_all_modalities(drawn, reads):
    assert len(list(training_arrays([drawn], "a", views=4, cache_bytes=0))) == 12
    assert reads == {"a": 3, "b": 3}  # `b` has a vote in what the shape is
    assert len(list(training_arrays([drawn], "b", views=4, cache_bytes=0))) == 12
    assert reads == {"a": 3, "b": 6}


def test_no_picture_is_read_for_a_text_that_is_not_cropped(drawn, reads):
    assert len(list(training_arrays([drawn], "words", views=4, cache_bytes=0))) == 12
    assert reads == {"words": 3}


def test_views_of_a_sample_in_any_order_are_those_of_reading_it_alone(drawn):
    arrays = training_arrays([drawn], "a", views=4, cache_bytes=0)
    forwards, backwards = list(arrays), [arrays[i] for i in range(11, -1, -1)][::-1]
    assert all((x == y).all() for x, y in zip(forwards, backwards, strict=True))


def test_shapes_are_remembered_of_a_bounded_number_of_samples(drawn, reads, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.views.REMEMBERED", 2)
    first, again = ([drawn.get(name, 0) for name in drawn.data.names] for _ in range(2))
    assert first == again
    assert reads == {"a": 4, "b": 4}  # three, and the third once more
