"""What a file asks for is bounded by what it holds: small files that ask for much end in one line, at once, without memory."""

from __future__ import annotations

import functools
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from invdiff.priors import load_prior
from invdiff.priors.checkpoints.stack_machine import StackMachine
from invdiff.priors.networks.adm import ADM
from invdiff.priors.networks.skeleton import SPARE, skeleton
from invdiff.priors.networks.unet import UNet
from invdiff.priors.spec import ARCHITECTURES

SECONDS, MEBIBYTES = 8.0, 300  # of the processor, on a slow one that others use as well
MUCH = 10**9
MEASURE = """
import json, sys, time
from pathlib import Path
import torch, diffusers
from diffusers import UNet2DModel
from invdiff.priors import load_prior
from invdiff.priors.networks.unet import UNet
import invdiff.priors.networks.adm, invdiff.priors.networks.ncsnpp
status = lambda: dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
kib = lambda name: int(status()[name].split()[0])
try:
    load_prior(sys.argv[1])
except Exception:
    pass
for path in map(Path, sys.argv[2:]):
    Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew; that of a process begins with its parent's.
    before, start = kib("VmRSS"), time.process_time()
    try:
        load_prior(path)
        said = ["loaded", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps([path.name, time.process_time() - start, (kib("VmHWM") - before) / 2**10, *said]))
"""

