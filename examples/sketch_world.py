"""Write posts about a small world, and candidate labels, for examples/extract.py.

    python examples/sketch_world.py --output_dir runs/world
    accelerate launch examples/extract.py --input runs/world/posts.parquet --output runs/graph

Everything is made by this package from a seed. The labels are those that the model of `make demo` has never seen.
"""

import argparse

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.data.model_folder import check_output_folder
from modeling_mgvmoe.graph.sketch_world import make_world, write_world


@one_line()
def main(argv: list[str] | None = None) -> tuple[str, str]:
    """Write the files, and return their paths."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="folder for posts.parquet and labels.json")
    parser.add_argument("--posts", type=int, default=3000, help="default 3000")
    parser.add_argument("--people", type=int, default=150, help="default 150")
    parser.add_argument("--acquaintances", type=int, default=8, help="of somebody on average (default 8)")
    parser.add_argument("--picture_share", type=float, default=1.0, help="of the posts (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of world and posts (default 0)")
    flags = parser.parse_args(argv)
    check_output_folder("output_dir", flags.output_dir)
    world = make_world(flags.people, flags.acquaintances, flags.seed)
    paths = write_world(
        flags.output_dir, world, flags.posts, progress=True, seed=flags.seed, picture_share=flags.picture_share
    )
    print(f"{flags.posts:,} posts about {flags.people} people: {paths[0]}; candidate labels: {paths[1]}")
    return paths


if __name__ == "__main__":
    main()
