"""Score labels for one post, or for every post of a file.

    mgvmoe predict --text "Kelo sails at dawn" --mention 0 4 --labels boat bird
    mgvmoe predict --model FOLDER --text "Kelo greets Mura" --head-text Kelo --tail-text Mura --labels greets chases
    mgvmoe predict --model FOLDER --input posts.jsonl --output answers.jsonl --labels boat bird

Without --model the weights answer that ship with this package, mgvmoe-small: they read words, no pixels.

A file holds posts as the pipeline takes them: "text"; "mention", or "head" and "tail"; "image"; "image_text", words
for the image; "candidate_labels". A broken post, image, or line of JSONL has an "error" in the answers, all others
their labels, and the exit code is 3. A run with --output that was stopped resumes when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..data.atomic_io import LOCK, locked, whole_file
from ..data.files import same_file
from ..data.fingerprint import digest
from ..data.progress_bar import hide_bars_of_libraries, progress_bar
from ..data.rows import ENDINGS, BrokenLine, is_address, locate_image, locate_images, read_records
from ..labels import REJECT_BY, check_labels, plain_labels
from ..spans import check_unicode, mentions_of, places_of, read_image_text, read_mentions
from .errors import GOOD, PARTIAL, UsageError, usage
from .evaluate import add_loading_flags

SLOTS = {"mention": "the mention to be typed", "head": "the head of a relation", "tail": "its tail"}


def add_post_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of one post."""
    group = parser.add_argument_group("one post")
    group.add_argument("--text", help="of the post")
    for slot, what in SLOTS.items():
        group.add_argument(
            f"--{slot}",
            nargs=2,
            type=int,
            metavar=("START", "END"),
            help=f"{what}, in characters of the text, the end exclusive",
        )
        group.add_argument(f"--{slot}-text", metavar="WORDS", help=f"{what}, as it is written there")
        group.add_argument(
            f"--{slot}-index",
            type=int,
            metavar="N",
            help="which one, from 1, where the words occur several times",
        )
    group.add_argument("--image", help="path or URL of the image")
    group.add_argument(
        "--image-text", nargs="+", metavar="WORDS", help="words for the image, with or without --image; one or several"
    )


def post_from_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """The post that the flags describe, as the pipeline takes it.

    Raises:
        UsageError: a flag is missing or does not fit the text.
    """
    if not flags.text or not flags.text.strip():
        raise UsageError(f"--text: a post with words in it is needed, got {flags.text!r}")
    spans = {slot: _span(flags, slot) for slot in SLOTS}
    given = [slot for slot, span in spans.items() if span is not None]
    if given not in (["mention"], ["head", "tail"]):
        raise UsageError(
            f"--mention, or --head and --tail, must be given (or the same with -text), got {given or 'none'}"
        )
    for slot in given:
        try:
            read_mentions(spans[slot], flags.text, f"--{slot}")
        except ValueError as error:
            raise UsageError(str(error)) from error
    check_image(flags.image, "--image")
    post = {"text": flags.text, **{slot: spans[slot] for slot in given}, "image": flags.image}
    return post if flags.image_text is None else {**post, "image_text": flags.image_text}


def check_image(image: Any, where: str) -> None:
    """Refuse a path where no file is; a URL is only known to be there when it is read."""
    if isinstance(image, str) and not image.startswith(("http://", "https://", "data:")) and not os.path.isfile(image):
        raise UsageError(f"{where}: the file {image!r:.300} does not exist")


def _span(flags: argparse.Namespace, slot: str) -> tuple[int, int] | None:
    """The characters of a mention, or `None` where it is not given."""
    span, words, index = (getattr(flags, name) for name in (slot, f"{slot}_text", f"{slot}_index"))
    if span is not None and words is not None:
        raise UsageError(f"--{slot} and --{slot}-text exclude each other, got both")
    if words is None:
        if index is not None:
            raise UsageError(f"--{slot}-index goes with --{slot}-text, got {index} without")
        return None if span is None else (span[0], span[1])
    start = _place_of(words, flags.text, index, slot)
    return start, start + len(words)


def _place_of(words: str, text: str, index: int | None, slot: str) -> int:
    """Where the words begin in the text."""
    try:
        places = places_of(words, text)
    except ValueError as error:
        raise UsageError(f"--{slot}-text: {error}") from error
    if not places:
        folded = text.casefold().find(words.casefold())
        # Folding may change a text's length ("ß"): then nothing is suggested.
        near = text[folded : folded + len(words)] if folded >= 0 and len(text.casefold()) == len(text) else ""
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"--{slot}-text: {words!r} does not occur in the text{hint}")
    if index is None and len(places) > 1:
        raise UsageError(
            f"--{slot}-text: {words!r} occurs {len(places)} times in the text, at {', '.join(map(str, places[:9]))}; "
            f"--{slot}-index 1 to {len(places)} says which"
        )
    if index is not None and not 1 <= index <= len(places):
        raise UsageError(f"--{slot}-index must be from 1 to {len(places)}, as often as {words!r} occurs, got {index}")
    return places[(index or 1) - 1]


