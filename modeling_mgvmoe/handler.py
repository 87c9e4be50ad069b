"""Handler of a Hugging Face Inference Endpoint: JSON in, ranked labels as JSON out.

The platform imports this file from the repository, makes `EndpointHandler(folder)` once, and calls it with each
request's JSON:

```json
{"inputs": {"text": "Kelo sails at dawn", "mention": [0, 4], "image": "<base64, data URL or https URL>"},
 "parameters": {"candidate_labels": ["boat", {"name": "bird", "descriptions": ["An animal with wings."]}], "top_k": 2}}
```

A label is a string, or an object with the fields of `labels.Label`.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import pipeline

MAX_POSTS = 256
MAX_LABELS = 10_000
MAX_SAMPLES = 1_000
# Of an image as bytes.
MAX_BYTES = 20 * 2**20
# Pipeline arguments that a request may set.
PARAMETERS = (
    "candidate_labels", "label_descriptions", "label_types", "type_descriptions", "hypothesis_template",
    "label_template", "top_k", "threshold", "reject_by", "function_to_apply", "is_split_into_words", "max_length",
    "num_samples", "label_separator",
)  # fmt: skip
BATCH_SIZE = 8


class EndpointHandler:
    """Loads the repository once and answers requests.

    Args:
        path: folder of the repository.

    A request is {"inputs": a post or a list of at most 256, "parameters": arguments of the pipeline}. A post's `image`
    is base64, a data URL or an http(s) address, which is fetched from public hosts only; with MGVMOE_IMAGE_URLS=0 in
    the environment of the endpoint not at all. Its `image_text`, a string or a list of strings, is read with or
    without an image. The answer is a list of {"label", "score"} for a post, a list of these for a list; for a request
    that is wrong {"error": what is wrong}, and nothing raises: the platform would answer 500.
    """

    def __init__(self, path: str = "") -> None:
        device = 0 if torch.cuda.is_available() else -1
        load: Any = pipeline  # transformers types it by its own tasks
        self.pipeline = load(model=path or ".", trust_remote_code=True, device=device)
        self.allow_image_urls = os.environ.get("MGVMOE_IMAGE_URLS", "1") != "0"

    def __call__(self, data: Any) -> Any:
        """See the class."""
        try:
            posts, single, parameters = self._read(data)
            answers = self.pipeline(posts, batch_size=BATCH_SIZE, allow_image_urls=self.allow_image_urls, **parameters)
        except (TypeError, ValueError) as error:
            return {"error": str(error)}
        return answers[0] if single else answers

    def _read(self, data: Any) -> tuple[list[dict[str, Any]], bool, dict[str, Any]]:
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError(f"the request must be a JSON object with 'inputs', got {_short(data)}")
        inputs, parameters = data["inputs"], data.get("parameters")
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, Mapping):
            raise ValueError(f"parameters must be an object, got {_short(parameters)}")
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise ValueError(f"parameters may be {', '.join(PARAMETERS)}, got {', '.join(map(str, unknown))}")
        samples = parameters.get("num_samples")
        if samples is not None and (type(samples) is not int or not 0 < samples <= MAX_SAMPLES):
            raise ValueError(f"num_samples must be an integer of 1 to {MAX_SAMPLES:,}, got {_short(samples)}")
        single = not isinstance(inputs, list)
        posts = [inputs] if single else inputs
        if not 0 < len(posts) <= MAX_POSTS:
            raise ValueError(f"inputs must be a post or a list of 1 to {MAX_POSTS}, got {len(posts)}")
        for number, post in enumerate(posts):
            if not isinstance(post, Mapping):
                raise ValueError(f"inputs[{number}] must be an object with 'text' and mentions, got {_short(post)}")
            labels = post.get("candidate_labels") or parameters.get("candidate_labels")
            if isinstance(labels, list) and len(labels) > MAX_LABELS:
                raise ValueError(f"candidate_labels may be {MAX_LABELS:,} at most, got {len(labels):,}")
        read = [{**post, "image": read_image(post.get("image"), number)} for number, post in enumerate(posts)]
        return read, single, dict(parameters)


def read_image(image: Any, number: int) -> Any:
    """An http(s) address as it is; bytes of base64 or of a data URL; `None` for `None`. Never a path of the server."""
    if image is None:
        return None
    if not isinstance(image, str):
        raise ValueError(
            f"inputs[{number}].image must be base64, a data URL or an http(s) address, got {_short(image)}"
        )
    if image.startswith(("http://", "https://")):
        return image
    content = image.partition(",")[2] if image.startswith("data:") else image
    if len(content) * 3 // 4 > MAX_BYTES:
        raise ValueError(f"inputs[{number}].image may have {MAX_BYTES:,} bytes at most")
    try:
        found = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"inputs[{number}].image must be base64, a data URL or an http(s) address, got {_short(image)}"
        ) from error
    if not found:
        raise ValueError(f"inputs[{number}].image must not be empty")
    return found


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


__all__ = ["EndpointHandler"]
