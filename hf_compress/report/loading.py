"""How the model of a folder is loaded: in a sentence, and as Python."""

from typing import Any

from hf_compress.tasks import task_of

TRUST = ", trust_remote_code=True"
SENTENCES = {
    "generated_code": (
        "Its layers are not those of the architecture alone. `trust_remote_code=True` lets transformers run the "
        "`modeling_hf_compress.py` of this repository, which rebuilds them. With `pip install hf-compress` and "
        "`import hf_compress` in place of it, no code of the repository runs."
    ),
    "custom_code": "The architecture is Python code of this repository, which `trust_remote_code=True` runs.",
    "hf_compress": "Its layers are not those of the architecture alone: `pip install hf-compress` rebuilds them.",
}
"""By what `loads_with` of a report says; transformers alone needs none."""


def library(report: dict[str, Any]) -> str:
    """Return the library that loads the model, as the Hub names it."""
    return "hf-compress" if report.get("loads_with") == "hf_compress" else "transformers"


def snippet(report: dict[str, Any], repo_id: str | None) -> str:
    """Return Python that loads the model and looks at `photo.jpg`; without `repo_id` it runs inside the folder."""
    task, needs = task_of(report), report.get("loads_with")
    model_trust = TRUST if needs in ("generated_code", "custom_code") else ""
    lines = [
        "import torch",
        "from PIL import Image",
        f"from transformers import AutoImageProcessor, {task.auto_class}",
        *(["", "import hf_compress  # rebuilds the layers that were changed"] if needs == "hf_compress" else []),
        "",
        f'model_id = "{repo_id}"' if repo_id else 'model_id = "."  # this folder',
        f"processor = AutoImageProcessor.from_pretrained(model_id{TRUST if needs == 'custom_code' else ''})",
        f"model = {task.auto_class}.from_pretrained(model_id{model_trust})",
        'inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")',
        "with torch.inference_mode():",
        *task.usage,
    ]
    return "\n".join(lines)
