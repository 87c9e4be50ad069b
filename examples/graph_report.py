"""Describe an extracted graph in numbers and an image.

    python examples/graph_report.py --graph runs/graph --output_dir runs/graph_report

Writes graph_report.md, graph_report.json and graph.png, and prints the report.
"""

import argparse
import shlex
import sys

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.graph.graph_report import read_graph, write_report
from modeling_mgvmoe.graph.tables import MERGING
from modeling_mgvmoe.inference.model_folder import check_output_folder


@one_line()
def main(argv: list[str] | None = None) -> str:
    """Write the report, and return it."""
    argv = sys.argv[1:] if argv is None else argv
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--graph", required=True, help="folder of examples/extract.py, or its hetero_data")
    parser.add_argument("--output_dir", default="runs/graph_report", help="default runs/graph_report")
    parser.add_argument("--merging", choices=MERGING, default="name", help="what mentions of one entity share")
    parser.add_argument("--entities", type=int, default=24, help="in the image (default 24)")
    flags = parser.parse_args(argv)
    if flags.entities < 2:
        parser.error(f"--entities must be at least 2, got {flags.entities}")
    try:
        check_output_folder("output_dir", flags.output_dir)
        data = read_graph(flags.graph, flags.merging)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    command = shlex.join(["python", "examples/graph_report.py", *argv])
    report = write_report(data, flags.output_dir, f"Graph of {flags.graph}", flags.entities, command)
    print(report)
    print(f"written to {flags.output_dir}")
    return report


if __name__ == "__main__":
    main()
