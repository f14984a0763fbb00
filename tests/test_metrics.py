"""Metrics against values worked out by hand and against scikit-image; LPIPS with and without its weights."""

from __future__ import annotations

import math
import warnings

import piq
import pytest
import torch
from helpers import filled, randn
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from invdiff.metrics import WeightsMissingError, dists, find_dists_weights, find_lpips_weights, lpips, ms_ssim, psnr, ssim


def photographs(size=48, dtype=torch.float64):
    """Two crops of a photograph, ``(2, 3, size, size)``, and the same with noise of unequal strength."""
    image = torch.from_numpy(data.chelsea()).to(torch.float64).permute(2, 0, 1) / 127.5 - 1
    clean = torch.stack([image[:, 20 : 20 + size, 30 : 30 + size], image[:, 100 : 100 + size, 150 : 150 + size]])
    noisy = clean + torch.tensor([0.1, 0.3]).view(2, 1, 1, 1) * randn(2, 3, size, size)
    return noisy.clamp(-1, 1).to(dtype), clean.to(dtype)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A checkpoint folder of torch.hub with random weights in the place and the layout of AlexNet's."""
    home = tmp_path_factory.mktemp("torch")
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {}
    for layer, (outputs, inputs, side) in shapes.items():
        weight = randn(outputs, inputs, side, side, seed=layer, dtype=torch.float32)
        state[f"features.{layer}.weight"] = weight * math.sqrt(2 / (inputs * side**2))
        state[f"features.{layer}.bias"] = torch.zeros(outputs)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth")
    return home


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """A checkpoint folder of torch.hub with random weights in the places and the layout of VGG-16's and of DISTS."""
    home, widths = tmp_path_factory.mktemp("torch"), [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    layers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    shapes = {f"features.{layer}.weight": (b, a, 3, 3) for layer, a, b in zip(layers, widths, widths[1:], strict=False)}
    state = filled(shapes) | {
        f"features.{layer}.bias": torch.zeros(width) for layer, width in zip(layers, widths[1:], strict=True)
    }
    # The layers that DISTS leaves out are large: one stored number stands for all of them.
    for layer, rows, columns in ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096)):
        state[f"classifier.{layer}.weight"] = torch.zeros(()).expand(rows, columns)
        state[f"classifier.{layer}.bias"] = torch.zeros(()).expand(rows)
    factors = {name: randn(1, 1475, 1, 1, seed=k, dtype=torch.float32).abs() for k, name in enumerate(("alpha", "beta"))}
    total = sum(values.sum() for values in factors.values())
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, home / "hub" / "checkpoints" / "vgg16-397923af.pth")
    torch.save({name: values / total for name, values in factors.items()}, home / "hub" / "checkpoints" / "dists_weights.pt")
    return home


@pytest.fixture
def hub(monkeypatch):
    """Point torch.hub at a folder, whatever this machine has set."""

    def point(folder):
        monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
        monkeypatch.setenv("TORCH_HOME", str(folder))

    return point


class TestPSNR:
    def test_by_hand(self):
        reference = torch.zeros(3, 1, 2, 2)
        x = reference.clone()
        x[0] += 0.2  # 10 log10(4 / 0.04)
        x[1, 0, 0, 0] = 1  # mean square 1/4
        torch.testing.assert_close(psnr(x, reference), torch.tensor([20.0, 10 * math.log10(16), math.inf]))

    def test_is_that_of_scikit_image(self):
        x, clean = photographs()
        expected = [peak_signal_noise_ratio(c.numpy(), i.numpy(), data_range=2) for i, c in zip(x, clean, strict=True)]
        torch.testing.assert_close(psnr(x, clean), torch.tensor(expected, dtype=torch.float64))


class TestSSIM:
    def test_by_hand(self):
        # Two constant images: variances vanish, and (2 a b + c1) / (a^2 + b^2 + c1) is left, on the 0..1 scale.
        x, reference = torch.full((1, 1, 16, 16), -1.0), torch.zeros(1, 1, 16, 16)
        torch.testing.assert_close(ssim(x, reference), torch.tensor([1e-4 / (0.25 + 1e-4)]))

    # Above 384 pixels piq would down-sample.
    @pytest.mark.parametrize("size", [11, 48, pytest.param(400, marks=pytest.mark.slow)])
    def test_is_that_of_scikit_image(self, size):
        x, clean = photographs(min(size, 48))
        repeats = -(-size // 48)
        x, clean = (image.repeat(1, 1, repeats, repeats)[..., :size, :size] for image in (x, clean))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0, "data_range": 1}
        units = [((c + 1) / 2).numpy() for c in clean], [((i + 1) / 2).numpy() for i in x]
        expected = [structural_similarity(c, i, **options) for c, i in zip(*units, strict=True)]
        torch.testing.assert_close(ssim(x, clean), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)

    def test_identical(self):
        _, clean = photographs()
        torch.testing.assert_close(ssim(clean, clean), torch.ones(2, dtype=torch.float64))


