"""Images of posts: files that are there, missing, broken or the same under two names."""

import pytest
from datasets import Dataset, Image

from modeling_mgvmoe.data.post_images import attach_images, image_key, read_image, undecoded
from modeling_mgvmoe.data.schema import Counts
from tests.support.from_scratch import drawing


@pytest.fixture
def folder(tmp_path):
    drawing(1).save(tmp_path / "a.png")
    drawing(1).save(tmp_path / "same.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_paths_are_put_in_the_place_of_names(folder):
    names = ["a.png", "same.png", "broken.png", "missing.png", None, "a.png"]
    posts, counts = [{"image": name} for name in names], Counts("typing")
    attach_images(posts, folder, counts)
    a, same = str(folder / "a.png"), str(folder / "same.png")
    assert [post["image"] for post in posts] == [a, same, None, None, None, a]
    assert (counts.images_referenced, counts.images_missing, counts.images_broken) == (4, 1, 1)
    assert (counts.images_duplicate, counts.records_with_image) == (1, 3)
    without = [{"image": "a.png"}]
    attach_images(without, None, counts)
    assert without == [{"image": None}] and counts.records_with_image == 0
    with pytest.raises(FileNotFoundError, match="image_dir: .*nowhere"):
        attach_images([], folder / "nowhere", counts)


def test_an_image_or_the_reason_why_there_is_none(folder):
    image, reason = read_image([str(folder / "a.png")])
    assert reason == "" and image_key(image) == image_key(drawing(1)) != image_key(drawing(2))
    reasons = [read_image(given)[1] for given in (None, [], str(folder / "missing.png"), b"no picture")]
    assert reasons == ["without", "without", "missing", "broken"]


def test_images_of_a_dataset_stay_closed(folder):
    rows = Dataset.from_dict({"image": [str(folder / "broken.png")]}).cast_column("image", Image())
    assert undecoded(rows)[0]["image"]["path"] == str(folder / "broken.png")
    assert undecoded([1]) == [1]
