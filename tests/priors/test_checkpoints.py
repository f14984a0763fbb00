"""Every kind of checkpoint through one door: told by content, and refused, with the reason, where it could run code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from helpers import norm, randn
from torch import nn
from torch.testing import assert_close

from invdiff.priors import UNet, from_network, load_prior, save_prior
from invdiff.priors.checkpoints.container import state_dicts
from invdiff.priors.load import read_checkpoint
from invdiff.priors.save import BUNDLED
from invdiff.priors.spec import NetworkSpec
from invdiff.schedules import EDM

SMALL = {"channels": 2, "widths": (8, 16), "blocks": (1, 2), "embedding": 16}
EXTENSIONS = ("pt", "pth", "pkl", "ckpt", "bin", "safetensors")


def saved(path: Path) -> UNet:
    net = UNet(**cast(Any, SMALL))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    save_prior(net, path, sigma_data=0.4, facts={"steps": 7})
    return net


def refused(source: str | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_prior(source)
    assert "\n" not in str(error.value)


class TestOwnFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.safetensors"
        net = saved(path)
        prior = load_prior(path, precision="float32")
        assert prior.event_shape == (2, None, None)
        assert prior.facts["steps"] == read_checkpoint(path, {}).spec.facts["steps"] == 7
        for parameter in net.parameters():
            parameter.data = parameter.data.half().float()
        expected = from_network(net, EDM(), predicts="edm", sigma_data=0.4)
        x_t = randn(2, 2, 9, 6, dtype=torch.float32)
        assert_close(prior.denoise(x_t, torch.tensor(0.3)), expected.denoise(x_t, torch.tensor(0.3)))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.safetensors"]

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_lower_precision_stays_close(self, tmp_path: Path, precision: str) -> None:
        saved(tmp_path / "mine.safetensors")
        x_t = randn(2, 2, 9, 6, dtype=torch.float32)
        fast, slow = (
            load_prior(tmp_path / "mine.safetensors", precision=p).denoise(x_t, torch.tensor(0.3))
            for p in (precision, "float32")
        )
        assert fast.dtype == torch.float32
        assert 0 < norm(fast - slow).max() < 0.05 * norm(slow).max()

    def test_files_of_version_0_1(self, tmp_path: Path) -> None:
        saved(tmp_path / "mine.safetensors")
        weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
        description = {"architecture": "UNet", "config": SMALL, "sigma_data": 0.4, "facts": {"steps": 7}}
        safetensors.torch.save_file(weights, tmp_path / "old.safetensors", metadata={"invdiff": json.dumps(description)})
        x_t, t = randn(1, 2, 8, 8, dtype=torch.float32), torch.tensor(0.3)
        old, new = (load_prior(tmp_path / f"{name}.safetensors", precision="float32") for name in ("old", "mine"))
        assert torch.equal(old.denoise(x_t, t), new.denoise(x_t, t))

    @pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.999])
    def test_truncated(self, tmp_path: Path, kept: float) -> None:
        path = tmp_path / "mine.safetensors"
        saved(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
        refused(path, "not a safetensors file|is empty")

    @pytest.mark.parametrize("header", [2**63, 2**40, 10**8 + 1, 5])
    def test_absurd_headers(self, tmp_path: Path, header: int) -> None:
        (tmp_path / "huge.safetensors").write_bytes(header.to_bytes(8, "little") + b'{"a": 1}' + b"x" * 100)
        refused(tmp_path / "huge.safetensors", "not a safetensors file")

    @pytest.mark.parametrize("metadata", ["{", "null", "[]", "{}", '{"architecture": "UNet"}'])
    def test_damaged_metadata(self, tmp_path: Path, metadata: str) -> None:
        path = tmp_path / "foreign.safetensors"
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path, metadata={"invdiff": metadata})
        refused(path, "damaged, or of a later version")

    @pytest.mark.parametrize(
        "changed",
        [
            {"schedule": {"name": "vp", "nope": 1}},
            {"schedule": {"name": "vp", "beta_min": "a"}},
            {"schedule": {"name": "nope"}},
            {"schedule": {"name": "linear-betas", "steps": 10**9}},
            {"facts": None},
            {"label": "x"},
            {"time_scale": "x"},
            {"event_shape": [3, "a", 16]},
            {"predicts": "noise"},
            {"architecture": "os.system"},
        ],
        ids=str,
    )
    def test_metadata_of_another_kind(self, tmp_path: Path, changed: dict[str, Any]) -> None:
        saved(tmp_path / "mine.safetensors")
        weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
        spec = read_checkpoint(tmp_path / "mine.safetensors", {}).spec.to_json() | changed
        safetensors.torch.save_file(weights, tmp_path / "odd.safetensors", metadata={"invdiff": json.dumps(spec)})
        refused(tmp_path / "odd.safetensors", "odd.safetensors: .*damaged")

    def test_the_digest_is_that_of_what_was_read(self, tmp_path: Path) -> None:
        saved(tmp_path / "mine.safetensors")
        prior = load_prior(tmp_path / "mine.safetensors")
        content = (tmp_path / "mine.safetensors").read_bytes()
        (tmp_path / "mine.safetensors").write_bytes(b"another")
        assert prior.describe()["sha256"] == hashlib.sha256(content).hexdigest()
        (tmp_path / "mine.safetensors").unlink()
        assert prior.describe()["sha256"] == hashlib.sha256(content).hexdigest()

    def test_a_file_that_changed_while_it_was_read_has_no_digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def meanwhile(*arguments: Any) -> Any:
            checkpoint = read_checkpoint(*arguments)
            content = (tmp_path / "mine.safetensors").read_bytes()
            (tmp_path / "new").write_bytes(content)
            os.utime(tmp_path / "new", ns=(1, 1))
            (tmp_path / "new").replace(tmp_path / "mine.safetensors")
            return checkpoint

        saved(tmp_path / "mine.safetensors")
        monkeypatch.setattr("invdiff.priors.load.read_checkpoint", meanwhile)
        assert "changed since it was read" in load_prior(tmp_path / "mine.safetensors").describe()["sha256"]

    def test_loaded_in_inference_mode_it_has_gradients(self, tmp_path: Path) -> None:
        saved(tmp_path / "mine.safetensors")
        with torch.inference_mode():
            prior = load_prior(tmp_path / "mine.safetensors", precision="float32")
        x_t = randn(1, 2, 8, 8, dtype=torch.float32).requires_grad_()
        (gradient,) = torch.autograd.grad(prior.denoise(x_t, torch.tensor(0.3)).sum(), x_t)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize(
        "config", [SMALL | {"widths": (8, 24)}, SMALL | {"widths": (8,)}, SMALL | {"color": 3}, SMALL | {"widths": "wide"}]
    )
    def test_weights_that_do_not_fit(self, tmp_path: Path, config: dict[str, Any]) -> None:
        saved(tmp_path / "mine.safetensors")
        weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
        description = {"architecture": "UNet", "config": config, "sigma_data": 0.5, "facts": {}}
        metadata = {"invdiff": json.dumps(description)}
        safetensors.torch.save_file(weights, tmp_path / "other.safetensors", metadata=metadata)
        refused(tmp_path / "other.safetensors", "do not fit the architecture")

    def test_a_spec_is_plain_data(self) -> None:
        spec = read_checkpoint(BUNDLED["natural"], {}).spec
        assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec

    def test_options_are_refused_where_the_file_says_everything(self, tmp_path: Path) -> None:
        saved(tmp_path / "mine.safetensors")
        with pytest.raises(ValueError, match="no option 'heads', the file is self-describing"):
            load_prior(tmp_path / "mine.safetensors", heads=3)


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def as_pickle(evil: Any) -> bytes:
    return pickle.dumps({"ema": evil})


def as_torch(evil: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(3)}, "extra": evil}, buffer)
    return buffer.getvalue()


def as_legacy_torch(evil: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3), "extra": evil}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


class TestNothingIsExecuted:
    @pytest.mark.parametrize("extension", EXTENSIONS)
    @pytest.mark.parametrize("container", [as_pickle, as_torch, as_legacy_torch])
    def test_poisoned_pickles(self, tmp_path: Path, container: Any, extension: str) -> None:
        witness, path = tmp_path / "executed", tmp_path / f"evil.{extension}"
        path.write_bytes(container(Malicious(witness)))
        refused(path, "could run code")
        assert not witness.exists()
        pickle.loads(pickle.dumps(Malicious(witness)))
        assert witness.exists()  # read carelessly, it would have run

    def test_poison_in_a_folder_of_diffusers(self, tmp_path: Path) -> None:
        folder, witness = tmp_path / "model", tmp_path / "executed"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 8}))
        (folder / "diffusion_pytorch_model.bin").write_bytes(as_torch(Malicious(witness)))
        refused(folder, "could run code")
        assert not witness.exists()

    def test_torchscript(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
            archive.writestr("script/data.pkl", pickle.dumps({}, protocol=2))
            archive.writestr("script/constants.pkl", pickle.dumps((), protocol=2))
        refused(tmp_path / "script.pt", "TorchScript program, which holds code")


class TestWhatIsNoCheckpoint:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "pointer of Git LFS"),
            (b"<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page"),
            (b"\n <html>", "is a web page"),
            (b"\x89HDF\r\n\x1a\n" + bytes(100), "is HDF5"),
            (b"\x1f\x8b\x08" + bytes(100), "compressed by gzip"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "is an image"),
            (b"12345678" * 9, "is text .it begins with '12345678"),
            (b"\x01\x02" * 99, "of an unknown kind"),
            (b"PK\x03\x04" + bytes(100), "damaged or cut off"),
            (b"\x80\x04K\x01.", "holds a int without network weights"),
            (b"\x80\x04", "damaged"),
        ],
    )
    def test_by_content(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "file.pt").write_bytes(content)
        refused(tmp_path / "file.pt", message)

    @pytest.mark.parametrize("container", [as_torch, as_legacy_torch])
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, tmp_path: Path, container: Any, kept: float) -> None:
        content = container(torch.zeros(100))
        (tmp_path / "file.pt").write_bytes(content[: int(kept * len(content))])
        refused(tmp_path / "file.pt", "damaged|cut off")

    def test_another_network_says_what_was_found_and_what_to_do(self, tmp_path: Path) -> None:
        torch.save({"state_dict": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).state_dict()}, tmp_path / "net.pt")
        refused(
            tmp_path / "net.pt", r"holds 4 tensors in 'state_dict' \(0.weight, 0.bias, .*no supported network.*from_network"
        )
        safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / "net.safetensors")
        refused(tmp_path / "net.safetensors", r"holds 1 tensors \(weight.*from_network")

    def test_archives_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
            archive.writestr("word/document.xml", "<xml/>")
        refused(tmp_path / "file.pt", "zip archive that torch.save did not write")
        with tarfile.open(tmp_path / "old.pt", "w") as archive_of_2016:
            archive_of_2016.add(tmp_path / "file.pt", "storages")
        refused(tmp_path / "old.pt", "is a tar archive: unpack it first")

    def test_names_and_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        refused("supernatural", "Unknown prior 'supernatural': expected one of natural")
        refused(tmp_path / "missing.safetensors", "missing.safetensors: no such file or folder")
        refused("models/missing.pt", "^models/missing.pt: no such file or folder .there is no folder models.")
        refused(tmp_path, "folder has neither model_index.json nor config.json")
        with pytest.raises(ValueError, match="unknown precision 'float8'"):
            load_prior("natural", precision="float8")


class TestAverages:
    def test_of_latent_diffusion_without_their_dots(self) -> None:
        weights = {"a.b.weight": torch.zeros(2), "c.bias": torch.zeros(1)}
        data = {f"model.{name}": value for name, value in weights.items()}
        data |= {f"model_ema.{name.replace('.', '')}": value + 1 for name, value in weights.items()}
        (where, averaged), *_ = state_dicts({"state_dict": data | {"model_ema.decay": torch.tensor(0.999)}})
        assert where == "state_dict.model_ema"
        assert {name: float(value.mean()) for name, value in averaged.items()} == {"a.b.weight": 1, "c.bias": 1}


class TestFromNetwork:
    @pytest.mark.parametrize("autocast", [None, torch.bfloat16])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 1, 3, padding=1)),
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3, padding=1)),
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(2, 1, 1)),
            lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.InstanceNorm2d(1, track_running_stats=True)),
            lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        ],
        ids=["spectral", "weight", "dropout", "instance", "batch"],
    )
    def test_modules_that_change_in_training(self, make: Any, autocast: torch.dtype | None) -> None:
        net = Conv(make())
        state = {name: value.clone() for name, value in net.state_dict().items()}
        prior = from_network(net, EDM(), predicts="x0", autocast=autocast)
        x_t = randn(2, 1, 8, 8, dtype=torch.float32)
        first, second = (prior.denoise(x_t, torch.tensor(1.0)) for _ in range(2))
        assert torch.equal(first, second)
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert net.training

    def test_only_kernels_are_kept_in_low_precision(self) -> None:
        class Waves(nn.Module):
            frequencies: torch.Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("frequencies", 1000 * randn(1, 8, dtype=torch.float32))

            def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                return x * (t[:, None] * self.frequencies).sin().sum()

        x_t, t = randn(1, 1, 4, 4, dtype=torch.float32), torch.tensor(0.7)
        slow, fast = (from_network(Waves(), EDM(), predicts="x0", autocast=a).denoise(x_t, t) for a in (None, torch.bfloat16))
        assert torch.equal(slow, fast)

    def test_moved_or_not_the_weights_are_shared(self) -> None:
        net = nn.Conv2d(1, 1, 3, padding=1)
        prior = from_network(lambda x, t: x, EDM(), predicts="x0")
        assert prior.to("cpu") is prior
        wrapped = from_network(Conv(net), EDM(), predicts="x0")
        before = wrapped.denoise(randn(1, 1, 4, 4, dtype=torch.float32), torch.tensor(1.0))
        with torch.no_grad():
            net.weight.mul_(2)
            net.bias.mul_(2)  # type: ignore[union-attr]
        after = wrapped.denoise(randn(1, 1, 4, 4, dtype=torch.float32), torch.tensor(1.0))
        assert_close(after, 2 * before)

    def test_sides_are_padded_to_the_stride(self) -> None:
        seen = []

        def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x

        x = randn(2, 3, 13, 16)
        assert torch.equal(from_network(net, EDM(), predicts="x0", stride=8).denoise(x, torch.tensor(1.0)), x)
        assert seen == [(2, 3, 16, 16)]


class Conv(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.conv(x)
        return output
