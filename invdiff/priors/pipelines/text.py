"""Encode prompts by the pipeline's own code, without its networks of images."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from invdiff.priors.pipelines.parts import Parts, library

__all__ = ["cut_off", "quiet", "text_pipeline"]


def text_pipeline(parts: Parts, kind: str, names: Sequence[str], **arguments: Any) -> Any:
    """Return the pipeline ``kind`` of diffusers with its text encoders and tokenizers alone."""
    make = getattr(library("diffusers"), kind)
    known = inspect.signature(make.__init__).parameters
    empty = {name: None for name, p in known.items() if name != "self" and p.default is inspect.Parameter.empty}
    read = {name: parts.tokenizer(name) if name.startswith("tokenizer") else parts.text_encoder(name) for name in names}
    given = {name: value for name, value in arguments.items() if name in known}
    with quiet():
        return make(**(empty | read | given))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Evaluate without gradients and without messages of diffusers."""
    logging = library("diffusers").utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.no_grad():
            yield
    finally:
        logging.set_verbosity(before)


def cut_off(prompts: Iterable[str | None], *tokenizers: Any, most: int | None = None) -> tuple[str, ...]:
    """Return a note for each prompt with more tokens than every one of the tokenizers passes on."""
    used, notes = [tokenizer for tokenizer in tokenizers if tokenizer is not None], []
    for prompt in prompts:
        if not prompt or not used:
            continue
        room = [min(most or tokenizer.model_max_length, tokenizer.model_max_length) for tokenizer in used]
        counts = [len(tokenizer(prompt, truncation=False, verbose=False).input_ids) for tokenizer in used]
        if all(count > length for count, length in zip(counts, room, strict=True)):
            notes.append(f"the prompt {prompt[:20]!r}... has {max(counts)} tokens, of which the first {max(room)} are read")
    return tuple(notes)
