"""CoNLL files: made-up lines here, CrossNER's own where they are."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from modeling_mgvmoe.data.adapters import check_public
from modeling_mgvmoe.data.conll import (
    coarse_label_set,
    complete_label_set,
    multimodal_ner_files,
    name_from_tag,
    read_conll,
    read_crossner,
    read_multimodal_ner,
)
from modeling_mgvmoe.data.label_sets import LabelInfo, LabelSet, read_label_set
from modeling_mgvmoe.data.post_images import read_captions
from modeling_mgvmoe.data.splits import ClassSplit, crossner_class_split, thirds_class_split
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.conll_files import crossner_data, lines, write
from tests.support.prepared import prepare

LABELS = Path(__file__).resolve().parents[2] / "configuration" / "labels" / "crossner.json"


def mentions(posts):
    return [(post["text"][slice(*post["mentions"][0])], post["label"]) for post in posts]


class TestReading:
    def test_every_mention_becomes_a_post(self, tmp_path):
        text = lines("Old/B-person Mura/I-person sails/O to/O Kelo/B-place", "Rain/O", "Tiva/B-person")
        posts, counts = read_conll(write(tmp_path / "dev.txt", text), "toy")
        assert posts[0] == {
            "id": "toy-dev-1",
            "text": "Old Mura sails to Kelo",
            "mentions": [[0, 8]],
            "label": "person",
            "image": None,
            "source": "toy",
        }
        # Lines 1-5 are the first sentence, 6 is blank, 7 is rain, 8 is blank.
        assert [post["id"] for post in posts] == ["toy-dev-1", "toy-dev-5", "toy-dev-9"]
        assert posts[1]["mentions"] == [[18, 22]]
        assert (counts.task, counts.records, counts.classes) == ("typing", 3, {"person": 2, "place": 1})
        assert str(counts) == "3 records (2 types)"

    @pytest.mark.parametrize(
        ("tags", "found"),
        [
            ("B-x I-x O", ["a b"]),
            ("B-x B-x O", ["a", "b"]),
            ("I-x I-x O", ["a b"]),  # begins without a B
            ("O I-x I-x", ["b c"]),
            ("B-x I-y I-y", ["a", "b c"]),  # another type
            ("I-x B-x I-x", ["a", "b c"]),  # B between two that touch
            ("B-x O I-x", ["a", "c"]),
            ("O O O", []),
        ],
    )
    def test_where_a_mention_begins(self, tmp_path, tags, found):
        text = "".join(f"{word} {tag}\n" for word, tag in zip("abc", tags.split(), strict=True))
        posts, _ = read_conll(write(tmp_path / "x.txt", text))
        assert [text for text, _ in mentions(posts)] == found

    def test_four_columns_documents_carriage_returns_and_no_newline_at_the_end(self, tmp_path):
        text = "\ufeff-DOCSTART- -X- -X- O\r\n\r\nKelo NNP B-NP B-LOC\r\n-DOCSTART- -X- -X- O\r\nBay NNP I-NP I-LOC"
        posts, _ = read_conll(write(tmp_path / "x.txt", text))
        assert [(post["text"], post["id"]) for post in posts] == [("Kelo", "conll-x-3"), ("Bay", "conll-x-5")]

    @pytest.mark.parametrize(
        ("tags", "found"),
        [
            ("B-x E-x S-y O", ["a b", "c"]),
            ("B-x I-x L-x U-x", ["a b c", "d"]),
            ("S-x S-x I-x O", ["a", "b", "c"]),
            ("E-x I-x E-x O", ["a", "b c"]),
            ("B-x L-x I-x I-y", ["a b", "c", "d"]),
        ],
    )
    def test_last_and_single_words_of_bioes_and_bilou(self, tmp_path, tags, found):
        text = "".join(f"{word} {tag}\n" for word, tag in zip("abcd", tags.split(), strict=True))
        posts, _ = read_conll(write(tmp_path / "x.txt", text))
        assert [text for text, _ in mentions(posts)] == found

    @pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u3000"])
    @pytest.mark.parametrize("separator", [" ", "  ", "\t"])
    def test_only_blanks_and_tabs_separate_columns(self, tmp_path, space, separator):
        path = write(tmp_path / "x.txt", f"paid{separator}O\n10{space}000{separator}B-sum\n")
        assert mentions(read_conll(path)[0]) == [(f"10{space}000", "sum")]

    def test_carriage_returns_end_lines_where_nothing_else_does(self, tmp_path):
        path = tmp_path / "x.txt"
        path.write_bytes(b"Kelo B-person\rsails O\r\rMura B-person\r")
        posts, _ = read_conll(path)
        assert [(post["id"], post["text"]) for post in posts] == [("conll-x-1", "Kelo sails"), ("conll-x-4", "Mura")]

    def test_comments_before_a_sentence(self, tmp_path):
        text = "# id 7 domain=en\nKelo _ _ B-person\n# _ _ O\n\n# text = # Mura\n# _ _ O\nMura _ _ B-person\n"
        posts, _ = read_conll(write(tmp_path / "x.txt", text))
        assert [post["text"] for post in posts] == ["Kelo #", "# Mura"]  # "#" with a tag is a word
        posts, _ = read_conll(write(tmp_path / "x.txt", "# what is O\nKelo\t_\t_\tB-person\n"))
        assert [post["text"] for post in posts] == ["Kelo"]  # without a tab, in a file with tabs
        with pytest.raises(ValueError, match="line 2: a word and its tag"):
            read_conll(write(tmp_path / "x.txt", "Kelo _ _ B-person\n# late comment\n"))

    def test_a_tab_at_the_end_of_lines(self, tmp_path):
        posts, _ = read_conll(write(tmp_path / "x.txt", "Kelo\tB-person\t\nsails\tO\t\n"))
        assert mentions(posts) == [("Kelo", "person")]

    def test_lines_must_have_the_columns_of_the_others(self, tmp_path):
        with pytest.raises(ValueError, match="line 2: a word and its tag are needed, in 2 columns"):
            read_conll(write(tmp_path / "x.txt", "Kelo B-person\nis here O\n"))

    def test_images_are_another_adapters(self, tmp_path):
        path = write(tmp_path / "x.txt", "IMGID:7\nKelo\tB-person\n\nIMGID:8\nMura\tB-person\n")
        with pytest.warns(UserWarning, match="the images of 2 posts, named by IMGID:, are not read"):
            posts, _ = read_conll(path)
        assert mentions(posts) == [("Kelo", "person"), ("Mura", "person")]
        with pytest.raises(ValueError, match="line 1: IMGID: must have an id behind it"):
            read_conll(write(tmp_path / "x.txt", "IMGID:\nKelo\tB-person\n"))

    def test_words_may_hold_spaces_where_tabs_part_columns(self, tmp_path):
        posts, _ = read_conll(write(tmp_path / "x.txt", "Kelo Bay\tB-place\nopens\tO\n"))
        assert mentions(posts) == [("Kelo Bay", "place")]

    def test_only_a_newline_ends_a_line(self, tmp_path):
        path = tmp_path / "x.txt"
        path.write_text("Ke\rlo\u2028\tB-place\nopens\tO\n", encoding="utf-8", newline="")
        assert mentions(read_conll(path)[0]) == [("Ke\rlo\u2028", "place")]

    @pytest.mark.parametrize(
        "line", ["Kelo", "Kelo B", "Kelo B-", "Kelo b-place", "Kelo X-place", "\tB-place", "Kelo O O"]
    )
    def test_a_malformed_line_names_file_and_line(self, tmp_path, line):
        path = write(tmp_path / "x.txt", f"Mura O\n\n{line}\n")
        with pytest.raises(ValueError, match="a word and its tag") as error:
            read_conll(path)
        assert f"{path}, line 3: " in str(error.value)

    def test_a_mention_of_white_space(self, tmp_path):
        path = write(tmp_path / "x.txt", "\u00a0\tB-place\nKelo\tB-place\n")
        with pytest.raises(ValueError, match=r"x.txt, line 1: .* covers only white space"):
            read_conll(path)
        posts, counts = read_conll(path, on_bad_span="skip")
        assert mentions(posts) == [("Kelo", "place")]
        assert (counts.records, counts.bad_spans) == (1, ["conll-x-1"])
        assert "1 more records left out, their spans do not fit the text: conll-x-1" in str(counts)
        with pytest.raises(ValueError, match="on_bad_span must be one of 'error', 'skip', got 'drop'"):
            read_conll(path, on_bad_span="drop")

    def test_files_must_exist_and_be_text(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="x.txt"):
            read_conll(tmp_path / "x.txt")
        (tmp_path / "x.txt").write_bytes(b"K\xe4lo\tO\n")
        with pytest.raises(ValueError, match="x.txt: a text file in UTF-8 is needed"):
            read_conll(tmp_path / "x.txt")


class TestColumns:
    @pytest.mark.parametrize("start", [0, 1])
    def test_an_index_in_front(self, tmp_path, start):
        rows = [("In", "O"), ("Dunvik", "B-place"), ("2020", "O")]
        one = "".join(f"{start + number}\t{word}\t{tag}\n" for number, (word, tag) in enumerate(rows))
        posts, _ = read_conll(write(tmp_path / "x.txt", f"{one}\n{start}\tMura\tB-person\n"))
        assert [post["text"] for post in posts] == ["In Dunvik 2020", "Mura"]

    def test_the_index_of_conll_u_has_ranges_and_words_that_are_not_there(self, tmp_path):
        text = "1-2 vámonos _\n1 vamos O\n2 nos O\n2.1 ya O\n3 Kelo B-person\n"
        posts, _ = read_conll(write(tmp_path / "x.txt", text))
        assert [post["text"] for post in posts] == ["vamos nos Kelo"]

    def test_numbers_that_do_not_count_up_may_be_words(self, tmp_path):
        path = write(tmp_path / "x.txt", "7 CD O\n9 CD B-sum\n")
        with pytest.raises(ValueError, match=r"x.txt, line 1: word_column must be given"):
            read_conll(path)
        assert mentions(read_conll(path, word_column=1)[0]) == [("9", "sum")]
        assert mentions(read_conll(path, word_column=2)[0]) == [("CD", "sum")]
        # With two columns the first one is the word.
        assert mentions(read_conll(write(tmp_path / "y.txt", "1 O\n2 B-sum\n"))[0]) == [("2", "sum")]

    def test_chunks_are_no_entities(self, tmp_path, recwarn):
        text = "Kelo NNP I-NP I-person\nsails VBZ I-VP O\n"
        assert mentions(read_conll(write(tmp_path / "x.txt", text))[0]) == [("Kelo", "person")]
        assert read_conll(write(tmp_path / "x.txt", "rain NN I-NP O\nfalls VBZ I-VP O\n"))[0] == []
        assert mentions(read_conll(write(tmp_path / "x.txt", "rain NN B-NP\n"))[0]) == [("rain", "NP")]  # asked for
        assert not recwarn

    def test_two_columns_of_tags(self, tmp_path):
        path = write(tmp_path / "x.txt", "Kelo B-school O\nUni I-school O\nMura I-school B-place\n")
        with pytest.warns(
            UserWarning, match="columns 2, 3 all hold tags, column 2 is read; tag_column 3 reads another"
        ):
            assert mentions(read_conll(path)[0]) == [("Kelo Uni Mura", "school")]
        assert mentions(read_conll(path, tag_column=3)[0]) == [("Mura", "place")]

    def test_columns_are_those_of_all_files_together(self, tmp_path, recwarn):
        # The first column of tags is empty in the second file only.
        paths = [write(tmp_path / f"{name}.txt", text) for name, text in
                 (("a", "Kelo B-x _\n"), ("b", "Mura O B-y\n"))]  # fmt: skip
        assert mentions(read_conll(paths)[0]) == [("Kelo", "x")]
        assert not recwarn

    def test_the_tag_may_be_in_front(self, tmp_path):
        path = write(tmp_path / "x.txt", "B-person\tKelo\nO\tsails\n")
        with pytest.raises(ValueError, match="needed in columns 1 and 2, .*; word_column and tag_column name others"):
            read_conll(path)
        assert mentions(read_conll(path, tag_column=1, word_column=2)[0]) == [("Kelo", "person")]

    @pytest.mark.parametrize("column", [0, 3, True, "2"])
    @pytest.mark.parametrize("name", ["tag_column", "word_column"])
    def test_columns_must_be_there(self, tmp_path, name, column):
        path = write(tmp_path / "x.txt", "Kelo B-person\n")
        with pytest.raises(ValueError, match=f"{name} must be an integer from 1 to 2"):
            read_conll(path, **{name: column})
        with pytest.raises(ValueError, match="tag_column must differ from word_column"):
            read_conll(path, tag_column=1)


@pytest.mark.real
class TestRealFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls):
        folder = os.environ.get("MGVMOE_DATA")
        if not folder:
            pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
        return os.path.join(folder, "crossner")

    def test_types_are_those_of_the_label_set(self, folder):
        label_set = read_label_set(LABELS)
        _, counts = read_crossner(folder, ["politics", "science", "ai"])
        for domain, found in counts.items():
            assert set(found.classes) == set(label_set.domains[domain]), domain

    @pytest.mark.parametrize("test_domain", ["politics", "science", "ai"])
    def test_data_follow_the_split_of_the_label_set(self, folder, test_domain, recwarn):
        label_set = read_label_set(LABELS)
        train_domains = [name for name in ("politics", "science", "ai") if name != test_domain]
        data = crossner_data(folder, train_domains, test_domain, label_set)
        split = crossner_class_split(label_set.domains, train_domains, test_domain).in_words(label_set)
        assert split == ClassSplit(**{name: data.labels[name]["typing"] for name in data.labels})
        assert all({post["label"] for post in data.posts[name]} == set(getattr(split, name)) for name in data.labels)
        assert not recwarn


def domains(tmp_path, **sentences):
    for domain, text in sentences.items():
        for name in ("train", "dev", "test"):
            write(tmp_path / domain / f"{name}.txt", lines(*text))
    return tmp_path


def toy_labels(**names):
    classes = {raw: LabelInfo(name, f"A {name}.") for raw, name in names.items()}
    return LabelSet("toy", 1, "typing", classes, left_out=("misc",))


class TestTransfer:
    def test_domains_and_types_decide(self, tmp_path):
        folder = domains(
            tmp_path,
            sea=["A/B-ship B/B-port C/B-misc", "D/B-person", "E/B-island F/B-fish"],
            land=["G/B-person H/B-town"],
            sky=["I/B-person J/B-cloud K/B-misc L/B-town", "M/B-star"],
        )
        labels = toy_labels(ship="ship", port="port", person="person", island="island", fish="fish", town="town",
                            cloud="cloud", star="fixed star", misc="rest")  # fmt: skip
        # Six types to learn from, in alphabetical order: fish island person port ship town. Seed 0 gives the places
        # 4, 0, 3, 1, 1: -4-> fish island person port town ship -0-> town island person port fish ship -3-> the same
        # -1-> town person island port fish ship -1-> the same. The first 6 // 4 of them are for validation.
        data = crossner_data(folder, ["sea", "land"], "sky", labels, seed=0)
        assert data.labels == {
            "train": {"typing": ("fish", "island", "person", "port", "ship")},
            "validation": {"typing": ("town",)},
            "test": {"typing": ("cloud", "fixed star")},
        }
        assert {split: sorted({post["label"] for post in posts}) for split, posts in data.posts.items()} == {
            "train": ["fish", "island", "person", "port", "ship"],
            "validation": ["town"],
            "test": ["cloud", "fixed star"],
        }
        # Three files each: the one town of the land, and neither the sky's town nor its person.
        assert len(data.posts["validation"]) == 3
        assert {post["source"] for post in data.posts["train"]} == {"crossner-sea", "crossner-land"}
        assert {post["source"] for post in data.posts["validation"]} == {"crossner-land"}
        assert {post["source"] for post in data.posts["test"]} == {"crossner-sky"}
        assert data.label_descriptions["fixed star"] == ("fixed star", "A fixed star.")
        identifiers = [post["id"] for posts in data.posts.values() for post in posts]
        assert len(set(identifiers)) == len(identifiers)

    def test_unknown_types_are_named_after_their_tags(self, tmp_path):
        folder = domains(
            tmp_path, one=["A/B-PERSON B/B-rockBand C/B-Misc"], two=["D/B-chem_element E/B-person", "F/B-rockband"]
        )
        with pytest.warns(UserWarning, match="does not know 5 types: .*'PERSON' is taken for 'person'.*'rock band'"):
            data = crossner_data(folder, ["one"], "two", toy_labels(person="person"))
        assert {*data.labels["train"]["typing"], *data.labels["validation"]["typing"]} == {"person", "rock band"}
        assert data.labels["test"] == {"typing": ("chem element",)}
        assert data.label_descriptions == {
            "person": ("person", "A person."),
            "chem element": ("chem element",),
            "rock band": ("rock band",),
        }

    @pytest.mark.parametrize(
        ("tag", "name"),
        [
            ("rockBand", "rock band"),
            ("chem_element", "chem element"),
            ("ORG", "org"),
            ("a-b.c", "a b c"),
            ("--", "--"),
        ],
    )
    def test_names(self, tag, name):
        assert name_from_tag(tag) == name

    def test_a_known_set_is_left_as_it_is(self, recwarn):
        labels = toy_labels(person="person")
        assert complete_label_set(labels, ["person", "misc"]) == (labels, {"person": "person", "misc": "misc"})
        assert not recwarn

    def test_a_domain_that_is_not_there(self, tmp_path):
        folder = domains(tmp_path, sea=["A/B-ship"])
        with pytest.raises(
            FileNotFoundError, match=r"see.train.txt does not exist; did you mean 'sea'\? \(there: sea\)"
        ):
            read_crossner(folder, ["see"])
        (folder / "sea" / "dev.txt").unlink()
        with pytest.raises(FileNotFoundError, match="sea.dev.txt"):
            read_crossner(folder, ["sea"])
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_crossner(tmp_path / "nowhere", ["sea"])


TWEET_LABELS = Path(__file__).resolve().parents[2] / "configuration" / "labels" / "twitter10000.json"
TWEETS = """IMGID:K_7
# O O
Kelo B-person B-musician
Mar I-person I-musician
sings O O

