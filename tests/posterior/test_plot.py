"""The figure of a posterior."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from numpy.testing import assert_allclose
from PIL import Image

from invdiff import Posterior
from invdiff.io.figures import rgb_pixels


def posterior(*shape: int, first: int = 0) -> Posterior:
    weights = torch.full(shape[:2], 1 / shape[0], dtype=torch.float64)
    return Posterior(0.3 * randn(*shape), weights, weights, 3, 1.0, 1.0, 0.0, "none", 0, {}, first_sample=first)


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images(channels: int) -> None:
    post = posterior(6, 2, channels, 8, 12, first=4)
    figure = post.plot(samples=2)
    names = ["mean", "standard deviation", "sample 4", "sample 5"]
    assert titles(figure) == [*(f"item {b}: mean" if name == "mean" else name for b in range(2) for name in names)]
    shown: list[Any] = [axes.images[0].get_array() for axes in figure.axes if axes.get_title()]
    for b in range(2):
        mean, std, *samples = shown[4 * b : 4 * b + 4]
        assert_allclose(mean, rgb_pixels("", post.mean[b].numpy()))
        assert_allclose(std, post.std[b].mean(0).numpy())
        for k, sample in enumerate(samples):
            assert_allclose(sample, rgb_pixels("", post.samples[k, b].numpy()))
    assert len(figure.axes) == 2 * 5  # with a color bar for each standard deviation
    figure.canvas.draw()


def test_vectors() -> None:
    post = posterior(6, 2, 10)
    figure = post.plot(samples=3)
    assert titles(figure) == ["item 0: posterior", "item 1: posterior"]
    for b, axes in enumerate(figure.axes):
        *samples, mean = [np.asarray(line.get_ydata()) for line in axes.lines]
        assert_allclose(mean, post.mean[b])
        assert_allclose(samples, post.samples[:3, b])
        low, high = (end[b].numpy() for end in post.interval(0.9))
        band = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
        assert (band.min(), band.max()) == pytest.approx((low.min(), high.max()))
        legend: Any = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["90% intervals", "samples", "mean"]
    figure.canvas.draw()


def test_one_sample_and_many_items() -> None:
    assert titles(posterior(1, 1, 3, 8, 8).plot()) == ["mean", "sample 0"]
    assert len(posterior(1, 1, 9).plot().axes[0].lines) == 2
    figure = posterior(2, 9, 1, 8, 8).plot(items=2)
    assert figure.get_suptitle() == "the first 2 of 9 items"
    assert len(titles(posterior(2, 9, 1, 8, 8).plot())) == 4 * 4


def test_notebooks_show_it() -> None:
    png = posterior(3, 1, 1, 8, 8).plot()._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    assert len(set(Image.open(io.BytesIO(png)).convert("L").tobytes())) > 50


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 2), (3, 2, 1, 1, 4, 4)])
def test_refuses_what_is_neither(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shows images \(C, H, W\) and vectors"):
        posterior(*shape).plot()


@pytest.mark.parametrize("numbers", [{"samples": -1}, {"items": 0}])
def test_refuses_numbers(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="plot: expected"):
        posterior(3, 2, 4).plot(**numbers)


def test_no_window_and_no_matplotlib_before() -> None:
    code = (
        "import sys, torch, invdiff\n"
        "weights = torch.ones(1, 1)\n"
        "post = invdiff.Posterior(torch.zeros(1, 1, 4), weights, weights, 3, 1.0, 1.0, 0.0, 'none', 0, {})\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "post.plot()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
