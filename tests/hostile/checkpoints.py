"""Checkpoints: small valid ones of several families and formats, and ones whose description or contents are wrong."""

from __future__ import annotations

import functools
import io
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from helpers import filled
from numpy.random import Generator
from torch import Tensor

from invdiff.priors.networks.adm import ADM
from invdiff.priors.networks.unet import UNet
from invdiff.priors.save import save_prior

__all__ = ["checkpoint", "folder", "tiny"]

Files = dict[str, bytes]
EDM = Path(__file__).parents[1] / "data" / "edm_tiny.pkl"
ADM_CONFIG: dict[str, Any] = {
    "channels": 3,
    "width": 32,
    "multipliers": [1, 1],
    "blocks": 1,
    "attention": [2],
    "heads": 1,
    "scale_shift": False,
    "updown": False,
    "learned_variance": True,
}
UNET2D: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 16,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
VALUES: list[Any] = [
    None,
    "",
    "x",
    [],
    {},
    -1,
    0,
    1,
    3,
    1000000000,
    10**30,
    1e300,
    True,
    [1000000000, 1],
    ["a"],
    "\x1b[31m",
    [[1]],
]


@functools.cache
def tiny() -> bytes:
    """Return a prior of this library, of random weights."""
    net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8)
    net.load_state_dict(filled({name: tuple(weight.shape) for name, weight in net.state_dict().items()}))
    with torch.no_grad():
        net.last.weight.mul_(0.05)
    return _written(net)


def _written(net: UNet) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        save_prior(net, path, sigma_data=0.5, facts={"license": "CC0"})
        return path.read_bytes()


@functools.cache
def _adm() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = ADM(**ADM_CONFIG).state_dict()
    return filled({name: tuple(weight.shape) for name, weight in shapes.items()})


def checkpoint(rng: Generator) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a checkpoint, valid or with something wrong in its description."""
    kind = str(rng.choice(["own", "recipe", "recipe", "header", "torch", "torch", "odd torch", "pickle", "foreign"]))
    if kind == "own":
        return ".safetensors", tiny()
    if kind == "recipe":
        return ".safetensors", _other_recipe(rng)
    if kind == "header":
        return ".safetensors", _other_header(rng)
    if kind == "torch":
        return _torch(rng, dict(_adm()))
    if kind == "odd torch":
        return _torch(rng, _odd(rng))
    if kind == "pickle":
        return ".pkl", EDM.read_bytes()
    size = int(rng.choice([1, 3]))
    return ".safetensors", safetensors.torch.save({"w": torch.zeros(size, 4), "b": torch.zeros(0)}, {"note": "\x1b[2Jx"})


def _torch(rng: Generator, data: Any) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    wrap = str(rng.choice(["plain", "model", "ema", "module"]))
    if isinstance(data, dict) and wrap == "module":
        data = {f"module.{name}": value for name, value in data.items()}
    elif wrap != "plain":
        data = {wrap: data, "step": 3}
    protocol, zipped = int(rng.choice([2, 3, 4, 5])), bool(rng.random() < 0.7)
    torch.save(data, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    content = buffer.getvalue() if zipped else _without_addresses(buffer.getvalue())
    return str(rng.choice([".pt", ".pth", ".ckpt", ".bin"])), content


def _without_addresses(content: bytes) -> bytes:
    """Number the tensors of a file that torch names by their addresses in memory, so that it is the same every time."""
    known: dict[bytes, bytes] = {}

    def numbered(found: re.Match[bytes]) -> bytes:
        return known.setdefault(found[0], b"%0*d" % (len(found[0]), len(known)))

    return re.sub(rb"\d{13,15}", numbered, content)


def _odd(rng: Generator) -> Any:
    """Return what is no state dict, or one of odd tensors."""
    odd: list[Any] = [
        {},
        [],
        3,
        {"w": torch.zeros(3)},
        {3: torch.zeros(3)},
        {"w": torch.zeros(1).expand(1000, 1000, 1000)},
        {"w": torch.zeros(2, 3).to_sparse()},
        {"w": torch.tensor([1 + 2j])},
        {"w\x1b[31m": torch.zeros(2)},
        {"a": {"b": {"c": {"d": torch.zeros(2)}}}},
        {name: torch.full_like(value, float("nan")) for name, value in _adm().items()},
        {name: value.half() for name, value in _adm().items()},
        {name: value[:1] for name, value in _adm().items()},
        dict(list(_adm().items())[: int(rng.integers(1, 12))]),
        {f"{name}{'é' * (k == 3)}": value for k, (name, value) in enumerate(_adm().items())},
    ]
    return odd[int(rng.integers(len(odd)))]


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: Mapping[str, Any], data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _other_recipe(rng: Generator) -> bytes:
    """Return a prior of this library in whose description one value is another."""
    header, data = _split(tiny())
    spec = json.loads(header["__metadata__"]["invdiff"])
    _change(rng, spec)
    header["__metadata__"]["invdiff"] = json.dumps(spec)
    return _joined(header, data)


def _change(rng: Generator, node: Any) -> None:
    while True:
        keys: Any = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            break
        node = node[key]
    if isinstance(node, dict) and rng.random() < 0.15:
        node[str(rng.choice(["other", "widths", "device", "steps"]))] = 3
    else:
        node[key] = VALUES[int(rng.integers(len(VALUES)))]


def _other_header(rng: Generator) -> bytes:
    """Return a safetensors file whose header lies about its length, or about a tensor."""
    header, data = _split(tiny())
    name = str(rng.choice([key for key in header if key != "__metadata__"]))
    lies: list[dict[str, Any]] = [
        {"shape": [2**40, 2**40]},
        {"shape": [-1]},
        {"shape": "x"},
        {"dtype": "F99"},
        {"dtype": "F64"},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [9, 3]},
        {"data_offsets": []},
    ]
    if rng.random() < 0.3:
        lengths = [0, 1, 2**31, 2**63, 2**64 - 1, len(data)]
        return _joined(header, data, lengths[int(rng.integers(len(lengths)))])
    header[name] = header[name] | lies[int(rng.integers(len(lies)))]
    return _joined(header, data)


def folder(rng: Generator) -> Files:
    """Return the files of a folder as of diffusers, with something wrong in it: none of them holds a network that fits."""
    config, scheduler = dict(UNET2D), dict(SCHEDULER)
    _change(rng, config if rng.random() < 0.7 else scheduler)
    weights = safetensors.torch.save({"conv_in.weight": torch.zeros(8, 3, 3, 3), "conv_in.bias": torch.zeros(8)})
    files = {
        "config.json": json.dumps(config).encode(),
        "scheduler_config.json": json.dumps(scheduler).encode(),
        "diffusion_pytorch_model.safetensors": weights,
    }
    harm = str(rng.choice(["none", "none", "missing", "index", "json", "empty"]))
    if harm == "missing":
        del files[str(rng.choice(list(files)))]
    elif harm == "index":
        files["model_index.json"] = json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "../x"]}).encode()
    elif harm == "json":
        files["config.json"] = bytes(rng.choice([b"[]", b"{", b"\xff\xfe", b"null", b'{"a":' * 3000]))
    elif harm == "empty":
        files = {}
    return files
