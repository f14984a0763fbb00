"""Distances between sets of images against those of piq, with random weights in the place of the network's."""

from __future__ import annotations

import warnings

import piq
import pytest
import torch
from helpers import filled, randn
from piq.feature_extractors import InceptionV3

from invdiff.evaluation import features, frechet_distance, kernel_distance
from invdiff.evaluation.distribution import _inception
from invdiff.metrics import WeightsMissingError

FILE = "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / FILE).parent.mkdir(parents=True)
    yield tmp_path / FILE
    _inception.cache_clear()


def shapes():
    """The shapes of the weights of piq's network, as its own constructor builds it."""
    from piq.feature_extractors import fid_inception

    found = {}

    def grab(network, *_, **__):
        found.update({name: value.shape for name, value in network.state_dict().items() if value.ndim})

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(fid_inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", grab)
        fid_inception.InceptionV3.fid_inception_v3()
    return found


@pytest.mark.slow
def test_features_are_those_of_piq(hub):
    state = filled(shapes())
    torch.save({name: value.abs() if "running_var" in name else value for name, value in state.items()}, hub)
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = torch.get_rng_state()
    found = features(image)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")
        patch.setattr(torch.nn.init, "trunc_normal_", lambda weight, **_: weight)  # slow, and overwritten at once
        expected = InceptionV3().eval()((image + 1) / 2)[0].flatten(1)
    assert found.shape == (1, 2048)
    assert found.std() > 0
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(features(image[:, :1]), features(image[:, :1].repeat(1, 3, 1, 1)))


def test_missing_and_bad_weights(hub):
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(WeightsMissingError, match="save it as") as caught:
        features(image)
    assert str(hub) in str(caught.value)
    hub.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="download it again"):
        features(image)
    torch.save({"weight": torch.zeros(3)}, hub)
    with pytest.raises(ValueError, match="download it again"):
        features(image)


@pytest.mark.parametrize("n", [12, 100])
def test_distances_are_those_of_piq(n):
    x = randn(n, 40)
    y = 0.5 * x + randn(n, 40, seed=1) + 0.1
    assert frechet_distance(x, y) == pytest.approx(float(piq.FID()(x, y)), rel=1e-4)
    assert kernel_distance(x, y) == pytest.approx(float(piq.KID()(x, y)), rel=1e-6)


def test_frechet_distance_by_hand():
    x = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    y = torch.tensor([[3.0], [5.0], [7.0]])  # mean 5, variance 4
    assert frechet_distance(x, y) == pytest.approx(16 + (2**0.5 - 2) ** 2)
    assert frechet_distance(y, y) == pytest.approx(0, abs=1e-12)


def test_subsets_of_many_images(monkeypatch):
    monkeypatch.setattr("invdiff.evaluation.distribution.SUBSET", 30)
    x, y = randn(60, 8), randn(60, 8, seed=1)
    before = torch.get_rng_state()
    assert kernel_distance(x, y) == kernel_distance(x, y) != kernel_distance(x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_refusals():
    for function in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="two images or more"):
            function(randn(1, 4), randn(3, 4))
    with pytest.raises(ValueError, match="channels"):
        features(torch.zeros(1, 2, 8, 8))
