"""The demo behind `make demo`: a graph of six posts by the weights that ship, then a model trained from nothing.

    python examples/demo.py --output_dir runs/demo

The posts are made up (`demo_posts.json`). Their photos are in scikit-image's wheel, released by NASA, SpaceX and their
photographers for any use. The second part trains on built-in posts, evaluates on unseen classes and uses the saved
folder elsewhere. Any other flag goes to examples/train.py.
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from importlib.resources import files

import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.cli.extract import extract_command
from modeling_mgvmoe.evaluation.report import conditions_table, drawing_style, mark_mentions
from modeling_mgvmoe.graph.hetero_data import read_graph
from modeling_mgvmoe.inference.model_folder import check_output_folder, check_packages
from modeling_mgvmoe.inference.predict import evaluate_conditions
from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.build import load_data

HERE = os.path.dirname(os.path.abspath(__file__))
RECIPE = os.path.join(HERE, "..", "configuration", "recipes", "sketchbook.yaml")
PHOTO_SIZE = 256
# A process in which this project cannot be imported, as on the machine of somebody who only has the saved folder.
WITHOUT_PACKAGE = (
    "import runpy, sys; sys.modules['modeling_mgvmoe'] = None; sys.argv = sys.argv[1:]; "
    "sys.path[0] = ''; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def read_real_posts():
    """The posts and labels of `demo_posts.json`, with the photos."""
    with open(os.path.join(HERE, "demo_posts.json"), encoding="utf-8") as file:
        demo = json.load(file)
    for post in demo["posts"]:
        with Image.open(str(files("skimage") / "data" / post["photo"])) as photo:
            photo.thumbnail((PHOTO_SIZE, PHOTO_SIZE))
            post["image"] = photo.convert("RGB")
    return demo["posts"], demo["labels"]


def extract_real_posts(folder):
    """Type and relate six posts with the weights that ship, print what they say, and draw posts and graph."""
    from graph_report import draw_graph  # beside this script

    given, labels = read_real_posts()
    os.makedirs(folder, exist_ok=True)
    posts_file, graph = os.path.join(folder, "posts.jsonl"), os.path.join(folder, "graph")
    with open(posts_file, "w", encoding="utf-8") as file:
        for post in given:  # without the photos, of which these weights read no pixel
            row = {"text": post["text"], "mentions": list(post["mentions"]), "image_text": post["image_text"]}
            file.write(json.dumps(row) + "\n")
    with open(os.path.join(folder, "labels.json"), "w", encoding="utf-8") as file:
        json.dump(labels, file, indent=1)
    extract_command(["--input", posts_file, "--output", graph, "--formats", "json_lines", "--overwrite"])

    with open(os.path.join(graph, "graph.jsonl"), encoding="utf-8") as file:
        answers = [json.loads(line) for line in file]
    print_answers(given, answers)
    first = [answer["mentions"][0] for answer in answers]
    asked = [
        {"text": post["text"], "image": post["image"], "mentions": [(own["start"], own["end"])],
         "label": post["mentions"][own["text"]]}
        for post, own in zip(given, first, strict=True)
    ]  # fmt: skip
    drawings = [os.path.join(folder, name) for name in ("posts.png", "graph.png")]
    title = "What is read: the text and a description of each photo"
    draw_predictions(asked, [own["scores"] for own in first], drawings[0], title)
    draw_graph(read_graph(graph), drawings[1], title="Six posts as a graph")
    print(f"  images: {' '.join(drawings)}", flush=True)


def print_answers(posts, answers):
    """Print types and relations post by post, say which are wrong, and count."""
    types_right = relations_right = types = relations = 0
    for post, answer in zip(posts, answers, strict=True):
        print(f"\n  {post['text']}\n  [{post['photo']}: {post['image_text']}]")
        names = [mention["text"] for mention in answer["mentions"]]
        for mention in answer["mentions"]:
            right = post["mentions"][mention["text"]]
            wrong = "" if mention["label"] == right else f"   wrong: {right}"
            print(f"    {mention['score']:.2f}  {mention['text']}: {mention['label']}{wrong}")
            types_right += not wrong
        for own in answer["relations"]:
            triple = [names[own["head"]], own["label"], names[own["tail"]]]
            wrong = "" if triple in post["relations"] else "   wrong"
            print(f"    {own['score']:.2f}  {' '.join(triple)}{wrong}")
            relations_right += not wrong
        types, relations = types + len(names), relations + len(answer["relations"])
    there = sum(len(post["relations"]) for post in posts)
    print(f"\n  {types_right} of {types} types are right, and {relations_right} of {relations} relations", end="")
    print(f", of {there} that are there")


def draw_predictions(posts, rankings, path, title, top_k=4):
    """Write a PNG with each post's image, its text with the mentions in brackets, and its best labels as bars.

    The bar of the best label is green where it is the post's `label`, else red.
    """
    rows = -(-len(posts) // 2)
    with drawing_style():
        figure = Figure(figsize=(11.2, 2 * rows + 0.5), layout="constrained")
        places = figure.subplots(rows, 4, width_ratios=[1, 1.6] * 2, squeeze=False).reshape(-1, 2)
        for (drawn, bars), post, ranking in zip(places, posts, rankings, strict=False):
            best = ranking[:top_k][::-1]
            drawn.imshow(post["image"])
            colours = ["#b8c4d0"] * (len(best) - 1) + ["#8fd0a5" if best[-1]["label"] == post["label"] else "#eba39c"]
            bars.barh(range(len(best)), [item["score"] for item in best], color=colours)
            bars.set_xlim(0, 1.15)  # room for the figures beside a bar of 1
            for place, item in enumerate(best):
                bars.text(0.02, place, item["label"], va="center", fontsize=9)
                bars.text(1.14, place, f"{item['score']:.2f}", va="center", ha="right", fontsize=9)
            bars.set_title(textwrap.fill(mark_mentions(post), 46), fontsize=8.5, loc="left")
        for axis in places.flat:
            axis.axis("off")
        figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=110)


def choose_posts(data):
    """Three typing posts and three relation posts, of unseen classes that share no part of their names."""
    chosen = []
    for place in (0, 4, 8):  # labels come by drawing, three a drawing
        for labels in data.labels["test"].values():
            chosen.append(next(post for post in data.posts["test"] if post["label"] == labels[place]))
    return chosen


def write_posts(posts, labels, folder):
    """Write images and a `posts.json` that the pipeline reads."""
    os.makedirs(folder, exist_ok=True)
    items = []
    for number, post in enumerate(posts):
        post["image"].save(os.path.join(folder, f"{number}.png"))
        spans = post["mentions"]
        marked = {"mention": spans[0]} if len(spans) == 1 else {"head": spans[0], "tail": spans[1]}
        own = list(labels["typing" if len(spans) == 1 else "relation"])
        items.append({"text": post["text"], **marked, "image": f"{number}.png", "candidate_labels": own})
    path = os.path.join(folder, "posts.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(items, file, indent=1)
    return path


@one_line()
def main():
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/demo")
    arguments, training_flags = parser.parse_known_args()
    check_output_folder("output_dir", arguments.output_dir)
    disable_progress_bar()
    check_packages("dev", "skimage")
    started, folder = time.time(), arguments.output_dir

    print("1. Six posts, by the weights that ship: no training; photos are read as the words beside them", flush=True)
    extract_real_posts(os.path.join(folder, "real_posts"))
    print(f"  {time.time() - started:.0f} seconds so far")

    print("\n2. Training on 40 types and 40 relations (examples/train.py)", flush=True)
    command = [sys.executable, os.path.join(HERE, "train.py"), "--config", RECIPE, "--output_dir", folder]
    if code := subprocess.run([*command, "--overwrite_output_dir", "True", *training_flags]).returncode:
        sys.exit(code)  # it has said why

    print("\n3. Evaluating on 12 types and 12 relations whose names it never saw", flush=True)
    _, posts_arguments, _ = parse_arguments(["--config", RECIPE, *training_flags])
    data = load_data(posts_arguments)
    model = MGVMoEForZeroShotIE.from_pretrained(os.path.join(folder, "model"))
    processor = MGVMoEProcessor.from_pretrained(os.path.join(folder, "model"))
    results = evaluate_conditions(model, processor, data.posts["test"], data.labels["test"])
    with open(os.path.join(folder, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    print(conditions_table(results))

    print("\n4. Loading the saved folder in a process without this package", flush=True)
    posts = choose_posts(data)
    posts_file = write_posts(posts, data.labels["test"], os.path.join(folder, "posts"))
    output = os.path.join(folder, "predictions.json")
    script = os.path.join(HERE, "predict.py")
    command = [sys.executable, "-c", WITHOUT_PACKAGE, script, "--model", os.path.join(folder, "model")]
    subprocess.run([*command, "--posts", posts_file, "--output", output], check=True)
    with open(output, encoding="utf-8") as file:
        predictions = json.load(file)
    inputs = processor(
        text=[post["text"] for post in posts],
        images=[post["image"] for post in posts],
        mentions=[post["mentions"] for post in posts],
        candidate_labels=[
            data.labels["test"]["typing" if len(post["mentions"]) == 1 else "relation"] for post in posts
        ],
        return_tensors="pt",
    )
    with torch.no_grad():
        same = torch.equal(model(**inputs).logits, torch.tensor(predictions["logits"]))
    print(f"its logits and those of this process are {'bitwise equal' if same else 'DIFFERENT'}")

    drawing = os.path.join(folder, "predictions.png")
    draw_predictions(posts, predictions["rankings"], drawing, "Types and relations that were never trained on")
    print(f"\nmodel: {folder}/model   image: {drawing}   {time.time() - started:.0f} seconds in all")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
