"""Posts and a model for runs of a second, shared by the tests of checkpoints and the runs that are killed."""

import contextlib
import copy
import functools

import torch

from modeling_mgvmoe.configuration_mgvmoe import LOSS_TERMS
from modeling_mgvmoe.data.sketchbook import generate_posts, split_classes
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData
from modeling_mgvmoe.training.build import model_from_scratch
from modeling_mgvmoe.variational_experts import VariationalMixtureOfExperts
from tests.support.from_scratch import scratch_config

TERMS = LOSS_TERMS


@functools.cache
def small_data():
    """Three classes for training, two for validation and testing, of each task; 16 px."""
    posts, labels = {}, {}
    for split, count in (("train", 3), ("validation", 2), ("test", 2)):
        labels[split] = {task: getattr(split_classes(task, 0), split)[:count] for task in ("typing", "relation")}
        posts[split] = [
            post
            for task, names in labels[split].items()
            for post in generate_posts(task, split, labels=names, posts_per_class=2, image_size=16)
        ]
    return ZeroShotData(posts=posts, labels=labels)


@functools.cache
def _built(hidden_size):
    config = scratch_config(
        freeze_vision=False, kl_loss_coef=1e-4, router_entropy_loss_coef=0.01, alignment_loss_coef=0.1,
        consistency_loss_coef=0.1, graph_temperature=32.0, initializer_range=0.05,
    )  # fmt: skip
    config["text_config"] |= {"hidden_size": hidden_size, "initializer_range": 0.05, "num_hidden_layers": 1}
    config["vision_config"]["initializer_range"] = 0.05
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_from_scratch(config, small_data().training_texts(), max_length=48)


def small_trainee(hidden_size=16, dtype=torch.float32):
    """A copy of one and the same model and of its processor; double precision where two computations are compared."""
    model, processor = copy.deepcopy(_built(hidden_size))
    return model.to(dtype), processor


@contextlib.contextmanager
def without_noise():
    """The experts' mean instead of a sample, in training too."""
    forward = VariationalMixtureOfExperts.forward

    def quiet(self, hidden_states, attention_mask=None, noise=None, return_losses=True):
        return forward(self, hidden_states, attention_mask, torch.zeros_like(hidden_states), return_losses)

    VariationalMixtureOfExperts.forward = quiet
    try:
        yield
    finally:
        VariationalMixtureOfExperts.forward = forward
