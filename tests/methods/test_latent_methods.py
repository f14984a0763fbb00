"""Methods for latent priors: a step of each against the formulas of its paper, and the parts of a measurement they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS, RULES
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.guidance.ding import _mask_of_codes
from invdiff.methods.steps.reverse import advance
from invdiff.operators import (
    Blur,
    Clip,
    Crop,
    Decoder,
    Function,
    GaussianNoise,
    Identity,
    Mask,
    Matrix,
    Mosaic,
    Operator,
    per_item,
    stack,
    whiten,
)
from invdiff.operators.algebra.decoded import MeasuredImage, measured_image
from invdiff.priors import Gaussian, GaussianMixture, LatentPrior
from invdiff.schedules import VP

SIGMA = 0.3
B, E = randn(6, 3, seed=20) / 2, randn(3, 6, seed=21) / 2
PRIOR = GaussianMixture(torch.ones(2, dtype=torch.float64), randn(2, 3, seed=1), 0.2 + randn(2, 3, seed=2) ** 2, schedule=VP())
IMAGE = Matrix(randn(4, 6) / 2, sigma_y=SIGMA)
A, PINV = IMAGE.matrix, torch.linalg.pinv(IMAGE.matrix)
X, Y, NOISE = randn(5, 3, seed=3), randn(5, 4, seed=4), randn(5, 3, seed=5)
T, S = PRIOR.schedule.time(torch.tensor([0.9, 0.5]).double())


def decode(z: Tensor) -> Tensor:
    return torch.tanh(z @ B.to(z).mT)


def encode(x: Tensor) -> Tensor:
    return torch.sin(x @ E.to(x).mT)


OP = IMAGE @ Decoder(decode, (3,), encode=encode, dtype=torch.float64)


def built(method: str, *, op: Operator = OP, y: Tensor = Y, **options: Any) -> Any:
    return METHODS[method].algorithm(PRIOR, op, y, **options)


def draws(*noises: Tensor) -> Any:
    remaining = list(noises)
    return lambda event: remaining.pop(0)


def streams(*noises: Tensor) -> Any:
    remaining = list(noises)
    return SimpleNamespace(normal=lambda event, dtype: remaining.pop(0))


class TestPSLD:
    def test_a_step(self) -> None:
        guidance = built("psld", omega=0.7, gamma=0.3)
        found, _ = advance(guidance, RULES["ddpm"], guidance.at(X, T), S, draws(NOISE))
        x = X.clone().requires_grad_()
        z0_hat = PRIOR.denoise(x, T)
        image = decode(z0_hat)
        glued = encode(Y @ PINV.mT + image - image @ A.mT @ PINV.mT)
        loss = 0.7 * (Y - image @ A.mT).norm(dim=1) + 0.3 * (z0_hat - glued).norm(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert_close(found, RULES["ddpm"](prior_mean, Denoised(PRIOR, X, T), S, NOISE) - gradient)

    def test_without_the_second_term_it_is_dps(self) -> None:
        psld = PosteriorSampler(PRIOR, OP, method="psld", steps=5, omega=0.4, gamma=0.0).run(Y, num_samples=2)
        dps = PosteriorSampler(PRIOR, OP, method="dps", steps=5, zeta=0.4).run(Y, num_samples=2)
        assert_close(psld.samples, dps.samples)

    def test_where_nothing_is_left_to_do(self) -> None:
        z = PRIOR.denoise(X, T)
        guidance = built("psld", y=OP(z), gamma=0.0)
        assert torch.equal(guidance.objective_gradient(z), torch.zeros_like(z))


class TestLATINO:
    def test_two_steps(self) -> None:
        noises = [randn(5, 3, seed=10), randn(5, 3, seed=11)]
        method = built("latino", delta=0.7, ode_steps=1)
        found = method.sample(torch.stack([T, S, T.new_zeros(())]), streams=streams(*noises), on_step=lambda *_: None)
        x = Y @ PINV.mT
        for t, noise in zip((T, S), noises, strict=True):
            alpha, sigma = PRIOR.schedule(t)
            u = decode(PRIOR.denoise(alpha * encode(x) + sigma * noise, t))
            gamma = 0.7 * sigma**2 / (alpha**2 + sigma**2)
            precision = A.mT @ A / SIGMA**2 + torch.eye(6, dtype=torch.float64) / gamma
            x = torch.linalg.solve(precision, (Y @ A / SIGMA**2 + u / gamma).mT).mT
        assert_close(found, encode(x))

    def test_more_evaluations_follow_the_flow(self) -> None:
        exact = Gaussian(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), schedule=VP())
        prior = LatentPrior(exact, lambda z: z, encode=lambda x: x)
        op, y = Mask(torch.tensor([1, 0, 0]), sigma_y=0.1), torch.zeros(1, 3, dtype=torch.float64)
        spreads = [
            PosteriorSampler(prior, op, method="latino", ode_steps=steps).run(y, num_samples=400).std[0, 1:].mean()
            for steps in (1, 30)
        ]
        assert spreads[0] < 0.7 < 0.85 < spreads[1] < 1.1


class TestReSample:
    def test_the_three_kinds_of_steps(self) -> None:
        """In the paper's symbols, with the variances of noise 1 - a."""
        times = torch.cat([PRIOR.schedule.time(torch.tensor([3.0, 0.9, 0.5]).double()), torch.zeros(1, dtype=torch.float64)])
        noises, seen = [randn(5, 3, seed=10 + k) for k in range(3)], list[Tensor]()
        method = built("resample", every=1, gamma=4.0)
        found = method.sample(times, streams=streams(*noises), on_step=lambda z, _: seen.append(z))
        levels = [PRIOR.schedule.levels(t) for t in times]
        z = levels[0][1] * noises[0]

        def ddim(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[k : k + 2]
            z0_hat = PRIOR.denoise(z, times[k])
            return z0_hat, alpha_s * z0_hat + sigma_s * (z - alpha_t * z0_hat) / sigma_t

        _, z = ddim(z, 0)
        assert_close(seen[0], z)
        z0_hat, z = ddim(z, 1)
        a_t, a_s = levels[1][0] ** 2, levels[2][0] ** 2
        variance = 4.0 * (1 - a_s) / a_t * (1 - a_t / a_s)
        mean = (variance * a_s**0.5 * method.by_image(z0_hat) + (1 - a_s) * z) / (variance + 1 - a_s)
        z = mean + (1 / (1 / variance + 1 / (1 - a_s))) ** 0.5 * noises[1]
        assert_close(seen[1], z)
        assert_close(found, method.by_code(ddim(z, 2)[0]))

    def test_the_image_moves_until_the_residual_is_that_of_the_noise(self) -> None:
        moved = list[Tensor]()

        def keep(x: Tensor) -> Tensor:
            moved.append(x)
            return encode(x)

        op = IMAGE @ Decoder(decode, (3,), encode=keep, dtype=torch.float64)
        y = torch.cat([Y, IMAGE(decode(X[:1]))])
        z = torch.cat([X, X[:1]])
        built("resample", op=op, y=y).by_image(z)
        residual = norm(y - IMAGE(moved[-1]))
        assert_close(residual[:5], torch.full_like(residual[:5], 2 * SIGMA), rtol=3e-4, atol=0)  # of the bisection
        assert_close(moved[-1][5], decode(z)[5])  # It fits already.
        assert_close((moved[-1] - decode(z)) @ PINV.mT.pinverse() @ PINV.mT, moved[-1] - decode(z))  # In the row space.

    def test_the_code_moves_as_far_as_the_noise_allows(self) -> None:
        truth = 1.5 * X
        y = torch.cat([IMAGE(decode(truth)), IMAGE(decode(X))])
        z = torch.cat([X, X]) + 0.01
        start, few, many = (norm(y - OP(v)) for v in (z, *(built("resample", y=y, iterations=n).by_code(z) for n in (1, 100))))
        assert (few <= start).all()
        assert (many[:5] <= 2 * SIGMA).all()
        assert torch.equal(built("resample", y=y).by_code(z)[5:], z[5:])
        exact = built("resample", op=Matrix(A) @ OP.inner, y=y, iterations=100).by_code(z)  # type: ignore[attr-defined]
        assert (norm(y - OP(exact)) < 1e-4).all()


class TestDInG:
    @pytest.mark.parametrize(("hole", "missing"), [((51, 56), 6), ((48, 56), 6), ((24, 32), 3), ((56, 58), 7)])
    def test_codes_of_an_image_that_was_cut(self, hole: tuple[int, int], missing: int) -> None:
        """Eight codes of eight pixels for 58: the last has two pixels, and the others keep theirs."""
        pixels = torch.ones(3, 16, 58)
        pixels[..., slice(*hole)] = 0
        parts = MeasuredImage(Mask(pixels), Decoder(enlarge, (2, 2, 3)))
        kept = _mask_of_codes(parts, (4, 2, 8))
        assert kept.shape == (4, 2, 8)
        assert [n for n in range(8) if not kept[..., n].any()] == [missing]
        assert kept.sum() == 4 * 2 * 7

    MASK = Mask(torch.tensor([1, 0, 1]), sigma_y=SIGMA)

    def plain(self, mask: Tensor, y: Tensor, sigma_y: float, x: Tensor, noises: list[Tensor]) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = PRIOR.schedule(T), PRIOR.schedule(S)
        sd = sigma_s * (sigma_s / (alpha_s + sigma_s))
        x0_hat = PRIOR.denoise(x, T)
        mu = alpha_s * x0_hat + (sigma_s**2 - sd**2).sqrt() * (x - alpha_t * x0_hat) / sigma_t
        z = mu + sd * noises[0]
        eps = (z - alpha_s * PRIOR.denoise(z, S)) / sigma_s
        precision = mask / (alpha_s * sigma_y) ** 2 + 1 / sd**2
        pull = mask * (alpha_s * y + sigma_s * eps) / (alpha_s * sigma_y) ** 2
        return (pull + mu / sd**2) / precision + precision**-0.5 * noises[1]

    def test_a_step(self) -> None:
        y, noises = self.MASK.keep_measured(randn(5, 3, seed=6)), [NOISE, randn(5, 3, seed=7)]
        guidance = built("ding", op=self.MASK, y=y)
        found = guidance.transition(guidance.at(X, T), S, draws(*noises))
        assert_close(found, self.plain(self.MASK.mask.double(), y, SIGMA, X, noises))

    def test_exact_data(self) -> None:
        y, noises = Mask(self.MASK.mask)(randn(5, 3, seed=6)), [NOISE, randn(5, 3, seed=7)]
        guidance = built("ding", op=Mask(self.MASK.mask), y=y)
        found = guidance.transition(guidance.at(X, T), S, draws(*noises))
        assert_close(found, self.plain(self.MASK.mask.double(), y, 1e-7, X, noises), rtol=1e-6, atol=1e-6)

    def test_codes_are_measured_where_their_pixels_are(self) -> None:
        mask = torch.ones(3, 8, 12)
        mask[0, 5, 2] = mask[:, :4, 8:] = 0  # one pixel in one channel, and a whole block
        op = Mask(mask, sigma_y=SIGMA) @ Decoder(enlarge, (2, 2, 3), encode=reduce)
        y = op.measure(randn(2, 2, 2, 3, dtype=torch.float32), seed=0)
        guidance: Any = METHODS["ding"].algorithm(Gaussian(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)), op, y)
        assert guidance.mask.tolist() == [[[True, True, False], [False, True, True]]] * 2
        assert_close(guidance.target, reduce(y))
        # A mean of 16 pixels and 3 channels of independent noise, times 2.
        assert_close(guidance.variance.flatten(), torch.full((2,), 4 * SIGMA**2 / 48), rtol=0.9, atol=0)
        half = Mask(torch.arange(12) % 4 < 2, (3, 8, 12)) @ Decoder(enlarge, (2, 2, 3), encode=reduce)
        with pytest.raises(ValueError, match=r"DInG: the mask of \(3, 8, 12\) measures no entry of codes \(2, 2, 3\)"):
            METHODS["ding"].algorithm(Gaussian(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)), half, y)


