"""Export a model to ONNX, and check the export against the model.

    mgvmoe export --model runs/demo/model --output_dir runs/demo/onnx

The folder gets four graphs, `vision.onnx`, `mention.onnx`, `labels.onnx` and `score.onnx`, the configuration and the
processor: what `modeling_mgvmoe.export.onnx_pipeline` needs. It exits with 1 if a logit differs by more than rounding.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..data.flags import FlagParser
from ..inference.model_folder import check_export_folder, check_model_folder, check_output_folder, load_model
from .errors import FAILED, Ended, one_line


@one_line()
def main(argv: Sequence[str] | None = None) -> Any:
    """Export, check, and return the differences."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output_dir", required=True, help="folder to write; new, or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument(
        "--image_text",
        action="store_true",
        help="let the export read image_text; its text encoder then runs twice for a batch of posts",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    arguments = parser.parse_args(argv)
    try:
        check_model_folder(arguments.model)
        check_output_folder("output_dir", arguments.output_dir)
        check_export_folder(arguments.output_dir, arguments.overwrite)
        if os.path.realpath(arguments.model) == os.path.realpath(arguments.output_dir):
            raise FileExistsError(f"output_dir must be another folder than the model's, got {arguments.output_dir}")
    except OSError as error:
        parser.error(" ".join(str(error).split()))
    # Not before the flags are read, for these take seconds.
    from transformers.utils.logging import disable_progress_bar

    from .. import ZeroShotMultimodalIEPipeline
    from ..export.onnx_check import TOLERANCE, check_onnx, differences_table
    from ..export.onnx_folder import export_onnx
    from ..export.onnx_model import onnx_pipeline

    disable_progress_bar()  # of loading weights; the graphs have their own
    model, processor = load_model(arguments.model, "cpu", arguments.revision, "float32")
    export_onnx(model, processor, arguments.output_dir, arguments.overwrite, True, arguments.image_text)

    exported = onnx_pipeline(arguments.output_dir, device="cpu")
    found = check_onnx(ZeroShotMultimodalIEPipeline(model=model, processor=processor), exported)
    print(differences_table(found))
    worst = max(own.logits for own in found)
    good = all(own.within for own in found)
    print(f"largest difference of a logit {worst:.1e}: {'within' if good else 'BEYOND'} {TOLERANCE:g} of the largest")
    sizes = {
        name: os.path.getsize(os.path.join(arguments.output_dir, name)) for name in os.listdir(arguments.output_dir)
    }
    graphs = sum(size for name, size in sizes.items() if ".onnx" in name)
    print(f"{arguments.output_dir}: {graphs / 2**20:.1f} MiB of graphs and weights")
    if not good:
        raise Ended(FAILED, found)
    return found
