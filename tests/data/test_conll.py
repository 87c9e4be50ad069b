"""CoNLL files: made-up lines here, CrossNER's own where they are."""

import os
from pathlib import Path

import pytest

from modeling_mgvmoe.data.conll import read_conll
from modeling_mgvmoe.data.crossner import crossner_data, read_crossner
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.splits import ClassSplit, crossner_class_split
from tests.support.conll_files import lines, write

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
