"""List a model's modules, the shapes that go through them, and their parameters: all, trained and frozen.

    mgvmoe summary --model runs/demo/model
    mgvmoe summary --model user/name --revision COMMIT
    mgvmoe summary --preset configuration/models/mgvmoe_small.json --depth 2

Of a saved model only the configuration is read: weights are neither needed nor loaded.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

from .errors import UsageError, usage


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="folder or Hub name of a saved model")
    which.add_argument("--preset", metavar="FILE", help="a configuration as JSON, as in configuration/models/")
    parser.add_argument("--depth", type=int, default=3, help="how deep modules are listed (default 3)")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--trust_remote_code", "--trust-remote-code", action="store_true",
        help="run code that an encoder of the model brings along (MG-VMoE itself is the installed one)",
    )  # fmt: skip


def run(flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Build the model with random weights, send made-up posts through it, and print what was seen.

    Raises:
        UsageError: there is no such model or preset.
    """
    if flags.depth < 0:
        raise UsageError(f"--depth must not be negative, got {flags.depth}")
    from transformers import AutoConfig

    from ..configuration_mgvmoe import MGVMoEConfig
    from ..data.files import read_json_object
    from ..evaluation.loading import check_folder
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..saved_folder import check_json_files
    from .model_summary import as_json, as_table, summarize

    with usage():
        if flags.preset is not None:
            content = read_json_object(flags.preset)
            if content.get("model_type") != "mgvmoe":
                raise UsageError(f"--preset: model_type must be 'mgvmoe', got {content.get('model_type')!r}")
            config = MGVMoEConfig.from_dict(content)
        else:
            check_folder("model", flags.model)
            check_json_files(flags.model, "config")
    if flags.preset is None:
        source = {"trust_remote_code": flags.trust_remote_code}
        if flags.revision is not None:
            source["revision"] = flags.revision
        try:
            config = AutoConfig.from_pretrained(flags.model, **source)
        except OSError as error:
            # The libraries' message does not always say which.
            raise OSError(f"model: {flags.model!r} cannot be loaded: {error}") from error
        if config.model_type != "mgvmoe":
            raise UsageError(f"--model: {flags.model} must be a model of this package, got {config.model_type!r}")
    rows = summarize(MGVMoEForZeroShotIE(config), flags.depth)
    if flags.json:
        name = flags.preset or (os.path.normpath(flags.model) if os.path.isdir(flags.model) else flags.model)
        print(json.dumps({"model": name, **as_json(rows)}))
    else:
        print(as_table(rows))
