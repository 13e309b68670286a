"""Images and labels: loading, splits, augmentation, and the views that teacher and student see."""

from hf_compress.data.images import Collator, ImageSplit
from hf_compress.data.loading import ImageData, load_data

__all__ = ["Collator", "ImageData", "ImageSplit", "load_data"]
