"""Which run a checkpoint belongs to."""

from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.fingerprint import FREE_ARGUMENTS, differences, identity

CONFIG = {"num_experts": 3, "dtype": "float32", "text_config": {"hidden_size": 16, "_name_or_path": "x"}}
POST = {"id": "a", "task": "typing", "label": "boat", "input_ids": [1, 2]}


def of(config=CONFIG, post=POST, labels=("boat",), processes=1, **arguments):
    values = {"output_dir": "out", "max_train_steps": 5, **arguments}
    return identity(TrainingArguments(**values), config, {"train": [post]}, {"train": labels}, processes)


def test_what_may_change_between_two_starts():
    free = {"output_dir": "elsewhere", "per_device_eval_batch_size": 7, "num_threads": 1, "logging_steps": 9}
    assert set(free) <= set(FREE_ARGUMENTS) and of(**free) == of()
    loaded = {**CONFIG, "dtype": "bfloat16", "text_config": {"hidden_size": 16, "_name_or_path": "y"}}
    assert of(config=loaded) == of()
    assert of(post={**POST, "image": "another.png"}) == of()


def test_what_may_not_is_named():
    for changed, name in (
        (of(learning_rate=0.5), "learning_rate was"),
        (of(processes=2), "num_processes was 1 and is 2"),
        (of(config={**CONFIG, "num_experts": 4}), "model_config.num_experts was 3 and is 4"),
        (of(config={**CONFIG, "text_config": {"hidden_size": 32}}), "model_config.text_config.hidden_size was 16"),
        (of(post={**POST, "input_ids": [2, 1]}), "data.train posts was"),
        (of(post={**POST, "label": "bird"}), "data.train posts was"),
        (of(labels=("bird",)), "data.labels was"),
    ):
        (told,) = differences(of(), changed)
        assert told.startswith(name)
    assert list(differences(of(), of())) == []