def read_posts(
    path: str, shared_labels: Sequence[str] | None, without_image: bool = False
) -> tuple[Sequence[Any], dict[int, str]]:
    """The posts of a file.

    Args:
        path: `.json`, a list of posts; `.jsonl`, a post on each line; `.csv` or `.tsv`; or `.parquet`. Posts are as
            the pipeline takes them; the path of an image is relative to the file's folder.
        shared_labels: the labels of posts without `candidate_labels` of their own.
        without_image: a post whose image file is missing is sound.

    Returns:
        The posts, in order, and by the number of a broken one what is wrong with it and where it stands. Images are
        read when a post is.

    Raises:
        UsageError: the file is missing or of another kind, or no post fits; the message says where.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UsageError(f"--input: a file that ends in {', '.join(ENDINGS)} is needed, got {path!r}")
    if not os.path.isfile(path):
        raise UsageError(f"--input: the file {path!r} does not exist")
    if ending == ".parquet":
        return _parquet(path, shared_labels)
    posts: list[Any] = []
    faults: dict[int, str] = {}
    with usage():
        records = list(read_records(path, keep_broken=True))
    for where, post in records:
        try:
            if isinstance(post, BrokenLine):
                raise UsageError(str(post))
            _check(post, shared_labels, where)
            image = locate_image(post.get("image"), os.path.dirname(path))
            post = {**post, "image": image}
            if isinstance(image, str) and not is_address(image) and not without_image:
                check_image(image, f"{where}, image")
        except UsageError as error:
            faults[len(posts)] = str(error)
        posts.append(post)
    if not posts:
        raise UsageError(f"--input: {path} holds no post")
    _refuse_if_all(faults, len(posts))
    return posts, faults


def _refuse_if_all(faults: Mapping[int, str], number: int) -> None:
    """Refuse a file of broken posts only, before a model is loaded."""
    if len(faults) == number:
        raise UsageError(faults[0] + (f" (and {number - 1} more broken posts, and no other)" if number > 1 else ""))


def _parquet(path: str, shared_labels: Sequence[str] | None) -> tuple[Sequence[Any], dict[int, str]]:
    try:
        import datasets  # noqa: F401 - only to see that it is there
    except ImportError as error:
        raise UsageError(f"--input: to read {path} the extra [train] must be installed (datasets): {error}") from error
    from ..data.evaluation_data import without_images
    from ..data.post_images import undecoded
    from ..data.rows import read_parquet

    with usage():
        posts = locate_images(read_parquet(path), os.path.dirname(path))
    faults = {}
    for number, post in enumerate(without_images(posts)):
        try:
            _check(post, shared_labels, f"{path}, row {number}")
        except UsageError as error:
            faults[number] = str(error)
    _refuse_if_all(faults, len(posts))
    return undecoded(posts), faults


def _check(post: Any, shared_labels: Sequence[str] | None, where: str) -> None:
    """Check a post as far as that needs neither a model nor its image."""
    with usage():
        try:
            mentions = mentions_of(post)
            if not isinstance(post["text"], str):
                raise ValueError(f"text: a string is needed (got {type(post['text']).__name__})")
            check_unicode(post["text"], "text")
            read_mentions(mentions, post["text"])
            read_image_text(post.get("image_text"))
            labels = post.get("candidate_labels")
            if labels is None and shared_labels is None:
                raise ValueError("candidate_labels: the post needs its own, or --labels those of all posts")
            if labels is not None:
                check_labels(plain_labels(labels).labels)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


ANSWER_ENDINGS = (".json", ".jsonl")


def check_output(path: str, overwrite: bool, posts: str) -> None:
    """Refuse a path that cannot be written to, or is that of the posts, before anything is scored."""
    if os.path.splitext(path)[1].lower() not in ANSWER_ENDINGS:
        raise UsageError(f"--output: a file that ends in {', '.join(ANSWER_ENDINGS)} is needed, got {path!r}")
    if os.path.isdir(path):
        raise UsageError(f"--output: {path!r} is a folder")
    if same_file(path, posts):
        raise UsageError(f"--output: another file than --input must be named, got {path!r}, which the answers replace")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"--output: {path!r} exists; --overwrite replaces it")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"--output: the folder {folder!r} does not exist")


def json_text(value: Any) -> str:
    """JSON with characters as they are, or with escapes where half a surrogate pair has no form in UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


