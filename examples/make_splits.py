"""Make the files of `configuration/splits/` anew: which classes are for training, validation and testing.

    python examples/make_splits.py [--output_dir FOLDER]

They follow from `configuration/labels/` and the rules in `modeling_mgvmoe/data/splits.py`; no data are needed.
"""

import argparse
import os

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.splits import split_files, write_split_file
from modeling_mgvmoe.inference.model_folder import check_output_folder

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")


@one_line()
def main(argv: list[str] | None = None) -> None:
    """Read the command line and write the files."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", default=os.path.join(CONFIGURATION, "splits"), help="default: configuration/splits"
    )
    folder = parser.parse_args(argv).output_dir
    check_output_folder("output_dir", folder)
    os.makedirs(folder, exist_ok=True)
    names = ("mnre", "mnre_v1", "crossner", "twitter10000")
    label_sets = {name: read_label_set(os.path.join(CONFIGURATION, "labels", f"{name}.json")) for name in names}
    for name, content in split_files(**label_sets).items():
        path = os.path.join(folder, f"{name}.json")
        write_split_file(path, content)
        print(f"{path}: {len(content['splits'])} divisions")


if __name__ == "__main__":
    main()
