"""Evaluate a trained model on classes that it was not trained on, beside what needs no training.

    python examples/evaluate.py --model runs/sketchbook/model --dataset sketchbook --protocol unseen
    python examples/evaluate.py --model 'runs/{seed}/model' --dataset sketchbook --protocol generalised --seeds 0 1 2

Protocols: "unseen", candidates are the unseen classes; "seen", the same for classes that were trained on;
"generalised", seen and unseen ones together; "open", posts without a class are to be rejected. A table per task is
printed; numbers, images and a report go to the output folder.
"""

import argparse
import shlex
import sys

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.evaluation.command import add_evaluation_flags, evaluation_arguments


@one_line()
def main(argv=None):
    """Evaluate and return the results by task and seed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add_evaluation_flags(parser)
    flags = parser.parse_args(argv)
    try:
        arguments = evaluation_arguments(flags, shlex.join(["python", "examples/evaluate.py", *argv]))
    except (FileNotFoundError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    from modeling_mgvmoe.data.progress_bar import hide_bars_of_libraries
    from modeling_mgvmoe.evaluation.runs import run_evaluation

    hide_bars_of_libraries()
    return run_evaluation(arguments)


if __name__ == "__main__":
    main()
