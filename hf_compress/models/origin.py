"""Where a model came from: id, commit and licence, for the report, the card and the decision to publish."""

import os
import re
from pathlib import Path
from typing import Any

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import user_path
from hf_compress.models.students import STUDENTS
from hf_compress.models.torchvision_weights import is_of_torchvision

Origin = dict[str, Any]


def origin(name: str, commit: str | None, pretrained: bool = True) -> Origin:
    """Describe the source of a loaded model; without `pretrained` weights nothing is derived from it.

    Returns:
        `{"id", "source", "revision", "license", "base_model"}`. `source` is `hub`, `folder`, `file` or `architecture`;
        `license` comes from the metadata of its card and is None where it states none; `base_model` is the Hub id
        to name as base: its own, or the one that a folder's card names.
    """
    result: Origin = {"id": name, "source": "hub", "revision": commit, "license": None, "base_model": None}
    if name in STUDENTS or not pretrained:
        return result | {"source": "architecture"}
    if is_of_torchvision(name):
        return result | {"source": "file"}
    card = _card(name, commit)
    license = card.get("license")
    result["license"] = license.lower() if isinstance(license, str) else None
    if os.path.isdir(user_path(name)):
        base = card.get("base_model")
        base = base[0] if isinstance(base, list) and base else base
        return result | {"source": "folder", "base_model": base if isinstance(base, str) else None}
    return result | {"base_model": name}


def lineage(report: dict[str, Any]) -> dict[str, Any]:
    """Return the card's metadata about what a model was made of: base models, relation and data sets.

    The Hub knows the relations adapter, merge, quantized and finetune. Pruning and distillation are none of them;
    without the field it would guess `quantized` from a pruned model's `quantization_config`, which is wrong.
    """
    bases = [source["base_model"] for _, source in sources_with_roles(report)]
    data = report["data"]
    return {
        "base_model": list(dict.fromkeys(filter(None, bases))) or None,
        "base_model_relation": "finetune" if any(bases) else None,
        "datasets": [data["path"]] if data.get("revision") else None,
    }


def sources_with_roles(report: dict[str, Any]) -> list[tuple[str, Origin]]:
    """Return the models whose weights or answers went into this one, each with its role; an ensemble's one by one."""
    roles = (("teacher", "teacher"), ("assistant", "assistants"), ("student", "student"))
    found = [(role, report.get(key)) for role, key in roles]
    each = [(role, one) for role, some in found for one in (some if isinstance(some, list) else [some])]
    return [(role, source) for role, source in each if source is not None and source["source"] != "architecture"]


def publishable_license(report: dict[str, Any], stated: str | None) -> str | None:
    """Return the licence to publish under: `stated`, or that of what the model was made of; None where none has one.

    Raises:
        UsageError: that licence is unknown, forbids derived works, or there are two of them.
    """
    if stated is not None:
        return stated
    found = {}
    for _, source in sources_with_roles(report):
        name, license = source["id"], source["license"]
        if license in (None, "other", "unknown"):
            raise UsageError(f"the licence of {name} is {license or 'not known'}: read its terms, then pass --license")
        if re.search(r"(^|-)nd(-|$)", license):
            raise UsageError(f"{name} is under {license}, which forbids derived works; --license, if you may anyway")
        found[license] = name
    if len(found) > 1:
        both = " and ".join(f"{name} ({license})" for license, name in found.items())
        raise UsageError(f"the model is made of {both}: pass the --license that fits both")
    return next(iter(found), None)


def _card(name: str, commit: str | None) -> dict[str, Any]:
    """Return the metadata of a README.md; empty when there is none, or it is not within reach."""
    import yaml
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import HTTPError

    folder = user_path(name)
    try:
        readme = folder / "README.md" if folder.is_dir() else hf_hub_download(name, "README.md", revision=commit)
        return ModelCard(Path(readme).read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, HTTPError, yaml.YAMLError):
        return {}
