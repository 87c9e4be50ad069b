"""Save models under one set of library versions, load them under another, and compare the scores.

    python -m tests.versions.exchange save FOLDER
    python -m tests.versions.exchange load FOLDER

`make test-exchange` does both in both directions, with the lowest and the highest versions of setup.cfg. `load` exits
with status 1 where a score differs by more than the tolerance.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.training.build import model_from_scratch
from tests.support.from_scratch import LABELS, RELATIONS, TEXTS, posts, scratch_config

# Of logits of up to about 10. Where torch is the same they are equal to the last bit.
TOLERANCE = 1e-5
PACKAGES = ("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy", "pillow")
KINDS = {
    "projection": ({}, "markers"),
    "similarity": ({"score": "similarity", "fusion": "query"}, "prefix"),
}
TYPES = {"label_types": {"greets": ("person", ["person", "place"])}, "type_descriptions": {"person": "somebody"}}


def chosen_posts(folder: Path) -> list[dict]:
    """The posts of the tests with labels each; images are files, written or read."""
    found = posts()
    for number, post in enumerate(found):
        path = folder / f"{number}.png"
        if post.get("image") is not None:
            if not path.is_file():
                post["image"].save(path)
            post["image"] = str(path)
        pair = "head" in post or len(post.get("mentions", [0])) == 2
        post["candidate_labels"] = RELATIONS if pair else LABELS
    return found


def inputs_of(processor, own: list[dict]) -> dict[str, torch.Tensor]:
    """What the processor makes of the posts, all labels for each."""
    return processor(
        text=[post["text"] for post in own],
        images=[post.get("image") for post in own],
        mentions=[post.get("mention") or post.get("mentions") or [post["head"], post["tail"]] for post in own],
        candidate_labels=[*LABELS, *RELATIONS],
        return_tensors="pt",
    )


def arguments_of(kind: str) -> dict:
    return TYPES if kind == "similarity" else {}


def save(folder: Path) -> None:
    """Write models of every kind with processor and pipeline, and what they make of the posts."""
    folder.mkdir(parents=True)
    for kind, (fields, style) in KINDS.items():
        torch.manual_seed(1)
        model, processor = model_from_scratch(scratch_config(**fields), TEXTS, max_length=48, mention_style=style)
        own = chosen_posts(folder)
        pipe = ZeroShotMultimodalIEPipeline(model=model.eval(), processor=processor)
        pipe.save_pretrained(folder / kind)
        inputs = inputs_of(processor, own)
        with torch.no_grad():
            logits = model(**inputs).logits
        save_file({**inputs, "logits": logits}, folder / f"{kind}.safetensors")
        answers = pipe(own, batch_size=2, **arguments_of(kind))
        (folder / f"{kind}.json").write_text(json.dumps(answers), encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(versions()), encoding="utf-8")


def load(folder: Path) -> float:
    """Load what `save` wrote and return the largest difference of a score, from the same inputs and from the posts."""
    theirs = json.loads((folder / "versions.json").read_text(encoding="utf-8"))
    for name, own in versions().items():
        print(f"{name:16} saved by {theirs[name]:12} loaded by {own}")
    largest = 0.0
    for kind in KINDS:
        expected = load_file(folder / f"{kind}.safetensors")
        logits = expected.pop("logits")
        model = AutoModel.from_pretrained(folder / kind)
        processor = AutoProcessor.from_pretrained(folder / kind)
        inputs = inputs_of(processor, chosen_posts(folder))
        assert set(inputs) == set(expected), (sorted(inputs), sorted(expected))
        same = [name for name in expected if torch.equal(inputs[name], expected[name])]
        with torch.no_grad():
            of_their_inputs, of_own_inputs = model(**expected).logits, model(**inputs).logits
        pipe = pipeline(model=str(folder / kind), trust_remote_code=True)
        answers = pipe(chosen_posts(folder), batch_size=2, **arguments_of(kind))
        saved = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        pairs = [
            ({one["label"]: one["score"] for one in own}, {one["label"]: one["score"] for one in other})
            for own, other in zip(answers, saved, strict=True)
        ]
        assert all(set(own) == set(other) for own, other in pairs)
        differences = {
            "logits of the same inputs": (of_their_inputs - logits).abs().max().item(),
            "logits of the same posts": (of_own_inputs - logits).abs().max().item(),
            "scores of the pipeline": max(abs(own[name] - other[name]) for own, other in pairs for name in own),
        }
        print(f"{kind}: {len(same)} of {len(expected)} inputs are equal to the last bit")
        for what, difference in differences.items():
            print(f"  {what}: {'equal to the last bit' if difference == 0 else f'differ by at most {difference:.1e}'}")
        largest = max(largest, *differences.values())
    return largest


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def main() -> int:
    """Read the command line and do what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("save", "load"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    if arguments.action == "save":
        save(arguments.folder)
        return 0
    largest = load(arguments.folder)
    if largest > TOLERANCE:
        print(f"a score differs by {largest:.1e}, more than {TOLERANCE}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
