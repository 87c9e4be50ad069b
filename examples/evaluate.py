"""Evaluate a trained model on classes that it was not trained on, beside what needs no training.

    python examples/evaluate.py --model runs/sketchbook/model --dataset sketchbook --protocol unseen
    python examples/evaluate.py --model 'runs/{seed}/model' --dataset sketchbook --protocol generalised --seeds 0 1 2

Protocols: "unseen", candidates are the unseen classes; "generalised", seen and unseen ones together; "open", posts of
no class are to be rejected. A table per task is printed; numbers, pictures and a report go to the output folder.
"""

import argparse
import shlex
import sys

from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.evaluation.protocols import PROTOCOLS
from modeling_mgvmoe.evaluation.runs import EvaluationArguments, run_evaluation


def read_flags(argv):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder or Hub name; {seed} in it is each seed")
    parser.add_argument(
        "--dataset", required=True, help='"sketchbook" (seeds are its seeds) or FOLDER; {seed} as above'
    )
    parser.add_argument("--protocol", default="unseen", help=f"{', '.join(PROTOCOLS)} (default unseen)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0")
    parser.add_argument("--output_dir", default="runs/evaluation", help="default runs/evaluation")
    parser.add_argument(
        "--similarity_model", help="untrained text encoder for label similarity; default: that of the model evaluated"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="posts at a time (default 64)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--max_posts", type=int, help="so many posts of each kind, for a quick look; default all")
    flags = vars(parser.parse_args(argv)) | {"command": shlex.join(["python", "examples/evaluate.py", *argv])}
    try:
        return EvaluationArguments(**flags | {"seeds": tuple(flags["seeds"])})
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))


def main(argv=None):
    """Evaluate and return the results by task and seed."""
    arguments = read_flags(sys.argv[1:] if argv is None else argv)
    disable_progress_bar()  # of loading weights; the posts have their own
    return run_evaluation(arguments)


if __name__ == "__main__":
    main()
