"""Name files that are no checkpoints by their first bytes, and unsupported networks by the names of their weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

__all__ = ["PULL", "folder_kind", "foreign_kind", "is_optimizer", "is_pointer", "network_kind"]

POINTER = b"version https://git-lfs"
PULL = "a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
FOREIGN = {  # other files, often downloaded or chosen by mistake, by their first bytes
    POINTER: PULL,
    b"/annex/objects/": "a pointer of git-annex, not the file itself: run `git annex get` in its folder",
    b"<": "a web page, not the file itself: the download needs a login or a confirmation",
    b"\x89HDF\r\n\x1a\n": "HDF5 (weights of Keras, or data of MATLAB), not weights of PyTorch",
    b"GGUF": "GGUF, a format for quantized language models",
    b"GGML": "GGML, a format for quantized language models",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"7z\xbc\xaf": "compressed by 7-Zip: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"BM": "an image",
    b"RIFF": "an image, or sound",
    b"II*\0": "an image (TIFF)",
    b"MM\0*": "an image (TIFF)",
    b"%PDF": "a PDF document",
    b"#!": "a script",
}
ONNX = re.compile(rb"\x08[\x01-\x20](\x12|\x1a|:|B)[\x00-\x7f]")  # the version of the format, then its producer
TAR_MARK = 257  # where a tar archive has its name


def is_pointer(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is a pointer of Git LFS."""
    return start.startswith(POINTER)


def foreign_kind(path: Path) -> str | None:
    """Return what a file is that is no checkpoint, or ``None`` if that is unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start.strip(b"\0"):
        return "all zeros at its beginning: the download or the copy was not finished"
    if start[TAR_MARK : TAR_MARK + 5] == b"ustar":
        return "a tar archive: unpack it first"
    if start[4:8] == b"TFL3":
        return "TensorFlow Lite, which holds no weights of PyTorch"
    if path.suffix == ".onnx" or ONNX.match(start):
        return "ONNX, which holds a compiled graph. Expected weights of PyTorch"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    known = next((what for magic, what in FOREIGN.items() if (text if magic[:1] == b"<" else start).startswith(magic)), None)
    if known is None and text[:1] in b"{[" and text:
        return "JSON text. If it describes weights, give the folder or the file of the weights"
    if known is None and _is_text(start):
        return f"text (it begins with {text[:20].decode('utf-8', 'replace')!a})"
    return known


def _is_text(start: bytes) -> bool:
    return len(start) > 1 and all(byte >= 32 or byte in b"\t\r\n" for byte in start) and not any(b > 126 for b in start)


# The names of weights that tell a network, and what it is. The first that matches counts.
NETWORKS = {
    r"lora_|\.alpha$|hada_w1|dora_scale": "a LoRA, a change to another network's weights",
    r"^(cond_stage_model|text_model|transformer\.text_model|te\d?\.|text_encoder)|^encoder\.block\.0\.layer": "a text encoder",
    r"^controlnet|controlnet_cond_embedding|^zero_convs": "a ControlNet, an addition to another network",
    r"^(encoder\.(down_blocks|down|conv_in)|decoder\.(up_blocks|up|conv_in)|quant_conv|post_quant_conv|quantize)": (
        "an autoencoder (VAE) of a latent diffusion model, which is no diffusion model itself"
    ),
    r"transformer_blocks|^blocks\.\d+\.(attn|attn1)\.|^(x_embedder|pos_embed|joint_blocks|double_blocks)": (
        "a transformer (such as DiT or Flux), mostly of latent codes"
    ),
    r"^(down_blocks|mid_block|conv_in|time_embedding)\.": (
        "the network of a diffusers folder, whose config.json describes it: give the folder"
    ),
    r"^(synthesis|mapping|b4\.)": "a GAN (such as StyleGAN), not a diffusion model",
    r"^(layer1\.0|features\.0|conv1\.weight|fc\.|classifier\.)": "a classifier or a feature extractor, not a diffusion model",
}


def network_kind(names: Collection[str]) -> str | None:
    """Return what a network of these weights is, for networks that are not supported but known, or else ``None``."""
    return next((what for pattern, what in NETWORKS.items() if any(re.search(pattern, name) for name in names)), None)


def is_optimizer(entries: Iterable[object]) -> bool:
    """Return whether a dictionary of these entries is the state of an optimizer."""
    return {"state", "param_groups"} <= set(entries)


def folder_kind(folder: Path) -> str:
    """Return what a folder holds that is no diffusers folder, and what to do."""
    names = sorted(entry.name for entry in folder.iterdir())
    weights = [name for name in names if name.endswith((".safetensors", ".pt", ".pth", ".pkl", ".ckpt"))]
    if "saved_model.pb" in names:
        return "it is a model of TensorFlow, which is not supported"
    if "data.pkl" in names or "archive" in names:
        return "it is an unpacked file of torch.save. Give the file itself"
    if weights:
        return f"it holds {', '.join(weights[:3])}{', ...' if len(weights) > 3 else ''}: give one of them"
    if not names:
        return "it is empty"
    return f"it holds {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
