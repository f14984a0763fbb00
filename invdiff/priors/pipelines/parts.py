"""The parts of a pipeline in a folder of diffusers: networks, text encoders, tokenizers and schedulers, read as data.

The classes of the parts are those a family expects, never those a folder names: no code of a folder is run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invdiff.priors.checkpoints.diffusers_scheduler import Training, read_scheduler
from invdiff.priors.checkpoints.diffusers_weights import TEXT_WEIGHTS, read_json, read_weights
from invdiff.priors.networks.fill import check_stored, fill
from invdiff.priors.networks.skeleton import hollow, skeleton

__all__ = ["INDEX", "Parts", "library"]

INDEX = "model_index.json"
PACKAGES = ("diffusers", "transformers", "unclip")  # the last one is a folder of diffusers
MOST_SIDE = 1024  # of the items of a network
MOST_TOKENS = 4096
EXTRA = 'pip install "invdiff[text]"'
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


def library(name: str) -> Any:
    """Return the package ``diffusers`` or ``transformers``.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = "" if getattr(error, "name", None) == name else f" ({' '.join(str(error).split())[:200]})"
        raise ImportError(f"Pipelines of diffusers need {name}{reason}: {EXTRA}") from error


class Parts:
    """The parts of a pipeline, by the names of ``model_index.json``.

    Args:
        folder: The folder.
        index: The content of ``model_index.json``.
        kernels: Dtype of the weights of large layers; ``None``: float32.
        device: Where text encoders are evaluated.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any], *, kernels: torch.dtype | None, device: torch.device) -> None:
        self.folder, self.index, self.kernels, self.device = folder, index, kernels, device

    def has(self, name: str) -> bool:
        """Return whether there is such a part."""
        return any(self._entry(name))

    def _entry(self, name: str) -> list[Any]:
        entry = self.index.get(name)
        return entry if isinstance(entry, list) and len(entry) == 2 else [None, None]

    def kind(self, name: str, *expected: str) -> str:
        """Return the class of a part.

        Raises:
            ValueError: If it is none of ``expected``.
        """
        package, found = self._entry(name)
        if package not in (None, *PACKAGES):
            raise ValueError(
                f"{self.folder / INDEX}: its {name} is {package!s:.60}.{found!s:.60}, outside of diffusers, and not run."
            )
        if found not in expected:
            what = "is missing" if found is None else f"is a {found!s:.80}"
            raise ValueError(f"{self.folder / INDEX}: its {name} {what}, expected {' or '.join(expected)}.")
        return str(found)

    def config(self, name: str) -> dict[str, Any]:
        """Return the configuration of a part.

        Raises:
            ValueError: If it is missing, damaged, of quantized weights, or refers to code.
        """
        path = self.folder / name / "config.json"
        config = read_json(path)
        if config is None:
            raise ValueError(f"{path}: is missing. Copy the folder again.")
        if config.get("quantization_config"):
            raise ValueError(f"{path}: its weights are quantized. Expected float32, float16 or bfloat16.")
        if config.get("auto_map"):
            raise ValueError(f"{path}: refers to custom code (auto_map: {config['auto_map']!s:.80}), which is never run.")
        return config

    def network(self, name: str, *expected: str, kernels: bool = True) -> nn.Module:
        """Return a network of diffusers with its weights, in evaluation mode.

        Args:
            name: The part.
            expected: Its supported classes.
            kernels: Whether large layers may be in half precision.

        Raises:
            ValueError: If it is of another class, or damaged.
        """
        kind, config = self.kind(name, *expected), self.config(name)
        place = self.folder / name
        make = getattr(self._module(name), kind)
        weights, _ = read_weights(place)
        known = inspect.signature(make.__init__).parameters
        arguments = {key: value for key, value in config.items() if key in known}
        self.side(name)  # Tables of positions are built for it.
        with _read(place, kind):
            net: nn.Module = hollow(lambda: make(**arguments), weights)
            fill(net, weights, kernels=self.kernels if kernels else None)
        return net.eval().requires_grad_(False)

    def _module(self, name: str) -> Any:
        diffusers = library("diffusers")
        if hasattr(diffusers, str(self._entry(name)[1])):
            return diffusers
        return importlib.import_module(getattr(diffusers, self.index["_class_name"]).__module__)

    def text_encoder(self, name: str) -> Any:
        """Return a text encoder of transformers, on the device; ``None``: there is none.

        Raises:
            ValueError: If it is of another class, or its weights are incomplete, damaged or not finite.
        """
        if not self.has(name):
            return None
        kind, config = self.kind(name, *ENCODERS), self.config(name)
        make, place = getattr(library("transformers"), kind), self.folder / name
        weights, _ = read_weights(place, TEXT_WEIGHTS)
        check_stored(weights)
        config = make.config_class.from_dict({key: value for key, value in config.items() if key not in UNREAD})
        with _read(place, kind):
            skeleton(lambda: make(config), len(weights))  # It may ask for more layers than there are weights for.
            with _without_bar():
                encoder, found = make.from_pretrained(
                    None,
                    config=config,
                    state_dict=weights,
                    output_loading_info=True,
                    attn_implementation="sdpa" if kind.startswith("CLIP") else "eager",
                    dtype=self.kernels or torch.float32,
                )
            wrong = [*found["missing_keys"], *found["mismatched_keys"]]
            if wrong:
                raise ValueError(
                    f"{len(wrong)} tensors are missing or of other shapes, such as {sorted(map(str, wrong))[0]:.100}"
                )
        return encoder.to(self.device).eval().requires_grad_(False)

    def tokenizer(self, name: str) -> Any:
        """Return a tokenizer of transformers; ``None``: there is none."""
        if not self.has(name):
            return None
        kind, place = self.kind(name, *TOKENIZERS), self.folder / name
        if not place.is_dir():
            raise ValueError(f"{place}: is missing. Copy the folder again.")
        make = getattr(library("transformers"), kind)
        with _read(place, kind):
            tokenizer = make.from_pretrained(str(place), local_files_only=True)
        tokenizer.model_max_length = min(tokenizer.model_max_length, MOST_TOKENS)  # Texts are padded to it.
        return tokenizer

    def side(self, name: str) -> int | tuple[int, int] | None:
        """Return the side of the items of a network, or its height and width; ``None``: its configuration has none.

        Raises:
            ValueError: If these are no such numbers.
        """
        size: Any = self.config(name).get("sample_size")
        sides: list[Any] = size if isinstance(size, list) else [size]
        if size is None:
            return None
        if len(sides) not in (1, 2) or any(type(side) is not int or not 1 <= side <= MOST_SIDE for side in sides):
            raise ValueError(
                f"{self.folder / name / 'config.json'}: its sample_size is {size!r:.60}, expected 1 to {MOST_SIDE}."
            )
        return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))

    def scheduler(self, given: Mapping[str, Any], name: str = "scheduler") -> Training:
        """Return the training parameters of the network that a scheduler describes."""
        path = self.folder / name / "scheduler_config.json"
        return read_scheduler(read_json(path), given, where=str(path))


@contextlib.contextmanager
def _read(place: Path, kind: str) -> Iterator[None]:
    """Name the part in every failure: the packages check little, and an invalid value fails wherever it is first used."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ValueError(f"{place}: the files and the {kind} of its configuration do not fit: {reason}.") from error


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Leave out the progress bar of transformers."""
    logging = library("transformers").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


UNREAD = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "dtype", "torch_dtype")
