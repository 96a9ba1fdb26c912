"""What decides ids is compared wherever it is stored, and a difference names the setting, both values, the remedy."""

import json
import subprocess
import sys

import pytest
from fourm_boxes import Boxes
from fourm_depth import Depth

from fourm_engine.identity import check_identity, differences, digest
from fourm_plugins.bases.vector import Column, ScalarVector, VectorSettings
from fourm_plugins.settings import Settings, flat_settings


def depth(**settings):
    return Depth("depth", image_size=32, patch_size=8, codebook_size=16, **settings)


def test_an_identity_is_flat_and_json_with_every_default_spelt_out():
    identity = Boxes("boxes", text={"vocabulary_size": 1024, "coordinate_bins": 50}).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["text.coordinate_bins"] == 50
    assert identity["max_boxes"] == 40
    assert identity["order"] == "distance"
    assert identity["ids_version"] == ""


def test_a_setting_of_a_list_that_an_older_release_did_not_store_counts_as_its_default():
    price = {"name": "price", "lowest": 1, "highest": 1000}
    stored = ScalarVector("a", columns=[price]).identity()
    del stored["columns.0.scale"]
    assert differences(stored, ScalarVector("a", columns=[price])) == []
    (found,) = differences(stored, ScalarVector("a", columns=[price | {"scale": "log"}]))
    assert str(found) == 'modalities.settings.a.columns.0.scale was "linear", is "log"'


def test_where_files_lie_and_which_masker_is_used_are_no_part_of_it():
    assert depth(source="elsewhere", masker="mine").identity() == depth().identity()


def test_a_square_has_one_spelling():
    assert (
        Depth("depth", image_size=[32, 32], patch_size=8).identity()
        == Depth("depth", image_size=32, patch_size=8).identity()
    )


def test_the_digest_is_the_same_in_every_process():
    code = (
        "from fourm_depth import Depth; from fourm_engine.identity import digest;"
        "print(digest(Depth('depth', image_size=32, patch_size=8, codebook_size=16).identity()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == digest(depth().identity())
    assert found != digest(depth(png_unit=0.5).identity())


@pytest.mark.parametrize(
    ("setting", "was", "now"),
    [("max_depth", 100.0, 10.0), ("png_unit", 0.001, 0.0002), ("normalisation", '"log"', '"per_image"')],
)
def test_a_difference_names_file_setting_both_values_and_the_remedy(setting, was, now):
    changed = depth(**{setting: json.loads(str(now))})
    with pytest.raises(ValueError, match="tokens/train") as caught:
        check_identity(depth().identity(), changed, where="tokens/train", remedy="remove tokens and tokenize again")
    assert f"modalities.settings.depth.{setting} was {was}, is {now}" in str(caught.value)
    assert str(caught.value).endswith("; restore it, or remove tokens and tokenize again")


def test_only_the_setting_is_named_where_the_spec_follows_from_it():
    (found,) = differences(depth().identity(), Depth("depth", image_size=64, patch_size=8, codebook_size=16))
    assert str(found) == "modalities.settings.depth.image_size was 32, is 64"


def test_the_recipe_of_the_tokenizer_is_part_of_it():
    (found,) = differences(depth().identity(), depth(tokenizer={"encoder": {"width": 32}}))
    assert str(found) == "modalities.settings.depth.tokenizer.encoder.width was not set, is 32"


def test_a_list_that_differs_in_one_place_names_the_place():
    labels = [f"class {i}" for i in range(100)]
    stored = Boxes("boxes", labels=labels).identity()
    (found,) = differences(stored, Boxes("boxes", labels=[*labels[:98], "cup", labels[99]]))
    assert str(found) == 'modalities.settings.boxes.labels.98 was "class 98", is "cup"'


def test_a_setting_of_a_newer_release_counts_by_its_default():
    stored = {key: value for key, value in depth().identity().items() if key != "png_unit"}
    assert differences(stored, depth()) == []
    (found,) = differences(stored, depth(png_unit=0.5))
    assert str(found) == "modalities.settings.depth.png_unit was 0.001, is 0.5"


def test_a_release_that_gives_other_ids_says_so():
    class Newer(Depth):
        ids_version = "2"

    newer = Newer("depth", image_size=32, patch_size=8, codebook_size=16)
    with pytest.raises(
        ValueError, match='ids_version of depth was "", is "2"; install the plugin\'s earlier release, or fit'
    ):
        check_identity(depth().identity(), newer, where="tokenizers/depth", remedy="fit again")


def test_settings_for_display_alone_may_change_at_any_depth():
    def columns(unit):
        return VectorSettings(columns=(Column(name="t", lowest=0, highest=1, unit=unit),))

    assert flat_settings(columns("K")) == flat_settings(columns("°C"))


def test_declarations_add_up_over_the_bases():
    class Base(Settings):
        run_only = frozenset({"place"})
        place: str = ""

    class Derived(Base):
        display_only = frozenset({"colour"})
        colour: str = "red"
        size: int = 1

    assert flat_settings(Derived()) == {"size": 1}


def test_a_declaration_of_what_is_no_setting_is_an_error():
    with pytest.raises(TypeError, match="display_only names colour, which is no setting"):

        class Misspelt(Settings):
            display_only = frozenset({"colour"})
            color: str = "red"