class AnswerFile:
    """JSON lines in `PATH.part`, the run's fingerprint first; [`finish`] makes the whole file of them.

    Args:
        path: of the whole file, `.jsonl` or `.json` (a list).
        run: fingerprint. A part of another run is refused.
        overwrite: begin anew, whatever is there.
    """

    def __init__(self, path: str, run: str, overwrite: bool = False):
        self.path, self.part = path, f"{path}.part"
        # Answers that are there, and how many of them are errors.
        self.done = self.errors = 0
        if overwrite or not os.path.exists(self.part):
            self._begin(run)
        else:
            self._go_on(run)
        # Whole lines at a time: what stands in the part is an answer, or the last line, which is cut off.
        self.file = open(self.part, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def _begin(self, run: str) -> None:
        with open(self.part, "w", encoding="utf-8") as file:
            file.write(json.dumps({"run": run}) + "\n")

    def _go_on(self, run: str) -> None:
        with open(self.part, "rb") as file:
            lines = file.read().split(b"\n")
        # The last of them is empty, or a line that was being written.
        self.done = max(len(lines) - 2, 0)
        try:
            same = json.loads(lines[0]) == {"run": run}
        except ValueError:
            same = False
        if not self.done:
            self._begin(run)
            return
        if not same:
            raise UsageError(
                f"--output: {self.part!r} is of a run with other posts, another model or other flags; remove it, or "
                "--overwrite does"
            )
        self.errors = sum("error" in json.loads(line) for line in lines[1:-1])
        os.truncate(self.part, sum(len(line) + 1 for line in lines[:-1]))

    def add(self, answer: Mapping[str, Any]) -> None:
        """The next one."""
        self.file.write(json_text(answer) + "\n")
        self.errors += "error" in answer

    def close(self) -> None:
        """Leave the part for a later run."""
        self.file.close()

    def finish(self) -> None:
        """All answers are there."""
        self.close()
        as_list = os.path.splitext(self.path)[1].lower() == ".json"
        with (
            whole_file(self.path) as new,
            open(self.part, encoding="utf-8") as lines,
            open(new, "w", encoding="utf-8") as file,
        ):
            next(lines)
            if as_list:
                file.write("[\n" + ",\n".join(line.rstrip("\n") for line in lines) + "\n]\n")
            else:
                file.writelines(lines)
        os.remove(self.part)


def as_text(answers: Sequence[Mapping[str, Any]], indent: str = "") -> str:
    """Ranked labels for a person, the score first."""
    if not answers:
        return f"{indent}(no label reaches the threshold)"
    return "\n".join(f"{indent}{answer['score']:.2f}  {answer['label']}" for answer in answers)


ON_BROKEN_IMAGE = ("error", "text_only")
JSON_FLAGS = ("descriptions", "label_types", "type_descriptions")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "--model",
        help="folder or Hub name of a model with its processor (default: mgvmoe-small, which ships with this package)",
    )
    add_post_flags(parser)
    group = parser.add_argument_group("many posts")
    group.add_argument("--input", metavar="FILE", help="posts: .json (a list), .jsonl, .csv, .tsv or .parquet")
    group.add_argument("--output", metavar="FILE", help="answers: .json or .jsonl (default: standard output)")
    group.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    group.add_argument(
        "--on-broken-image",
        choices=ON_BROKEN_IMAGE,
        default="error",
        help="what becomes of its post (default error; text_only: labels from the text alone)",
    )
    group.add_argument("--batch-size", type=int, default=8, help="posts at a time (default 8)")
    group = parser.add_argument_group("labels")
    group.add_argument("--labels", nargs="+", metavar="LABEL", help="candidates of all posts without their own")
    group.add_argument(
        "--descriptions", metavar="FILE", help="JSON: for a label the sentence, or sentences, read in its place"
    )
    group.add_argument(
        "--label-types",
        metavar="FILE",
        help='JSON: for a relation the types of head and tail, {"lives in": [["person"], ["city", "country"]]}',
    )
    group.add_argument(
        "--type-descriptions",
        metavar="FILE",
        help="JSON: for a type the sentence, or sentences, read in its place",
    )
    group.add_argument("--hypothesis-template", help='text around each label, with one "{}"')
    group = parser.add_argument_group("answer")
    group.add_argument("--top-k", type=int, help="this many labels at most (default: all)")
    group.add_argument("--threshold", type=float, help="least that a label needs to be returned (default: none)")
    group.add_argument(
        "--reject-by",
        choices=REJECT_BY,
        default="probability",
        help="what --threshold is about: the score (default), its ratio to the average other label's, "
        "the logit, or the probability that the model's calibration makes of it",
    )
    group.add_argument(
        "--function-to-apply",
        default="softmax",
        help="logits to scores: softmax over the post's labels (default), sigmoid of each, or none",
    )
    add_loading_flags(parser.add_argument_group("model"))