SPEC: dict[str, Any] = {
    "config": {},
    "event_shape": [3, None, None],
    "predicts": "eps",
    "schedule": {"name": "vp"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "UNet": {"widths": [8, 16], "blocks": [1, 1], "embedding": 16, "channels": 3, "maps": 0},
    "ADM": {
        "channels": 3,
        "width": 32,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [2],
        "head_channels": 32,
        "classes": 2,
    },
    "SongUNet": {"size": 16, "widths": [32, 32], "blocks": 1, "attention": [8], "first": 32, "frequencies": 8, "taps": 2},
    "DhariwalUNet": {"size": 16, "widths": [32, 32], "blocks": 1, "attention": [8], "frequencies": 8, "embedding": 32},
    "NCSNpp": {"nf": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attention": [1], "num_scales": 10, "smallest_group": 4},
    "UNet2DModel": {
        "sample_size": 16,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "num_class_embeds": 10,
        "num_train_timesteps": 1000,
        "downsample_padding": 1,
    },
}


def more(value: Any) -> list[Any]:
    """Return what a number or a list may be replaced by: too much, too little, and nonsense."""
    if isinstance(value, list):
        return [[MUCH, *value[1:]], [*value[:-1], MUCH], [MUCH] * len(value), value * 3000, [], [-1], "x"]
    return [MUCH, 10**30, -1, 0, 1e400, float("nan"), "x", None, [MUCH], {"a": 1}, True]


def own(path: Path, weights: Mapping[str, Tensor] | None = None, **changes: Any) -> None:
    spec = json.dumps(SPEC | changes)
    safetensors.torch.save_file(dict(weights or {"a": torch.zeros(1)}), path, metadata={"invdiff": spec})


def header(path: Path, text: bytes, body: bytes = b"", length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def entry(offsets: list[int], shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def deflated(path: Path, data: Any, *, zeros: int = 0) -> None:
    """Write what ``torch.save`` writes, compressed; ``zeros`` are the bytes of its storage."""
    torch.save(data, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(zeros) if zeros and "/data/" in name else content)


def program(path: Path, body: bytes) -> None:
    """Write a torch file whose pickle is ``body``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + body + b".")


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def shared_modules(path: Path, *, times: int) -> None:
    """Write an EDM pickle in which one module is there ``times`` times."""
    state = b"}\x94(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}u"
    module = b"ctorch.nn.modules.linear\nIdentity\n)\x81" + state + b"b\x94"
    listing = b"".join(b"\x8a\x04" + struct.pack("<i", k) + b"h\1" for k in range(times))
    names = b"".join(b"X" + struct.pack("<I", 7) + f"{k:07d}".encode() + b"h\1" for k in range(times))
    meta = b"}(" + text("class_name") + text("EDMPrecond") + text("state") + b"}(" + text("_modules") + b"}(" + text("model")
    inner = b"}(" + text("class_name") + text("SongUNet") + text("state") + b"}(" + text("_modules") + b"}(" + names + b"uuu"
    build = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    path.write_bytes(b"\x80\x04" + module + b"0" + build + meta + build + inner + b"\x85R" + b"uuu" + b"\x85R.")
    assert listing


def views_of_one_storage(path: Path) -> None:
    """Write a network of guided-diffusion all of whose weights are views of one storage, which is the largest of them."""
    config = {"channels": 3, "width": 64, "multipliers": [1, 2], "blocks": 2, "attention": [2], "head_channels": 32}
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ADM(**config).state_dict().items()}
    storage = torch.zeros(max(shape.numel() for shape in shapes.values()))
    torch.save({name: storage[: shape.numel()].view(shape) for name, shape in shapes.items()}, path)


def quantized(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"weight": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, path)


BOMBS: dict[str, Callable[[Path], object]] = {
    "steps.safetensors": lambda path: own(path, architecture="UNet", schedule={"name": "linear-betas", "steps": MUCH}),
    "image.safetensors": lambda path: own(path, architecture="UNet", event_shape=[3, MUCH, MUCH]),
    "negative.safetensors": lambda path: own(path, architecture="UNet", event_shape=[3, -1, 16]),
    "nothing.safetensors": lambda path: own(path, architecture="UNet", event_shape=[]),
    "time.safetensors": lambda path: own(path, architecture="UNet", time_scale=float("nan")),
    "data.safetensors": lambda path: own(path, architecture="UNet", sigma_data=0),
    "label.safetensors": lambda path: own(path, architecture="UNet", label=MUCH),
    "infinite.safetensors": lambda path: own(path, architecture="UNet", schedule={"name": "vp", "beta_max": float("inf")}),
    "nan.safetensors": lambda path: own(path, architecture="UNet", schedule={"name": "vp", "beta_min": float("nan")}),
    "schedule.safetensors": lambda path: own(path, architecture="UNet", schedule={"name": ["vp"]}),
    "predicts.safetensors": lambda path: own(path, architecture="UNet", predicts=["eps"]),
    "kinds.safetensors": lambda path: own(path, architecture="UNet", noise_kinds=[["x"]]),
    "deep.safetensors": lambda path: safetensors.torch.save_file(
        {"a": torch.zeros(1)}, path, metadata={"invdiff": '{"a":' + "[" * 10**6}
    ),
    "digits.safetensors": lambda path: safetensors.torch.save_file(
        {"a": torch.zeros(1)}, path, metadata={"invdiff": '{"a":' + "9" * 10**6}
    ),
    "many.safetensors": lambda path: header(
        path, b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(200_000)) + b"}"
    ),
    "metadata.safetensors": lambda path: header(path, b'{"__metadata__":{"a":"' + b"x" * 2**24 + b'"}}'),
    "overlap.safetensors": lambda path: header(
        path, json.dumps({"a": entry([0, 8], [2]), "b": entry([0, 8], [2])}).encode(), bytes(8)
    ),
    "outside.safetensors": lambda path: header(path, json.dumps({"a": entry([0, 4 * MUCH], [MUCH])}).encode(), bytes(8)),
    "shape.safetensors": lambda path: header(path, json.dumps({"a": entry([0, 8], [2**63, 2**63])}).encode(), bytes(8)),
    "empty.safetensors": lambda path: header(path, json.dumps({"a": entry([0, 0], [2**40, 2**40, 0])}).encode()),
    "backwards.safetensors": lambda path: header(path, json.dumps({"a": entry([8, 0], [2])}).encode(), bytes(8)),
    "twice.safetensors": lambda path: header(
        path,
        json.dumps({"a": entry([0, 8], [2]), "b": 0}).replace('"b": 0', f'"a": {json.dumps(entry([0, 8], [2]))}').encode(),
        bytes(8),
    ),
    "length.safetensors": lambda path: header(path, b'{"a": 1}', length=2**39),
    "nested.safetensors": lambda path: header(path, b'{"a":' + b"[" * 10**6, bytes(8)),
    "deflated.pt": lambda path: deflated(path, {"weight": torch.zeros(2**26)}, zeros=2**28),
    "deflated-pickle.pt": lambda path: program(path, b"N0" * 10**7 + b"}"),
    "sets.pt": lambda path: program(path, b"\x8f" * 10**5 + b"}"),
    "sets.pkl": lambda path: path.write_bytes(b"\x80\x04" + b"\x8f" * 3 * 10**6 + b"."),
    "memo.pkl": lambda path: path.write_bytes(b"\x80\x04N" + b"\x94" * 3 * 10**6 + b"."),
    "deep.pkl": lambda path: path.write_bytes(b"\x80\x04" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "deep.pt": lambda path: program(path, b"]" * 20_000 + b"a" * 19_999),
    "expanded.pt": lambda path: torch.save({"weight": torch.zeros(1).expand(MUCH)}, path),
    "expanded-legacy.pt": lambda path: torch.save(
        {"weight": torch.zeros(1).expand(MUCH)}, path, _use_new_zipfile_serialization=False
    ),
    "views.pt": views_of_one_storage,
    "modules.pkl": lambda path: shared_modules(path, times=10**6),
    "fewer-modules.pkl": lambda path: shared_modules(path, times=3 * 10**5),
    "quantized.pt": quantized,
    "sparse.pt": lambda path: torch.save({"weight": torch.eye(3).to_sparse()}, path),
    "meta.pt": lambda path: torch.save({"weight": torch.empty(2**40, device="meta")}, path),
}
for name, known in CONFIGS.items():
    for key, value in known.items():
        for number, other in enumerate(more(value)):
            BOMBS[f"{name}-{key}-{number}.safetensors"] = functools.partial(own, architecture=name, config=known | {key: other})


def folder(path: Path, **changes: Any) -> None:
    path.mkdir()
    config = CONFIGS["UNet2DModel"] | {"num_class_embeds": None} | changes
    (path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    (path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    safetensors.torch.save_file({"a": torch.zeros(1)}, path / "diffusion_pytorch_model.safetensors")


for key, value in {**CONFIGS["UNet2DModel"], "in_channels": 3, "out_channels": 3, "attention_head_dim": 8}.items():
    for number, other in enumerate(more(value)):
        BOMBS[f"diffusers-{key}-{number}"] = functools.partial(folder, **{key: other})


@pytest.mark.parametrize(
    "name", ["label.safetensors", "image.safetensors", "expanded.pt", "deflated-pickle.pt", "twice.safetensors", "views.pt"]
)
def test_some_of_them_one_by_one(tmp_path: Path, name: str) -> None:
    BOMBS[name](tmp_path / name)
    with pytest.raises(ValueError, match=name):
        load_prior(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in BOMBS if name.endswith("blocks-0.safetensors")])
def test_a_billion_blocks(tmp_path: Path, name: str) -> None:
    BOMBS[name](tmp_path / name)
    with pytest.raises(ValueError, match="asks for many more layers than the file's 1 tensors fill"):
        load_prior(tmp_path / name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is measured as Linux does")
def test_small_files_that_ask_for_much(tmp_path: Path) -> None:
    """Each ends in one ValueError with the name of the file, within seconds and without memory."""
    for name, write in BOMBS.items():
        write(tmp_path / name)
    listed = [str(tmp_path / name) for name in BOMBS]
    command = [sys.executable, "-c", MEASURE, listed[-1], *listed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in measured] == list(BOMBS)
    loaded = [name for name, _, _, kind, _ in measured if kind == "loaded"]
    others = [(name, kind, said) for name, _, _, kind, said in measured if kind not in ("ValueError", "loaded")]
    nameless = [(name, said) for name, _, _, _, said in measured if name not in said or "\n" in said or len(said) > 900]
    greedy = [(name, seconds, peak) for name, seconds, peak, *_ in measured if seconds > SECONDS or peak > MEBIBYTES]
    assert (loaded, others, nameless, greedy) == ([], [], [], [])
    assert len(measured) > 300


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {"UNet2DModel"}))
def test_every_architecture_is_there(architecture: str) -> None:
    assert architecture in CONFIGS


def test_a_network_is_given_up_when_its_layers_outnumber_the_file() -> None:
    made = 0

    class Endless(torch.nn.Module):
        def __init__(self) -> None:
            nonlocal made
            super().__init__()
            while True:
                made += 1
                torch.nn.Linear(3, 3)

    with pytest.raises(ValueError, match="many more layers than the file's 5 tensors"):
        skeleton(Endless, 5)
    assert 2 * made <= 2 * 5 + SPARE + 2
    net = skeleton(UNet, 10**3)
    assert {weight.device.type for weight in net.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in UNet(**CONFIGS["UNet"]).state_dict().items()}
    weights["first.bias"][3] = value
    own(tmp_path / "odd.safetensors", weights, architecture="UNet", config=CONFIGS["UNet"])
    with pytest.raises(ValueError, match=r"odd.safetensors: .*first.bias is not finite"):
        load_prior(tmp_path / "odd.safetensors")


def test_weights_of_large_numbers_are_finite(tmp_path: Path) -> None:
    weights = dict(UNet(**CONFIGS["UNet"]).state_dict())
    weights["first.bias"] = torch.full_like(weights["first.bias"], 3e38)
    own(tmp_path / "large.safetensors", weights, architecture="UNet", config=CONFIGS["UNet"])
    load_prior(tmp_path / "large.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in UNet(**CONFIGS["UNet"]).state_dict().items()}
    own(tmp_path / "whole.safetensors", weights, architecture="UNet", config=CONFIGS["UNet"])
    with pytest.raises(ValueError, match=r"whole.safetensors: .* is of type .*, perhaps quantized"):
        load_prior(tmp_path / "whole.safetensors")


def test_values_are_copied(tmp_path: Path) -> None:
    """A file that is rewritten while the prior is used changes nothing, and does not kill the process."""
    path = tmp_path / "mine.safetensors"
    own(path, UNet(**CONFIGS["UNet"]).state_dict(), architecture="UNet", config=CONFIGS["UNet"])
    prior = load_prior(path, precision="float32")
    before = prior.denoise(torch.ones(1, 3, 8, 8), torch.tensor(0.5))
    path.write_bytes(b"")
    assert torch.equal(prior.denoise(torch.ones(1, 3, 8, 8), torch.tensor(0.5)), before)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    """The system would kill a process that reads what is missing of a mapped file."""
    path = tmp_path / "mine.pkl"
    data = {"weight": torch.zeros(10**6)}
    if legacy:
        torch.save(data, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(data))
    run = StackMachine.run

    def cut(self: StackMachine) -> Any:
        os.truncate(path, 300)
        return run(self)

    monkeypatch.setattr(StackMachine, "run", cut)
    with pytest.raises(ValueError, match=r"mine.pkl: is damaged or cut off"):
        load_prior(path)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))

    def read(path: Path) -> Any:
        path.write_bytes(b"something else")
        return {}

    monkeypatch.setattr("invdiff.priors.checkpoints.container.read_pickle", read)
    with pytest.raises(ValueError, match=r"mine.pkl: has changed while it was read"):
        load_prior(path)
