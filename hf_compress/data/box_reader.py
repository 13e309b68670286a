"""Where the objects of pictures are: in columns, in JSON files as COCO has them, or in XML files of Pascal VOC."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hf_compress.data.annotations import FoundLabels, Reader
from hf_compress.data.boxes import Boxes, box_column_of, read_boxes
from hf_compress.data.coco import find_coco, load_coco
from hf_compress.data.folders import Folder, FolderError, scan
from hf_compress.data.label_columns import nothing_known
from hf_compress.data.local import Source, refuse_labels_beside
from hf_compress.data.sources import image_column_of, load_raw
from hf_compress.data.voc import find_voc, load_voc
from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.files import user_path
from hf_compress.sections.data import DataSection, PicturesSection

FORMS = "write boxes as COCO's JSON (annotations/instances_train.json) or Pascal VOC's XML, or move it out"


class BoxReader(Reader):
    """Pictures with objects in boxes."""

    def open(self, section: DataSection) -> Source:
        folder = user_path(section.path)
        if not os.path.isdir(folder) or section.path == "digits":
            return load_raw(PicturesSection.of(section), "data")
        try:
            found = scan(Path(os.path.abspath(folder)))
            source = _annotated(found, section) if found.of_kind("picture") else None
        except FolderError as error:
            raise UsageError(f"'data.path': in {shown(section.path)}, {error}") from None
        return source or load_raw(PicturesSection.of(section), "data")

    def image_column(self, rows, section):
        return image_column_of(rows, section, "data")

    def read(self, source, image_column, section):
        column = box_column_of(source.rows, section)
        if column is None:
            return nothing_known(source.rows, section)
        found, names, named = read_boxes(source.rows, column, image_column)
        annotations = [boxes if isinstance(boxes, Boxes) else None for boxes in found]
        if not any(annotations):
            raise UsageError(f"no picture of {section.path} has an object in column '{column}': name another data set")
        labels = np.array([-1 if boxes is None else 0 for boxes in annotations])
        return FoundLabels(labels, names, named, annotations)


def _annotated(folder: Folder, section: DataSection) -> Source | None:
    """Return what a folder of pictures with files of objects holds; None where there are no such files."""
    if coco := find_coco(folder):
        rows, left_out = load_coco(folder, coco, section)
    elif voc := find_voc(folder):
        rows, left_out = load_voc(folder, voc)
    else:
        refuse_labels_beside(folder, FORMS)
        return None
    return Source(rows, left_out=left_out)