def run(flags: argparse.Namespace, argv: Sequence[str]) -> int:
    """Predict and print.

    Returns:
        The exit code.

    Raises:
        UsageError: before the model is loaded, for all that can be told by then.
    """
    posts, faults, arguments = _read(flags)
    from ..inference.model_folder import default_device, load_model
    from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline

    hide_bars_of_libraries()
    device = flags.device or default_device()
    model, processor = load_model(flags.model, device, flags.revision, flags.dtype, flags.trust_remote_code)
    if "label_types" in arguments and model.config.score != "similarity":
        raise UsageError(f'--label-types: a model with score="similarity" is needed, got {model.config.score!r}')
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor, device=device)
    if flags.input is None:
        # Whoever types an address wants it fetched; those in a file may be of anybody.
        arguments["allow_image_urls"] = True
        (answer,) = _answers(pipe, _from(posts, {}, 0, False), arguments, 1)
        print(json_text(answer) if flags.json else as_text(answer["labels"]))
        return GOOD
    if faults:
        first = next(iter(faults.values()))
        print(f"{len(faults):,} of {len(posts):,} posts are broken and get an error: {first}", file=sys.stderr)
    if flags.output is None:
        return _answer_file(flags, pipe, posts, faults, arguments)
    if flags.dtype == "auto":
        flags.dtype = str(model.dtype)  # answers of one file are of one precision
    folder, name = os.path.split(flags.output)
    with locked(folder or ".", name=f"{LOCK}-{name}", argument="--output"):
        return _answer_file(flags, pipe, posts, faults, arguments)


def _answer_file(
    flags: argparse.Namespace, pipe: Any, posts: Sequence[Any], faults: Mapping[int, str], arguments: dict[str, Any]
) -> int:
    """Answer the posts of a file, in a file or on standard output; the exit code."""
    answers = None
    if flags.output is not None:
        answers = AnswerFile(flags.output, _fingerprint(flags, arguments), flags.overwrite)
    done = 0 if answers is None else answers.done
    if done:
        print(f"going on after post {done} of {len(posts)}", file=sys.stderr)
    arguments["errors"] = "return"
    given = _from(posts, faults, done, flags.on_broken_image == "text_only")
    found = progress_bar(_answers(pipe, given, arguments, flags.batch_size), "predicting", len(posts), initial=done)
    if answers is not None:
        try:
            for answer in found:
                answers.add(answer)
        except BaseException:
            answers.close()
            raise
        answers.finish()
        errors = answers.errors
        written = {"output": flags.output, "posts": len(posts), **({"errors": errors} if errors else {})}
        print(json.dumps(written) if flags.json else f"{len(posts)} posts written to {flags.output}")
    else:
        errors = _print(found, flags.json)
    if errors:
        print(f'{errors:,} of {len(posts):,} posts have an "error" instead of labels', file=sys.stderr)
    return PARTIAL if errors else GOOD


def _print(answers: Iterable[Mapping[str, Any]], as_json: bool) -> int:
    """Print the answers; how many of them are errors."""
    if as_json:
        listed = list(answers)
        print(json_text(listed))
        return sum("error" in answer for answer in listed)
    errors = 0
    for answer in answers:
        print(str(answer.get("text", "-")).encode(errors="backslashreplace").decode())
        if "error" in answer:
            errors += 1
            print(f"    error: {answer['error']}", flush=True)
        else:
            print(as_text(answer["labels"], "    "), flush=True)
    return errors