def enlarge(z: Tensor) -> Tensor:
    return z.mean(1, keepdim=True).expand(-1, 3, -1, -1).repeat_interleave(4, -1).repeat_interleave(4, -2) / 2


def reduce(x: Tensor) -> Tensor:
    return 2 * torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4).expand(-1, 2, -1, -1)


class TestExactPosterior:
    """Four codes in a row, each the brightness of four pixels: where all four are missing, the posterior is known."""

    COV = torch.exp(-(torch.arange(4.0)[:, None] - torch.arange(4.0)).abs() / 2).double()
    CODES = Gaussian(torch.zeros(1, 1, 4, dtype=torch.float64), COV)
    PIXELS = torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]).expand(1, 2, 8)
    PATTERN = torch.tensor([[0.4, 0.6], [0.3, 0.624]], dtype=torch.float64)

    def decode(self, z: Tensor) -> Tensor:
        return torch.kron(z, self.PATTERN.to(z))

    def encode(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (4, 2)) * self.PATTERN.to(x)[:, None]).sum((-3, -1))[:, :, None] / self.PATTERN.square().sum()

    @pytest.mark.filterwarnings("ignore:misfit")
    @pytest.mark.parametrize(
        ("method", "share", "spread"),
        [
            ("mmps", (0.9, 1.1), (0.9, 1.1)),
            ("ding", (0.6, 0.9), (0.85, 1.1)),
            ("resample", (0.4, 0.8), (0.6, 1.1)),
            ("latino", (0.3, 0.7), (0.5, 1.1)),
        ],
    )
    @pytest.mark.parametrize("sigma_y", [0.0, 0.05])
    def test_of_missing_codes(self, method: str, share: Any, spread: Any, sigma_y: float) -> None:
        """The known bias of each: the share of the exact mean that it reaches, 0 if y is ignored, and that of the spread."""
        prior = LatentPrior(self.CODES, self.decode, encode=self.encode)
        op = Mask(self.PIXELS, sigma_y=sigma_y)
        codes = torch.tensor([1.5, 0.0, 0.0, 2.0], dtype=torch.float64).reshape(1, 1, 1, 4)
        post = PosteriorSampler(prior, op, method=method).run(op.measure(self.decode(codes), seed=0), num_samples=400)
        assert post.latents is not None
        found, (seen, missing) = post.latents.flatten(1), ([0, 3], [1, 2])
        gain = self.COV[missing][:, seen] @ torch.linalg.inv(self.COV[seen][:, seen] + sigma_y**2 * torch.eye(2).double())
        mean = gain @ codes.flatten()[seen]
        deviation = (self.COV[missing][:, missing] - gain @ self.COV[seen][:, missing]).diagonal().sqrt()
        for (low, high), ratio in ((share, found[:, missing].mean(0) / mean), (spread, found[:, missing].std(0) / deviation)):
            assert ((ratio > low) & (ratio < high)).all(), ratio


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize(("method", "nfe", "nvjp"), [("psld", 7, 7), ("resample", 7, 0), ("latino", 28, 0), ("ding", 13, 0)])
def test_evaluations_and_gradients_of_seven_steps(method: str, nfe: int, nvjp: int) -> None:
    op = TestDInG.MASK if method == "ding" else OP
    post = PosteriorSampler(PRIOR, op, method=method, steps=7).run(op.measure(PRIOR.sample(1, seed=1), seed=2), num_samples=2)
    assert (post.nfe, post.nvjp) == (nfe, nvjp)


