"""Extract a knowledge graph from any number of posts.

    python examples/extract.py --input posts.parquet --output graph --model MODEL --labels labels.json
    accelerate launch examples/extract.py --input posts.parquet --output graph
    python examples/extract.py --output graph --export_only --formats json_lines n_triples hetero_data

A post is a row with `text`, `mentions` (a list of [start, end) or of {"start", "end"}), and where it has them `id` and
`image`: a path, bytes, or both as `datasets` has it. The files of candidate labels are described in docs/graph.md.

The graph is a folder of Parquet tables: posts, mentions, relations, and errors with the reason for every post that
could not be extracted. Memory does not grow with the input. Killed at any moment and started again with the same
command, the run goes on with no post lost or doubled, also with another number of processes; Ctrl-C and SIGTERM
finish the batch and print that command. Another model, other labels or other posts are refused. The exit code
is 3 where some posts have an error and all others are extracted.

Under `accelerate launch` or torchrun the processes share the work; machines without a common launch take
`--shard_index` and `--num_shards`, into one shared folder, or into folders of their own that are put together.
"""

import sys

from modeling_mgvmoe.cli.errors import PARTIAL, one_line


@one_line()
def main(argv: list[str] | None = None) -> dict | None:
    """Extract, and return the summary once the graph is complete."""
    from transformers.utils.logging import disable_progress_bar

    from modeling_mgvmoe.graph.extract_command import extract_command
    from modeling_mgvmoe.training.launch import under_launcher

    disable_progress_bar()  # of loading weights; the posts have their own
    summary = extract_command(argv, __doc__)
    extracted = "--export_only" not in (sys.argv if argv is None else argv)
    if extracted and summary is not None and summary.get("errors") and not under_launcher():
        sys.exit(PARTIAL)  # a launcher would take it for a crash
    return summary


if __name__ == "__main__":
    main()