def _read(flags: argparse.Namespace) -> tuple[Sequence[Any], dict[int, str], dict[str, Any]]:
    """Posts, what is wrong with broken ones, and the arguments of the pipeline's call, checked without the model."""
    from ..data.files import read_json_object
    from ..inference.model_folder import check_device, check_dtype, check_model_folder, shipped_model
    from ..labels import check_labels, check_ranking, label_texts, read_label_types

    slots = ("text", "image", "image_text", *SLOTS)
    given = [f"--{slot.replace('_', '-')}" for slot in slots if getattr(flags, slot) is not None]
    if (flags.input is None) == (flags.text is None):
        raise UsageError(f"either --text or --input must be given, got {'neither' if flags.text is None else 'both'}")
    if flags.input is not None and given:
        raise UsageError(f"{', '.join(given)}: these are in the file that --input names")
    if flags.input is None and flags.output is not None:
        raise UsageError("--output goes with --input, got it with --text")
    if flags.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {flags.batch_size}")
    with usage():
        check_ranking(flags.threshold, flags.top_k, flags.function_to_apply, flags.reject_by)
        if flags.labels is not None:
            check_labels(flags.labels, "--labels")
            if len(flags.labels) == 1 and "," in flags.labels[0]:
                print(f"--labels: one label, {flags.labels[0]!r}; blanks divide several, not commas", file=sys.stderr)
        words = {
            name: read_json_object(getattr(flags, name), f"--{name.replace('_', '-')}")
            for name in JSON_FLAGS
            if getattr(flags, name) is not None
        }
        template = "{}" if flags.hypothesis_template is None else flags.hypothesis_template
        label_texts(flags.labels or [], words.get("descriptions"), template)
        label_texts([], words.get("type_descriptions"), "{}", "type_descriptions")
        read_label_types(words.get("label_types"), flags.labels or [])
        if flags.device is not None:
            check_device(flags.device)
        check_dtype(flags.dtype)
        flags.model = flags.model or shipped_model()
        check_model_folder(flags.model)
    if flags.output is not None:
        check_output(flags.output, flags.overwrite, flags.input)
    posts: Sequence[Any]
    faults: dict[int, str] = {}
    if flags.input is None:
        if flags.labels is None:
            raise UsageError("--labels must be given with --text")
        posts = [post_from_flags(flags)]
    else:
        posts, faults = read_posts(flags.input, flags.labels, flags.on_broken_image == "text_only")
    names = ("hypothesis_template", "top_k", "threshold", "reject_by", "function_to_apply")
    arguments = {
        "candidate_labels": flags.labels,
        "label_descriptions": words.get("descriptions"),
        "label_types": words.get("label_types"),
        "type_descriptions": words.get("type_descriptions"),
        **{name: getattr(flags, name) for name in names},
    }
    return posts, faults, {name: value for name, value in arguments.items() if value is not None}


def _fingerprint(flags: argparse.Namespace, arguments: Mapping[str, Any]) -> str:
    """Fingerprint of posts, model and arguments; a folder is known by its files' sizes and times."""
    folder = []
    if os.path.isdir(flags.model):
        for entry in sorted(os.scandir(flags.model), key=lambda entry: entry.name):
            folder.append([entry.name, entry.stat().st_size, entry.stat().st_mtime_ns])
    settings = {"model": os.path.abspath(flags.model) if folder else flags.model, "folder": folder,
                "revision": flags.revision, "dtype": flags.dtype, "arguments": dict(arguments),
                "on_broken_image": flags.on_broken_image}  # fmt: skip
    return digest(settings, flags.input)


def _from(posts: Sequence[Any], faults: Mapping[int, str], start: int, text_only: bool) -> Iterator[dict[str, Any]]:
    """Each post with what its answer says beside the labels: `error`, or `image_error` where its image is left out."""
    from ..images import to_rgb

    for place in range(start, len(posts)):
        post, kept = posts[place], _kept(posts[place])
        if place in faults:
            kept["error"] = faults[place]
        elif text_only and post.get("image") is not None:
            try:
                post = {**post, "image": to_rgb(post["image"], "image")}
            except ValueError as error:
                post, kept["image_error"] = {**post, "image": None}, str(error)
        yield {"post": post, "kept": kept}


def _kept(post: Any) -> dict[str, Any]:
    """The line that is printed for a post's answer."""
    if not isinstance(post, Mapping):
        return {}
    kept = {name: post[name] for name in ("id", "text", *SLOTS, "mentions") if post.get(name) is not None}
    return {**kept, "image": post["image"]} if isinstance(post.get("image"), str) else kept


def _answers(
    pipe: Any, posts: Iterable[Mapping[str, Any]], arguments: Mapping[str, Any], batch_size: int
) -> Iterator[dict[str, Any]]:
    """One answer for each post, in order: what the post was, and its ranked labels or an error."""
    waiting: deque[dict[str, Any]] = deque()

    def feed() -> Iterator[Any]:
        for given in posts:
            waiting.append(dict(given["kept"]))
            if "error" not in given["kept"]:
                yield given["post"]

    def broken() -> Iterator[dict[str, Any]]:
        while waiting and "error" in waiting[0]:
            yield waiting.popleft()

    for found in pipe(feed(), batch_size=batch_size, **arguments):
        yield from broken()
        yield {**waiting.popleft(), **({"labels": found} if isinstance(found, list) else found)}
    yield from broken()
