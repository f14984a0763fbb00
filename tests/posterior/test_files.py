"""Files of posteriors: what they keep, and files that are damaged, foreign or made to harm."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks import ATTACKS, WITNESS, whole
from helpers import randn
from safetensors.torch import save_file

from invdiff import Posterior
from invdiff.posterior import Particles
from invdiff.posterior.files import KEY
from invdiff.priors.save import read_metadata


def posterior(**facts: Any) -> Posterior:
    fields: dict[str, Any] = {
        "samples": randn(4, 2, 3, 5, seed=1),
        "weights": torch.full((4, 2), 0.25),
        "residual": randn(4, 2, seed=2).abs(),
        "dof": 7,
        "nfe": 20.0,
        "nvjp": 12.25,
        "seconds": 0.1 + 0.2,
        "method": "handover",
        "seed": 2**70,
        "options": {"steps": 20, "zeta": 0.1, "rule": "ddpm", "weighted": True, "largest": None, "floor": -1e-300},
        "notes": ("misfit: 3 times its expected value", "zweite Zeile: Größe"),
        "first_sample": 8,
        "origin": {"versions": {"torch": "2"}, "prior": {"sizes": [1, 2]}},
    }
    return Posterior(**(fields | facts))


def saved(folder: Path, **facts: Any) -> Path:
    path = folder / "post.safetensors"
    posterior(**facts).save(path)
    return path


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """Write the file again after a change of its tensors and of the entry in its metadata."""
    post, about = Posterior.load(path), read_metadata(path)[KEY]
    tensors = {"samples": post.samples, "weights": post.weights, "residual": post.residual}
    change(tensors, about)
    save_file(tensors, path, metadata={KEY: json.dumps(about)})
    return path


class TestKept:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_values_of_every_kind(self, tmp_path: Path, dtype: torch.dtype) -> None:
        special = torch.tensor([0.0, -0.0, 1e-40, torch.inf], dtype=dtype).reshape(4, 1, 1).expand(4, 2, 6)
        post = posterior(samples=special, dof=torch.tensor([3, 4]))
        post.save(tmp_path / "post.safetensors")
        there = Posterior.load(tmp_path / "post.safetensors")
        assert there.samples.dtype == dtype
        assert torch.equal(there.samples.view(torch.uint8), special.contiguous().view(torch.uint8))
        assert isinstance(there.dof, torch.Tensor)
        assert there.dof.tolist() == [3, 4]
        for name in ("nfe", "nvjp", "seconds", "method", "seed", "options", "notes", "first_sample", "origin"):
            assert getattr(there, name) == getattr(post, name), name

    def test_numbers_that_json_has_no_word_for(self, tmp_path: Path) -> None:
        options = {"a": float("inf"), "b": np.float32(0.1), "c": torch.tensor(3), "d": (1, 2), "e": os.path.join}
        there = Posterior.load(saved(tmp_path, options=options)).options
        assert there == {"a": float("inf"), "b": float(np.float32(0.1)), "c": 3, "d": [1, 2], "e": "join"}

    def test_shared_memory_gradients_and_views(self, tmp_path: Path) -> None:
        numbers = torch.full((4, 2), 0.25, requires_grad=True)
        there = Posterior.load(saved(tmp_path, weights=numbers, residual=numbers, samples=randn(4, 4, 2).mT))
        assert torch.equal(there.weights, there.residual)
        assert torch.equal(there.samples, randn(4, 4, 2).mT)

    def test_a_file_is_replaced_at_once_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = saved(tmp_path)
        posterior(seed=(5, 2**70)).save(str(path))
        assert Posterior.load(path).seed == (5, 2**70)
        posterior(seed=5).save(str(path))
        assert Posterior.load(path).seed == 5

        def full(*_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr("invdiff.priors.save.save_file", full)
        with pytest.raises(OSError, match=r"post\.safetensors: could not be written .*No space"):
            posterior(seed=6).save(path)
        assert Posterior.load(str(path)).seed == 5
        assert [file.name for file in tmp_path.iterdir()] == ["post.safetensors"]

    def test_names_and_places(self, tmp_path: Path) -> None:
        for name in ("post", "post.npz", "post.pt"):
            with pytest.raises(ValueError, match=r"must end in \.safetensors"):
                posterior().save(tmp_path / name)
        with pytest.raises(OSError, match="does not exist"):
            posterior().save(tmp_path / "none" / "post.safetensors")
        with pytest.raises(FileNotFoundError, match="no such file"):
            Posterior.load(tmp_path / "post.safetensors")
        with pytest.raises(IsADirectoryError, match="is a folder"):
            Posterior.load(tmp_path)


class TestRefused:
    def refused(self, path: Path, reason: str = "") -> None:
        with pytest.raises(ValueError, match=rf"post\.safetensors: no file of Posterior\.save, damaged.*{reason}"):
            Posterior.load(path)

    def test_every_truncation(self, tmp_path: Path) -> None:
        path = saved(tmp_path)
        complete = path.read_bytes()
        for size in [0, 1, 7, 8, 9, 100, len(complete) // 2, len(complete) - 1]:
            path.write_bytes(complete[:size])
            self.refused(path)
        path.write_bytes(complete + b"\0")
        self.refused(path)

    def test_flipped_bytes_are_refused_or_change_a_value(self, tmp_path: Path) -> None:
        """Whatever stands in the header: a value error, or a posterior; nothing else."""
        path = saved(tmp_path)
        complete = path.read_bytes()
        header = 8 + int.from_bytes(complete[:8], "little")
        for place in range(0, header, 7):
            damaged = bytearray(complete)
            damaged[place] ^= 0x15
            path.write_bytes(damaged)
            with contextlib.suppress(ValueError):
                Posterior.load(path)

    def test_foreign_files(self, tmp_path: Path) -> None:
        path = tmp_path / "post.safetensors"
        save_file({"weight": torch.ones(3)}, path)
        self.refused(path, "it has no posterior")
        with path.open("wb") as file:
            np.savez(file, samples=np.ones(3))
        self.refused(path)
        path.write_bytes(b"GIF89a and so on")
        self.refused(path)
        torch.save({"samples": torch.ones(3)}, path)
        self.refused(path)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_nothing_is_executed(self, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "post.safetensors"
        path.write_bytes(whole(ATTACKS[attack][0]))
        self.refused(path)
        assert not (tmp_path / WITNESS).exists()

    def test_huge_declared_sizes(self, tmp_path: Path) -> None:
        path = saved(tmp_path)
        for header in (
            {"samples": {"dtype": "F32", "shape": [2**40, 2], "data_offsets": [0, 2**43]}},
            {"samples": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 2**60]}},
        ):
            text = json.dumps(header | {"__metadata__": {KEY: json.dumps(read_metadata(saved(tmp_path))[KEY])}}).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
            self.refused(path)
        path.write_bytes(struct.pack("<Q", 2**39) + b"{" + b"\0" * 64)
        self.refused(path, "header")

    def test_other_versions(self, tmp_path: Path) -> None:
        for version in (0, 2, 10**9):
            path = changed(saved(tmp_path), lambda _, about, version=version: about.update(version=version))
            self.refused(path, f"it is of version {version}, and this invdiff reads version 1")
        self.refused(changed(saved(tmp_path), lambda _, about: about.update(version="1")), "no version")
        self.refused(changed(saved(tmp_path), lambda _, about: about.pop("version")), "no version")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda tensors, _: tensors.pop("weights"), "it lacks 'weights'"),
            (lambda _, about: about.pop("seed"), "it lacks 'seed'"),
            (lambda tensors, _: tensors.update(extra=torch.ones(1)), "unknown tensors: extra"),
            (lambda tensors, _: tensors.update(weights=torch.ones(4, 2)), "sum to 1"),
            (lambda tensors, _: tensors.update(weights=torch.full((4, 2), torch.nan)), "sum to 1"),
            (lambda tensors, _: tensors.update(weights=torch.ones(4, 3) / 4), r"weights of shape \(4, 3\)"),
            (lambda tensors, _: tensors.update(residual=torch.ones(2, 4)), r"residual of shape \(2, 4\)"),
            (lambda tensors, _: tensors.update(samples=torch.ones(4, 2, 3, dtype=torch.int64)), "torch.int64"),
            (lambda tensors, _: tensors.update(samples=torch.ones(4)), r"samples of shape \(4,\)"),
            (lambda tensors, _: tensors.update(dof=torch.ones(3)), r"dof of shape \(3,\) for 2 items"),
            (lambda _, about: about.update(dof=-1), "dof is -1"),
            (lambda _, about: about.update(dof=None), "dof is None"),
            (lambda _, about: about.update(nfe="many"), "nfe is 'many'"),
            (lambda _, about: about.update(nfe=float("nan")), "nfe is nan"),
            (lambda _, about: about.update(seed=1.5), "seed is 1.5"),
            (lambda _, about: about.update(seed=[1]), "1 seeds for 2 items"),
            (lambda _, about: about.update(seed=[1, -2]), "seed is -2"),
            (lambda _, about: about.update(first_sample=True), "first_sample is True"),
            (lambda _, about: about.update(method=3), "method"),
            (lambda _, about: about.update(notes="text"), "notes"),
            (lambda _, about: about.update(options=[]), "options"),
            (lambda _, about: about.update(particles={"group": 0, "weighted": True}), "particles"),
            (lambda _, about: about.update(particles={"group": 2, "weighted": True}), "lacks 'particles.inner_weights'"),
        ],
    )
    def test_contents_that_do_not_fit(self, tmp_path: Path, change: Any, reason: str) -> None:
        self.refused(changed(saved(tmp_path), change), reason)

    def test_groups_that_do_not_fit(self, tmp_path: Path) -> None:
        one = torch.ones(2, 2).double()
        particles = Particles(2, False, torch.full((4, 2), 0.5), one, one, one)
        path = saved(tmp_path, particles=particles)
        assert Posterior.load(path).particles is not None
        for wrong in ({"inner_weights": torch.ones(3, 2)}, {"group_ess": torch.ones(3, 2)}):
            fields: dict[str, Any] = {name: getattr(particles, name) for name in Particles.__dataclass_fields__} | wrong
            with pytest.raises(ValueError, match=r"cannot be saved.*for 4 samples in groups of 2"):
                saved(tmp_path, particles=Particles(**fields))
            assert Posterior.load(path).particles is not None

    def test_deep_and_endless_json(self, tmp_path: Path) -> None:
        path = saved(tmp_path)
        tensors = {"samples": torch.ones(1, 1), "weights": torch.ones(1, 1), "residual": torch.ones(1, 1)}
        for text in ("[" * 100_000, '{"version": 1' + "0" * 10_000 + "}", "[]", "", "null"):
            save_file(tensors, path, metadata={KEY: text})
            self.refused(path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipes_are_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "post.safetensors")
        self.refused(tmp_path / "post.safetensors")
