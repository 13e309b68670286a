"""What of a run folder goes to the Hub, and whether it may: no secrets, nothing from elsewhere, a model that works."""

import glob
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, get_token

from hf_compress.ground.bounded_yaml import MOST_CHARACTERS
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import read_text
from hf_compress.ground.manifest import MANIFEST, Manifest, digest, is_plain_file
from hf_compress.models.origin import publishable_license
from hf_compress.report.card import CARD, render_card
from hf_compress.report.examples import EXAMPLES
from hf_compress.report.run import Run
from hf_compress.sections.publish import PublishSection
from hf_compress.tasks import Task, task_of

logger = logging.getLogger(__name__)
Contents = dict[str, bytes | Path]
CHUNK, LONGEST = 2**20, 2**12
KINDS = {  # each begins with fixed letters, for which whole files are searched fast
    "an access token of the Hub": rb"hf_(?:(?:oauth|jwt)_[\w.-]{30}|[A-Za-z0-9]{30})",
    "an access token of an organisation": rb"api_org_[A-Za-z0-9]{30}",
    "a private key": rb"-----BEGIN [A-Z0-9 ]{0,64}PRIVATE KEY(?: BLOCK)?-----",
}


def checked_contents(
    folder: Path, section: PublishSection, include: Sequence[str], trust_remote_code: bool
) -> Contents:
    """Check a run folder and return its files by their path in the repository, with a card for that repository.

    `include` are glob patterns of files that are sent although the manifest does not name them.

    Raises:
        UsageError: it is no run folder, its licence or card does not allow it, a file holds a secret or lies behind a
            link, or nothing says which files are the run's.
        RunError: the model cannot be loaded, or does not work.
    """
    report = Run.open(folder).report
    license = publishable_license(report, section.license)
    contents: Contents = {name: folder / name for name in _named(folder, include)}
    _check_model(folder, task_of(report), report.get("labels"), trust_remote_code)
    contents[CARD] = _card(folder, section, license, EXAMPLES in contents).encode()
    digests = {name: [digest(content)] for name, content in contents.items()}
    contents[MANIFEST] = Manifest(kind="run", files=digests).text().encode()
    refuse_secrets(contents)
    return contents


def _named(folder: Path, include: Sequence[str]) -> list[str]:
    """Return the paths of what the manifest names, as far as it is there, and of what `include` adds.

    Test images are nobody's but their owner's: the figure that shows some is sent where `include` names it alone.
    """
    manifest = Manifest.of(folder)
    if manifest.kind != "run" and not include:
        code = " --include '*.py'" if any(folder.glob("*.py")) else ""
        raise UsageError(
            f"'{folder}' has no {MANIFEST} that names the files of a run, as none of version 0.1 has: name what to "
            f"send, --include '*.json' --include '*.safetensors' --include recipe.yaml --include 'figures/*.png'{code}"
        )
    names = {name for name in manifest.files if os.path.lexists(folder / name)} - {EXAMPLES}
    for pattern in include:
        found = {name for name in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / name).is_file()}
        if not found:
            raise UsageError(f"no file in '{folder}' matches --include '{pattern}': of a folder say 'NAME/**'")
        names |= {Path(name).as_posix() for name in found}
    names.discard(MANIFEST)
    for name in sorted(names):
        if not is_plain_file(folder, name):
            raise UsageError(
                f"'{name}' is a link, or lies outside '{folder}': put the file itself there, or remove it from there"
            )
    return sorted(names)


def _card(folder: Path, section: PublishSection, license: str | None, examples: bool) -> str:
    """Return the card for the repository; one that was edited is sent as it is, where no template is named."""
    template = Path(section.template) if section.template else None
    manifest = Manifest.of(folder)
    if template is None and CARD in manifest.files and not manifest.owns(folder, CARD):
        return _edited_card(folder / CARD, license)
    metadata = {"license": license} if license else {}
    try:
        card = render_card(folder, template, examples, repo_id=section.to, **metadata)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the card's metadata is not valid: {' '.join(str(error).split())}") from None
    if card.data.license != license:
        raise UsageError(f"the card of '{section.template}' has no metadata: begin it with {{{{ card_data }}}}")
    return str(card)


def _edited_card(file: Path, license: str | None) -> str:
    try:
        card = ModelCard(read_text(file, MOST_CHARACTERS))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"'{file}' was edited, and cannot be read: {' '.join(str(error).split())}") from None
    card.data.license = card.data.license or license
    if card.data.license != license:
        raise UsageError(f"'{file}' says the licence {card.data.license}, not {license}: change it there")
    logger.warning("'%s' was edited: it is sent as it is", file)
    return str(card)


def _check_model(folder: Path, task: Task, labels: list[str] | None, trust_remote_code: bool) -> None:
    """Load the model as users will, and let it look at noise."""
    import torch

    from hf_compress.data.images import input_size, noise
    from hf_compress.hub.reload_check import check_reload

    loaded = task.load(str(folder), trust_remote_code=trust_remote_code)
    image = torch.randn(2, 3, *input_size(loaded.processor), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer = task.answer(loaded.model, image)
    if not all(tensor.isfinite().all() for tensor in answer.values()):
        raise RunError(f"the model in '{folder}' answers with numbers that are not finite: it was not published")
    check_reload(folder, loaded, noise(4), task, labels or loaded.label_names)


def refuse_secrets(contents: Mapping[str, bytes | Path]) -> None:
    """Search every file, in pieces; UsageError names the file and the kind of secret, and never shows it."""
    token = (get_token() or "").encode()
    kinds = ({"your access token": re.escape(token)} if token else {}) | KINDS
    patterns = {kind: re.compile(pattern) for kind, pattern in kinds.items()}
    for name, content in contents.items():
        for piece in _pieces(content):
            for kind, pattern in patterns.items():
                if pattern.search(piece):
                    raise UsageError(
                        f"'{name}' contains {kind}: remove it, revoke it where it was of use, then publish"
                    )


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    """Read a file in pieces that overlap, so that nothing is cut in two; text in UTF-16 comes as ASCII, too."""
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        piece = b""
        while chunk := file.read(CHUNK):
            piece = piece[-LONGEST:] + chunk
            yield piece
            if b"\0" in piece:
                yield piece.replace(b"\0", b"")
