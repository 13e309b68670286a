"""The Python file in a compressed model's folder, by which transformers alone loads it when it may run such code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compress.ground.files import write_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MODULE = "modeling_hf_compress"
CODE = f"{MODULE}.py"
CLASS = '''

from {package} import {name} as _{name}


class {name}(_{name}):
    """The model of this folder: what is registered above gives it its layers before the weights are loaded."""

    @classmethod
    def is_custom_code(cls):
        return _{name}.is_custom_code()  # of an architecture of its own, transformers would rename no weights
'''


def write_code(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """Put `modeling_hf_compress.py` into the folder where `model` was saved, if its `config.json` records changes.

    `auto_map` of `config.json` names the class in it. A model whose class lies neither in transformers nor in a
    repository's own code gets none, and needs this package.
    """
    place = Path(folder) / "config.json"
    if not place.is_file():  # of a model with adapters only these are stored
        return
    config = json.loads(place.read_text(encoding="utf-8"))
    kind = _own_class(model)
    package, names = _package(kind), _auto_classes(kind, config)
    if "quantization_config" not in config or package is None or not names:
        return
    text = Path(__file__).with_name(CODE).read_text(encoding="utf-8")
    write_text(Path(folder) / CODE, text + CLASS.format(package=package, name=kind.__name__))
    config["auto_map"] = config.get("auto_map", {}) | dict.fromkeys(names, f"{MODULE}.{kind.__name__}")
    write_text(place, json.dumps(config, indent=2, sort_keys=True) + "\n")


def forget_code(config: PretrainedConfig) -> None:
    """Take out of a config what names the generated file: it is written anew, or not needed where this package is."""
    own = getattr(config, "auto_map", None) or {}
    left = {auto: name for auto, name in own.items() if not is_generated(name)}
    if left:
        config.auto_map = left
    elif own:
        del config.auto_map


def is_generated(name: Any) -> bool:
    """Return whether an entry of `auto_map` names a class of the generated file."""
    return isinstance(name, str) and name.rpartition("--")[2].startswith(f"{MODULE}.")


def _own_class(model: PreTrainedModel) -> type:
    """Return the architecture's class, also of a model that was loaded through the generated one."""
    return next(kind for kind in type(model).__mro__ if kind.__module__.rpartition(".")[2] != MODULE)


def _package(kind: type) -> str | None:
    """Return where the generated file, beside the repository's own code, imports a class from."""
    import transformers

    if getattr(transformers, kind.__name__, None) is kind:
        return "transformers"
    root, _, module = kind.__module__.partition(".")
    if root == "transformers":
        return kind.__module__
    return f".{module.rpartition('.')[2]}" if root == "transformers_modules" else None


def _auto_classes(kind: type, config: dict[str, Any]) -> list[str]:
    """Return the auto classes that load a class: as the repository's own code says, or else as transformers does."""
    from transformers.models.auto import modeling_auto

    own = [auto for auto, name in config.get("auto_map", {}).items() if str(name).endswith(f".{kind.__name__}")]
    mappings = {
        name: auto._model_mapping._model_mapping
        for name, auto in vars(modeling_auto).items()
        if name.startswith("Auto") and getattr(auto, "_model_mapping", None) is not None
    }
    found = {name: by_type.get(config["model_type"]) for name, by_type in mappings.items()}
    return own or sorted(name for name, kinds in found.items() if kind.__name__ in _names(kinds))


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the classes that transformers has for a type, of which some have several."""
    return (entry,) if isinstance(entry, str) else entry or ()
