"""The WikiDiverse adapter, on captions made up here."""

import hashlib
import json

import pytest
from PIL import Image

from modeling_mgvmoe.data.wikidiverse import image_name, read_wikidiverse, wikidiverse_files

URL = "https://example.org/commons/0/06/Kelo_Bay.svg"


def caption(*mentions, text="Mura opens Kelo Bay.", url=URL):
    return [text, url, "politics", [list(mention) for mention in mentions]]


MURA = ("Mura", "People", 0, 4, "https://example.org/Mura")
BAY = ("Kelo Bay", "Location", 11, 19, "https://example.org/Kelo")


def write(folder, *records, name="train.json"):
    path = folder / name
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


class TestReading:
    def test_every_mention_becomes_a_post(self, tmp_path):
        posts, counts = read_wikidiverse(write(tmp_path, caption(), caption(MURA, BAY)))
        assert posts[1] == {
            "id": "wikidiverse-train-2-2",
            "text": "Mura opens Kelo Bay.",
            "mentions": [[11, 19]],
            "label": "Location",
            "image": None,
            "source": "wikidiverse",
        }
        assert (counts.records, counts.classes) == (2, {"People": 1, "Location": 1})
        assert (counts.images_referenced, counts.images_missing) == (1, 1)

    @pytest.mark.parametrize(
        "span", [(0, 3), (1, 5), (0, 0), (4, 0), (-4, 4), (0, 99), (19, 20)], ids=lambda span: f"{span[0]}-{span[1]}"
    )
    def test_a_span_that_does_not_fit(self, tmp_path, span):
        path = write(tmp_path, caption(BAY, ("Mura", "People", *span, "")))
        posts, counts = read_wikidiverse(path)
        assert [post["label"] for post in posts] == ["Location"]
        assert counts.bad_spans == ["wikidiverse-train-1-2"]
        with pytest.raises(
            ValueError, match=r"record 1, mention 2: 'Mura' must stand at \[.*\) of the caption of 20 ch"
        ):
            read_wikidiverse(path, on_bad_span="error")

    def test_white_space_around_a_mention_fits(self, tmp_path):
        posts, counts = read_wikidiverse(write(tmp_path, caption(("Mura", "People", 0, 5, ""))))
        assert (posts[0]["mentions"], counts.bad_spans) == ([[0, 5]], [])

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ("Mura", "a list of caption, URL, topic and mentions is needed, got 'Mura'"),
            (caption()[:3], "a list of caption, URL, topic and mentions is needed"),
            (caption(text=" "), "the caption must be a string that is not empty, got ' '"),
            (caption(url=3), "the URL must be a string, got 3"),
            ([*caption()[:3], {}], "the mentions must be a list, got {}"),
            (caption([*MURA, []]), "mention 1: a list of text, type, start, end and page is needed"),
            (caption(MURA[:4]), "mention 1: a list of text, type, start, end and page is needed"),
            (caption(MURA, ("Mura", "", 0, 4, "")), "mention 2: a list of text, type"),
            (caption(("Mura", "People", "0", 4, "")), "mention 1: a list of text, type"),
        ],
    )
    def test_errors_name_file_and_record(self, tmp_path, record, message):
        path = write(tmp_path, caption(), record)
        with pytest.raises(ValueError, match=message) as error:
            read_wikidiverse(path)
        assert f"{path}, record 2" in str(error.value)

    def test_files_must_exist_and_be_json(self, tmp_path):
        path = tmp_path / "train.json"
        with pytest.raises(FileNotFoundError, match="train.json"):
            read_wikidiverse(path)
        with pytest.raises(FileNotFoundError, match="train.json"):
            wikidiverse_files(tmp_path)
        for text, message in (("[", "a JSON file is needed, "), ('{"a": 1}', "a JSON list of captions is needed")):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(ValueError, match=f"train.json: {message}"):
                read_wikidiverse(path)
        with pytest.raises(FileNotFoundError, match="image_dir: the folder .*images"):
            read_wikidiverse(path, tmp_path / "images")


class TestImages:
    def test_names(self):
        # md5("Kelo_Bay.svg"), by `printf Kelo_Bay.svg | md5sum`.
        assert image_name(URL) == "38f719138f1be07eead06cec6b744cec.png"
        digest = hashlib.md5(b"Mura%20Bay.JPG").hexdigest()
        assert image_name("https://example.org/a/Mura%20Bay.JPG") == f"{digest}.JPG"
        digest = hashlib.md5(b"Kelo.jpg.SVG").hexdigest()
        assert image_name("Kelo.jpg.SVG") == f"{digest}.png"
        digest = hashlib.md5(b"Kelo.gif").hexdigest()
        assert image_name("https://example.org/Kelo.gif") == f"{digest}Kelo.gif"
        assert image_name("https://example.org/") is None

    def test_found_by_name(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / image_name(URL))
        records = caption(MURA, BAY), caption(MURA, url="https://example.org/b.jpg"), caption(MURA, url=None)
        posts, counts = read_wikidiverse(write(tmp_path, *records), tmp_path)
        path = str(tmp_path / image_name(URL))
        assert [post["image"] for post in posts] == [path, path, None, None]
        assert (counts.images_referenced, counts.images_missing, counts.records_with_image) == (2, 1, 2)
