"""The model card of a run folder: rendered from its report and recipe, and nothing else."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from markupsafe import Markup

from hf_compress.ground.bounded_yaml import MOST_CHARACTERS
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_text, write_text
from hf_compress.ground.manifest import adding, claim
from hf_compress.models.origin import lineage
from hf_compress.report import card_facts as facts
from hf_compress.report.deployed import commands
from hf_compress.report.examples import EXAMPLES
from hf_compress.report.figures import FIGURES, draw_figures
from hf_compress.report.front import front_table, how_found
from hf_compress.report.headline import headline
from hf_compress.report.limits import limits
from hf_compress.report.loading import SENTENCES, library, snippet
from hf_compress.report.markdown import fenced, one_line
from hf_compress.report.run import RECIPE, Run
from hf_compress.report.template import page_template
from hf_compress.tasks import task_of

CARD = "README.md"
HUB_TAG = "hf-compress"
TAGS = {  # by step
    "distill": "distillation",
    "distill_features": "distillation",
    "finetune": "fine-tuning",
    "prune": "pruning",
    "quantize": "quantization",
    "rewrite": "rewriting",
}


def render_card(folder: Path, template: Path | None = None, examples: bool = True, **overrides: Any) -> ModelCard:
    """Return the card of a run folder.

    Args:
        folder: the run folder; its `report.json` and `recipe.yaml` are all that is read, and which figures it holds.
        template: Jinja template in place of the package's own `model_cards/template.md`, which lists the variables.
            Whatever a template writes is escaped.
        examples: show the test images that lie in the folder.
        **overrides: metadata of the Hub (`license`, `base_model`, `datasets`, ...), and `repo_id`: where the card will
            be published.

    Raises:
        UsageError: there is no run folder or template, or the template is wrong.
    """
    return card_of(_report(folder), Path(folder), template, examples=examples, **overrides)


def card_of(
    report: dict[str, Any],
    folder: Path,
    template: Path | None = None,
    repo_id: str | None = None,
    examples: bool = True,
    **overrides: Any,
) -> ModelCard:
    """Return the card of a report, of which the folder may hold figures and the recipe; see `render_card`."""
    page, data = page_template(template), card_data(report, repo_id, **overrides)
    text = page(**_context(report, folder, repo_id, examples), card_data=Markup(data.to_yaml()))
    try:
        return ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the template '{template}' makes a card without valid metadata: {error}") from None


def write_card(folder: Path, template: Path | None = None) -> ModelCard:
    """Draw the figures of a run folder, and write its README.md.

    Its results are `model-index` of the metadata. The Hub shows `.eval_results` where the data set is one of
    its benchmarks alone, and none of those has classes of pictures.

    Raises:
        UsageError: see `render_card`; or one of the files that are there already was not written by this package, or
            was changed since.
    """
    report, folder = _report(folder), Path(folder)
    page_template(template)
    claim(folder, [CARD])
    with adding(folder) as new:
        draw_figures(report, new / "figures")
    card = render_card(folder, template)
    with adding(folder) as new:
        write_text(new / CARD, str(card))
    return card


def _report(folder: Path) -> dict[str, Any]:
    report = Run.open(folder).report
    if report.get("kind") == "study":
        raise UsageError(f"'{folder}' holds a study, whose README.md is its card: give the folder of one of its runs")
    return report


def card_data(report: dict[str, Any], repo_id: str | None, **overrides: Any) -> ModelCardData:
    """Return the metadata of a card, its results as `model-index`."""
    results = _results(report)
    name = (repo_id or facts.model_name(report["rows"][-1])).rpartition("/")[2]
    metadata = {
        **lineage(report),
        "pipeline_tag": task_of(report).pipeline_tag,
        "library_name": library(report),
        "tags": tags(report),
        "metrics": [result.metric_type for result in results] or None,
        "model_name": one_line(name) if results else None,
        "eval_results": results or None,
        **overrides,
    }
    named = metadata["base_model"] or []
    bases = [base for base in ([named] if isinstance(named, str) else named) if _is_repo_id(base)]
    relation = metadata["base_model_relation"] if bases else None
    return ModelCardData(**metadata | {"base_model": bases or None, "base_model_relation": relation})


def tags(report: dict[str, Any]) -> list[str]:
    """Return what the Hub finds the model by: what was done, and the runtimes and precision of its files."""
    files = report.get("deployed", [])
    done = {TAGS[name] for name in facts.step_names(report) if name in TAGS}
    small = {row["precision"] for row in files} & {"int8"}
    return [HUB_TAG, *sorted(done), *sorted({row["runtime"] for row in files} | small)]


def _results(report: dict[str, Any]) -> list[EvalResult]:
    data, quality, task = report["data"], report["rows"][-1]["quality"], task_of(report)
    path = one_line(facts.short_name(data["path"]))
    kind, _, split = data["splits"]["test"]["from"].partition(" (")[0].partition(" ")
    return [
        EvalResult(
            task_type=task.pipeline_tag,
            task_name=task.pipeline_tag.replace("-", " ").capitalize(),
            dataset_type=path if data.get("revision") or path == "digits" else "imagefolder",
            dataset_name=path,
            dataset_split=one_line(split) if kind == "split" else None,
            dataset_revision=data.get("revision"),
            metric_type=metric.name,
            metric_name=metric.hub_name,
            metric_value=round(quality[metric.name], 6),
        )
        for metric in task.metrics
        if metric.hub_name is not None and metric.name in quality
    ]


def _context(report: dict[str, Any], folder: Path, repo_id: str | None, examples: bool) -> dict[str, Any]:
    compared, comparison = facts.comparison(report)
    headings, steps = facts.steps_table(report)
    front_headings, front = front_table(report)
    trained, (evaluation_headings, evaluations) = "training" in report, facts.evaluations_table(report)
    first, *_, last = report["rows"]
    recipe, drawn = folder / RECIPE, {file.stem for file in folder.glob("figures/*.png")}
    typed = commands(report, repo_id)
    try:
        written = fenced(read_text(recipe, MOST_CHARACTERS), "yaml") if recipe.is_file() else None
    except ValueError as error:
        raise UsageError(f"the recipe '{recipe}' cannot be read: {error}") from None
    return {
        "report": report,
        "title": repo_id or f"{facts.model_name(last)}, compressed",
        "repo_id": repo_id,
        "headline": headline(report),
        "summary": facts.summary(report),
        "reference": facts.reference(first),
        "comparison_headings": compared,
        "comparison": comparison,
        "step_headings": headings,
        "steps": steps,
        "found": how_found(report),
        "front_headings": front_headings,
        "front": front,
        "figures": [(f"figures/{name}.png", caption) for name, (_, caption) in FIGURES.items() if name in drawn],
        "examples": (EXAMPLES, task_of(report).pictured) if examples and (folder / EXAMPLES).is_file() else None,
        "snippet": fenced(snippet(report, repo_id), "python"),
        "commands": typed and fenced(typed, "bash"),
        "loading": Markup(SENTENCES.get(report.get("loads_with"), "")),
        "recipe": written,
        "training": fenced(yaml.safe_dump(report["training"], sort_keys=False), "yaml") if trained else None,
        "evaluation_headings": evaluation_headings,
        "evaluations": evaluations,
        "tested": facts.tested(report),
        "environment": facts.environment_rows(report),
        "device": facts.device(report) if "latency" in last else None,
        "data_name": facts.short_name(report["data"]["path"]),
        "data_rows": facts.data_rows(report),
        "classes": facts.class_table(report),
        "class_measure": facts.class_measure(report),
        "sources": [source | {"id": facts.short_name(source["id"])} for source in facts.sources(report)],
        "limits": limits(report),
    }


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