IMGID:8
rain O O

IMGID:9
Dunvik B-location B-city
and O O
Oru B-location B-city
"""
CAPTIONS = "K_7.jpg :a man on a stage\n8.jpg :\n9.jpg :a town :by the sea\n"


def folder_of(tmp_path, text=TWEETS, names=("train", "dev", "test")):
    tmp_path.mkdir(exist_ok=True)
    for name in names:
        (tmp_path / f"{name}.txt").write_text(text.replace(" ", "\t"), encoding="utf-8")
    return tmp_path


class TestReadingTweets:
    def test_every_mention_becomes_a_post_with_image_and_caption(self, tmp_path):
        (tmp_path / "images").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / "K_7.jpg")
        (tmp_path / "images" / "._9.jpg").write_bytes(b"\0\5\x16\7")  # of macOS
        (tmp_path / "captions.txt").write_text(CAPTIONS, encoding="utf-8")
        folder = folder_of(tmp_path)
        posts, counts = read_multimodal_ner(
            multimodal_ner_files(folder)[0], tmp_path / "images", read_captions(tmp_path / "captions.txt")
        )
        assert posts[0] == {
            "id": "mner-train-3-K_7",
            "text": "# Kelo Mar sings",
            "mentions": [[2, 10]],
            "label": "musician",
            "image": str(tmp_path / "images" / "K_7.jpg"),
            "source": "mner",
            "image_text": ["a man on a stage"],
        }
        assert [(post["id"], post["image"], post["image_text"]) for post in posts[1:]] == [
            ("mner-train-11-9", None, ["a town :by the sea"]),
            ("mner-train-13-9", None, ["a town :by the sea"]),
        ]
        assert (counts.texts, counts.records, counts.files) == (3, 3, {"train.txt": 3})
        assert str(counts) == (
            "3 texts, 3 records (2 types): 3 in train.txt; 2 images: 1 missing, 0 broken, 0 duplicate; 1 records "
            "have an image; 3 records have an image text"
        )

    def test_the_column_is_chosen_by_name(self, tmp_path):
        path = folder_of(tmp_path) / "train.txt"
        assert [post["label"] for post in read_multimodal_ner(path, tag_column="coarse")[0]] == [
            "person", "location", "location"
        ]  # fmt: skip
        with pytest.raises(ValueError, match="tag_column must be one of 'coarse', 'fine', got 2"):
            read_multimodal_ner(path, tag_column=2)
        two = folder_of(tmp_path / "two", "IMGID:7\nKelo B-PER\n") / "train.txt"
        with pytest.raises(ValueError, match="two/train.txt has no column of fine tags; --tag-column coarse reads"):
            read_multimodal_ner(two)
        assert [post["label"] for post in read_multimodal_ner(two, tag_column="coarse")[0]] == ["PER"]

    def test_captions_of_several_files(self, tmp_path):
        for name, text in (("a", "7.jpg :one\n8.jpg :same\n"), ("b", "7.jpg :two\n\n8.jpg :same\n9.jpg : \n")):
            (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_captions([tmp_path / "a", tmp_path / "b"]) == {
            "7.jpg": ["one", "two"],
            "8.jpg": ["same"],
            "9.jpg": [],
        }
        (tmp_path / "b").write_text("7.jpg :two\n8.jpg three\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"b, line 2: an image and its caption, .* got '8.jpg three'"):
            read_captions(tmp_path / "b")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Kelo O O\n", 'line 1: a line "IMGID:id" must stand before each tweet'),
            ("IMGID:7\nKelo O O\n\nMura O O\n", 'line 4: a line "IMGID:id" must stand'),
            ("IMGID:../7\nKelo O O\n", "line 2: the id of an image must name no folder, got '../7'"),
            ("IMGID:7\nKelo O O\nMura O\n", "line 3: a word and its tag are needed, in 3 columns"),
        ],
    )
    def test_refused(self, tmp_path, text, message):
        path = folder_of(tmp_path, text) / "train.txt"
        with pytest.raises(ValueError, match=message) as error:
            read_multimodal_ner(path)
        assert str(path) in str(error.value)

    def test_files_must_be_there(self, tmp_path):
        (folder_of(tmp_path) / "dev.txt").rename(tmp_path / "valid.txt")
        assert multimodal_ner_files(tmp_path)[1] == str(tmp_path / "valid.txt")
        (tmp_path / "valid.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"dev.txt or valid.txt is needed"):
            multimodal_ner_files(tmp_path)


def tweets_of(types):
    return "".join(f"IMGID:{number}\nKelo B-{coarse} B-{fine}\n\n" for number, (coarse, fine) in enumerate(types))


class TestCommand:
    def test_fine_types(self, tmp_path):
        label_set = read_label_set(TWEET_LABELS)
        fine = [(info.parent, raw) for raw, info in label_set.classes.items()]
        folder = folder_of(tmp_path / "raw", tweets_of(fine))
        (tmp_path / "captions.txt").write_text("0.jpg :one\n1.jpg :two words\n", encoding="utf-8")
        out = tmp_path / "out"
        found = prepare("mner", "--data", folder, "--captions", tmp_path / "captions.txt", "--output_dir", out)
        assert found == {"train": 45, "validation": 42, "test": 45}  # 44 types, three files
        data = data_from_folder(out)
        kept = [raw for raw in label_set.classes if raw not in label_set.left_out]
        split = thirds_class_split(kept, 0).in_words(label_set)
        assert {name: names["typing"] for name, names in data.labels.items()} == vars(split)
        written = [post for part in data.posts.values() for post in part]
        assert {tuple(post["image_text"] or ()) for post in written} == {("two words",), ()}  # 0 is left out
        assert json.loads((out / "labels.json").read_text(encoding="utf-8"))["dataset"] == "mner"
        # The same by the order in the data.
        prepare("mner", "--data", folder, "--split", "seed-0", "--output_dir", tmp_path / "seed")
        again = data_from_folder(tmp_path / "seed")
        assert again.labels == data.labels and "image_text" not in again.posts["train"].column_names
        with pytest.raises(ValueError, match="private must be set for 'mner'"):
            check_public("mner", False)

    def test_coarse_types_also_by_their_short_names(self, tmp_path):
        names = ["PER", "organization", "LOC", "event", "OTHER"]
        folder = folder_of(tmp_path / "raw", "".join(f"IMGID:{n}\nKelo B-{n}\n\n" for n in names))
        flags = ["--tag-column", "coarse", "--split", "seed-0"]
        prepare("mner", "--data", folder, *flags, "--output_dir", tmp_path / "out")
        labels = data_from_folder(tmp_path / "out").labels
        found = {name for part in labels.values() for name in part["typing"]}
        assert found == {"person", "organization", "location", "event"}
        with pytest.raises(ValueError, match="label set 'wikidiverse': coarse types"):
            coarse_label_set(read_label_set(TWEET_LABELS.parent / "wikidiverse.json"))

    def test_the_division_of_the_files(self, tmp_path):
        """Twitter-2015 and Twitter-2017 have three types besides OTHER: none is held out."""
        folder = tmp_path / "raw"
        folder.mkdir()
        for file, names in (("train", ["PER", "LOC", "OTHER"]), ("valid", ["LOC"]), ("test", ["ORG", "PER"])):
            text = "".join(f"IMGID:{n}\nKelo\tB-{name}\n\n" for n, name in enumerate(names))
            (folder / f"{file}.txt").write_text(text, encoding="utf-8")
        flags = ["--tag-column", "coarse", "--split", "files"]
        found = prepare("mner", "--data", folder, *flags, "--output_dir", tmp_path / "out")
        assert found == {"train": 2, "validation": 1, "test": 2}
        data = data_from_folder(tmp_path / "out")
        assert not data.unseen
        assert set(map(str, data.labels.values())) == {str({"typing": ("person", "location", "organization")})}
        assert [post["label"] for post in data.posts["test"]] == ["organization", "person"]


@pytest.mark.real
def test_counts_of_the_real_files(tmp_path, capsys):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    folder = Path(folder, "twitter10000")
    captions = sorted((folder / "captions").iterdir())
    found = prepare("mner", "--data", folder, "--captions", *captions, "--output_dir", tmp_path / "out")
    assert sum(found.values()) == 16_772 - 1_045
    printed = capsys.readouterr().out
    assert (
        "10,000 texts, 16,772 records (51 types): 11,779 in train.txt, 2,450 in dev.txt, 2,543 in test.txt"
    ) in printed
    assert "16,771 records have an image text" in printed
    posts, counts = read_multimodal_ner(multimodal_ner_files(folder))
    assert list(counts.classes) == list(read_label_set(TWEET_LABELS).classes)  # order of first appearance
    assert len({post["id"] for post in posts}) == 16_772
    _, counts = read_multimodal_ner(multimodal_ner_files(folder), tag_column="coarse")
    assert set(counts.classes) == set(read_label_set(TWEET_LABELS).parents)
