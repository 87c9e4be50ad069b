"""ImplicitAVE's tables: made-up products here, its own where they are."""

import csv
import json
import os

import pytest
from PIL import Image

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.data.adapters import check_public
from modeling_mgvmoe.data.implicitave import COLUMNS, implicitave_class_split, implicitave_files, read_implicitave
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.from_scratch import scratch_model
from tests.support.prepared import prepare

OPTIONS = {
    "Food": {"Form": ["Sliced", "Powder"], "Container": ["Bag", "Box"], "Occasion": ["Easter", "New Year"]},
    "Home": {"Material": ["Wood", "Glass"], "Special Occasion": ["Easter", "Birthday"]},
}
FOOD = [
    ("F1", "Tea & Infusions", '[Title] Kelo\'s "best" tea\u00a0', "Form", "Powder"),
    ("F2", "Cheese", "[Title] Mura", "Container", "Bag"),
    ("F3", "Fudge", "[Title] Sweet", "Occasion", "Easter"),
]
HOME = [
    ("H1", "Mugs", "[Title] Cup", "Material", "Glass"),
    ("H2", "Candles", "[Title] Wax", "Special Occasion", "Easter"),
]


def folder_of(path, food=FOOD, home=HOME, below="texts"):
    (path / below).mkdir(parents=True, exist_ok=True)
    for domain, rows in (("Food", food), ("Home", home)):
        with open(path / below / f"{domain}_annotated_final.tsv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((key, f"{key}.jpg", *rest) for key, *rest in rows)
        (path / below / f"._{domain}_annotated_final.tsv").write_bytes(b"\0\5\x16\7")  # of macOS
        (path / f"options_{domain}.json").write_text(json.dumps(OPTIONS[domain]), encoding="utf-8")
    return path


def images_of(path):
    path.mkdir()
    Image.new("RGB", (6, 4)).save(path / "F1.jpg")
    Image.new("RGB", (6, 4)).save(path / "H2.jpg")
    for name in ("._F1.jpg", "._F2.jpg"):
        (path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    return path


class TestReading:
    def test_a_record_becomes_a_post(self, tmp_path):
        posts, counts = read_implicitave(folder_of(tmp_path), images_of(tmp_path / "images"))
        assert posts[0] == {
            "id": "implicitave-F1-Form",
            "text": 'Tea & Infusions: Kelo\'s "best" tea',
            "mentions": [[0, 15]],
            "label": "Form: Powder",
            "image": str(tmp_path / "images" / "F1.jpg"),
            "source": "implicitave",
            "candidate_labels": ["Form: Sliced", "Form: Powder"],
        }
        assert [post["label"] for post in posts[2:]] == [
            "Occasion: Easter",
            "Material: Glass",
            "Special Occasion: Easter",
        ]
        assert [post["image"] is None for post in posts] == [False, True, True, True, False]
        assert (counts.images_missing, counts.images_broken, counts.records_with_image) == (3, 0, 2)
        assert counts.files == {"Food_annotated_final.tsv": 3, "Home_annotated_final.tsv": 2}

    @pytest.mark.parametrize("below", ["texts", ""])
    def test_tables_and_options_lie_in_the_folder_or_below_it(self, tmp_path, below):
        folder = folder_of(tmp_path, below=below)
        assert list(implicitave_files(folder)) == ["Food", "Home"]
        assert len(read_implicitave(folder)[0]) == 5
        for name in ("Food", "Home"):
            (folder / f"options_{name}.json").rename(folder / below / f"options_{name}.json")
        assert len(read_implicitave(folder)[0]) == 5

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (("F1", "Tea", "[Title] x", "Form", "Flat"), "line 2: 'Flat' must be among the options of 'Form', got"),
            (
                ("F1", "Tea", "[Title] x", "Shape", "Flat"),
                "line 2: 'Flat' must be among the options of 'Shape', got None",
            ),
            (("../F1", "Tea", "[Title] x", "Form", "Sliced"), "line 2: images must be the name of a file"),
            (("F1", " ", "[Title] x", "Form", "Sliced"), r"line 2: .*mentions\[0\]"),
            (("F1", "Tea", "[Title] x", "Form"), "line 2: 6 columns are needed"),
            (("F1", "Tea", "[Title] x", "Form", "Sliced", "x"), "line 2: 6 columns are needed"),
        ],
    )
    def test_refused(self, tmp_path, row, message):
        with pytest.raises(ValueError, match=message) as error:
            read_implicitave(folder_of(tmp_path, food=[row]))
        assert "Food_annotated_final.tsv" in str(error.value)

    def test_files_that_are_not_right(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file like Food_annotated_final.tsv"):
            read_implicitave(tmp_path)
        folder = folder_of(tmp_path)
        path = folder / "options_Home.json"
        for content, message in (({"Material": []}, "must have a list"), ({"Material": ["a", "a"]}, "distinct")):
            path.write_text(json.dumps(content), encoding="utf-8")
            with pytest.raises(ValueError, match=f"options_Home.json: .*{message}"):
                read_implicitave(folder)
        table = folder / "texts" / "Home_annotated_final.tsv"
        table.write_text("id\timage\n", encoding="utf-8")
        path.write_text(json.dumps(OPTIONS["Home"]), encoding="utf-8")
        with pytest.raises(ValueError, match=r"Home_annotated_final.tsv: columns must be id, images"):
            read_implicitave(folder)
        table.rename(table.with_name("Toys_annotated_final.tsv"))
        with pytest.raises(ValueError, match="domains must be Food, .*, got Toys"):
            implicitave_files(folder)


def test_values_of_an_attribute_are_in_one_split():
    split = implicitave_class_split([f"{name}: {value}" for name in "abcde" for value in (1, 2)], 0)
    assert [len(part) for part in vars(split).values()] == [4, 2, 4]
    assert all(len({name[0] for name in part}) == len(part) / 2 for part in vars(split).values())


def test_a_prepared_row_goes_through_the_pipeline(tmp_path):
    folder, images = folder_of(tmp_path / "raw"), images_of(tmp_path / "images")
    found = prepare("implicitave", "--data", folder, "--images", images, "--output_dir", tmp_path / "out")
    assert sum(found.values()) == 5
    data = data_from_folder(tmp_path / "out")
    posts = [post for part in data.posts.values() for post in part]
    assert {name for part in data.labels.values() for name in part["typing"]} == {
        label for post in posts for label in post["candidate_labels"]
    }
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    for post in posts:
        answers = pipe(post)
        assert sorted(answer["label"] for answer in answers) == sorted(post["candidate_labels"])
    with pytest.raises(ValueError, match="private must be set for 'implicitave'"):
        check_public("implicitave", False)


@pytest.mark.real
def test_counts_of_the_real_files(tmp_path, capsys):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    folder = os.path.join(folder, "implicitave")
    flags = ["--data", folder, "--images", os.path.join(folder, "images")]
    found = prepare("implicitave", *flags, "--output_dir", tmp_path / "out")
    assert found == {"train": 578, "validation": 480, "test": 552}
    printed = capsys.readouterr().out
    assert "1,610 records (154 types): 226 in Clothing_annotated_final.tsv" in printed
    assert "1,610 images: 0 missing, 0 broken, 10 duplicate; 1,610 records have an image" in printed
    data = data_from_folder(tmp_path / "out")
    attributes = [{name.partition(": ")[0] for name in part["typing"]} for part in data.labels.values()]
    assert [len(names) for names in attributes] == [8, 7, 8]
