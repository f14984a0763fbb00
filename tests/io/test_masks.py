"""Masks as people make them: soft brushes, opacity, paint, painted copies; and what a mask never is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from invdiff.io.codecs import chroma_of
from invdiff.io.growth import grown, spoiled_reach
from invdiff.io.images import read_image, read_mask, read_mask_found, write_image
from invdiff.io.masks import MaskRules, mask_of_picture, used_mask
from invdiff.io.painted import painted_in, unlike
from invdiff.io.picture import Picture
from invdiff.io.source import Source

SIDE = 64
RED, WHITE = (255, 0, 0), (255, 255, 255)


def photograph(seed=0, low=0.2, high=0.7):
    """A smooth picture of many colors, none of them near those of brushes, ``(H, W, 3)`` on the 0..1 scale."""
    noise = np.random.default_rng(seed).standard_normal((SIDE, SIDE, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    return low + (high - low) * (smooth - smooth.min()) / np.ptp(smooth)


def stroke(width=6, soft=0.0):
    """Coverage of an anti-aliased stroke, ``(H, W)`` from 0 to 1."""
    drawn = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(drawn).line([(30, 40), (130, 200), (220, 70)], fill=255, width=4 * width, joint="curve")
    share = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
    return ndimage.gaussian_filter(share, soft)


def painted(image, share, color):
    return (1 - share[..., None]) * image + share[..., None] * np.array(color) / 255


def of(values, alpha=None, chroma=None):
    """The picture of 8-bit values on the 0..1 scale."""
    values = np.rint(255 * np.atleast_3d(values)) / 255
    return Picture(values.transpose(2, 0, 1) * 2 - 1, alpha, chroma=chroma)


def by_jpeg(values, quality, subsampling=2):
    """The picture of values on the 0..1 scale after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.rint(255 * values))).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return Source(Image.open(file)).picture()


def known_in(mask, **rules):
    return mask_of_picture(mask, "m.png", MaskRules(**rules))


class TestSoftEdges:
    @pytest.mark.parametrize("soft", [0, 1, 3])
    def test_any_visible_trace_is_filled(self, soft):
        share = np.rint(255 * stroke(soft=soft)) / 255
        found = known_in(of(share))
        np.testing.assert_array_equal(found.known, share <= 0.05)
        (note,) = found.notes
        assert f"{((share > 0.02) & (share < 0.98)).mean():.2%} of the pixels are gray" in note
        assert "0.05" in note
        assert "--mask-threshold" in note

    def test_what_a_threshold_leaves_at_the_edge_is_small(self):
        """No pixel that is kept has more of the paint than a twentieth of its contrast."""
        image, share = photograph(), np.rint(255 * stroke(soft=1)) / 255
        residue = np.abs(painted(image, share, WHITE) - image).max(-1)
        assert residue[known_in(of(share)).known].max() < 0.05
        assert residue[known_in(of(share), threshold=0.5).known].max() > 0.3

    @pytest.mark.parametrize("threshold", [0.01, 0.3, 0.99])
    @pytest.mark.parametrize("keep", ["black", "white"])
    def test_a_threshold(self, threshold, keep):
        share = np.rint(255 * stroke(soft=2)) / 255
        mask = of(share if keep == "black" else 1 - share)
        np.testing.assert_array_equal(known_in(mask, threshold=threshold, keep=keep).known, share <= threshold)

    @pytest.mark.parametrize("quality", [75, 85, 95])
    def test_ringing_of_a_jpeg_mask_is_not_filled(self, tmp_path, quality):
        share = stroke()
        Image.fromarray(np.uint8(255 * share)).save(tmp_path / "mask.jpg", quality=quality)
        hole = ~read_mask(tmp_path / "mask.jpg")
        assert not hole[ndimage.distance_transform_edt(share == 0) > 1].any()
        assert hole[share > 0.3].all()

    def test_a_photograph_is_no_mask(self):
        with pytest.raises(ValueError, match=r"gray, which is more than soft edges.*--mask-threshold"):
            known_in(of(photograph().mean(-1)))
        np.testing.assert_array_equal(
            known_in(of(np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)), threshold=0.5).known[0], 1
        )

    def test_colored_masks_are_refused_with_what_to_do(self):
        with pytest.raises(ValueError, match=r"colored.*--mask-color red"):
            known_in(of(painted(np.ones((SIDE, SIDE, 3)), stroke(), RED)))

    def test_fringes_of_letters_drawn_for_a_screen(self):
        share = (stroke() > 0.5).astype(float)
        fringed = np.stack([share, share, np.roll(share, 1, 1)], -1)
        hole = ~known_in(of(fringed)).known
        np.testing.assert_array_equal(hole, fringed.max(-1) > 0)
        with pytest.raises(ValueError, match="colored"):  # thin strokes on a white ground are no fringes
            known_in(of(painted(np.ones((SIDE, SIDE, 3)), stroke(2), RED)))

    def test_levels_of_bytes_in_any_type(self):
        white = stroke() > 0.5
        for kind in ("i8", "i4", "f4", "f8", ">i2"):
            found = Source((255 * white).astype(kind)).mask(MaskRules(), size=None)
            np.testing.assert_array_equal(found.known, ~white)
            assert "0 to 255" in found.notes[0]

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_16_bits(self, tmp_path, suffix):
        share = stroke(soft=1)
        write_image(tmp_path / f"m{suffix}", 2 * share[None] - 1, bits=16)
        np.testing.assert_array_equal(read_mask(tmp_path / f"m{suffix}"), np.rint(65535 * share) / 65535 <= 0.05)


