"""Data sets of the Hub: plain pictures by our own list of files, all others by `datasets`."""

import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import datasets
import httpx2
import huggingface_hub

from hf_compress.data.addresses import HUB, opened
from hf_compress.data.folders import FolderError, listed, some
from hf_compress.data.formats import METADATA, ending_of, readable
from hf_compress.data.local import Source, card_names_files, load_files, load_folder, source_of
from hf_compress.data.tables import table_splits
from hf_compress.ground.errors import RunError
from hf_compress.sections.data import SourceSection

ARCHIVES = (".zip", ".tar")  # that `datasets` looks into
UNPACK = "load an unpacked copy from a folder"
NAME_THEM = f"say in the 'configs' of its README.md which files make which split, or {UNPACK}"


class Repository(NamedTuple):
    """A data set of the Hub.

    Attributes:
        names: of all files.
        copy: the local one, where there is no connection.
        described: whether its README.md says which files make which split.
    """

    path: str
    commit: str
    names: list[str]
    copy: Path | None
    described: bool

    @property
    def address(self) -> str:
        return f"{HUB}{self.path}@{self.commit}"

    @property
    def plain(self) -> bool:
        """Whether it is nothing but a folder of pictures."""
        endings = {ending_of(name) for name in self.names}
        return bool(endings & readable()) and not endings & {".parquet", ".arrow", *ARCHIVES}


def load_remote(section: SourceSection, key: str, streaming: bool) -> Source:
    """Return the data of a repository of the Hub; see `load_raw`. FolderError: splits or classes are not clear.

    Splits and classes of plain pictures are those of a folder of the user's; `datasets` would find others.
    """
    found = _repository(section)
    if found is not None and found.plain and not found.described:
        return _pictures(section, found, streaming)
    revision = section.revision if found is None or found.copy else found.commit
    builder = datasets.load_dataset_builder(section.path, section.name, revision=revision)
    if found is not None and not found.copy:
        if not found.described:
            _refuse_other_splits(section, found, builder)
        _refuse_classes_in_archives(builder)
    if streaming and builder.name == "imagefolder":
        raise FolderError("pictures in archives are not streamed: leave out 'data.streaming'")
    source = source_of(builder, streaming)
    source.commit = revision if streaming else _commit_of(source.rows, section, key)
    if builder.name == "cache":  # without a connection, `datasets` does not know which files it once read
        cached = _cached_copy(section.path, source.commit)
        source.files = {"": list(map(str, cached.rglob("*.parquet"))) if cached else []}
    return source


def _pictures(section: SourceSection, found: Repository, streaming: bool) -> Source:
    if streaming and found.copy is None:
        source = load_files(listed(found.address, found.names), section, streaming)
    else:
        copy = huggingface_hub.snapshot_download(section.path, repo_type="dataset", revision=found.commit)
        source = load_folder(Path(copy), section, streaming)
    source.commit = found.commit
    return source


def _repository(section: SourceSection) -> Repository | None:
    """Return what is known of a data set; None where `datasets` shall say what is wrong."""
    copy = None
    try:
        info = huggingface_hub.dataset_info(section.path, revision=section.revision)
        names, commit = [file.rfilename for file in info.siblings], info.sha
    except huggingface_hub.errors.HfHubHTTPError:
        return None
    except (OSError, httpx2.TransportError):  # there is no connection
        copy = _cached_copy(section.path, section.revision)
        if copy is None:
            return None
        names = [file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()]
        commit = copy.name
    except ValueError:
        return None
    card = copy
    if copy is None and "README.md" in names:
        readme = huggingface_hub.hf_hub_download(section.path, "README.md", repo_type="dataset", revision=commit)
        card = Path(readme).parent
    return Repository(section.path, commit, names, copy, card is not None and card_names_files(card))


def _cached_copy(path: str, revision: str | None) -> Path | None:
    try:
        found = huggingface_hub.snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(found)


def _refuse_other_splits(section: SourceSection, found: Repository, builder: datasets.DatasetBuilder) -> None:
    """Refuse archives and pictures beside them whose splits `datasets` decides by words anywhere in their paths."""
    if builder.name not in ("imagefolder", "webdataset"):
        return
    names = [name for name in found.names if ending_of(name) in readable() | {*ARCHIVES}]
    folder = listed(found.address, names)
    theirs = {str(file): split for split, files in builder.config.data_files.items() for file in files}
    if loose := [file for file in folder.of_kind("picture") if folder.path(file) in theirs]:
        raise FolderError(f"pictures such as {loose[0].name!r} lie beside files of many pictures: {NAME_THEM}")
    archives = [file for file in folder.files if file.ending in ARCHIVES]
    for split, files in table_splits(archives, section).items():
        for file in files:
            if (other := theirs.get(folder.path(file))) != split:
                taken = f"takes it for the split '{other}'" if other else "leaves it out"
                raise FolderError(f"{file.name!r} belongs to the split '{split}', but `datasets` {taken}: {NAME_THEM}")


def _refuse_classes_in_archives(builder: datasets.DatasetBuilder) -> None:
    """Refuse archives with several folders: `datasets` names the class of a picture after the archive's own folder."""
    files = [str(file) for of_split in (builder.config.data_files or {}).values() for file in of_split]
    names: list[str] = []
    for file in files if builder.name == "imagefolder" else ():
        if file.endswith(".zip"):
            with opened(file) as content, zipfile.ZipFile(content) as archive:
                names += [name for name in archive.namelist() if not re.search(r"(^|/)(\.|__)", name)]
    if any(os.path.basename(name) in METADATA for name in (*names, *files)):
        return
    folders = sorted({os.path.dirname(name) for name in names if ending_of(name) in readable()})
    if len(folders) > 1:
        raise FolderError(f"the folders in archives ({some(folders)}) do not become classes: {UNPACK}")


def _commit_of(raw: datasets.DatasetDict, section: SourceSection, key: str) -> str | None:
    """Return the commit of a Hub data set, after which `datasets` names its cache folder.

    Without a connection, `datasets` takes the latest version in its cache, whatever revision is asked for.
    """
    files = next(iter(raw.values())).cache_files
    commit = Path(files[0]["filename"]).parent.name if files else ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    if re.fullmatch("[0-9a-f]{40}", section.revision or "") and section.revision != commit:
        raise RunError(
            f"{section.path} is cached at commit {commit}, not at '{key}.revision' {section.revision}, and the Hub is "
            "out of reach: connect once to cache that commit"
        )
    return commit
