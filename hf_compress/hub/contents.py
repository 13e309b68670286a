"""What of a run folder goes to the Hub, and whether it may."""

from __future__ import annotations

from pathlib import Path

import yaml
from huggingface_hub import get_token

from hf_compress.errors import RunError, UsageError
from hf_compress.hub.card import CARD, render_card
from hf_compress.hub.origin import publishable_license
from hf_compress.run import Run
from hf_compress.sections import PublishSection

SHOWN_HIDDEN = ".eval_results"
TEXT = (".json", ".yaml", ".yml", ".md", ".txt", ".csv", ".py", ".svg", ".html")

Contents = dict[str, bytes | Path]


def checked_contents(folder: Path, section: PublishSection, trust_remote_code: bool) -> Contents:
    """Check a run folder and return its files by their path in the repository, with a card for that repository.

    Raises:
        UsageError: it is no run folder, its licence or card does not allow it, or a file holds the access token.
        RunError: the model cannot be loaded, or does not work.
    """
    report = Run.open(folder).report
    license = publishable_license(report, section.license)
    _check_model(folder, report.get("task", "classification"), report.get("labels"), trust_remote_code)
    contents: Contents = {path: folder / path for path in _files(folder)}
    contents[CARD] = _card(folder, section, license).encode()
    _refuse_token(contents)
    return contents


def _files(folder: Path) -> list[str]:
    """Return all files but hidden ones; the Hub reads results from one hidden folder."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [p for p in paths if p.parts[0] == SHOWN_HIDDEN or not any(part.startswith(".") for part in p.parts)]
    return sorted(path.as_posix() for path in shown)


def _card(folder: Path, section: PublishSection, license: str | None) -> str:
    template = Path(section.template) if section.template else None
    metadata = {"license": license} if license else {}
    try:
        card = render_card(folder, template, repo_id=section.to, **metadata)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the card's metadata is not valid: {' '.join(str(error).split())}") from None
    if card.data.license != license:
        raise UsageError(f"the card of '{section.template}' has no metadata: begin it with {{{{ card_data }}}}")
    return str(card)


def _check_model(folder: Path, task: str, labels: list[str] | None, trust_remote_code: bool) -> None:
    """Load the model as users will, and let it look at noise."""
    import torch

    from hf_compress.data.images import input_size, noise
    from hf_compress.embeddings import pooled_embedding
    from hf_compress.hub.backbone import load_backbone
    from hf_compress.hub.load import load
    from hf_compress.reload_check import check_reload

    loader = load_backbone if task == "features" else load
    loaded = loader(str(folder), trust_remote_code=trust_remote_code)
    image = torch.randn(2, 3, *input_size(loaded.processor), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer = pooled_embedding(loaded.model, image) if task == "features" else loaded.model(image).logits
    if not answer.isfinite().all():
        raise RunError(f"the model in '{folder}' answers with numbers that are not finite: it was not published")
    check_reload(folder, loaded, noise(4), None if task == "features" else labels or loaded.label_names)


def _refuse_token(contents: Contents) -> None:
    token = (get_token() or "").encode()
    for path, content in contents.items():
        if not token or not path.endswith(TEXT):
            continue
        if token in (content if isinstance(content, bytes) else content.read_bytes()):
            raise UsageError(f"'{path}' contains your access token: remove it, revoke the token, then publish")
