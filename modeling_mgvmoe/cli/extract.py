"""Extract a knowledge graph from any number of posts.

    mgvmoe extract --input posts.parquet --output graph --model MODEL --labels labels.json
    accelerate launch examples/extract.py --input posts.parquet --output graph
    mgvmoe extract --output graph --export_only --formats json_lines n_triples hetero_data

A post is a row with `text`, `mentions` (a list of [start, end) or of {"start", "end"}), and where it has them `id` and
`image`: a path, bytes, or both as `datasets` has it; and `image_text`: words for the image, a string or a list. The
files of candidate labels are described in docs/graph.md.

The graph is a folder of Parquet tables: posts, mentions, relations, and errors with the reason for every post that
could not be extracted. Memory does not grow with the input. Killed at any moment and started again with the same
command, the run resumes with no post lost or doubled, also with another number of processes; Ctrl-C and SIGTERM
finish the batch and print that command. Another model, other labels or other posts are refused. The exit code
is 3 where some posts have an error and all others are extracted.

Under `accelerate launch` or torchrun the processes share the work; machines without a common launch take
`--shard_index` and `--num_shards`, into one shared folder, or into their own folders that are put together.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.environment import MIXED_PRECISIONS
from ..data.flags import FlagParser, RenamedFlag
from ..graph.model_extractor import (
    CandidateLabels,
    ExtractionOptions,
    ModelExtractor,
    load_mention_finder,
    read_candidate_labels,
)
from ..graph.post_check import ON_BROKEN_IMAGE
from ..graph.post_files import PostFiles
from ..graph.runner import BulkArguments, BulkResult, extract_in_bulk
from ..graph.shards import ERROR_KINDS, HETERO_DATA, SUMMARY
from ..graph.tables import MERGING, GraphTables
from ..graph.writers import BASE_IRI, check_base_iri
from ..inference.model_folder import check_output_folder, shipped_model
from ..labels import REJECT_BY
from ..training.launch import patient_state, typed_command, under_launcher
from .errors import PARTIAL, Ended, one_line

if TYPE_CHECKING:
    from accelerate import PartialState


# Forms beside Parquet.
FORMATS = ("json_lines", "n_triples", "hetero_data")
LABELS_FILE = "labels.json"


def extract_command(argv: Sequence[str] | None = None, description: str | None = None) -> dict[str, Any] | None:
    """Read the command line, extract or go on, and write the graph in the forms that are asked for.

    Args:
        argv: flags; default: those of this process.
        description: for the help.

    Returns:
        The summary if the graph is complete and this is the first process, else `None`.

    Raises:
        SystemExit: the command line is not understood, what it asks for fails, or a signal came; the message says why.
    """
    parser = _parser(description)
    return _run(parser, parser.parse_args(argv), argv)


def _run(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, argv: Sequence[str] | None
) -> dict[str, Any] | None:
    try:
        check_base_iri(flags.base_iri)
        check_output_folder("output", flags.output)
        if flags.export_only:
            return _export(flags)
        if not flags.input:
            parser.error("--input is needed, files or folders of posts")
        return _extract(flags, argv)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = FlagParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--input", nargs="+", metavar="PATH", help="Parquet or .jsonl files, or folders of them")
    add("--output", required=True, metavar="FOLDER", help="folder of the graph; new, or one to resume")
    add(
        "--model",
        help="folder or Hub name (default: mgvmoe-small, which ships with this package)",
    )
    add("--labels", nargs="+", metavar="FILE", help=f"JSON files (default: {LABELS_FILE} beside the input)")
    add("--label_split", default="test", help="of a labels.json with splits (default test)")
    add("--formats", nargs="*", choices=FORMATS, default=[], help="to write beside Parquet, once all is extracted")
    add("--export_only", action="store_true", help="only write --formats of a finished graph; no model is loaded")
    add("--merging", choices=MERGING, default="name", help="what mentions of one entity share (default name)")
    add("--base_iri", default=BASE_IRI, help=f"of n_triples (default {BASE_IRI})")
    add("--batch_size", type=int, default=32, help="posts at a time (default 32)")
    add("--texts_at_once", type=int, default=32, help="marked texts in one forward pass (default 32)")
    add("--part_size", type=int, default=1000, help="posts in a file, and what a kill can cost (default 1000)")
    add("--num_workers", type=int, default=0, help="threads that decode images, for each process (default 0)")
    add("--shard_index", type=int, default=0, help="which of --num_shards this run makes (default 0)")
    add("--num_shards", type=int, default=1, help="for machines that know nothing of each other (default 1)")
    add("--on_broken_image", choices=ON_BROKEN_IMAGE, default="error", help="what becomes of the post")
    add("--on_broken_picture", dest="on_broken_image", action=RenamedFlag, choices=ON_BROKEN_IMAGE,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    add("--image_dir", metavar="FOLDER", help="of relative image paths (default: that of their file)")
    add("--image_features", action="store_true", help="keep the mean of the vision encoder's tokens of each post")
    add("--picture_features", dest="image_features", action=RenamedFlag, nargs=0,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    add("--mention_finder", metavar="MODEL", help="token-classification model for posts without mentions")
    add(
        "--threshold",
        type=float,
        nargs="+",
        metavar="P",
        help="least that the answered label needs, of all or of types and relations",
    )
    add(
        "--reject_by",
        choices=REJECT_BY,
        default="probability",
        help="what --threshold is about (default probability)",
    )
    add("--rejection", dest="threshold", action=RenamedFlag, type=float, nargs="+",
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    add("--rejection_method", dest="reject_by", action=RenamedFlag, choices=REJECT_BY,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    add("--top_k", type=int, help="labels in each ranking (default all)")
    add("--max_length", type=int, help="tokens of a post (default: the processor's)")
    add("--num_neighbors", type=int, default=0, help="mentions and pairs share their scores with this many nearest "
        "ones of those scored together, label propagation (default 0: with none)")  # fmt: skip
    add("--mixed_precision", choices=MIXED_PRECISIONS, default="no", help="auto: bf16 in hardware (default no)")
    add("--overwrite", action="store_true", help="remove what another run has left in the folder")
    return parser


def _extract(flags: argparse.Namespace, argv: Sequence[str] | None) -> dict[str, Any] | None:
    posts = PostFiles(flags.input)
    flags.model = flags.model or shipped_model()
    arguments = BulkArguments(
        needs_mentions=flags.mention_finder is None,
        **{name: getattr(flags, name) for name in BulkArguments.__dataclass_fields__ if name != "needs_mentions"},
    )
    if arguments.needs_mentions and posts.without_mentions:
        raise ValueError(
            f"input: {posts.without_mentions[0]} has no column 'mentions'; --mention_finder MODEL finds mentions"
        )
    # The others wait for the first process, which looks through the ids.
    state = patient_state()
    extractor = _load(flags, state)
    state.print(_beginning(flags, posts, extractor.identity["labels"], state.num_processes))
    result = extract_in_bulk(
        posts,
        extractor,
        arguments,
        extractor.identity,
        image_features=extractor.image_features if flags.image_features else None,
        feature_size=extractor.feature_size if flags.image_features else None,
        state=state,
        progress=state.is_main_process,
    )
    if result.stopped:
        if state.is_main_process:
            print(_stopped(result, argv), flush=True)
        sys.exit(128 + result.stopped)
    if state.is_main_process:
        print(_ending(flags, result), flush=True)
        if result.summary is not None:
            _export(flags)
    state.destroy_process_group()
    return result.summary


def _load(flags: argparse.Namespace, state: PartialState) -> ModelExtractor:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

    model = MGVMoEForZeroShotIE.from_pretrained(flags.model).to(state.device).eval()
    labels = _labels(flags, with_types=model.config.score == "similarity")
    options = ExtractionOptions(
        threshold=_threshold(flags.threshold),
        **{
            name: getattr(flags, name)
            for name in ("reject_by", "texts_at_once", "top_k", "max_length", "num_neighbors", "mixed_precision")
        },
    )
    finder = None if flags.mention_finder is None else load_mention_finder(flags.mention_finder, state.device)
    return ModelExtractor(model, MGVMoEProcessor.from_pretrained(flags.model), labels, options, finder)


def _labels(flags: argparse.Namespace, with_types: bool) -> CandidateLabels:
    paths = flags.labels
    if not paths:
        folder = flags.input[0] if os.path.isdir(flags.input[0]) else os.path.dirname(flags.input[0])
        paths = [os.path.join(folder, LABELS_FILE)]
        if not os.path.isfile(paths[0]):
            raise FileNotFoundError(f"labels: --labels FILE is needed, for there is no {paths[0]}")
    return read_candidate_labels(paths, flags.label_split, with_types)


def _threshold(values: Sequence[float] | None) -> float | Mapping[str, float] | None:
    if values is None:
        return None
    if len(values) > 2:
        raise ValueError(f"threshold must be one number, or one for types and one for relations, got {values}")
    return values[0] if len(values) == 1 else dict(zip(("typing", "relation"), values, strict=True))


def _beginning(flags: argparse.Namespace, posts: PostFiles, labels: Mapping[str, Any], processes: int) -> str:
    shard = f", shard {flags.shard_index} of {flags.num_shards}" if flags.num_shards > 1 else ""
    return (
        f"{posts.num_rows:,} posts in {len(posts.paths):,} {'file' if len(posts.paths) == 1 else 'files'}, "
        f"{len(labels['typing']):,} types and "
        f"{len(labels['relation']):,} relations; model {flags.model}; {processes} "
        f"{'process' if processes == 1 else 'processes'}{shard}"
    )


def _stopped(result: BulkResult, argv: Sequence[str] | None) -> str:
    command = shlex.join(word for word in typed_command(argv) if word != "--overwrite")
    return f"{signal.Signals(result.stopped).name}: finished parts are kept.\nTo go on:\n{command}"


def _ending(flags: argparse.Namespace, result: BulkResult) -> str:
    lines = [f"made again: {fault}" for fault in result.faults]
    speed = f": {result.posts / result.seconds:,.1f} posts/s" if result.posts else ""
    lines.append(f"this run: {result.posts:,} posts in {result.seconds:,.1f} seconds{speed}")
    summary = result.summary
    if summary is None:
        return "\n".join([*lines, f"{flags.output}: parts of other shards are still missing"])
    lines.append(
        f"{flags.output}: {summary['posts']:,} posts, {summary['posts with an image']:,} of them with an image; "
        f"{summary['mentions']:,} mentions, {summary['mentions rejected']:,} of them of no type; "
        f"{summary['relations']:,} relations"
    )
    errors = {kind: summary[f"errors: {kind}"] for kind in ERROR_KINDS if summary.get(f"errors: {kind}")}
    if errors:
        found = ", ".join(f"{kind} {count:,}" for kind, count in errors.items())
        lines.append(f"{summary['errors']:,} posts could not be extracted ({found}); why: {flags.output}/errors")
    if errors.get("image"):
        lines.append("--on_broken_image text_only, in another folder, takes them without their images")
    if summary["posts without their image"]:
        lines.append(f"{summary['posts without their image']:,} posts have lost a missing or broken image")
    return "\n".join(lines)


def _export(flags: argparse.Namespace) -> dict[str, Any]:
    """Write the other forms of a finished graph; the numbers of `summary.json`."""
    from ..graph.hetero_data import build_hetero_data, save_hetero_data
    from ..graph.writers import write_json_lines, write_n_triples

    graph = GraphTables(flags.output)
    for name in dict.fromkeys(flags.formats):
        if name == "json_lines":
            path = write_json_lines(graph)
        elif name == "n_triples":
            path = write_n_triples(graph, base_iri=flags.base_iri, merging=flags.merging)
        else:
            data = build_hetero_data(graph, flags.merging, progress=True)
            path = save_hetero_data(data, os.path.join(flags.output, HETERO_DATA))
        print(f"written: {path}", flush=True)
    if flags.export_only and not flags.formats:
        raise ValueError(f"formats: --export_only needs one or more of {', '.join(FORMATS)}; see {SUMMARY} for counts")
    return graph.summary


@one_line()
def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    """Extract, and return the summary once the graph is complete."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights; the posts have their own
    parser = _parser(__doc__)
    flags = parser.parse_args(argv)
    summary = _run(parser, flags, argv)
    if not flags.export_only and summary is not None and summary.get("errors") and not under_launcher():
        raise Ended(PARTIAL, summary)  # a launcher would take it for a crash
    return summary
