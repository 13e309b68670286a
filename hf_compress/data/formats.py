"""What a file holds: told by its ending, or by its content where it has none."""

import functools
import importlib.util
import itertools
import os
import tarfile

import pyarrow
from PIL import EpsImagePlugin, Image
from pyarrow import parquet

from hf_compress.data.addresses import opened

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow recognises, and cannot decode
HEIF = {".heic", ".heif", ".hif"}
RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"}
FOREIGN = {*HEIF, *RAW, ".avif", ".dcm", ".djvu", ".j2k", ".jp2", ".jxl", ".jxr", ".svg", ".webp", ".wmf", ".xcf"}
TABLES = {  # the builder of `datasets` that reads them; the first ending that a folder has is taken
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tar": "webdataset",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CARDS = ("id2label.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
ARCHIVES = {".zip", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"}
PACKED = {".gz", ".bz2", ".xz", ".zst"}  # around a table


@functools.cache
def readable() -> frozenset[str]:
    """Return the endings of the formats that Pillow decodes here."""
    known = Image.registered_extensions()
    lacking = STUBS if EpsImagePlugin.has_ghostscript() else STUBS | {"EPS"}
    return frozenset(ending for ending, name in known.items() if name in Image.OPEN and name not in lacking)


def kind_of(path: str) -> tuple[str, str]:
    """Return what a file holds, and why it is left out where nothing makes use of it.

    It is a `picture`, `foreign` (a picture that cannot be read here), `metadata`, `table`, `archive` or `other`.
    """
    name = os.path.basename(path)
    ending = ending_of(name)
    if ending in readable() or (not ending and _is_picture(path)):
        return "picture", ""
    if ending in FOREIGN:
        install = "install pillow-heif, or " if ending in HEIF else ""
        return (
            "foreign",
            f"pictures in a format that is not read here ({ending}): {install}convert them to JPEG or PNG",
        )
    if ending in ARCHIVES or ending == ".tar":
        return "table" if ending == ".tar" else "archive", f"archives, which are not unpacked ({ending})"
    kind = "metadata" if name in METADATA else "table" if ending in TABLES and name not in CARDS else "other"
    return kind, f"files that hold no pictures ({ending or 'without ending'})"


def ending_of(name: str) -> str:
    """Return the ending of a file name in lower case; that of a packed table is the table's."""
    stem, ending = os.path.splitext(name.lower())
    inner = os.path.splitext(stem)[1]
    return inner if ending in PACKED and inner in TABLES else ending


def holds_pictures(path: str) -> bool:
    """Whether a table has a column of stored pictures, or an archive has samples as WebDataset writes them."""
    ending = ending_of(path)
    if ending == ".tar":
        return is_webdataset(path)
    if ending != ".parquet":
        return ending == ".arrow"
    try:
        types = parquet.read_schema(path).types
    except (pyarrow.ArrowException, OSError):
        return False
    return any(
        pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
        or (pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for kind in types
    )


def is_webdataset(path: str, alone: bool = False) -> bool:
    """Whether an archive has samples of several files that share a name, such as `7.jpg` and `7.cls`.

    With `alone`, samples of one picture count as well, unless they lie in folders.
    """
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in itertools.islice(archive, 9) if member.isfile()]
    except (tarfile.TarError, OSError, EOFError):
        return False
    folders, files = zip(*map(os.path.split, names), strict=True) if names else ((), ())
    samples = {(folder, file.partition(".")[0]) for folder, file in zip(folders, files, strict=True)}
    return len(samples) < len(names) or (alone and len(names) > 0 and not any(folders))


def _is_picture(path: str) -> bool:
    try:
        with opened(path) as file, Image.open(file) as image:
            return image.format not in STUBS
    except Exception:  # a strange file makes Pillow raise anything
        return False
