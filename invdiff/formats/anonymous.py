"""DICOM data sets without what tells who was measured, by whom, where and when.

Only what an image needs is kept, instead of removing what is known to identify: numbers and code words (value representations
below) of the groups of acquisition, relations, pixels, dose and functional groups. Everything else is left out: texts, names,
dates, private elements. Identifiers are replaced by new ones, consistently. Text that is burned into the pixels stays there.
"""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["anonymous", "new_uid"]

GROUPS = (0x0018, 0x0020, 0x0028, 0x0054, 0x3004, 0x5200, 0x7FE0)
NUMBERS = frozenset({"AT", "CS", "DS", "FD", "FL", "IS", "OB", "OF", "OW", "SL", "SS", "UL", "US", "US or SS", "OB or OW"})
KEPT = frozenset({"SOPClassUID", "ReferencedSOPClassUID", "Modality", "ImageType", "SpecificCharacterSet", "ConversionType"})
DESCRIBED = frozenset({"SeriesDescription", "DerivationDescription"})  # set by this program, if the text of INPUT is left out
NEW = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ReferencedSOPInstanceUID"})
REFERENCES = frozenset({"SourceImageSequence", "ContributingEquipmentSequence", "PurposeOfReferenceCodeSequence"})
CODES = frozenset({"CodeValue", "CodingSchemeDesignator", "CodeMeaning", "Manufacturer", "SoftwareVersions"})


def new_uid(*sources: str) -> str:
    """Return a unique identifier that depends on texts: one of the root 2.25, of 128 bits."""
    digest = hashlib.sha256("\0".join(sources).encode(errors="surrogateescape")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def anonymous(dataset: Any) -> Any:
    """Return an anonymous copy of a derived image, whose ``file_meta`` is shared."""
    from pydicom.uid import UID

    kept = _kept(dataset, top=True)
    kept.file_meta = dataset.file_meta
    kept.PatientName, kept.PatientID, kept.PatientBirthDate, kept.PatientSex = "Anonymous", "Anonymous", "", ""
    kept.StudyDate, kept.StudyTime, kept.ReferringPhysicianName, kept.StudyID, kept.AccessionNumber = "", "", "", "", ""
    kept.SeriesNumber, kept.Manufacturer = None, "invdiff"
    description = str(dataset.get("DerivationDescription") or "")
    kept.DerivationDescription, kept.SeriesDescription = description, description.partition(": ")[2][:64] or "invdiff"
    kept.PatientIdentityRemoved = "YES"
    kept.DeidentificationMethod = "invdiff: numbers and code words of the image alone; new identifiers"
    kept.SOPInstanceUID = UID(kept.SOPInstanceUID)
    return kept


def _kept(dataset: Any, *, top: bool, inside: bool = False) -> Any:
    """Return the elements of a data set that are kept; ``inside``: it is an item of a sequence of references."""
    from pydicom.dataset import Dataset

    result = Dataset()
    for element in dataset:
        word = element.keyword
        if element.tag.is_private:
            continue
        if element.VR == "SQ":
            if word in REFERENCES or (not inside and element.tag.group in GROUPS):
                items = [_kept(item, top=False, inside=word in REFERENCES) for item in element.value]
                setattr(result, word, items[-1:] if word == "ContributingEquipmentSequence" else items)
        elif word in NEW:
            setattr(result, word, new_uid("anonymous", str(element.value)))
        elif word in KEPT or (inside and word in CODES) or (element.tag.group in GROUPS and element.VR in NUMBERS):
            result.add(element)
    return result
