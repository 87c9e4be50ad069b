"""How often half precision chooses the same label as float32, on MNRE's test records of seed 0.

    python benchmarks/numerics.py --data MNRE --model FOLDER --json benchmarks/results/numerics.json

FOLDER is the model of examples/train.py with the recipe mgvmoe_small.yaml on that split. Weights in bfloat16 or
float16, or autocast over weights in float32; a record counts as equal if its best of the 7 unseen relations is the
same.
"""

import argparse
import contextlib
import json

import torch
from speed_rows import real_data

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.data.encoding import PostCollator, TypesOfLabels, encode_posts
from modeling_mgvmoe.data.environment import machine, versions
from modeling_mgvmoe.inference.predict import predict_labels

TARGET = 0.995
WAYS = {
    "float32": (torch.float32, None), "bfloat16": (torch.bfloat16, None), "float16": (torch.float16, None),
    "bfloat16 autocast": (torch.float32, torch.bfloat16), "float16 autocast": (torch.float32, torch.float16),
}  # fmt: skip


@torch.no_grad()
def main():
    """Predict in every way and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of MNRE's text files")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--json", help="file for the result")
    flags = parser.parse_args()
    data, processor = real_data(flags), MGVMoEProcessor.from_pretrained(flags.model)
    records = encode_posts(data.posts["test"], processor)
    types = TypesOfLabels(data.label_types, data.type_descriptions)
    collator = PostCollator(processor, data.labels["test"], data.label_descriptions, types=types)
    predictions = {}
    for name, (dtype, autocast) in WAYS.items():
        model = MGVMoEForZeroShotIE.from_pretrained(flags.model, dtype=dtype).eval()
        with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
            predictions[name] = predict_labels(model, records, collator, 32)
    rows = {}
    for name, own in predictions.items():
        same = sum(a == b for a, b in zip(own, predictions["float32"], strict=True)) / len(records)
        rows[name] = {"same": same, "records": len(records), "met": same >= TARGET}
        print(f"{name:18} {same:.2%} of {len(records):,} records")
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump({"versions": versions(), "machine": machine(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
