"""Posts for the protocols, and folders of them, shared by the tests of evaluation."""

import functools

from modeling_mgvmoe.data.evaluation_data import EvaluationData
from modeling_mgvmoe.data.sketchbook import generate_posts, split_classes
from modeling_mgvmoe.data.zero_shot_data import SPLITS

CLASSES = {"train": 3, "validation": 2, "test": 3}


def make_post(number, label, relation=False):
    """A post whose text says its number."""
    text = f"Kelo meets Mura {number}"
    mentions = [[0, 4], [11, 15]] if relation else [[0, 4]]
    return {"id": f"post-{label}-{number}", "text": text, "mentions": mentions, "label": label, "image": None}


def by_table(table):
    """A scorer that looks logits up: from id to logits by label, `default` where there is none."""

    def score(posts, labels, default=-9.0):
        return [[table.get(post["id"], {}).get(label, default) for label in labels] for post in posts]

    return score


def hand_made(posts, train=("s", "t"), validation=("v", "w"), test=("a", "b")):
    """Data with one task, typing."""
    return EvaluationData(
        posts=posts,
        labels={"train": {"typing": train}, "validation": {"typing": validation}, "test": {"typing": test}},
    )


@functools.cache
def drawn_posts():
    """Both tasks: a few classes of each split, of which posts are drawn; also of seen classes and of none."""
    labels = {
        split: {task: getattr(split_classes(task, 0), split)[:count] for task in ("typing", "relation")}
        for split, count in CLASSES.items()
    }
    chosen = {split: (split, labels[split], 4) for split in SPLITS} | {"seen_test": ("seen_test", labels["train"], 2)}
    rest = {task: split_classes(task, 0).validation[6:8] for task in labels["train"]}
    posts = {
        name: [
            post
            for task in own
            for post in generate_posts(task, split, labels=own[task], posts_per_class=count, image_size=16)
        ]
        for name, (split, own, count) in {**chosen, "none": ("validation", rest, 6)}.items()
    }
    posts["none"] = [{**post, "id": f"none-{post['id']}", "label": "None"} for post in posts["none"]]
    return posts, labels


def write_folder(folder, names=(*SPLITS, "seen_test", "none")):
    """A prepared folder with these files."""
    import datasets

    from modeling_mgvmoe.data.schema import post_features

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        datasets.Dataset.from_list(drawn_posts()[0][name], features=post_features()).to_parquet(
            folder / f"{name}.parquet"
        )
    return folder