class TestMeasuredImage:
    DECODER = Decoder(decode, (3,), encode=encode, dtype=torch.float64)

    @pytest.mark.parametrize(
        ("image", "kind"),
        [
            (IMAGE, Matrix),
            (Mask(torch.tensor([1, 0, 1, 1, 0, 1]), sigma_y=0.1), Mask),
            (Identity((6,), sigma_y=0.2), Identity),
            (Identity((4,), sigma_y=0.2) @ Matrix(A), Matrix),
            (Clip((4,), -0.1, 0.1, sigma_y=0.1) @ Matrix(A), Operator),
            (IMAGE @ Mask(torch.tensor([1, 0, 1, 1, 0, 1])) @ Matrix(randn(6, 6, seed=8)), Operator),
            (stack([IMAGE, Identity((6,), sigma_y=0.1)]), Operator),
        ],
        ids=lambda part: part.__name__ if isinstance(part, type) else type(part).__name__,
    )
    def test_is_found_with_its_noise(self, image: Operator, kind: type[Operator]) -> None:
        whole = image @ self.DECODER
        parts = measured_image(whole)
        assert parts is not None
        assert isinstance(parts.image, kind)
        assert_close(parts.image(parts.decoder(X)), whole(X))
        assert repr(parts.image.noise) == repr(image.noise)
        assert parts.decoder.sigma_y == 0
        assert parts.decoder.encode is encode

    def test_of_a_whitened_measurement(self) -> None:
        uneven = Matrix(A, noise=GaussianNoise(torch.tensor([0.1, 0.2, 0.3, 0.4])))
        white = whiten(uneven @ self.DECODER)
        parts = measured_image(white)
        assert parts is not None
        assert parts.image.noise.white
        assert_close(parts.image(parts.decoder(X)), white(X))

    @pytest.mark.parametrize("op", [IMAGE, Function(torch.tanh, (3,)), stack([OP, OP])], ids=lambda op: type(op).__name__)
    def test_is_absent_elsewhere(self, op: Operator) -> None:
        assert measured_image(op) is None

    def test_images_are_encoded_in_parts(self) -> None:
        sizes = list[int]()

        def counted(x: Tensor) -> Tensor:
            sizes.append(len(x))
            return encode(x)

        parts = measured_image(IMAGE @ Decoder(decode, (3,), encode=counted, rows=2, dtype=torch.float64))
        assert parts is not None
        sizes.clear()
        assert_close(parts.encode(decode(X)), encode(decode(X)))
        assert sizes == [2, 2, 1]


