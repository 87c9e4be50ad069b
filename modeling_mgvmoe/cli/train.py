"""Train MG-VMoE.

    mgvmoe train --config configuration/recipes/sketchbook.yaml [--learning_rate ...]

Also under `accelerate launch` and `torchrun`. `--help` lists every field; a flag overrides the recipe.
"""

from __future__ import annotations

from ..inference.model_folder import check_output_folder
from ..training.arguments import parse_arguments
from .errors import one_line, usage


@one_line()
def main(argv: list[str] | None = None) -> dict:
    """Run one training and return its history."""
    with usage():
        model_arguments, data_arguments, training_arguments = parse_arguments(argv)
    # Not before the flags are read, for these take seconds.
    import torch
    from accelerate import PartialState

    from ..data.progress_bar import hide_bars_of_libraries
    from ..training.build import build_model, check_sources, load_data, load_feature_cache
    from ..training.launch import exit_when_interrupted
    from ..training.loop import train
    from ..training.run_metadata import write_run_record
    from ..training.trackers import make_accelerator

    check_output_folder("output_dir", training_arguments.output_dir)
    check_sources(model_arguments)
    hide_bars_of_libraries()
    if training_arguments.num_threads is not None:
        torch.set_num_threads(training_arguments.num_threads)
    data = load_data(data_arguments)
    model, processor = build_model(model_arguments, data, training_arguments.seed)
    feature_cache = load_feature_cache(data_arguments)
    with exit_when_interrupted(argv):
        accelerator = make_accelerator(training_arguments, model)
        result = train(model, processor, data, training_arguments, accelerator, feature_cache)
    training_arguments.mixed_precision = accelerator.mixed_precision
    training_arguments.gradient_accumulation_steps = accelerator.gradient_accumulation_steps
    best, processes = result["best"], PartialState()
    if processes.is_main_process:
        sizes = (model.num_parameters(), model.num_parameters(only_trainable=True))
        write_run_record(model_arguments, data_arguments, training_arguments, data, sizes)
    processes.print(
        f"best validation macro-F1 {best['macro_f1']:.3f} at step {best['step']}; "
        f"model saved to {training_arguments.output_dir}/model"
    )
    processes.destroy_process_group()
    return result
