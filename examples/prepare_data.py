"""Prepare data for training: a dataset as a folder of Parquet files, or the features of a frozen vision tower.

    python examples/prepare_data.py mnre --data FOLDER [--images FOLDER] --output_dir OUT [--split mnre:seed-0]
    python examples/prepare_data.py sketchbook --output_dir OUT [--seed 0]
    python examples/prepare_data.py rows --data train.jsonl --output_dir OUT
    python examples/prepare_data.py --help               all datasets
    python examples/prepare_data.py mnre --help          the flags of one
    python examples/prepare_data.py --cache-image-features [FOLDER] --config RECIPE [--dataset ...] [--batch_size 32]

A dataset's command reads and checks the raw download, or your own rows, prints what it found, and writes posts,
images inside, and the words of the labels into a folder that `examples/train.py --dataset OUT` reads. The README says
where to get the data.

The last one, whose flags `--cache-image-features --help` lists, runs the tower once per distinct image. The recipe
and its flags are those of `examples/train.py`: they name the posts (a folder of Parquet files or the sketchbook) and
the model, whose tower and image processor run. Without FOLDER, the recipe's `image_feature_cache`. Stopped at any
moment and started again, it resumes. Under `accelerate launch --num_processes N` the work is shared.
"""

from modeling_mgvmoe.cli.prepare import main

if __name__ == "__main__":
    main()