class TestRefusals:
    @pytest.mark.parametrize("method", ["psld", "resample", "latino"])
    def test_of_what_lacks_a_part(self, method: str) -> None:
        name = METHODS[method].algorithm.__name__
        with pytest.raises(ValueError, match=rf"{name} needs a latent prior, got Matrix\. Use priors\.LatentPrior"):
            built(method, op=IMAGE)
        with pytest.raises(ValueError, match=rf"{name} needs .* linear in the image, got NonlinearComposed \(Clip @ Decoder\)"):
            built(method, op=Clip((6,), -0.1, 0.1, sigma_y=0.1) @ TestMeasuredImage.DECODER)
        with pytest.raises(ValueError, match=rf"{name} needs a latent prior with an encoder.*encode=\.\.\."):
            built(method, op=IMAGE @ Decoder(decode, (3,), dtype=torch.float64))

    def test_of_what_is_no_inpainting(self) -> None:
        decoder = Decoder(enlarge, (2, 2, 3), encode=reduce)
        for op in (IMAGE, OP, Blur((3, 8, 12), torch.ones(3, 3) / 9) @ decoder):
            with pytest.raises(ValueError, match="DInG needs a Mask: of x, or of images under a latent prior with an encoder"):
                built("ding", op=op)
        with pytest.raises(ValueError, match="DInG needs a Mask"):
            built("ding", op=Mask(torch.ones(3, 8, 12)) @ Decoder(enlarge, (2, 2, 3)))

    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("psld", {"omega": -1.0}),
            ("psld", {"gamma": float("nan")}),
            ("latino", {"delta": 0.0}),
            ("latino", {"ode_steps": 0}),
            ("resample", {"every": 0}),
            ("resample", {"iterations": 0}),
            ("resample", {"gamma": 0.0}),
        ],
    )
    def test_of_wrong_options(self, method: str, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"expected|must not be negative"):
            built(method, **options)
        with pytest.raises(ValueError, match="power must not be negative"):
            built("ding", op=TestDInG.MASK, y=randn(5, 3), power=-1.0)


