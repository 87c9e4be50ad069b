"""A saved model with its processor, for evaluation and prediction: checked before and after it is loaded."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


DTYPES = ("float32", "bfloat16", "float16", "auto")
SHIPPED = "mgvmoe-small"


def shipped_model() -> str:
    """The folder of the weights that ship: inside the package where it came as a wheel, or in the checkout.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = [os.path.join(package, SHIPPED)]
    places.append(os.path.join(os.path.dirname(package), "configuration", "models", SHIPPED))
    for place in places:
        if os.path.isfile(os.path.join(place, "config.json")):
            return os.path.relpath(place) if place.startswith(os.getcwd() + os.sep) else place
    raise FileNotFoundError(
        f"model: a folder or Hub name must be given with --model, for the weights {SHIPPED!r} are neither in "
        f"{places[0]} nor in {places[1]}"
    )


def check_model_folder(name: str, argument: str = "model") -> None:
    """Raise FileNotFoundError if a folder is no model with its processor; a Hub name passes."""
    check_folder(argument, name)
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "processor_config.json")):
        raise FileNotFoundError(
            f"{argument}: {name} holds no processor (processor_config.json). Save one beside the model with "
            "processor.save_pretrained(folder)."
        )


def check_folder(argument: str, name: str) -> None:
    """Raise FileNotFoundError if a folder is missing or holds no model; a Hub name passes."""
    if not os.path.isdir(name):
        # A name on the Hub has one slash at most.
        if name.count("/") > 1 or name.startswith((".", "/")):
            raise FileNotFoundError(f"{argument}: the folder {name} does not exist")
        return
    if not os.path.isfile(os.path.join(name, "config.json")):
        inner = os.path.join(name, "model")
        hint = f"; did you mean {inner}?" if os.path.isfile(os.path.join(inner, "config.json")) else "."
        raise FileNotFoundError(f"{argument}: {name} holds no config.json{hint}")


def check_export_folder(folder: str, overwrite: bool) -> None:
    """Raise FileExistsError where an export would replace a folder, or with `overwrite` one that is no export."""
    there = os.listdir(folder) if os.path.isdir(folder) else []
    if there and not overwrite:
        raise FileExistsError(f"output_dir: {folder} is not empty; overwrite replaces it")
    if there and "export.json" not in there:
        raise FileExistsError(f"output_dir: only an export is replaced, and {folder} has no export.json")


def check_output_folder(argument: str, folder: str) -> None:
    """Raise OSError if a folder can neither be there nor be made, before much is done."""
    place = os.path.abspath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise NotADirectoryError(f"{argument}: a folder is needed, got {folder!r}, and {place!r} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{argument}: {folder!r} must be writable, and {place!r} is not")


def check_device(name: str) -> None:
    """Raise ValueError if torch has no such device here."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


def check_packages(extra: str, *names: str) -> None:
    """Raise ImportError, with what to do, unless packages of an extra of this one are installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} must be installed for this: pip install 'mg-vmoe[{extra}]', or "
            f"pip install -e '.[{extra}]' in a checkout."
        )


def check_dtype(name: str | None) -> None:
    """Raise ValueError if weights cannot be loaded as that."""
    if name is not None and name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")


def default_device() -> str:
    """A GPU if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    name: str,
    device: str,
    revision: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A saved model on a device, with its processor, checked against each other.

    Args:
        name: folder or Hub name. The code is that of this package, not what lies beside the weights.
        device: "cpu", "cuda", ...
        revision: branch, tag or commit on the Hub.
        dtype: of the weights, one of `DTYPES`; default: as they were saved. "auto": bfloat16 where the device has it
            in hardware, else float32.
        trust_remote_code: run code that an encoder or a tokenizer in it brings along.

    Raises:
        ValueError: it is another kind of model, weights are missing, or the two do not fit.
        OSError: there is neither such a folder nor, within reach, such a name on the Hub.
    """
    from transformers import AutoConfig

    from ..loading import check_json_files
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
    from ..processing_mgvmoe import MGVMoEProcessor

    check_dtype(dtype)
    check_json_files(name, "config")
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        source["revision"] = revision
    try:
        kind = AutoConfig.from_pretrained(name, **source).model_type
    except OSError as error:
        # The libraries' message does not always say which.
        raise OSError(f"model: {name!r} cannot be loaded: {error}") from error
    if kind != "mgvmoe":
        raise ValueError(f"model: {name} must be a model of this package (mgvmoe), got {kind!r}")
    as_type = {} if dtype is None else {"dtype": _torch_dtype(dtype, device)}
    loaded: Any = MGVMoEForZeroShotIE.from_pretrained(name, output_loading_info=True, **source, **as_type)
    model, report = loaded
    if report["missing_keys"]:
        raise ValueError(
            f"model: {name} must hold all weights, {len(report['missing_keys'])} are missing: "
            f"{sorted(report['missing_keys'])[:3]}"
        )
    if report["unexpected_keys"]:
        raise ValueError(
            f"model: {name} must hold no other weights than its config.json asks for, it has "
            f"{len(report['unexpected_keys'])}: {sorted(report['unexpected_keys'])[:3]}"
        )
    processor = MGVMoEProcessor.from_pretrained(name, **source)
    ZeroShotMultimodalIEPipeline(model=model, processor=processor)  # raises where the two do not fit
    return model.to(device).eval(), processor


def _torch_dtype(name: str, device: str) -> torch.dtype:
    import torch

    from ..data.environment import choose_precision

    precision = choose_precision({"bfloat16": "bf16"}.get(name, name), device, "dtype")
    return {"no": torch.float32, "bf16": torch.bfloat16}.get(precision) or getattr(torch, name)
