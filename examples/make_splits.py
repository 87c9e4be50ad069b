"""Make the files of `configuration/splits/` anew: which classes are for training, validation and testing.

    python examples/make_splits.py [--output_dir FOLDER]

They follow from `configuration/labels/` and the rules in `modeling_mgvmoe/data/splits.py`; no data are needed.
"""

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.data.label_sets import LabelSet, read_label_set
from modeling_mgvmoe.data.splits import (
    SPLITS,
    ClassSplit,
    crossner_class_split,
    m_unseen_split,
    met_class_splits,
    mre_class_split,
    thirds_class_split,
)
from modeling_mgvmoe.inference.model_folder import check_output_folder

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")


SEEDS = range(5)
TWITTER_SEEDS = range(3)
# Raised with every change of the splits, for scores on two of them cannot be compared.
VERSION = 1
# Any two of these onto the third, and of all domains any four onto the fifth.
SMALL_TRANSFER = ("politics", "science", "ai")


def split_files(
    mnre: LabelSet, mnre_v1: LabelSet, crossner: LabelSet, twitter10000: LabelSet
) -> dict[str, dict[str, Any]]:
    """Contents of all files, by dataset.

    Args:
        mnre, mnre_v1, twitter10000: their classes are in order of first appearance in the data, on which the paper's
            split rests.
        crossner: gives the types of each domain.
    """
    relations = list(mnre.classes)
    fine_types = [name for name in twitter10000.classes if name not in twitter10000.left_out]
    types = sorted(set(crossner.classes) - set(crossner.left_out))
    return {
        "wikidiverse": _file(
            "wikidiverse",
            "Three groups of types, rotated: the split of the MG-VMoE reference implementation.",
            {name: _entry(split) for name, split in met_class_splits().items()},
        ),
        "mnre": _file(
            "mnre",
            "seed-S: relations in order of first appearance, shuffled with numpy's RandomState(S), a third each: the "
            "split of the MG-VMoE reference implementation. unseen-M-seed-S: M unseen relations each for testing "
            "and validation.",
            {
                **{f"seed-{seed}": _entry(mre_class_split(relations, seed)) for seed in SEEDS},
                **{f"unseen-5-seed-{seed}": _entry(m_unseen_split(relations, 5, seed)) for seed in SEEDS},
            },
        ),
        "mnre_v1": _file(
            "mnre_v1",
            "seed-S: relations of version 1 in order of first appearance, shuffled with numpy's RandomState(S), a "
            "third each, as for version 2.",
            {f"seed-{seed}": _entry(mre_class_split(list(mnre_v1.classes), seed)) for seed in SEEDS},
        ),
        "twitter10000": _file(
            "twitter10000",
            "seed-S: fine types, without the rest of each coarse one, in order of first appearance, shuffled with "
            "numpy's RandomState(S), a third each.",
            {f"seed-{seed}": _entry(thirds_class_split(fine_types, seed)) for seed in TWITTER_SEEDS},
        ),
        "crossner": _file(
            "crossner",
            "DOMAINS-to-DOMAIN: the types that only the last domain has are the test; a quarter of the other domains' "
            "types, chosen with seed 0, is for validation. unseen-M-seed-S: of the types of all domains, M unseen "
            "ones each for testing and validation.",
            {
                **{
                    f"{'+'.join(sources)}-to-{target}": {
                        "train_domains": list(sources),
                        "test_domain": target,
                        **_entry(crossner_class_split(crossner.domains, sources, target, 0, crossner.left_out)),
                    }
                    for domains in (SMALL_TRANSFER, tuple(crossner.domains))
                    for target in domains
                    for sources in [tuple(name for name in domains if name != target)]
                },
                **{
                    f"unseen-{m}-seed-{seed}": _entry(m_unseen_split(types, m, seed))
                    for m in (5, 10, 15)
                    for seed in SEEDS
                },
            },
        ),
    }


def write_split_file(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a file as `splits.read_splits` reads it, a list of classes a line."""
    entries = []
    for name, entry in content["splits"].items():
        lines = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items()]
        entries.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n    }")
    head = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in content.items() if key != "splits"]
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + "".join(head) + '  "splits": {\n' + ",\n".join(entries) + "\n  }\n}\n")


def _file(name: str, source: str, splits: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": VERSION, "source": source, "splits": dict(splits)}


def _entry(split: ClassSplit) -> dict[str, list[str]]:
    return {name: list(getattr(split, name)) for name in SPLITS}


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
        print(f"{path}: {len(content['splits'])} splits")


if __name__ == "__main__":
    main()
