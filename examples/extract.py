"""Extract a knowledge graph from any number of posts: `mgvmoe extract`, for `accelerate launch` and torchrun.

    python examples/extract.py --input posts.parquet --output graph --model MODEL --labels labels.json
    accelerate launch examples/extract.py --input posts.parquet --output graph

`--help` says more.
"""

from modeling_mgvmoe.cli.errors import one_line

with one_line():  # what the extra `train` brings may not be installed
    from modeling_mgvmoe.cli.extract import main

if __name__ == "__main__":
    main()
