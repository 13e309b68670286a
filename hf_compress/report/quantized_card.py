"""The card of a deployed int8 file that becomes a repository of its own, beside that of the model it was made of."""

from pathlib import PurePosixPath
from typing import Any

from huggingface_hub import ModelCard
from markupsafe import Markup

from hf_compress.report import card_facts as facts
from hf_compress.report.card import HUB_TAG, card_data
from hf_compress.report.limits import limits
from hf_compress.report.markdown import fenced
from hf_compress.report.measures import measures
from hf_compress.report.template import page_template


def quantized_card(
    report: dict[str, Any], row: dict[str, Any], repo_id: str, base: str, license: str | None
) -> ModelCard:
    """Return the card of one deployed file.

    Args:
        row: the file's row in the report.
        base: repository of the model that was quantized.
    """
    last = report["rows"][-1]
    alone = report | {"rows": [last, row], "deployed": []}
    data = card_data(
        alone,
        repo_id,
        base_model=base,
        base_model_relation="quantized",
        library_name=row["runtime"],
        tags=[HUB_TAG, "int8", row["runtime"]],
        **({"license": license} if license else {}),
    )
    script = PurePosixPath(row["script"]).name if "script" in row else None
    compared = [(m.heading, m.text(last), m.text(row), m.change(last, row)) for m in measures(report)]
    text = page_template(None, "quantized.md")(
        card_data=Markup(data.to_yaml()),
        title=repo_id,
        base=base,
        row=row,
        file=PurePosixPath(row["file"]).name,
        rows=[cells for cells in compared if cells[2]],
        script=script,
        command=fenced(f"python {script} photo.jpg", "bash"),
        device=facts.device(report),
        tested=facts.tested(report),
        images=facts.test_images(report),
        limits=limits(report),
    )
    return ModelCard(text)
