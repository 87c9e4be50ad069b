"""Publish a trained model: model, processor, pipeline, configuration, card and numbers, in one commit.

    python examples/push_to_hub.py --model runs/demo --repo_id user/name --dry_run
    python examples/push_to_hub.py --model runs/posts --repo_id user/name --license cc-by-nc-4.0

--model is a run's folder or that of a saved model. The card is made from `run.json`, `metrics.json` and the files of
examples/evaluate.py (--evaluation runs/evaluation/unseen.json); its code is run on the finished folder, without this
package, before anything is sent. A model that was not trained on this package's own data needs --license, and is
private unless --public is given.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace

from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.inference.model_folder import check_output_folder
from modeling_mgvmoe.publishing.repository import (
    CARD,
    CardFacts,
    build_repository,
    check_repo_id,
    check_repository,
    default_license,
    describe,
    find_source,
    is_own_data,
    listing,
    push_folder,
)
from modeling_mgvmoe.training.run_metadata import read_run_record


def read_flags(argv=None):
    """The command line, with what it names checked."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder of a run or of a saved model")
    parser.add_argument("--repo_id", required=True, help="user/name, new or there already")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", default=None, help="only you may see it")
    seen.add_argument("--public", dest="private", action="store_false", help="everybody may see it")
    parser.add_argument("--revision", help="branch (default main)")
    parser.add_argument("--create_pr", action="store_true", help="as a pull request")
    parser.add_argument("--commit_message", default="Model, processor, code and card")
    parser.add_argument("--evaluation", nargs="+", default=[], metavar="JSON", help="files of examples/evaluate.py")
    parser.add_argument("--license", help="of the weights (apache-2.0 for the sketchbook's; needed for all others)")
    parser.add_argument("--language", default="en", help="default en")
    parser.add_argument("--base_model", nargs="+", help="Hub names of the encoders; default: those of the run")
    parser.add_argument("--datasets", nargs="+", help="Hub names of the data; default: the name in the run")
    parser.add_argument("--note", action="append", default=[], help="a further limit for the card")
    parser.add_argument("--max_shard_size", default="5GB", help="of a file of weights (default 5GB)")
    parser.add_argument("--dry_run", action="store_true", help="show what would go, send nothing")
    parser.add_argument("--output_dir", help="keep what is built in this empty folder")
    flags = parser.parse_args(argv)
    try:
        check_repo_id(flags.repo_id)
        if flags.output_dir:
            check_output_folder("output_dir", flags.output_dir)
        if flags.output_dir and os.path.isdir(flags.output_dir) and os.listdir(flags.output_dir):
            raise ValueError(f"output_dir: {flags.output_dir!r} is not empty")
        facts = CardFacts(
            flags.repo_id,
            language=flags.language,
            base_model=flags.base_model,
            datasets=flags.datasets,
            notes=flags.note,
        )
        source = find_source(flags.model, flags.evaluation)
        record = read_run_record(source.run) if source.run else None
        facts = replace(facts, license=flags.license or default_license(record))
        if flags.private is None:
            flags.private = not is_own_data(record)
        return flags, source, facts
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))


@one_line()
def main(argv=None):
    """Build, check, show and push; returns the commit, or None for a dry run."""
    flags, source, facts = read_flags(argv)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.output_dir or temporary
        os.makedirs(folder, exist_ok=True)
        try:
            names = build_repository(source, folder, facts, flags.max_shard_size)
            printed = check_repository(folder, flags.repo_id)
            files = listing(folder, names)
            print(f"{flags.repo_id}, {'private' if flags.private else 'public'}, {len(files)} files:")
            for name, size in files:
                print(f"  {describe(size):>9}  {name}")
            print(f"the card's code, run on them without this package, printed:\n  {printed}")
            if flags.dry_run:
                with open(os.path.join(folder, CARD), encoding="utf-8") as file:
                    print(f"\n{CARD}:\n\n{file.read()}\ndry run: nothing was sent")
                return None
            commit = push_folder(
                folder, names, flags.repo_id, flags.private, flags.revision, flags.commit_message, flags.create_pr
            )
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"push_to_hub: {error}")
    print(f'pushed: {commit.commit_url}\npin it with revision="{commit.oid}"')
    return commit


if __name__ == "__main__":
    main()
