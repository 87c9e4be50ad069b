import pytest

from modeling_mgvmoe.data.encoding import encode_splits
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData, combine_data
from modeling_mgvmoe.training.arguments import DataArguments
from modeling_mgvmoe.training.build import load_data, processor_from_scratch

from ..support.tiny import tiny_config


def dataset(label, text, sentence, **more):
    post = {"id": text, "text": text, "mentions": [[0, 4]], "label": label}
    names = {"typing": (label, "bird")}
    return ZeroShotData(
        posts={"train": [post], "validation": [post], "test": []},
        labels=dict.fromkeys(("train", "validation", "test"), names),
        label_descriptions={"bird": sentence},
        unseen=False,
        **more,
    )


def test_a_post_competes_among_the_classes_of_its_own_dataset():
    boats = dataset("boat", "Kelo sails", "It flies.")
    trees = dataset("tree", "Mura grows", ["It flies.", "It sings."])
    data = combine_data({"boats": boats, "trees": trees})
    assert data.label_descriptions["bird"] == ("It flies.", "It sings.")
    assert data.labels["train"] == {"boats/typing": ("boat", "bird"), "trees/typing": ("tree", "bird")}
    assert [post["dataset"] for post in data.posts["train"]] == ["boats/typing", "trees/typing"]
    processor = processor_from_scratch(tiny_config(), data.training_texts(), 32)
    encoded, collators = encode_splits(data, processor, ("train",))
    batch = collators["train"](encoded["train"])
    assert collators["train"].candidate_labels == ["boat", "bird", "tree"]
    assert batch["candidate_mask"].tolist() == [[True, True, False], [False, True, True]]
    assert batch["labels"].tolist() == [0, 2]


def test_types_of_both_datasets():
    one = dataset("boat", "Kelo sails", "It flies.", label_types={"bird": (("a",), ("b",))})
    two = dataset("tree", "Mura grows", "It flies.", label_types={"bird": (("b", "a"), ("b",))})
    assert combine_data({"one": one, "two": two}).label_types == {"bird": (("a", "b"), ("b",))}
    with pytest.raises(ValueError, match="parts"):
        combine_data({})


def test_a_class_that_another_dataset_trains_on_is_named():
    def held_out(trained, validated):
        post = {"id": "1", "text": "Kelo", "mentions": [[0, 4]]}
        names = {"train": trained, "validation": validated, "test": "tree"}
        return ZeroShotData(
            posts={split: [{**post, "label": name}] for split, name in names.items()},
            labels={split: {"typing": (name,)} for split, name in names.items()},
        )

    one, two = held_out("boat", "bird"), held_out("bird", "cake")
    told = "1 classes .* 'bird' of validation in one/typing, trained on in two/typing$"
    with pytest.warns(UserWarning, match=told):
        combine_data({"one": one, "two": two})


def test_names_of_datasets():
    arguments = DataArguments(posts_per_class=1, eval_posts_per_class=1)
    assert "dataset" not in load_data(arguments).posts["train"][0]
    for wrong in ("sketchbook,sketchbook", "sketchbook,"):
        with pytest.raises(ValueError, match="dataset"):
            load_data(DataArguments(dataset=wrong))