@pytest.mark.filterwarnings("ignore:misfit")
class TestExactPixels:
    """After decoding, the pixels that the measurement gives exactly are those of the measurement."""

    PRIOR = LatentPrior(Gaussian(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)), enlarge, encode=reduce)
    MASK = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0)) < 0.5

    def run(self, op: Operator, y: Tensor) -> tuple[Any, Tensor]:
        post = PosteriorSampler(self.PRIOR, op, method="dps", steps=3).run(y, num_samples=2)
        assert post.latents is not None
        return post, torch.stack([enlarge(z) for z in post.latents])

    @pytest.mark.parametrize(
        "op",
        [Mask(MASK), Crop((3, 8, 12), top=1, left=2, height=5, width=7), Mosaic((3, 8, 12), "RGGB")],
        ids=lambda op: type(op).__name__,
    )
    def test_of_a_selection(self, op: Any) -> None:
        y = op(randn(2, 3, 8, 12, dtype=torch.float32))
        post, decoded = self.run(op, y)
        known = op.adjoint(torch.ones(1, *op.out_shape)) > 0
        for x, raw in zip(post.samples, decoded, strict=True):
            assert torch.equal(op(x), y)
            assert torch.equal(x[~known.expand_as(x)], raw[~known.expand_as(x)])
            assert not torch.allclose(op(raw), y)
        assert torch.equal(post.residual, torch.zeros(2, 2))

    def test_of_single_items(self) -> None:
        op = per_item([Mask(self.MASK), Blur((3, 8, 12), torch.ones(3, 3) / 9), Mask(~self.MASK)])
        y = op(randn(3, 3, 8, 12, dtype=torch.float32))
        post, decoded = self.run(op, y)
        for b, known in ((0, self.MASK), (2, ~self.MASK)):
            assert torch.equal(post.samples[:, b], torch.where(known, y[b], decoded[:, b]))
        assert torch.equal(post.samples[:, 1], decoded[:, 1])
        assert (post.residual == 0).tolist() == [[True, False, True]] * 2

    @pytest.mark.parametrize(
        "op",
        [
            Mask(MASK, sigma_y=0.1),
            Mosaic((3, 8, 12), "RGGB", sigma_y=0.1),
            Blur((3, 8, 12), torch.ones(3, 3) / 9),
        ],
        ids=lambda op: type(op).__name__,
    )
    def test_of_nothing_else(self, op: Operator) -> None:
        post = PosteriorSampler(self.PRIOR, op, method="dps", steps=3).run(op(randn(1, 3, 8, 12, dtype=torch.float32)))
        assert post.latents is not None
        assert_close(post.samples[0], enlarge(post.latents[0]))
        assert (post.residual > 0).all()