class TestMSSSIM:
    def test_is_that_of_piq(self):
        x, clean = photographs(161, torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = piq.multi_scale_ssim((x + 1) / 2, (clean + 1) / 2, reduction="none")
        torch.testing.assert_close(ms_ssim(x, clean), expected)
        assert 0 < expected[1] < expected[0] < 1
        torch.testing.assert_close(ms_ssim(clean[:1], clean[:1]), torch.ones(1))


class TestDISTS:
    def test_is_that_of_piq(self, vgg, hub, monkeypatch):
        hub(vgg)
        x, clean = photographs(dtype=torch.float32)
        before = torch.get_rng_state()
        found = dists(x, clean)
        assert torch.equal(torch.get_rng_state(), before)
        monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)  # slow, and overwritten at once
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
            warnings.simplefilter("ignore")
            expected = piq.DISTS(reduction="none")((x + 1) / 2, (clean + 1) / 2)
        torch.testing.assert_close(found, expected.flatten())
        assert 0 < found[0] < found[1]
        torch.testing.assert_close(dists(clean, clean), torch.zeros(2), atol=1e-6, rtol=0)

    def test_gray_is_repeated(self, vgg, hub):
        hub(vgg)
        x, clean = (image[:, :1] for image in photographs())
        torch.testing.assert_close(dists(x, clean), dists(x.repeat(1, 3, 1, 1), clean.repeat(1, 3, 1, 1)))

    def test_missing_and_bad_weights(self, vgg, hub, tmp_path):
        hub(tmp_path)
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        missing = ["vgg16-397923af.pth", "dists_weights.pt"]
        while missing:
            with pytest.raises(WeightsMissingError) as caught:
                find_dists_weights()
            assert str(caught.value).count("https://") == len(missing)
            assert all(str(folder / name) in str(caught.value) for name in missing)
            name = missing.pop()
            (folder / name).symlink_to(vgg / "hub" / "checkpoints" / name)
        assert find_dists_weights() == (folder / "vgg16-397923af.pth", folder / "dists_weights.pt")
        for name in ("dists_weights.pt", "vgg16-397923af.pth"):
            (folder / name).unlink()
            torch.save({"weight": torch.zeros(3)}, folder / name)
            with pytest.raises(ValueError, match=rf"{name}.*download it again"):
                dists(*photographs())


class TestLPIPS:
    def test_missing_weights_say_which_file_goes_where(self, tmp_path, hub):
        hub(tmp_path)
        for call in (find_lpips_weights, lambda: lpips(*photographs())):
            with pytest.raises(WeightsMissingError) as caught:
                call()
            message = str(caught.value)
            assert str(tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth") in message
            assert "https://" in message
            assert "\n" not in message

    def test_orders_images_by_their_noise(self, alexnet, hub):
        hub(alexnet)
        x, clean = photographs()
        distance = lpips(x, clean)
        assert 0 < distance[0] < distance[1]
        torch.testing.assert_close(lpips(clean, clean), torch.zeros(2, dtype=torch.float64))

    def test_grey_is_repeated(self, alexnet, hub):
        hub(alexnet)
        x, clean = (image[:, :1] for image in photographs())
        torch.testing.assert_close(lpips(x, clean), lpips(x.repeat(1, 3, 1, 1), clean.repeat(1, 3, 1, 1)))

    def test_smallest_image(self, alexnet, hub):
        hub(alexnet)
        assert lpips(*photographs(31)).isfinite().all()

    def test_draws_nothing_from_the_global_generator(self, alexnet, hub, tmp_path):
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        name = "hub/checkpoints/alexnet-owt-7be5be79.pth"
        (tmp_path / name).symlink_to(alexnet / name)  # a new path: the network is built again
        hub(tmp_path)
        state = torch.get_rng_state()
        lpips(*photographs())
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("content", ["garbage", "other"])
    def test_bad_weights(self, tmp_path, hub, content):
        path = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
        path.parent.mkdir(parents=True)
        if content == "garbage":
            path.write_bytes(b"<html>404</html>")
        else:
            torch.save({"weight": torch.zeros(3)}, path)
        hub(tmp_path)
        with pytest.raises(ValueError, match="download it again"):
            lpips(*photographs())


@pytest.mark.parametrize("metric", [psnr, ssim, lpips], ids=lambda metric: metric.__name__)
class TestEveryMetric:
    @pytest.fixture(autouse=True)
    def weights(self, alexnet, hub):
        hub(alexnet)

    def test_items_are_independent(self, metric):
        x, clean = photographs()
        one_by_one = torch.cat([metric(x[b : b + 1], clean[b : b + 1]) for b in range(2)])
        torch.testing.assert_close(metric(x, clean), one_by_one)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_dtype_and_arguments(self, metric, dtype):
        x, clean = photographs(dtype=dtype)
        x = 1.5 * x
        before = x.clone()
        assert metric(x, clean).dtype == dtype
        assert torch.equal(x, before)

    def test_half_precision_is_computed_in_single(self, metric):
        x, clean = photographs(dtype=torch.bfloat16)
        torch.testing.assert_close(metric(x, clean), metric(x.float(), clean.float()))

    def test_clips_what_no_image_file_holds(self, metric):
        x, clean = photographs()
        torch.testing.assert_close(metric(3 * x, clean), metric((3 * x).clamp(-1, 1), clean))

    def test_refusals(self, metric):
        x = torch.zeros(1, 3, 48, 48)
        for bad, words in (
            ((x[0], x[0]), "shape"),
            ((x, x[..., 1:]), "shape"),
            ((x * math.nan, x), "NaN"),
            ((x, x / 0), "NaN"),
        ):
            with pytest.raises(ValueError, match=words):
                metric(*bad)
        with pytest.raises(TypeError, match="floating-point"):
            metric(x.to(torch.uint8), x.to(torch.uint8))


@pytest.mark.parametrize(("metric", "size"), [(ssim, 10), (lpips, 30), (ms_ssim, 160)])
def test_small_images(metric, size):
    x = torch.zeros(1, 3, 164, size)
    with pytest.raises(ValueError, match=f"at least {size + 1} x {size + 1} pixels, got 164 x {size}"):
        metric(x, x)