class TestOpacity:
    share = np.rint(255 * stroke(soft=1)) / 255

    @pytest.mark.parametrize("color", [RED, WHITE, (0, 0, 0), (10, 90, 200)])
    @pytest.mark.parametrize("ground", ["same", "black"])
    def test_paint_of_one_color_is_filled(self, color, ground):
        pixels = np.broadcast_to(np.array(color) / 255, (SIDE, SIDE, 3)).copy()
        if ground == "black":
            pixels[self.share == 0] = 0
        found = known_in(of(pixels, self.share))
        np.testing.assert_array_equal(found.known, self.share <= 0.05)
        assert "transparent ground" in found.notes[0]
        assert "partly transparent: filled above 0.05" in found.notes[1]

    def test_black_and_white_paint(self):
        pixels = np.zeros((SIDE, SIDE, 3))
        pixels[:, : SIDE // 2] = 1
        alpha = (self.share > 0.5).astype(float)
        np.testing.assert_array_equal(known_in(of(pixels, alpha)).known, (alpha == 0) | (pixels[..., 0] == 0))
        turned = known_in(of(pixels, alpha), keep="white")
        np.testing.assert_array_equal(turned.known, (alpha == 0) | (pixels[..., 0] == 1))

    def test_white_paint_can_be_kept(self):
        pixels, alpha = np.ones((SIDE, SIDE, 3)), (self.share > 0.5).astype(float)
        np.testing.assert_array_equal(known_in(of(pixels, alpha), keep="white").known, alpha == 1)

    def test_a_copy_with_erased_pixels(self):
        image, alpha = photograph(), 1 - self.share
        found = known_in(of(image, alpha), photograph=of(image))
        np.testing.assert_array_equal(found.known, alpha >= 0.95)
        assert "a copy of INPUT with transparent pixels" in found.notes[0]

    @pytest.mark.parametrize("case", ["several colors", "mostly black", "nothing"])
    def test_guesses_are_refused(self, case):
        alpha = (self.share > 0.5).astype(float)
        pixels, said = {
            "several colors": (photograph(), "several colors.*--mask-color"),
            "mostly black": (np.zeros((SIDE, SIDE, 3)), "a guess whether"),
            "nothing": (np.ones((SIDE, SIDE, 3)), "nothing is painted"),
        }[case]
        alpha = {"several colors": alpha, "mostly black": 1 - alpha, "nothing": 0 * alpha}[case]
        with pytest.raises(ValueError, match=said):
            known_in(of(pixels, alpha))


class TestPaint:
    """Paint in one color: the stroke, its soft edge, and nothing else."""

    image = photograph()

    @pytest.mark.parametrize("soft", [0, 1])
    @pytest.mark.parametrize("color", [RED, WHITE, (0, 255, 0), (0, 0, 255), (255, 0, 255), (0, 0, 0), (255, 255, 0)])
    def test_on_the_photograph_itself(self, color, soft):
        share = stroke(soft=soft)
        hole, (note,) = painted_in(of(painted(self.image, share, color)), color, "in.png")
        residue = np.abs(painted(self.image, share, color) - self.image).max(-1)
        assert residue[~hole].max() < 0.05
        assert hole[ndimage.distance_transform_edt(share < 0.02) > 3].mean() < 0.04
        assert f"{hole.mean():.2%}" in note
        assert "#{:02x}{:02x}{:02x}".format(*color) in note

    @pytest.mark.parametrize("quality", [75, 90])
    @pytest.mark.parametrize("color", [RED, WHITE, (0, 255, 0)])
    def test_on_a_jpeg_file(self, color, quality):
        share = stroke()
        hole, _ = painted_in(by_jpeg(painted(self.image, share, color), quality), color, "in.jpg")
        hole = grown(hole, 1)
        assert np.abs(painted(self.image, share, color) - self.image).max(-1)[~hole].max() < 0.05
        assert hole[ndimage.distance_transform_edt(share < 0.02) > 6].mean() < 0.01

    def test_thin_strokes_near_thicker_ones_count_though_a_jpeg_file_halves_their_color(self):
        share = np.maximum(stroke(5), np.roll(stroke(2), 12, 0))
        plain = by_jpeg(painted(self.image, share, (0, 255, 0)), 75)
        hole, _ = painted_in(plain, (0, 255, 0), "in.jpg")
        assert hole[share > 0.9].mean() > 0.98
        alone, _ = painted_in(Picture(plain.pixels), (0, 255, 0), "in.png")  # as in a file that halves nothing
        assert alone[share > 0.9].mean() < hole[share > 0.9].mean()

    @pytest.mark.parametrize("quality", [None, 75])
    @pytest.mark.parametrize("color", [RED, WHITE])
    def test_on_a_copy(self, color, quality):
        """An object of the color of the paint is kept where the clean photograph has it too."""
        image, share = self.image.copy(), stroke(soft=1)
        image[40:60, 4:20] = np.array(color) / 255
        share[36:, :26] = 0
        copy = painted(image, share, color)
        picture = of(copy) if quality is None else by_jpeg(copy, quality)
        for found in (
            known_in(picture, color=color, photograph=of(image)),
            known_in(picture, photograph=of(image)),
        ):
            hole = ~found.known
            assert hole[share > 0.2].all()
            # In a JPEG file, its sharp edges differ as well.
            assert hole[ndimage.distance_transform_edt(share < 0.02) > 3].mean() <= (0 if quality is None else 0.06)
        hole, _ = painted_in(of(copy), color, "in.png")
        assert hole[40:60, 4:20].all()  # without it, both are paint

    def test_a_gray_copy_of_a_color_picture(self):
        image, share = photograph().mean(-1), stroke()
        copy = painted(np.stack([image] * 3, -1), share, RED)
        hole = ~known_in(of(copy), photograph=of(image)).known
        assert hole[share > 0.2].all()
        assert not hole[share == 0].any()

    def test_paint_of_several_colors_on_a_copy(self):
        copy = painted(painted(self.image, stroke(3), RED), np.roll(stroke(3), 9, 1), (0, 80, 255))
        hole, (note,) = unlike(of(copy), of(self.image), "copy.png")
        assert (hole != (np.abs(copy - self.image).max(-1) > 0.03)).sum() <= 2  # by the rounding to 8 bits
        assert "copy of INPUT" in note

    def test_a_copy_without_paint(self):
        with pytest.raises(ValueError, match="nothing is painted over"):
            known_in(of(self.image), photograph=of(self.image))

    def test_another_photograph_is_no_copy(self):
        with pytest.raises(ValueError, match="colored"):
            known_in(of(photograph(1)), photograph=of(self.image))

    def test_a_soft_mask_is_no_copy_of_a_gray_picture(self):
        share = stroke(soft=3)
        found = known_in(of(share), photograph=of(np.full((SIDE, SIDE, 3), 0.1)))
        np.testing.assert_array_equal(found.known, np.rint(255 * share) / 255 <= 0.05)

    def test_a_mask_with_single_gray_pixels_is_no_copy(self):
        mask = (stroke() > 0.5).astype(float)
        mask[3, 5:8] = 0.5
        assert "--mask-threshold" in known_in(of(mask), photograph=of(np.full((SIDE, SIDE, 3), 0.5))).notes[0]

    def test_a_color_that_is_not_there(self):
        image = self.image.copy()
        image[7, 11] = (1.0, 64 / 255, 0.0)
        with pytest.raises(ValueError, match=r"no pixel has the color #ff0000.*#ff4000, in column 11 and row 7"):
            painted_in(of(image), RED, "in.png")

    def test_pictures_that_cannot_have_it(self):
        with pytest.raises(ValueError, match="grayscale"):
            painted_in(of(self.image.mean(-1)), RED, "in.png")
        with pytest.raises(ValueError, match="2 channels"):
            painted_in(Picture(np.zeros((2, 8, 8))), RED, "in.tif")

    def test_white_on_a_grayscale_picture(self):
        share = stroke()
        hole, _ = painted_in(of(painted(self.image, share, WHITE).mean(-1)), WHITE, "in.png")
        assert hole[share > 0.3].all()
        assert hole[ndimage.distance_transform_edt(share < 0.02) > 3].mean() < 0.02

    @pytest.mark.parametrize("seed", range(20))
    def test_any_color(self, seed):
        """Every color far from those of the picture is found, on PNG and JPEG files."""
        rng = np.random.default_rng(seed)
        image = photograph(seed, 0.4, 0.6)
        red, green, blue = (int(level) for level in rng.choice([0, 255], 3))
        color = red, green, blue
        share, copy = stroke(7), painted(image, stroke(7), color)
        for picture in (of(copy), by_jpeg(copy, int(rng.integers(70, 96)), int(rng.integers(3)))):
            hole = grown(painted_in(picture, color, "in.png")[0], 1)
            assert hole[share > 0.2].all()
            assert hole[ndimage.distance_transform_edt(share < 0.02) > 6].mean() < 0.02


class TestGrowth:
    @pytest.mark.parametrize("pixels", [0, 1, 2, 5, 100])
    def test_is_a_disc(self, pixels):
        hole = np.zeros((15, 17), dtype=bool)
        hole[6, 4] = hole[0, 16] = True
        row, column = np.mgrid[:15, :17]
        expected = np.minimum((row - 6) ** 2 + (column - 4) ** 2, row**2 + (column - 16) ** 2) <= pixels**2
        np.testing.assert_array_equal(grown(hole, pixels), expected)

    def test_nothing_stays_nothing(self):
        assert not grown(np.zeros((4, 4), dtype=bool), 3).any()

    @pytest.mark.parametrize(
        ("subsampling", "mode", "chroma"), [(0, "RGB", (1, 1)), (1, "RGB", (2, 1)), (2, "RGB", (2, 2)), (0, "L", (1, 1))]
    )
    def test_a_jpeg_file_by_its_content(self, tmp_path, subsampling, mode, chroma):
        image = Image.fromarray(np.uint8(255 * photograph())).convert(mode)
        image.save(tmp_path / "a.png", "JPEG", subsampling=subsampling)  # whatever its name
        image.save(tmp_path / "b.jpg", "PNG")
        assert read_image(tmp_path / "a.png").chroma == chroma
        assert spoiled_reach(read_image(tmp_path / "a.png")) == (chroma != (1, 1))
        assert spoiled_reach(Source(Image.open(tmp_path / "a.png")).picture()) == (chroma != (1, 1))
        assert read_image(tmp_path / "b.jpg").chroma is None
        assert spoiled_reach(read_image(tmp_path / "b.jpg")) == 0
        assert chroma_of(image) is None


class TestUsedMask:
    def test_is_read_as_it_was_and_known_again(self, tmp_path):
        known = stroke() < 0.5
        picture = used_mask(known)
        write_image(tmp_path / "mask.png", picture.pixels, exif=picture.exif)
        found = read_mask_found(tmp_path / "mask.png", MaskRules())
        assert found.used
        assert found.notes == ()
        np.testing.assert_array_equal(found.known, known)
        write_image(tmp_path / "other.png", picture.pixels)
        assert not read_mask_found(tmp_path / "other.png", MaskRules()).used

    @pytest.mark.parametrize("channels", [1, 3, 2, 5])
    def test_masks_of_channels(self, channels):
        known = np.random.default_rng(0).random((channels, 4, 5)) > 0.5
        expected = known if channels in (1, 3) else known.all(0, keepdims=True)
        np.testing.assert_array_equal(used_mask(known).pixels, np.where(expected, -1.0, 1.0))
