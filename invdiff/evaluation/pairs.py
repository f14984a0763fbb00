"""References and restored images, paired by name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invdiff.evaluation.restored import Restored, find_restored, images_below, without_suffix

__all__ = ["Pair", "Pairing", "pair"]


@dataclass(frozen=True)
class Pair:
    """A reference and what was restored of it.

    Attributes:
        name: Name of the pair.
        reference: The reference image.
        restored: The restored image.
    """

    name: str
    reference: Path
    restored: Restored


@dataclass
class Pairing:
    """References and restored images, paired by name.

    Attributes:
        pairs: The pairs, sorted by name.
        unpaired: Images and result folders on either side without a counterpart.
        ambiguous: Files of each name that several files of one side share.
    """

    pairs: list[Pair] = field(default_factory=list)
    unpaired: list[Path] = field(default_factory=list)
    ambiguous: dict[str, list[Path]] = field(default_factory=dict)


def pair(reference: Path, restored: Path, *, without: tuple[Path, ...] = ()) -> Pairing:
    """Pair two images, or the images of two folders and of the folders in them.

    A result folder of ``invdiff solve`` is one restored image. A restored image and a reference belong together if

    1. the manifest names the reference, or the result folder is called as the reference with its suffix,
    2. else if their paths in the two folders agree, up to the suffix, and no other has this path,
    3. else if their last parts agree, up to the suffix, and no other image on either side has this name. For a result folder
       the name of the image that it was made from counts too.

    Args:
        reference: A folder of images, or an image.
        restored: A folder of images or result folders, a result folder, or an image.
        without: Folders that are not searched.

    Raises:
        ValueError: If one is a folder and the other an image.
        OSError: If a folder cannot be read.
    """
    found = find_restored(restored, without=(reference, *without) if reference.is_dir() else without)
    whole = len(found) == 1 and found[0].path == restored  # an image, or a single result folder
    if not reference.is_dir() and whole:
        return Pairing(pairs=[Pair(found[0].name, reference, found[0])])
    if reference.is_dir() != restored.is_dir():
        raise ValueError(
            "--reference and --restored must be two folders or two files, or a file and a result folder of `invdiff solve`, "
            f"got {'a folder' if reference.is_dir() else 'a file'} and {'a folder' if restored.is_dir() else 'a file'}."
        )
    files = {path.relative_to(reference).as_posix(): path for path in images_below(reference, without=(restored, *without))}
    pairing = Pairing()
    items = _by_file(pairing, files, found)
    taken = {pair.reference for pair in pairing.pairs}
    rest, items = _by_path(pairing, {name: path for name, path in files.items() if path not in taken}, items)
    rest, items = _by_stem(pairing, rest, items, all_files=files, all_items=found)
    left = [*((_key(name), path) for name, path in rest.items()), *((item.name, item.path) for item in items)]
    pairing.unpaired = [path for _, path in sorted(left, key=lambda entry: entry[0])]
    pairing.pairs.sort(key=lambda pair: pair.name)
    return pairing


def _by_file(pairing: Pairing, files: Mapping[str, Path], items: list[Restored]) -> list[Restored]:
    """Pair results with the reference that their manifest or the name of their folder says, and return the other items."""
    keys, left, taken = Counter(map(_key, files)), [], set[str]()
    for item in items:
        name = next((name for name in (item.source, item.name) if name in files), None)
        if not item.is_result or name is None or name in taken:
            left.append(item)
            continue
        taken.add(name)
        pairing.pairs.append(Pair(_key(name) if keys[_key(name)] == 1 else name, files[name], item))
    return left


def _by_path(pairing: Pairing, files: dict[str, Path], items: list[Restored]) -> tuple[dict[str, Path], list[Restored]]:
    """Pair what has one path, without suffix, in both folders; return the rest."""
    sides: tuple[defaultdict[str, list[str]], defaultdict[str, list[Restored]]] = (defaultdict(list), defaultdict(list))
    for name in files:
        sides[0][_key(name)].append(name)
    for item in items:
        sides[1][item.name].append(item)
    for key in sorted(sides[0].keys() & sides[1].keys()):
        ours, theirs = sides[0].pop(key), sides[1].pop(key)
        if len(ours) == len(theirs) == 1:
            pairing.pairs.append(Pair(key, files[ours[0]], theirs[0]))
        else:
            pairing.ambiguous[key] = [*(files[name] for name in ours), *(item.path for item in theirs)]
    return {name: files[name] for names in sides[0].values() for name in names}, [i for some in sides[1].values() for i in some]


def _by_stem(
    pairing: Pairing,
    files: dict[str, Path],
    items: list[Restored],
    *,
    all_files: Iterable[str],
    all_items: Iterable[Restored],
) -> tuple[dict[str, Path], list[Restored]]:
    """Pair what shares the last part of its name with nothing else on its side; return the rest."""
    files, left = dict(files), []
    on_left = Counter(_stem(name) for name in all_files)
    on_right = Counter(stem for item in all_items for stem in item.stems)
    names = {_stem(name): name for name in files}
    for item in items:
        found = {names[stem] for stem in item.stems if stem in names and on_left[stem] == on_right[stem] == 1}
        if len(found) == 1:
            name = found.pop()
            pairing.pairs.append(Pair(_key(name), files.pop(name), item))
        else:
            left.append(item)
    return files, left


def _key(name: str) -> str:
    return without_suffix(Path(name))


def _stem(name: str) -> str:
    return Path(name).stem
