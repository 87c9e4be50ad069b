"""A training by the loop, the same on one process and on several."""

import functools

import torch

from modeling_mgvmoe.data.sketchbook import generate_posts, split_classes
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.build import model_from_scratch
from modeling_mgvmoe.training.loop import train
from tests.support.from_scratch import scratch_config


@functools.cache
def posts_and_labels():
    """Typing and relations, half of the training posts without an image; an odd number of validation posts."""
    found, names = {}, {}
    for split, count, posts_per_class in (("train", 4, 2), ("validation", 2, 2)):
        names[split] = {task: getattr(split_classes(task, 0), split)[:count] for task in ("typing", "relation")}
        found[split] = [
            post
            for task, labels in names[split].items()
            for post in generate_posts(task, split, labels=labels, posts_per_class=posts_per_class, image_size=16)
        ]
    found["train"] = [
        {**post, "image": post["image"] if number % 2 else None} for number, post in enumerate(found["train"])
    ]
    found["validation"].pop()
    found["test"], names["test"] = [], {}  # plays no part
    return ZeroShotData(posts=found, labels=names)


def loop_run(folder, processes, accelerator=None):
    """A training by the loop, 4 posts in a global batch, without dropout and noise, in double precision."""
    torch.manual_seed(0)
    config = scratch_config(freeze_vision=False, projection_dropout=0.0, adversary="power")
    config["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    data = posts_and_labels()
    model, processor = model_from_scratch(config, data.training_texts(), max_length=48)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_train_steps=4,
        eval_steps=2,
        per_device_train_batch_size=4 // processes,
        per_device_eval_batch_size=1,  # 7 posts: the processes' shares are not equally many batches
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        keep_best=False,
        mixed_precision="no",
        logging_steps=1,
    )
    found = train(model.double(), processor, data, arguments, accelerator)
    return found, {name: value.clone() for name, value in model.state_dict().items()}
