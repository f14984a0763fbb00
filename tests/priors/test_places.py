"""Where a prior is: what looks like a path is looked for here alone, and the hub is asked for ``owner/name`` only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from invdiff.priors import load_prior
from invdiff.priors.place import locate


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was asked for. The working folder is empty."""
    questions: list[str] = []

    def download(hub_id: str, given: object) -> Path:
        questions.append(hub_id)
        return tmp_path

    monkeypatch.setattr("invdiff.priors.hub.download", download)
    monkeypatch.chdir(tmp_path)
    return questions


@pytest.mark.parametrize(
    "place",
    [
        "weights/x",
        "data/photo.png",
        "photos/IMG_1.JPG",
        "models/ffhq",
        "checkpoints/ffhq-256",
        ".cache/model",
        "./google/ddpm",
        "../google/ddpm",
        "~/ddpm",
        "~user/ddpm",
        r"google\ddpm",
        r"C:\models\ddpm.pt",
        "/google/ddpm",
        "google/ddpm/",
        "google//ddpm",
        "google/ddpm/unet",
        "google/ddpm.safetensors",
        "google/ddpm.onnx",
        "google/ddpm.tar",
        "google/ddpm.zip",
        "model.pt/x",
        "photo.JPG/x",
        "results_1/x",
        "runs2/x",
        "owner/na..me",
        "own--er/name",
        "a b/c",
        "g\u00f6ogle/ddpm",
        "a/" + "x" * 300,
        "x" * 5000 + "/y",
        "missing.pt",
    ],
)
def test_paths_do_not_ask_the_hub(asked: list[str], place: str) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder") as error:
        load_prior(place)
    assert not asked
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 900


@pytest.mark.parametrize("place", ["google/ddpm-celebahq-256", "1aurent/ddpm-mnist", "owner/name.v1.5", "a_b/c-d_e"])
def test_ids_ask_the_hub(asked: list[str], place: str) -> None:
    assert locate(place) == Path.cwd()
    assert asked == [place]


def test_what_is_here_is_taken(asked: list[str]) -> None:
    Path("google/ddpm").mkdir(parents=True)
    assert locate("google/ddpm") == Path("google/ddpm")
    with pytest.raises(ValueError, match=r"^google/ddpn: no such file or folder; perhaps google/ddpm\."):
        locate("google/ddpn")  # its parent is here
    with pytest.raises(ValueError, match="no such file"):
        locate(Path("owner/name"))  # a path is no text
    with pytest.raises(ValueError, match=r"^gogle/ddpm: no such file or folder .there is no folder gogle.; perhaps google\."):
        locate("gogle/ddpm")  # very like a folder here
    assert not asked


def test_names_that_are_like_it() -> None:
    for name in ("ffhq_10m.pt", "celeba.pt", "notes.txt"):
        Path(name).touch()
    with pytest.raises(ValueError, match=r"^./ffhq_10n.pt: no such file or folder; perhaps ffhq_10m.pt\."):
        locate("./ffhq_10n.pt")
    with pytest.raises(ValueError, match=r"perhaps ffhq_10m.pt\."):
        locate("ffhq_10m.safetensors")
    with pytest.raises(ValueError, match=r"^Unknown prior 'naturel': did you mean natural\? Otherwise expected one of natural"):
        locate("naturel")
    with pytest.raises(ValueError, match=r"^Unknown prior 'xyz': expected one of natural"):
        locate("xyz")
    with pytest.raises(ValueError, match=r"^Unknown prior ''"):
        locate("")
    with pytest.raises(ValueError, match=r"^Unknown prior"):
        locate("a\0b/c")


def test_folders_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise PermissionError

    Path("closed").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match=r"no such file or folder. Expected"):
        locate("closed/x.pt")
