"""Extract a knowledge graph from any number of posts.

    python examples/extract.py --input posts.parquet --output graph --model MODEL --labels labels.json
    accelerate launch examples/extract.py --input posts.parquet --output graph
    python examples/extract.py --output graph --export_only --formats json_lines n_triples hetero_data

A post is a row with `text`, `mentions` (a list of [start, end) or of {"start", "end"}), and where it has them `id` and
`image`: a path, bytes, or both as `datasets` has it. The files of candidate labels are described in docs/graph.md.

The graph is a folder of Parquet tables: posts, mentions, relations, and errors with the reason for every post that
could not be extracted. Memory does not grow with the input. Killed at any moment and started again with the same
command, the run resumes with no post lost or doubled, also with another number of processes; Ctrl-C and SIGTERM
finish the batch and print that command. Another model, other labels or other posts are refused. The exit code
is 3 where some posts have an error and all others are extracted.

Under `accelerate launch` or torchrun the processes share the work; machines without a common launch take
`--shard_index` and `--num_shards`, into one shared folder, or into their own folders that are put together.
"""

from modeling_mgvmoe.cli.extract import main

if __name__ == "__main__":
    main()
