"""Coverage-guided fuzzing of the file readers with atheris: `make fuzz-readers SECONDS=600`.

    python -m tests.fuzz_readers --seconds 600 [--reader mnre] [--folder .cache/fuzz]

A reader may refuse a file with the errors that its docstring names and a message, and with no other. What else it
raises is written down, once for each place, and the run resumes; at its end it fails. libFuzzer itself stops at a
crash of the interpreter, at an input that takes over 30 seconds and at 4 GiB of memory.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import atheris

INSTRUMENTED = ["modeling_mgvmoe.data", "modeling_mgvmoe.cli", "modeling_mgvmoe.training.arguments",
                "modeling_mgvmoe.spans", "modeling_mgvmoe.images", "json", "yaml"]  # fmt: skip
with atheris.instrument_imports(include=INSTRUMENTED):
    from modeling_mgvmoe.cli.errors import UsageError
    from modeling_mgvmoe.cli.predict import read_posts
    from modeling_mgvmoe.data.conll import read_conll
    from modeling_mgvmoe.data.label_sets import read_label_set
    from modeling_mgvmoe.data.mnre import read_mnre
    from modeling_mgvmoe.data.splits import read_splits
    from modeling_mgvmoe.data.wikidiverse import read_wikidiverse
    from modeling_mgvmoe.data.zero_shot_data import read_prepared_labels
    from modeling_mgvmoe.images import to_rgb
    from modeling_mgvmoe.publishing.repository import read_evaluation
    from modeling_mgvmoe.training.arguments import read_recipe
    from modeling_mgvmoe.training.run_metadata import read_run_record
    from modeling_mgvmoe.training.trackers import read_log

ROOT = Path(__file__).parent.parent
ALLOWED = (ValueError, FileNotFoundError, UsageError)
POST = '{"text": "Kelo sails", "mention": [0, 4], "candidate_labels": ["boat", "bird"], "image": null}'
MNRE = (
    "{'token': ['Kelo', 'greets', 'Mura'], 'h': {'name': 'Kelo', 'pos': [0, 1]}, "
    "'t': {'name': 'Mura', 'pos': [2, 3]}, 'img_id': 'kelo.jpg', 'relation': '/per/per/peer'}\n"
)
WIKIDIVERSE = '[["Kelo opens.", "https://example.org/a/Kelo.svg", "politics", [["Kelo", "People", 0, 4, ""]]]]'


def _text_files(pattern):
    return [path.read_bytes() for path in sorted(ROOT.glob(pattern))]


def _images():
    from PIL import Image

    found = []
    for mode, kind in (("RGB", "PNG"), ("P", "GIF"), ("RGB", "JPEG"), ("L", "BMP"), ("RGBA", "WEBP"), ("I;16", "TIFF"),
                       ("RGB", "PPM"), ("RGBA", "ICO"), ("RGB", "AVIF")):  # fmt: skip
        content = io.BytesIO()
        with contextlib.suppress(KeyError):  # a build of PIL without that format
            Image.new(mode, (16, 16), 1).save(content, kind)
            found.append(content.getvalue())
    return found


RUN = b'{"arguments": {}, "dataset": {}, "labels": {}}'
EVALUATION = (
    b'{"protocol": "unseen", "summary": {"typing": {"MG-VMoE": {}}}, "seeds": [0], "dataset": "d", "command": "c"}'
)


# By reader: the name of its file, seeds, and how it is called with the file's path.
READERS = {
    "mnre": ("train.txt", lambda: [MNRE.encode() * 2], read_mnre),
    "conll": ("train.conll", lambda: [b"Mura\tB-person\nsails O\n\nKelo B-location\nBay I-location\n"], read_conll),
    "wikidiverse": ("train.json", lambda: [WIKIDIVERSE.encode()], read_wikidiverse),
    "recipe": ("recipe.yaml", lambda: _text_files("configuration/recipes/*.yaml"), read_recipe),
    "label_set": ("labels.json", lambda: _text_files("configuration/labels/*.json")[:1], read_label_set),
    "splits": ("splits.json", lambda: _text_files("configuration/splits/wikidiverse.json"), read_splits),
    "prepared_labels": (
        "labels.json",
        lambda: [
            b'{"dataset": "d", "split": "s", "labels": {"train": {"typing": ["boat"]}, "validation": {}, "test": {}}, '
            b'"label_descriptions": {"boat": "It floats."}, "label_types": {"on": [["a"], ["b"]]}, '
            b'"type_descriptions": {"a": "An a."}}'
        ],
        read_prepared_labels,
    ),
    "run_record": ("run.json", lambda: [RUN], lambda p: read_run_record(os.path.dirname(p))),
    "evaluation": ("evaluation.json", lambda: [EVALUATION], read_evaluation),
    "log": ("log.jsonl", lambda: [b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'], read_log),
    "posts": ("posts.json", lambda: [f"[{POST}]".encode()], lambda p: read_posts(p, None)),
    "post_lines": ("posts.jsonl", lambda: [f"{POST}\n{POST}\n".encode()], lambda p: read_posts(p, ["boat"])),
    "picture": ("picture.png", _images, to_rgb),
}  # fmt: skip


def check_reader(name, content, folder):
    """Give a reader a file of these bytes.

    Returns:
        `None`, or the kind and place of an error that is none of those allowed.
    """
    file, _, read = READERS[name]
    path = os.path.join(folder, file)
    with open(path, "wb") as opened:
        opened.write(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except Exception as error:
        # JSON's and Unicode's errors are ValueErrors, too, but say neither file nor rule.
        if type(error) in ALLOWED and str(error).strip():
            return None
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{name}: {type(error).__name__} at {os.path.basename(frame.filename)}:{frame.lineno}: {error!s:.100}"
    return None


def _fuzz(name, folder, seconds):
    """One process of libFuzzer, on one reader; what it says goes into a file.

    Returns:
        Executions, and the exit code of the process.
    """
    corpus, said = folder / f"corpus-{name}", folder / f"{name}.log"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(READERS[name][1]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    process = os.fork()  # the imports, instrumented, take long and are done once
    if process == 0:
        with open(said, "wb") as file:
            os.dup2(file.fileno(), 2)
        seen = set()

        def one_input(content):
            found = check_reader(name, content, scratch)
            place = found and found.split(": ")[1]
            if place and place not in seen:
                seen.add(place)
                (folder / f"{name}-finding-{len(seen)}.bin").write_bytes(content)
                with open(folder / "findings.txt", "a", encoding="utf-8", errors="replace") as file:
                    file.write(found.replace("\n", " ") + "\n")

        scratch = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], str(corpus), "-max_len=4096", f"-artifact_prefix={folder}/", *limits], one_input)
        atheris.Fuzz()  # does not return
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    counts = re.findall(r"number_of_executed_units: (\d+)", said.read_text(errors="replace"))
    return int(counts[-1]) if counts else 0, code


def main(argv=None):
    """Fuzz every reader for its share of the time and say what came of it; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="in all (default 600)")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--folder", default=".cache/fuzz", help="for inputs, logs and findings")
    flags = parser.parse_args(argv)
    folder = Path(flags.folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [flags.reader] if flags.reader else list(READERS)
    (folder / "findings.txt").write_text("")
    total, crashed = 0, []
    for name in names:
        count, code = _fuzz(name, folder, max(1, flags.seconds // len(names)))
        total += count
        print(f"{name}: {count:,} executions, exit code {code}", flush=True)
        if code:
            crashed.append(name)
            print((folder / f"{name}.log").read_text(errors="replace")[-2000:])
    findings = (folder / "findings.txt").read_text(encoding="utf-8").splitlines()
    print(f"{total:,} executions, {len(findings)} findings, {len(crashed)} crashes")
    print("\n".join(findings))
    return 1 if findings or crashed else 0


if __name__ == "__main__":
    sys.exit(main())
