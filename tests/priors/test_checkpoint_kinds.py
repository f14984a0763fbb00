"""What is no checkpoint is named for what it is, and what was assumed of one is a note of the prior."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from invdiff.priors import UNet, load_prior, save_prior
from invdiff.priors.checkpoints.diffusers_folder import read_folder
from invdiff.priors.checkpoints.kinds import NETWORKS, network_kind
from invdiff.priors.load import assumptions
from invdiff.priors.networks.adm import ADM
from invdiff.priors.spec import NetworkSpec

SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".safetensors", "")
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
)
ADM_CONFIG: dict[str, Any] = {
    "channels": 3,
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [2],
    "head_channels": 32,
}
DIFFUSERS: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 16,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


def refused(path: Path, message: str) -> str:
    with pytest.raises(ValueError, match=message) as error:
        load_prior(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    return str(error.value)


def tar(name: str = "model.pt") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "pointer": (POINTER, r"pointer of Git LFS, not the file itself: run `git lfs pull`"),
    "annex": (b"/annex/objects/SHA256E-s123--abc.pt\n", "pointer of git-annex"),
    "page": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "a web page, not the file itself"),
    "page with a mark": (b"\xef\xbb\xbf\r\n<html>", "a web page"),
    "message": (b'{"error": "Invalid username or password."}', "JSON text"),
    "text": (b"Entry not found", r"text .it begins with 'Entry not found"),
    "nothing": (b"", "is empty"),
    "zeros": (bytes(4096), "all zeros"),
    "tar": (tar(), "a tar archive: unpack it first"),
    "folder in a zip": (
        zipped("model/model_index.json", "model/unet/config.json"),
        "Unpack it, and give model/model_index.json",
    ),
    "keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "a model of Keras"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:" + bytes(100), "ONNX"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), "xz"),
    "zstandard": (b"\x28\xb5\x2f\xfd" + bytes(100), "Zstandard"),
    "image": (b"RIFF\x10\0\0\0WEBP" + bytes(100), "an image"),
    "tiff": (b"II*\0" + bytes(100), "an image"),
    "array": (b"\x93NUMPY\x01\0" + bytes(100), "a NumPy array"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", FILES)
def test_files_under_any_name(tmp_path: Path, kind: str, suffix: str) -> None:
    content, message = FILES[kind]
    (tmp_path / f"file{suffix}").write_bytes(content)
    refused(tmp_path / f"file{suffix}", message)


WEIGHTS: dict[str, tuple[str, ...]] = {
    "a LoRA": ("lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"),
    "a LoRA, a change": ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight",),
    "an autoencoder": ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight", "quant_conv.weight"),
    "a text encoder": ("text_model.encoder.layers.0.self_attn.k_proj.weight",),
    "a ControlNet": ("controlnet_cond_embedding.conv_in.weight", "time_embedding.linear_1.weight"),
    "a transformer": ("double_blocks.0.img_attn.qkv.weight",),
    "whose config.json describes it: give the folder": ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    "a GAN": ("synthesis.b4.const", "mapping.fc0.weight"),
    "a classifier": ("conv1.weight", "layer1.0.conv1.weight", "fc.weight"),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_networks_that_are_not_supported(tmp_path: Path, what: str) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: torch.zeros(1) for name in WEIGHTS[what]}, path)
    refused(path, f"holds .* of no supported network: it looks like .*{what}")


def test_no_supported_network_looks_like_another() -> None:
    for net in (UNet(), ADM(**ADM_CONFIG)):
        assert network_kind(net.state_dict()) is None
    assert all(network_kind([name]) for names in WEIGHTS.values() for name in names[:1])
    assert len(NETWORKS) >= 8


def test_an_optimizer_alone(tmp_path: Path) -> None:
    torch.save(torch.optim.Adam([torch.zeros(3, requires_grad=True)]).state_dict(), tmp_path / "opt.pt")
    refused(tmp_path / "opt.pt", "the state of an optimizer, without network weights")
    torch.save({"epoch": 3, "loss": [1.0, 2.0]}, tmp_path / "log.pt")
    refused(tmp_path / "log.pt", "holds a dict without network weights")


def test_a_whole_module(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", r"holds torch.nn.modules.linear.Linear, which could run code .* torch.save.model.state_dict")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "it is empty"),
        (("a.pt", "b.pt", "notes.txt"), "it holds a.pt, b.pt: give one of them"),
        (("saved_model.pb", "variables"), "it is a model of TensorFlow"),
        (("data.pkl", "version"), "it is an unpacked file of torch.save"),
        (("photo.png",), "it holds photo.png"),
    ],
)
def test_folders_of_something_else(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    refused(folder, f"the folder has neither model_index.json nor config.json; {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "a pointer of Git LFS"),
        (b"<html>", "a web page"),
        (b"", "is empty"),
        (bytes(99), "all zeros"),
        ((2**40).to_bytes(8, "little") + b"{}", "header of .* bytes is too large"),
        (safetensors.torch.save({"levels": torch.zeros(3)}), "invdiff-errors"),
        (safetensors.torch.save({"levels": torch.zeros(3)}, {"invdiff-errors": "[" * 10**6}), "recursion"),
        (safetensors.torch.save({"levels": torch.zeros(3)}, {"invdiff-errors": "{}"}), "dtype"),
    ],
)
def test_measured_errors(tmp_path: Path, content: bytes, message: str) -> None:
    save_prior(UNet(widths=(8, 8), blocks=(1, 1)), tmp_path / "own.safetensors", sigma_data=0.5, facts={})
    (tmp_path / "own.errors.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"own.errors.safetensors: no file of measured errors, .*{message}") as error:
        load_prior(tmp_path / "own.safetensors")
    assert str(error.value).isprintable()


class TestAssumptions:
    def test_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "adm.pt"
        torch.save(ADM(**ADM_CONFIG).state_dict(), path)
        (note,) = load_prior(path).notes
        assert note.startswith("assumed of adm.pt: ")
        for word in ("heads=4", "attention_order=legacy", "schedule=linear", "steps=1000", "predicts=eps", "image_size=16"):
            assert word in note
        assert note.count("common default") == 1
        assert "--prior-option" in note
        (note,) = load_prior(path, heads=2, schedule="cosine").notes
        assert "heads=" not in note
        assert "schedule=" not in note

    def test_nothing_where_the_file_says_everything(self, tmp_path: Path) -> None:
        save_prior(UNet(widths=(8, 8), blocks=(1, 1)), tmp_path / "own.safetensors", sigma_data=0.5, facts={})
        assert load_prior(tmp_path / "own.safetensors").notes == ()
        assert load_prior("natural").notes == ()

    def test_reasons_are_said_once(self) -> None:
        spec = NetworkSpec(
            "UNet",
            {},
            (3, None, None),
            "eps",
            {"name": "vp"},
            assumed={"a": "1 (why)", "b": "2 (why)", "c": "any (other (inner))", "d": "4"},
        )
        (note,) = assumptions(Path("x.pt"), spec)
        assert note.startswith("assumed of x.pt: a=1, b=2 (why); c=any (other (inner)); d=4. ")


@pytest.mark.slow
class TestAveragesOfDiffusers:
    """Of ``unet`` and ``unet_ema``, as the package's training script writes them, the averaged weights are read."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        diffusers = pytest.importorskip("diffusers")
        config = {name: value for name, value in DIFFUSERS.items() if name[0] != "_"}
        for name, value in (("unet", 0.0), ("unet_ema", 1.0)):
            net = diffusers.UNet2DModel(**config)
            for weight in net.parameters():
                nn.init.constant_(weight, value)
            net.save_pretrained(tmp_path / "model" / name)
        path = tmp_path / "model" / "unet_ema" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"decay": 0.9999, "optimization_step": 5, "power": 0.75}))
        return tmp_path / "model"

    def constant(self, folder: Path) -> float:
        checkpoint = read_folder(folder, {})
        assert checkpoint is not None
        return float(checkpoint.weights["conv_in.weight"].mean())

    def test_the_average_is_taken_and_said(self, folder: Path) -> None:
        assert self.constant(folder) == 1
        prior = load_prior(folder)
        assert prior.notes[0] == "of model/unet_ema and model/unet, the averaged weights of unet_ema are used"
        assert prior.facts["weights"] == "unet_ema/diffusion_pytorch_model.safetensors"
        assert "there is no scheduler_config.json" in prior.notes[1]
        assert "schedule=linear" in prior.notes[1]

    def test_one_of_the_two_by_name(self, folder: Path) -> None:
        assert self.constant(folder / "unet") == 0
        assert self.constant(folder / "unet_ema") == 1
        (said, *_) = load_prior(folder / "unet").notes
        assert said == "of model/unet and model/unet_ema, the last, not the averaged weights of unet are used"

    def test_with_a_scheduler_beside_them(self, folder: Path) -> None:
        (folder / "scheduler").mkdir()
        text = json.dumps({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"})
        (folder / "scheduler" / "scheduler_config.json").write_text(text)
        for place in (folder, folder / "unet_ema", folder / "unet"):
            prior = load_prior(place)
            assert prior.facts["scheduler"] == "DDPMScheduler"
            assert len(prior.notes) == 1

    def test_the_only_one(self, folder: Path) -> None:
        for file in (folder / "unet").iterdir():
            file.unlink()
        (folder / "unet").rmdir()
        assert self.constant(folder) == 1
        assert not any("unet_ema" in note for note in load_prior(folder).notes)

    @pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
    def test_pointers_of_git_lfs(self, folder: Path, name: str) -> None:
        (folder / "unet_ema" / name).write_bytes(POINTER)
        with pytest.raises(ValueError, match=f"unet_ema/{name}: is a pointer of Git LFS"):
            load_prior(folder)

    def test_a_description_that_is_too_large(self, folder: Path) -> None:
        (folder / "unet_ema" / "config.json").write_bytes(b"{" + b" " * 2**23 + b"}")
        with pytest.raises(ValueError, match=r"config.json: has more than .* bytes, too many for a description"):
            load_prior(folder)
