"""``invdiff solve`` given what is wrong: one line that says so, nothing overwritten, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invdiff.io.images import write_image
from invdiff.problems import PROBLEMS
from invdiff.restoration import result as results

pytestmark = pytest.mark.slow

INPAINT = ("in.png", "--problem", "inpaint", "--mask", "mask.png")
SMALL = ("in.png", "--problem", "sr", "--factor", 2)


def tree(folder):
    return {path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def files(tmp_path):
    """A good picture and mask, and much that is neither."""
    values = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[4:7, 5:9] = 255
    images = {
        "in": values,
        "mask": mask,
        "small": mask[1:],
        "black": mask * 0,
        "white": mask | 255,
        "soft": np.linspace(0, 255, mask.size).reshape(mask.shape).astype(np.uint8),
        "grey": values[..., 0],
        "wide": np.full((3, 40), 9, dtype=np.uint8),
    }
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    write_image(tmp_path / "opaque.png", values.transpose(2, 0, 1) / 127.5 - 1, alpha=np.ones((12, 16)))
    write_image(tmp_path / "clear.png", values.transpose(2, 0, 1) / 127.5 - 1, alpha=np.zeros((12, 16)))
    for name, array in {
        "cube": np.ones((4, 3, 3)),
        "zeros": np.zeros((3, 3)),
        "negative": -np.ones((3, 3)),
        "nan": np.full((12, 16), np.nan),
        "bytes": np.full((12, 16), 255.0),
        "five": np.zeros((5, 12, 16)),
        "channels-last": np.zeros((12, 16, 3)),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "text.txt").write_text("1 2 1\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "truncated.png").write_bytes((tmp_path / "in.png").read_bytes()[:-60])
    (tmp_path / "object.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mean.png").write_bytes(b"mine")
    return tmp_path


def deblur(kernel, source="in.png"):
    return (source, "--problem", "deblur", "--kernel", kernel)


# (exit code, words of the message, arguments)
WRONG = [
    # the input
    (1, "missing.png: no such file", ("missing.png", *SMALL[1:])),
    (1, "empty.png: the file is empty", ("empty.png", *SMALL[1:])),
    (1, "truncated.png: cannot be read", ("truncated.png", *SMALL[1:])),
    (1, "text.txt: is damaged or not an image", ("text.txt", *SMALL[1:])),
    (1, "object.npy: is damaged", ("object.npy", *SMALL[1:])),
    (1, "holds nan or inf", ("nan.npy", *SMALL[1:])),
    (1, "values reach 255", ("bytes.npy", *SMALL[1:])),
    (1, "has 5 channels", ("five.npy", *SMALL[1:])),
    (1, "transpose the array", ("channels-last.npy", *SMALL[1:])),
    (1, "folder: expected files .arw, .avi", ("folder", *SMALL[1:])),
    # the mask
    (1, "missing.png: no such file", (*INPAINT, "--mask", "missing.png")),
    (1, "mask is 16 x 11 pixels and the image 16 x 12", (*INPAINT, "--mask", "small.png")),
    (1, "nothing to fill", (*INPAINT, "--mask", "black.png")),
    (1, "everything to fill", (*INPAINT, "--mask", "white.png")),
    (1, "nothing to fill", (*INPAINT, "--mask", "white.png", "--mask-keep", "white")),
    (1, "is damaged or not an image", (*INPAINT, "--mask", "text.txt")),
    (1, "no pixel is transparent", ("in.png", "--problem", "inpaint")),
    (1, "no pixel is transparent", ("opaque.png", "--problem", "inpaint")),
    (1, "every pixel is transparent", ("clear.png", "--problem", "inpaint")),
    (2, "--mask belongs to --problem inpaint, not to sr", (*SMALL, "--mask", "mask.png")),
    (2, "--kernel belongs to --problem deblur", (*SMALL, "--kernel", "gaussian:1")),
    (2, "--factor belongs to --problem sr", (*INPAINT, "--factor", 2)),
    # what the problem needs
    (2, "--problem is missing", ("in.png",)),
    (2, "'nonsense' is not one of 'inpaint', 'outpaint', 'denoise'", ("in.png", "--problem", "nonsense")),
    (2, "needs --kernel", ("in.png", "--problem", "deblur", "--simulate")),
    (1, "too small to estimate its blur", ("in.png", "--problem", "deblur", "--noise", 0.01)),
    (2, "needs --factor", ("in.png", "--problem", "sr")),
    (2, "needs --mask", ("--problem", "inpaint")),
    (2, "--mask auto and --mask-color exclude each other", (*INPAINT, "--mask", "auto", "--mask-color", "red")),
    (2, "denoise needs --noise above 0", ("--problem", "denoise")),
    (2, "denoise needs --noise above 0", ("in.png", "--problem", "denoise", "--noise", 0)),
    (2, "needs --margin", ("in.png", "--problem", "outpaint")),
    (2, "needs --radius", ("in.png", "--problem", "defocus", "--simulate")),
    (2, "--length is given without --angle", ("in.png", "--problem", "motion-deblur", "--length", 3)),
    (2, "needs --pattern", ("grey.png", "--problem", "demosaic")),
    (2, "needs --clip-low, --clip-high or both", ("in.png", "--problem", "declip")),
    (2, "needs --levels", ("in.png", "--problem", "dequantize")),
    (2, "--problem dequantize does not take --noise", ("in.png", "--problem", "dequantize", "--levels", 4, "--noise", 0.1)),
    (2, "--clip-low belongs to --problem declip, not to sr", (*SMALL, "--clip-low", 0)),
    (2, "--angle belongs to --problem motion-deblur", (*INPAINT, "--angle", 0)),
    # its values, and the channels that it needs
    (2, "expected a finite number", ("in.png", "--problem", "defocus", "--radius", "inf")),
    (2, "0.0 is not in the range", ("in.png", "--problem", "defocus", "--radius", 0)),
    (1, "a disc of radius 1e+09 is larger", ("in.png", "--problem", "defocus", "--radius", 1e9)),
    (1, "length must be odd", ("in.png", "--problem", "motion-deblur", "--length", 4, "--angle", 0)),
    (2, "expected a finite number", ("in.png", "--problem", "motion-deblur", "--length", 3, "--angle", "nan")),
    (2, "'RGB' is not one of", ("grey.png", "--problem", "demosaic", "--pattern", "RGB")),
    (1, "mosaic has 3 channels, expected one", ("in.png", "--problem", "demosaic", "--pattern", "RGGB")),
    (1, "clean picture has 1 channels", ("grey.png", "--problem", "demosaic", "--pattern", "RGGB", "--simulate")),
    (1, "has 3 channels, expected a grayscale one", ("in.png", "--problem", "colorize")),
    (1, "clean picture has 1 channels", ("grey.png", "--problem", "colorize", "--simulate")),
    (1, "leave nothing of an image of 16 x 12", ("in.png", "--problem", "outpaint", "--margin", 6, "--simulate")),
    (1, "too large to sample", ("in.png", "--problem", "outpaint", "--margin", 10**6)),
    (1, "low must be below high", ("in.png", "--problem", "declip", "--clip-low", 0.6, "--clip-high", 0.5)),
    (2, "1 is not in the range", ("in.png", "--problem", "dequantize", "--levels", 1)),
    # the kernel
    (1, "missing.npy: no such file", deblur("missing.npy")),
    (1, "text.txt: is damaged or not an image", deblur("text.txt")),
    (1, "two dimensions", deblur("cube.npy")),
    (1, "not all zero", deblur("zeros.npy")),
    (1, "not negative", deblur("negative.npy")),
    (1, "must not be larger than the image", deblur("wide.png")),
    (1, "is a folder", deblur("folder")),
    (1, "larger than the image, 16 x 12", deblur("gaussian:2")),
    (1, "larger than the image", deblur("gaussian:1e300")),
    (1, "sigma must be positive", deblur("gaussian:-1")),
    (1, "expected gaussian:SIGMA", deblur("gaussian:nan")),
    (1, "expected gaussian:SIGMA", deblur("gaussian:")),
    (1, "expected gaussian:SIGMA", deblur("motion:5")),
    (1, "size must be an odd integer", deblur("motion:4,0")),
    (1, "size must be an odd integer", deblur("motion:3.5,0")),
    (1, "larger than the image", deblur("motion:99999999,0")),
    # numbers
    (2, "expected finite numbers of at least 0", (*SMALL, "--noise", -0.1)),
    (2, "expected finite numbers of at least 0", (*SMALL, "--noise", "nan")),
    (2, "expected finite numbers of at least 0", (*SMALL, "--noise", "poisson:inf")),
    (2, "expected a standard deviation such as 0.02", (*SMALL, "--noise", "abc")),
    (2, "expected a standard deviation such as 0.02", (*SMALL, "--noise", "auto:3")),
    (2, "expected a standard deviation such as 0.02", (*SMALL, "--noise", "poisson:1,2,3")),
    (2, "expected a standard deviation such as 0.02", (*SMALL, "--noise", "student:0.1")),
    (2, "expected numbers above 0", (*SMALL, "--noise", "laplace:0")),
    (2, "give the level of the noise to add", (*SMALL, "--noise", "auto", "--simulate")),
    (2, "takes Gaussian noise of a known level", ("five.npy", "--problem", "ct", "--noise", "poisson:9")),
    (2, "its only noise is rounding", ("in.png", "--problem", "dequantize", "--levels", 4, "--noise", "auto")),
    (2, "--scale belongs to", (*SMALL, "--scale", 2)),
    (2, "is for simulations only", ("five.npy", "--problem", "ct", "--angles", 4)),
    (2, "exclude each other", ("in.png", "--problem", "phase-retrieval", "--codes", 1, "--oversampling", 2, "--simulate")),
    (2, "its only noise is rounding", ("in.png", "--problem", "dejpeg", "--noise", 0.1, "--simulate", "--jpeg-quality", 9)),
    (2, "needs a JPEG file as INPUT", ("in.png", "--problem", "dejpeg", "--simulate")),
    (2, "is for simulations only", ("in.png", "--problem", "dejpeg", "--jpeg-quality", 9)),
    (1, "in.png: is not a JPEG file", ("in.png", "--problem", "dejpeg")),
    (1, "text.txt: is not a JPEG file", ("text.txt", "--problem", "dejpeg")),
    (2, "needs an .npy or .npz file", ("in.png", "--problem", "mri", "--simulate")),
    (1, "expected an .npy or .npz file with the array 'kspace'", ("in.png", "--problem", "mri")),
    (1, "finite real numbers", ("nan.npy", "--problem", "ct", "--noise", 1)),
    (1, "damaged or holds no numpy array", ("object.npy", "--problem", "ct", "--noise", 1)),
    (1, "does not describe the measurement", ("zeros.npy", "--problem", "compressed-sensing")),
    (1, "no such file", ("nowhere.npz", "--problem", "mri")),
    (2, "0 is not in the range", (*SMALL, "--steps", 0)),
    (2, "0 is not in the range", (*SMALL, "--samples", 0)),
    (2, "0 is not in the range", (*SMALL, "--chunk", 0)),
    (2, "-1 is not in the range", (*SMALL, "--first-sample", -1)),
    (2, "--first-sample: expected at most 1,000,000,000", (*SMALL, "--first-sample", 10**10)),
    (2, "1.0 is not in the range", (*SMALL[:-1], 1)),
    (2, "'half' is not a valid float", (*SMALL[:-1], "half")),
    (1, "too large to sample", (*SMALL[:-1], 10**6)),
    (1, "cannot be downsampled by 1000000", (*SMALL[:-1], 10**6, "--simulate")),
    (2, "-1 is not in the range", (*SMALL, "--seed", -1)),
    # the method
    (2, "'nonsense' is not one of 'auto'", (*SMALL, "--method", "nonsense")),
    (2, "'nonsense' is not one of 'ddpm'", (*SMALL, "--rule", "nonsense")),
    (2, "mmps has no option 'nonsense', expected one of rtol", (*SMALL, "--option", "nonsense")),
    (2, "dps has no option 'rtol', expected one of zeta", (*SMALL, "--method", "dps", "--option", "rtol=0.1")),
    (2, "mmps has no option 'steps'", (*SMALL, "--option", "steps=3")),
    (2, "expected a number, such as zeta=1.0", (*SMALL, "--method", "dps", "--option", "zeta=abc")),
    (2, "expected a number", (*SMALL, "--method", "dps", "--option", "zeta")),
    (2, "expected a number", (*SMALL, "--method", "dps", "--option", "zeta=inf")),
    (2, "expected an integer", (*SMALL, "--option", "max_iterations=2.5")),
    (1, "covariance must be one of auto, jacobian, measured", (*SMALL, "--option", "covariance=exact")),
    (1, "zeta must not be negative", (*SMALL, "--method", "dps", "--option", "zeta=-1")),
    (1, "diverged", (*SMALL, "--method", "dps", "--option", "zeta=1e30")),
    # the prior and the device
    (1, "Unknown prior 'nonsense'", (*SMALL, "--prior", "nonsense")),
    (1, "model_index.json", (*SMALL, "--prior", "folder")),
    (1, "empty.png: is empty", (*SMALL, "--prior", "empty.png")),
    (1, "in.png: is a", (*SMALL, "--prior", "in.png")),
    (2, "'float8' is not one of", (*SMALL, "--precision", "float8")),
    (1, "--device nonsense cannot be used here", (*SMALL, "--device", "nonsense")),
    (1, "--device meta cannot be used here", (*SMALL, "--device", "meta")),
    (1, "--device cuda:99 cannot be used here", (*SMALL, "--device", "cuda:99")),
    # the output
    (1, "in.png is a file, expected a folder", (*SMALL, "-o", "in.png")),
    (1, "full is not empty", (*SMALL, "-o", "full")),
    (1, "cannot be written there", (*SMALL, "-o", "in.png/out")),
    (1, "cannot be written there", (*SMALL, "-o", "/dev/null/out")),
    (1, "cannot be written there", (*SMALL, "-o", "x" * 300)),
    (1, "cannot be written there", (*SMALL, "-o", "/proc/invdiff-out")),
]


@pytest.mark.parametrize(("code", "words", "arguments"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_one_line_says_what_is_wrong(solve, files, code, words, arguments):
    before = tree(files)
    result = solve(*arguments, code=code)
    assert result.stdout == ""
    message = result.stderr.partition("Error: ")[2]
    assert words in message
    assert result.stderr.count("Error: ") == 1
    assert message.count("\n") == (1 + len(PROBLEMS) if words == "--problem is missing" else 1)
    assert tree(files) == before  # the folder of full/mean.png included


def test_a_pickle_is_not_executed(solve, files):
    class Trap:
        def __reduce__(self):
            return Path.touch, (files / "sprung",)

    (files / "prior.pt").write_bytes(pickle.dumps(Trap()))
    assert "could run code when read" in solve(*SMALL, "--prior", "prior.pt", code=1).stderr
    assert not (files / "sprung").exists()


@pytest.mark.parametrize("size", [4, 100, 3000])
def test_a_truncated_prior(solve, files, tiny_prior, size):
    (files / "part.safetensors").write_bytes(tiny_prior.read_bytes()[:size])
    assert "part.safetensors: not a safetensors file" in solve(*SMALL, "--prior", "part.safetensors", code=1).stderr


def test_two_runs_at_once_do_not_mix(solve, files, monkeypatch):
    inner, write = [], results.write

    def interrupted(*args, **options):
        if not inner:
            inner.append(True)
            solve(*SMALL, "--seed", 1)
        return write(*args, **options)

    monkeypatch.setattr(results, "write", interrupted)
    solve(*SMALL)
    folders = sorted((files / "invdiff-out").iterdir())
    assert [folder.name for folder in folders] == ["in-sr", "in-sr-2"]
    first, second = ((folder / "sample-1.png").read_bytes() for folder in folders)
    assert first != second


def test_noise_of_the_scale_of_bytes_is_questioned(solve, files):
    assert "25 of 255 is --noise 0.098" in solve(*SMALL, "--noise", 25).stderr


def command(tiny_prior, script, *arguments):
    # A shell that runs tests in the background has its children ignore the signal: the default handler is put back.
    setup = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = setup + script + "\nfrom invdiff.cli import main; main()"
    settings = ("--prior", str(tiny_prior), "--precision", "float32", *map(str, arguments))
    return subprocess.Popen(
        [sys.executable, "-c", code, "solve", *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_interrupt(files, tiny_prior, monkeypatch):
    monkeypatch.chdir(files)
    before = tree(files)
    with command(tiny_prior, "", *INPAINT, "--steps", 10**5) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("filling")  # by now the sampler is about to run
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")
    assert tree(files) == before


@pytest.mark.skipif(not hasattr(os, "kill") or sys.platform == "win32", reason="needs SIGKILL")
def test_kill_while_writing(files, tiny_prior, monkeypatch):
    monkeypatch.chdir(files)
    script = (
        "import os, invdiff.restoration.pictures as pictures\n"
        "pictures.comparison_panel = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)"
    )
    with command(tiny_prior, script, *SMALL, "--steps", 1, "-o", "out") as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (files / "out").exists()
    assert (files / ".out.invdiff-part").exists()
    with command(tiny_prior, "", *SMALL, "--steps", 1, "-o", "out") as process:
        process.communicate(timeout=60)
    assert not (files / ".out.invdiff-part").exists()
    assert (files / "out" / "run.json").exists()


@pytest.mark.parametrize("command", ["solve", "calibrate"])
def test_nothing_is_given(invdiff, command):
    assert "missing" in invdiff(command, code=2).stderr.lower()
