"""Checkpoint files, damaged in every place and written in every pickle protocol: data, or one line, and no code."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from attacks import ATTACKS, CODE, WITNESS, call, named, raw, registered, text, whole
from torch import Tensor, nn

from invdiff.priors import UNet, load_prior, save_prior
from invdiff.priors.checkpoints.container import Contents, open_contents
from invdiff.priors.networks.adm import ADM
from invdiff.priors.networks.ncsnpp import NCSNpp

TINY = Path(__file__).parents[1] / "data" / "edm_tiny.pkl"
REFUSED = "which could run code when read: it was refused, and nothing was executed"
PROTOCOLS = (2, 3, 4, 5)
NOBODY = 65534
SMALL_ADM: dict[str, Any] = {"channels": 3, "width": 32, "multipliers": [1], "blocks": 1, "attention": [], "heads": 4}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(WITNESS).exists()


def weights() -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in ADM(**SMALL_ADM).state_dict().items()}


def score_sde() -> dict[str, Any]:
    net = NCSNpp(nf=8, ch_mult=[1, 2], num_res_blocks=1, attention=[1], num_scales=50, smallest_group=1, resblock_type="ddpm")
    model = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    model["sigmas"] = torch.logspace(1, -1, 50)
    ema = [value.clone() for name, value in model.items() if name not in ("sigmas", "all_modules.0.W")]
    return {"model": model, "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": ema}, "step": 3}


def torch_file(data: Any, protocol: int = 2, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped(program: bytes, storages: dict[str, bytes] | None = None, *, order: bytes = b"little") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", order)
        for key, values in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", values)
    return buffer.getvalue()


def legacy(program: bytes, protocol: int) -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, protocol) for part in parts) + program + pickle.dumps([], protocol)


def opened(content: bytes, name: str = "some.pt") -> Contents:
    Path(name).write_bytes(content)
    return open_contents(Path(name))


def refusal(content: bytes, name: str = "some.pt") -> str:
    """Return the message of the one line in which reading ends."""
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        load_prior(name)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


class TestProtocols:
    @pytest.mark.parametrize("older", [False, True])
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_honest_files_are_loaded(self, protocol: int, older: bool) -> None:
        Path("net.pt").write_bytes(torch_file(weights(), protocol, legacy=older))
        prior = load_prior("net.pt", heads=4)
        assert prior.facts["family"] == "guided-diffusion"

    @pytest.mark.parametrize("older", [False, True])
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_what_comes_back_is_what_torch_reads(self, protocol: int, older: bool) -> None:
        base = torch.randn(6, 5)
        data = {
            "plain": base,
            "views": [base.T, base[1:, ::2], base[0, 0], base[:0], torch.empty(0)],
            "parameter": nn.Parameter(base.clone()),
            "kinds": [base.to(kind) for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)],
            "young": [base.to(torch.float8_e4m3fn), base.to(torch.complex64), torch.ones(3, dtype=torch.uint16)],
            "rest": {"step": 3, "name": "a", "none": None, "flag": True, 5: [1.5, (2, 3)], "shape": torch.Size([2, 3])},
            "ordered": nn.Linear(2, 3).state_dict(),
            "optimizer": torch.optim.Adam([base.clone().requires_grad_()]).state_dict(),
        }
        found = opened(torch_file(data, protocol, legacy=older)).data
        expected = torch.load(io.BytesIO(torch_file(data, 2)), weights_only=True)

        def same(ours: Any, theirs: Any) -> None:
            if isinstance(theirs, Tensor):
                assert type(ours) is Tensor
                assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
                assert torch.equal(ours.to(torch.complex128), theirs.detach().to(torch.complex128))
            elif isinstance(theirs, dict):
                assert list(ours) == list(theirs)
                for key in theirs:
                    same(ours[key], theirs[key])
            elif isinstance(theirs, list | tuple) and not isinstance(theirs, torch.Size):
                for a, b in zip(ours, theirs, strict=True):
                    same(a, b)
            else:
                assert ours == theirs

        same(found, expected)
        views = [value.untyped_storage().data_ptr() for value in (found["plain"], *found["views"][:2])]
        assert len(set(views)) == 1  # shared as before, not copied

    def test_numbers_of_numpy_beside_the_weights(self) -> None:
        data = {"model": weights(), "loss": np.float64(0.5), "curve": np.ones(3)}
        assert opened(torch_file(data)).data["loss"] == 0.5

    def test_compressed_again(self) -> None:
        """An archive that was packed again by hand is read as long as it does not unpack to much more than it holds."""
        content = torch_file({"weight": torch.randn(1000)})
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as after:
            for name in before.namelist():
                after.writestr(name, before.read(name))
        assert torch.equal(opened(buffer.getvalue()).data["weight"], opened(content).data["weight"])

    def test_attributes_of_a_tensor_are_dropped(self) -> None:
        tensor = torch.ones(3)
        tensor.note = "an attribute"  # type: ignore[attr-defined]
        found = opened(torch_file({"a": tensor})).data["a"]
        assert torch.equal(found, torch.ones(3))
        assert not hasattr(found, "note")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ATTACKS)
class TestAttacks:
    def test_refused_in_an_archive(self, name: str, protocol: int) -> None:
        with registered(exec, 0xF0):
            assert REFUSED in refusal(zipped(whole(ATTACKS[name][0], protocol)))
            assert REFUSED in refusal(zipped(whole(b"}" + text("model") + ATTACKS[name][0] + b"s", protocol)))

    def test_refused_in_the_older_format(self, name: str, protocol: int) -> None:
        attack, nothing = whole(ATTACKS[name][0], protocol), whole(b"}", protocol)
        with registered(exec, 0xF0):
            assert REFUSED in refusal(legacy(attack, protocol))
            for part in (1001, []):  # in the place of the version, and of the list of storages
                content, usual = legacy(nothing, protocol), pickle.dumps(part, protocol)
                place = content.rindex(usual)
                assert REFUSED in refusal(content[:place] + attack + content[place + len(usual) :])


class TestPersistentIdentities:
    """A storage is named by what follows BINPERSID; nothing else may be."""

    def identity(self, kind: bytes, word: str = "storage", key: str = "0", count: int = 2) -> bytes:
        return b"(" + text(word) + kind + text(key) + text("cpu") + pickle.dumps(count, 2)[2:-1] + b"tQ"

    def tensor(self, identity: bytes) -> bytes:
        return call(named("torch._utils", "_rebuild_tensor_v2"), identity, b"K\0", b"K\2\x85", b"K\1\x85", b"\x89", b"}")

    def test_an_honest_one(self) -> None:
        program = whole(b"}" + text("a") + self.tensor(self.identity(named("torch", "FloatStorage"))) + b"s")
        found = opened(zipped(program, {"0": struct.pack("<2f", 1, 2)}))
        assert found.data["a"].tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"word": "module"}, "a persistent identity that is not a storage"),
            ({"key": "1"}, "damaged or cut off"),
            ({"key": "../data.pkl"}, "damaged or cut off"),
            ({"key": "/etc/passwd"}, "damaged or cut off"),
            ({"count": 10**12}, "damaged or cut off"),
            ({"count": -1}, "damaged or cut off"),
            ({"kind": named("os", "system")}, "posix.system|os.system"),
            ({"kind": named("builtins", "exec")}, "builtins.exec"),
            ({"kind": named("torch", "Tensor")}, "damaged or cut off"),
            ({"kind": CODE}, "damaged or cut off"),
        ],
        ids=str,
    )
    def test_others(self, change: dict[str, Any], message: str) -> None:
        arguments: dict[str, Any] = {"kind": named("torch", "FloatStorage")} | change
        identity = self.identity(**arguments)
        found = refusal(zipped(whole(b"}" + text("a") + self.tensor(identity) + b"s"), {"0": bytes(8)}))
        assert any(part in found for part in message.split("|"))

    def test_as_text(self) -> None:
        assert "PERSID, which could run code" in refusal(zipped(whole(b"Pos.system\n")))

    @pytest.mark.parametrize("kind", ["builtins.eval", "torch.nn.modules.linear.Linear", "os.system"])
    def test_a_class_for_a_tensor(self, kind: str) -> None:
        build = named("torch._utils", "_rebuild_tensor_v2")
        module, _, name = kind.rpartition(".")
        arguments = (build, named(module, name), b")", b"}")
        assert kind in refusal(zipped(whole(call(named("torch._tensor", "_rebuild_from_type_v2"), *arguments))))
        arguments = (named(module, name), named("torch", "Tensor"), raw(b"a") + b"\x85", b"}")
        assert kind in refusal(zipped(whole(call(named("torch._tensor", "_rebuild_from_type_v2"), *arguments))))


class TestArchives:
    def test_entries_that_lie_about_their_size(self) -> None:
        content = bytearray(torch_file({"weight": torch.zeros(10_000)}))
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
            size = next(entry.file_size for entry in archive.infolist() if "/data/0" in entry.filename)
        for lie in (2**31, size + 4, size - 4, 0):
            refusal(bytes(content).replace(struct.pack("<I", size), struct.pack("<I", lie)))

    def test_what_else_is_in_an_archive(self) -> None:
        assert "big-endian" in refusal(zipped(whole(b"}"), order=b"big"))
        for entries, message in {
            ("model.weights.h5", "config.json"): "a model of Keras",
            ("arr_0.npy", "arr_1.npy"): "arrays of NumPy",
            ("folder/ffhq.pt", "folder/readme.txt"): "Unpack it, and give folder/ffhq.pt",
            ("pipe/model_index.json",): "Unpack it, and give pipe/model_index.json",
            ("net/data.pkl", "net/code/__torch__.py"): "TorchScript program",
            ("word/document.xml",): "zip archive that torch.save did not write",
            (): "zip archive that torch.save did not write",
        }.items():
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name in entries:
                    archive.writestr(name, b"x")
            assert message in refusal(buffer.getvalue())

    def test_torchscript(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated
            script = torch.jit.script(nn.Linear(2, 2))
            buffer = io.BytesIO()
            torch.jit.save(script, buffer)
        assert "is a TorchScript program, which holds code" in refusal(buffer.getvalue())


def own_file() -> bytes:
    save_prior(UNet(widths=(8, 8), blocks=(1, 1), embedding=8), Path("own.safetensors"), sigma_data=0.5, facts={"steps": 1})
    return Path("own.safetensors").read_bytes()


def other_safetensors() -> bytes:
    return safetensors.torch.save(weights())


FILES: dict[str, Callable[[], bytes]] = {
    "tiny.pkl": TINY.read_bytes,
    "own.safetensors": own_file,
    "guided.safetensors": other_safetensors,
    "guided.pt": lambda: torch_file(weights()),
    "guided-4.ckpt": lambda: torch_file({"state_dict": weights(), "epoch": 3}, 4),
    "guided.bin": lambda: torch_file(weights(), legacy=True),
    "score.pth": lambda: torch_file(score_sde()),
}
GIVEN: dict[str, dict[str, Any]] = {"guided": {"heads": 4}, "score": {"image_size": 16}}


def end_in_one_line(name: str, content: bytes) -> bool:
    """Return whether a file loads; otherwise it must end in one ValueError with its name."""
    Path(name).write_bytes(content)
    try:
        load_prior(name, **GIVEN.get(name.partition("-")[0].partition(".")[0], {}))
    except ValueError as error:
        message = str(error)
    else:
        return True
    assert message.startswith(name)
    assert message.isprintable()
    assert len(message) < 700
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
class TestDamage:
    def test_whole(self, name: str) -> None:
        assert end_in_one_line(name, FILES[name]())

    def test_cut_off(self, name: str) -> None:
        content = FILES[name]()
        ends = {*range(0, 80, 3), *(len(content) * k // 25 for k in range(25)), *(len(content) - k for k in (1, 2, 9, 22, 30))}
        assert not any(end_in_one_line(name, content[:end]) for end in sorted(ends))

    def test_bytes_that_changed(self, name: str) -> None:
        content, chance = FILES[name](), random.Random(0)
        places = [chance.randrange(min(len(content), 4000)) for _ in range(40)]
        places += [chance.randrange(len(content)) for _ in range(20)] + [
            len(content) - 1 - chance.randrange(300) for _ in range(20)
        ]
        for place in places:
            changed = bytearray(content)
            changed[place] = chance.randrange(256)
            end_in_one_line(name, bytes(changed))

    def test_parts_of_others(self, name: str) -> None:
        content, chance = FILES[name](), random.Random(1)
        for _ in range(20):
            start, length = chance.randrange(len(content)), chance.randrange(200)
            end_in_one_line(name, content[:start] + chance.randbytes(length) + content[start + chance.randrange(200) :])


class TestPlacesThatAreNoFiles:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
    def test_pipes_and_devices(self) -> None:
        os.mkfifo("pipe.pt")
        for place in ("pipe.pt", "/dev/zero", "/dev/null"):
            with pytest.raises(ValueError, match=f"^{place}: is not a regular file"):
                load_prior(place)

    def test_folders_named_like_files(self) -> None:
        Path("x.pt").mkdir()
        with pytest.raises(ValueError, match=r"^x.pt: the folder has neither .*; it is empty. Expected a diffusers folder"):
            load_prior("x.pt")
        Path("x.pt/ffhq.pt").touch()
        with pytest.raises(ValueError, match=r"it holds ffhq.pt: give one of them"):
            load_prior("x.pt")

    def test_links(self) -> None:
        Path("a.pt").symlink_to("b.pt")
        Path("b.pt").symlink_to("a.pt")
        Path("c.pt").symlink_to("nowhere")
        for name in ("a.pt", "c.pt"):
            with pytest.raises(ValueError, match=f"^{name}: is a symbolic link to a missing file, or to itself"):
                load_prior(name)

    @pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
    def test_no_permission(self) -> None:
        Path("closed.pt").write_bytes(b"x")
        Path("closed.pt").chmod(0)
        Path().chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(NOBODY)  # The superuser may read everything.
            with pytest.raises(PermissionError, match=r"closed.pt"):
                load_prior("closed.pt")
        finally:
            os.seteuid(user)

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text")
    def test_names_that_are_not_utf8(self) -> None:
        name = os.fsdecode(b"m\xfcll.pt")
        Path(name).write_bytes(b"x")
        with pytest.raises(ValueError, match="unknown kind"):
            load_prior(name)
