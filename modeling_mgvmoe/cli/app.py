"""The demo page: a post, its image, marked mentions and any labels in; scores and their explanation out.

    mgvmoe app
    mgvmoe app --model USER/NAME --revision COMMIT --write_space runs/space

The page runs on this machine and calls nothing outside of it. With `--write_space` it is not started but written as a
folder that is a Hub Space: `hf upload USER/SPACE runs/space --repo-type space` puts it there. Needs the extra `app`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..app.example_posts import examples_for, examples_from_file
from ..app.markup import LEAST, check_least
from ..app.served_model import find_run_record, load_served_model
from ..app.space import write_space
from ..data.flags import FlagParser, RenamedFlag
from ..inference.model_folder import check_model_folder, check_packages, shipped_model
from .errors import one_line


def read_flags(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser and the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", help="folder or Hub name (default: mgvmoe-small, which ships with this package)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub name")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the code beside the weights instead of this package's; from the Hub only with a commit",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--server_name", help="address to listen at (default: this machine only)")
    parser.add_argument("--server_port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--examples", metavar="POSTS.json", help="posts to try it with (default: some like its data)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=LEAST,
        help='"none of these" if the best label is fewer times as likely as the average other one (default 4)',
    )
    parser.add_argument("--none_threshold", dest="threshold", action=RenamedFlag, type=float,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    parser.add_argument("--write_space", metavar="FOLDER", help="write a Hub Space and do not start the page")
    parser.add_argument("--overwrite", action="store_true", help="replace a Space that was written before")
    return parser, parser.parse_args(argv)


@one_line()
def main(argv: Sequence[str] | None = None) -> Any:
    """Start the page, or write the Space."""
    parser, arguments = read_flags(sys.argv[1:] if argv is None else argv)
    disable_progress_bar()
    try:
        check_least(arguments.threshold)
        arguments.model = arguments.model or shipped_model()
        examples = examples_from_file(arguments.examples) if arguments.examples else None
        if arguments.write_space and arguments.trust_remote_code:
            raise ValueError("trust_remote_code: a Space runs the code that is written into it; leave it out")
        if arguments.write_space:
            check_model_folder(arguments.model)
            if examples is None:
                examples = examples_for(find_run_record(arguments.model, arguments.revision))
            files = write_space(
                arguments.write_space,
                arguments.model,
                examples,
                arguments.revision,
                overwrite=arguments.overwrite,
                least=arguments.threshold,
            )
            print(f"{arguments.write_space}: {len(files)} files, a Space of {arguments.model}")
            return
        check_packages("app", "gradio")
        served = load_served_model(arguments.model, arguments.revision, arguments.trust_remote_code, arguments.device)
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    from ..app.page import build_page, launch_page  # Gradio takes seconds to import

    examples = examples_for(served.record) if examples is None else examples
    page = build_page(served, examples, arguments.threshold)
    launch_page(page, arguments.server_name, arguments.server_port)
