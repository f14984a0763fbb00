"""Adapt a prior to the size and channels of the images at hand, and report how."""

from __future__ import annotations

from collections.abc import Sequence

from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.adapters.slices import Slices
from invdiff.priors.adapters.tiled import Tiled
from invdiff.priors.score_model import ScoreModel

__all__ = ["adapt"]


def adapt(score: ScoreModel, shape: Sequence[int]) -> tuple[ScoreModel, tuple[str, ...]]:
    """Return the prior adapted to items of ``shape``, and lines that describe the adaptation.

    Images of another size than the prior's are denoised through overlapping windows (:class:`~invdiff.priors.Tiled`). Gray
    images under a color prior use :class:`~invdiff.priors.Gray`; images of several channels under a gray prior are denoised
    channel by channel (:class:`~invdiff.priors.PerChannel`). Volumes and clips ``(C, T, H, W)`` under a prior of images are
    denoised slice by slice (:class:`~invdiff.priors.Slices`).

    Raises:
        ValueError: If the prior cannot be adapted to items of this shape.
    """
    event, notes = score.event_shape, list(score.notes)
    if event is None:
        return score, score.notes
    if isinstance(score, Slices) and len(shape) == len(event):
        inner, lines = adapt(score.score_model, (*shape[: score.axis], *shape[score.axis + 1 :]))
        return score if inner is score.score_model else Slices(inner, axis=score.axis, rows=score.rows), lines
    if len(event) == 3 and len(shape) == 4 and not score.latent:
        inner, lines = adapt(score, (shape[0], *shape[2:]))
        slices = f"the prior is for images: the {shape[1]} slices along axis 1 are taken as independent"
        return Slices(inner), (*lines, slices)
    wanted = tuple("any" if e is None else e for e in event)
    if score.latent and tuple(shape) != event:
        raise ValueError(
            f"The prior is for codes of shape {wanted}, and was asked for items of shape {tuple(shape)}. Latent priors work in "
            "PosteriorSampler, which puts the decoder before the measurement."
        )
    if len(event) != len(shape) or (len(shape) != 3 and any(e not in (None, n) for e, n in zip(event, shape, strict=True))):
        raise ValueError(f"The prior is for items of shape {wanted}, the operator measures items of shape {tuple(shape)}.")
    if len(shape) == 3 and any(e not in (None, n) for e, n in zip(event[1:], shape[1:], strict=True)):
        if None in event[1:]:
            raise ValueError(f"The prior is for images of shape {wanted}, the operator measures {tuple(shape)}.")
        score = tiled = Tiled(score)
        count, (height, width) = tiled.windows(shape[1], shape[2]), tiled.tile
        mirrored = ", continued by its mirror image," if shape[1] < height or shape[2] < width else ""
        notes.append(
            f"the prior is for images of {width} x {height} pixels: {shape[2]} x {shape[1]}{mirrored} is denoised through "
            f"{count} window{'s' * (count > 1)}{f' that overlap by {tiled.overlap} pixels or more' if count > 1 else ''}"
        )
    if event[0] not in (None, shape[0]):
        if event[0] == 1:
            score = PerChannel(score)
            notes.append(f"the prior is for gray images: the {shape[0]} channels are taken as independent")
        elif shape[0] == 1:
            score = Gray(score)
            notes.append(f"the prior is for images of {event[0]} channels: it is restricted to gray images")
        else:
            raise ValueError(
                f"The prior is for items of shape {wanted}, the operator measures items of shape {tuple(shape)}. Expected one "
                f"gray channel, or {event[0]} channels."
            )
    return score, tuple(notes)
