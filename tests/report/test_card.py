"""The card: what it says, that it says nothing that was not measured, and that no name from outside breaks it."""

import json
import os
import re
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from reports import deployed, report
from typer.testing import CliRunner

from hf_compress import Recipe, compress
from hf_compress.cli import app
from hf_compress.ground.errors import UsageError
from hf_compress.report.card import card_data, render_card, write_card
from hf_compress.report.card_facts import class_measure, class_table, comparison, summary, what_was_done
from hf_compress.report.headline import headline
from hf_compress.report.limits import limits
from hf_compress.report.markdown import escaped, one_line
from hf_compress.report.measures import ratio
from hf_compress.report.run import check_report

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "a | b || c",
    "<script>alert(1)</script>",
    "![x](https://evil.example/x.png) [y](javascript:z)",
    "line\nbreak\r\n---\n# heading",
    "key: value # {no: [yaml, &anchor *alias]} '\"",
    "right-to-left \u202e override \u2066 and \u200f marks",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001f9a5",
    "`code` **bold** _it_ ~~gone~~ $x^2$ {{ 7 * 7 }} {% raw %}",
]


def markdown(text):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


class Cells(HTMLParser):
    """The texts of all table rows, and every tag."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.open = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def save_run(folder, content, recipe="steps: []\n"):
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text(recipe)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A real run on images whose classes, folder and file names hold everything that could break a card."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>photos|`x`"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (96, 16, 16), generator=generator, dtype=torch.uint8).numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=HOSTILE)})
    columns = {"image": [Image.fromarray(p) for p in pictures], "label": [n % len(HOSTILE) for n in range(96)]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    training = {"epochs": 1, "learning_rate": 1e-3}
    recipe = Recipe.from_dict(
        {
            "student": {"model": "resnet18", "width": 0.125, "image_size": 32},
            "data": {"path": str(folder), "splits": {"validation": 0.2, "test": 0.3}},
            "steps": [{"finetune": training}, {"prune": {"amount": 0.3, "iterative": False, "recovery": training}}],
            "measure": {"batch_size": 2, "repeats": 3},
        }
    )
    return compress(recipe, folder.parent / "out", log=lambda line: None)


def test_hostile_names_leave_card_and_metadata_valid(hostile):
    card = ModelCard.load(hostile.folder / "README.md")
    assert {result.metric_type for result in card.data.eval_results} == {"accuracy", "roc_auc"}
    assert card.data.eval_results[0].metric_value == pytest.approx(
        hostile.report["rows"][-1]["quality"]["accuracy"], abs=1e-6
    )
    parsed = Cells(markdown(card.text))
    headings = [row for row in parsed.rows if row[0] in ("", "stage", "split", "class")]
    assert len(headings) == 5
    width = None
    for row in parsed.rows:
        width = len(row) if row in headings else width
        assert len(row) == width, row
    assert {tag for tag, _ in parsed.tags} <= {
        "h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "img", "pre", "code", "ul", "li", "strong"
    }  # fmt: skip
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    drawn = ("training", "rounds", "layers", "latency", "confusion", "reliability", "examples")
    assert images == [f"figures/{name}.png" for name in drawn]
    assert all((hostile.folder / path).stat().st_size < 60_000 for path in images)


def test_hostile_names_are_readable_and_turn_no_text_around(hostile):
    text = (hostile.folder / "README.md").read_text()
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    shown = unescape(re.sub("<[^>]*>", "", markdown(ModelCard(text).text)))
    assert [name for name in HOSTILE if one_line(name) not in shown] == []
    assert "{{ 7 * 7 }}" in shown, "a name is no template"


def test_the_snippet_runs(hostile, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (hostile.folder / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(hostile.folder)
    Image.new("L", (20, 30), 128).save("photo.jpg")
    try:
        exec(compile(code, "card", "exec"), {})
    finally:
        os.remove("photo.jpg")
    assert len(re.findall(r": \d+\.\d%", capsys.readouterr().out)) == 3


def test_the_command_renders_the_same_card_again(hostile):
    before = {path: path.read_bytes() for path in hostile.folder.rglob("*") if path.is_file()}
    (hostile.folder / "README.md").unlink()
    (hostile.folder / "figures" / "layers.png").unlink()
    result = CliRunner().invoke(app, ["card", str(hostile.folder)])
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in hostile.folder.rglob("*") if path.is_file()} == before


@given(st.text(max_size=40))
def test_an_escaped_name_is_one_cell_with_that_text(name):
    html = markdown(f"| a | b |\n|---|---|\n| {escaped(name)} | x |\n")
    cells = Cells(html)
    assert [tag for tag, _ in cells.tags if tag not in ("table", "thead", "tbody", "tr", "th", "td")] == []
    assert cells.rows[-1] == [one_line(name), "x"]


def test_plain_prose_is_not_escaped():
    said = "name a model in 'teacher', which isn't deterministic_algorithms: set steps.0.distill.batch_size"
    assert escaped(said) == said
    assert escaped("_a_ __b c_") == "&#95;a&#95; &#95;&#95;b c&#95;"


@given(st.text(max_size=40))
def test_an_escaped_name_stays_text_in_a_list_and_a_heading(name):
    tags = [tag for tag, _ in Cells(markdown(f"# {escaped(name)} b\n\n- a {escaped(name)} b\n")).tags]
    assert tags == ["h1", "ul", "li"]


@given(st.text(max_size=40))
def test_metadata_survives_any_name(name):
    made = report(path=f"user/{name}", labels=["a", "b", name])
    made["rows"][-1]["model"] = name
    made["data"]["revision"] = "abc"
    text = f"---\n{card_data(made, None).to_yaml()}\n---\ntext\n"
    card = ModelCard(text)
    assert card.data.eval_results[0].dataset_name == one_line(f"user/{name}")
    assert card.text == "text\n"


def test_metadata_carries_lineage_results_and_overrides():
    teacher = {"id": "org/t", "source": "hub", "revision": "f" * 40, "license": "mit", "base_model": "org/t"}
    made = report(path="org/data", teacher=teacher)
    made["data"]["revision"] = "a" * 40
    data = card_data(made, "me/small", license="mit").to_dict()
    assert (data["base_model"], data["base_model_relation"], data["datasets"]) == (["org/t"], "finetune", ["org/data"])
    assert (data["pipeline_tag"], data["library_name"], data["license"]) == (
        "image-classification",
        "transformers",
        "mit",
    )
    assert data["tags"] == ["hf-compress", "pruning"]
    (index,) = data["model-index"]
    assert index["name"] == "small"
    (result,) = index["results"]
    assert result["dataset"] == {"name": "org/data", "type": "org/data", "split": "test", "revision": "a" * 40}
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("accuracy", 0.9), ("roc_auc", 0.9)]


@pytest.mark.parametrize(
    ("loads_with", "library", "says", "code"),
    [
        ("transformers", "transformers", "", 'from_pretrained("me/small")'),
        ("generated_code", "transformers", "`modeling_hf_compress.py` of this repository", "trust_remote_code=True"),
        ("custom_code", "transformers", "code of this repository", "trust_remote_code=True"),
        ("hf_compress", "hf-compress", "`pip install hf-compress` rebuilds", "import hf_compress"),
    ],
)
def test_the_card_says_what_a_model_needs(loads_with, library, says, code, tmp_path):
    folder = save_run(tmp_path / "run", report(loads_with=loads_with))
    card = render_card(folder, repo_id="me/small")
    words, snippet = card.text.partition("## How to load it")[2].partition("```python")[::2]
    assert card.data.library_name == library
    assert says in words and (says or not words.strip())
    lines = snippet.partition("```")[0].replace("(model_id", '("me/small"')
    assert code in lines
    assert ("trust_remote_code" in lines) == loads_with.endswith("code")
    assert ("import hf_compress" in lines) == (loads_with == "hf_compress")


def test_a_base_that_is_no_repository_is_left_out():
    teacher = {"id": "/home/me/t", "source": "folder", "revision": None, "license": None, "base_model": "../x y"}
    data = card_data(report(teacher=teacher), None).to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data


def test_tags_say_what_was_done_and_which_files_lie_there(tmp_path):
    folder = save_run(
        tmp_path / "run", report(deployed=[deployed(runtime="openvino", precision="float32"), deployed()])
    )
    assert write_card(folder).data.tags == ["hf-compress", "pruning", "int8", "onnx", "openvino"]
    assert not (folder / ".eval_results").exists()


def test_what_its_owner_wrote_or_changed_is_not_replaced(tmp_path):
    made = report(path="org/data")
    made["data"]["revision"] = "a" * 40
    folder, written = save_run(tmp_path / "new", made), save_run(tmp_path / "written", made)
    write_card(written)
    card, figure = "README.md", "figures/layers.png"
    for place, name in ((folder, card), (written, card), (written, figure)):
        before = (place / name).read_bytes() if place == written else None
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("years of work")
        with pytest.raises(UsageError, match=f"{name}' would be replaced"):
            write_card(place)
        assert (place / name).read_text() == "years of work"
        (place / name).unlink()
        if before:
            (place / name).write_bytes(before)


def test_templates_ship_in_the_wheel():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    for path in (ROOT / "model_cards").glob("*.*"):
        assert included[f"model_cards/{path.name}"] == f"hf_compress/model_cards/{path.name}"


def test_the_example_is_what_the_command_makes():
    """When the template changes: write `render_card` of the folder."""
    folder = ROOT / "model_cards" / "quickstart"
    assert str(render_card(folder)) == (folder / "README.md").read_text()


def test_the_tables_compare_the_final_model_with_the_first():
    table = {heading: cells for heading, *cells in comparison(report())[1]}
    assert table["accuracy"] == ["1.0000", "0.9000", "-0.1000"]
    assert table["parameters"] == ["2.00 M", "1.00 M", "2.0x fewer"]
    assert table["latency, one image, p50"] == ["8.00 ms", "2.00 ms", "4.0x faster"]
    assert table["size on disk"] == ["8.00 MB", "4.00 MB", "2.0x less"]
    headings, rows = comparison(report(deployed=[deployed()]))
    assert headings == ["", "teacher resnet18, PyTorch", "this model, PyTorch", "change", "onnx int8"]
    files = {heading: cells[-1] for heading, *cells in rows}
    assert files["accuracy"] == "0.8750, -0.1250"
    assert files["size on disk"] == "1.00 MB, 8.0x less"
    assert files["latency, one image, p50"] == "1.00 ms, 8.0x faster"
    assert files["MACs"] == ""
    epochs = {"epochs": [{"epoch": number} for number in (1, 2, 3)], "best_epoch": 2}
    assert what_was_done({"stage": "distill", "details": epochs}) == "3 epochs, the best: 2"
    epochs["time_budget"] = {"minutes": 30, "steps": 259, "epochs": 2.59375}
    assert what_was_done({"stage": "distill", "details": epochs}) == "2.59 epochs within 30 minutes, the best: 2"
    assert what_was_done(report()["rows"][1]) == "2 rounds, 1 kept, sparsity 25.0%"
    row = report()["rows"][1]
    for entry in row["details"]["rounds"]:
        entry |= {"importance": "obs", "budget": {"scope": "cost", "per": "latency", "target": {"latency": 0.3}}}
        entry |= {"latency": 0.312, "output_error_before": 0.5, "output_error_after": 0.0123}
    assert what_was_done(row) == (
        "2 rounds by obs (scope cost, per latency, target latency 0.3), 1 kept, sparsity 25.0%, time -31.2%, "
        "output error 0.5, repaired 0.012"
    )
    assert summary(report()) == [
        "A resnet18 image classifier for 3 classes, made with hf-compress: prune.",
        "Against the teacher resnet18 it has 2.0x fewer parameters and 2.0x fewer MACs; its accuracy on 30 test "
        "images is 0.9000 instead of 1.0000.",
    ]


def test_detectors_are_told_by_the_average_precision_of_each_class():
    content = report()
    for row, precision in zip(content["rows"], (0.75, 0.5), strict=True):
        del row["classes"]
        row["class_ap"] = [None, precision]
    check_report(content, "report")
    assert class_measure(content) == "AP"
    assert [row[3:] for row in class_table(content)] == [("", ""), ("0.7500", "0.5000"), ("", "")]


def test_classes_are_listed_or_the_worst_of_many():
    assert class_table(report())[1] == ("dog", 30, 10, "1.0000", "0.9000")
    many = report(labels=[f"c{n}" for n in range(40)])
    many["rows"][-1]["classes"]["correct"][17] = 1
    assert [row[0] for row in class_table(many)][:2] == ["c17", "c0"]
    assert len(class_table(many)) == 15


def test_a_report_of_something_else_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"report\.json' is no report of a run: it lacks the key 'created'"):
        render_card(save_run(tmp_path / "run", {"hello": 1}))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(8, 2, "4.0x faster"), (2, 3, "1.50x slower"), (5, 5, "same"), (0, 5, ""), (1000, 1, "1000.0x faster")],
)
def test_ratios(old, new, words):
    assert ratio(old, new, "faster") == words


def test_what_got_worse_is_a_limit_and_comes_first():
    made = report(deployed=[deployed(differences=[gap("accuracy", "1 prune", -0.05, -0.01)])])
    made["rows"][-1]["differences"] = [gap("accuracy", "teacher", -0.15, -0.05), gap("roc_auc", "teacher", -0.1, 0.1)]
    for row, error in zip(made["rows"], (0.01, 0.031), strict=True):
        row["reliability"] = {"expected_calibration_error": error, "bins": [[0.9, 0.9, 10]]}
    model, file, calibration = limits(made)[:3]
    assert model == (
        "The accuracy of the model is surely worse than that of the teacher resnet18: "
        "10.00 points lower (-15.00 to -5.00 points)."
    )
    assert file.startswith("The accuracy of deploy/model.int8.onnx is surely worse than that of the final model in Py")
    assert calibration.startswith("The calibration error rose from 0.0100 to 0.0310 (3.1x)")
    made["rows"][-1]["reliability"]["expected_calibration_error"] = 0.014
    assert not any("calibration" in sentence for sentence in limits(made))


def gap(metric, against, low, high):
    return {"metric": metric, "against": against, "difference": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], "1.75x less on disk, 4.0x faster with one image, accuracy -0.1000: beside the teacher resnet18 in PyTor"),
        ([deployed(quality={"accuracy": 0.9})], "7.0x less on disk, 8.0x faster with one image, accuracy -0.1000: "
         "deploy/model.int8.onnx, beside the teacher resnet18 in PyTorch, on A Processor with 2 threads"),
    ],
)  # fmt: skip
def test_a_card_begins_with_the_answer(files, line):
    made = report(deployed=files)
    for row, size in zip(made["rows"], (7_000_000, 4_000_000), strict=True):
        row["cost"]["bytes"] = size
    assert headline(made).startswith(line)
    for row in made["rows"]:
        row["quality"] = {}
        del row["latency"], row["cost"]["bytes"]
    assert headline(made | {"deployed": []}) == ""


def test_limits_come_from_facts():
    teacher = {"id": "org/t", "source": "hub", "revision": None, "license": None, "base_model": "org/t"}
    found = limits(report(teacher=teacher))
    assert found[1] == "The test set has 30 images: one image is worth 3.3 points of accuracy."
    assert found[2] == "3 classes with fewer than 20 test images: cat (10), dog (10), owl (10)."
    assert found[0].startswith("Recall fell against the teacher in 3 classes: cat (-10.0 points)")
    assert "org/t was trained on before" in found[3]
    assert "A Processor with 2 threads" in found[4]
    assert len(found) == 5
    unsteady = report()
    unsteady["rows"][0]["latency"]["batch_1"]["p95_ms"] = 8.0 * 2.5
    assert "95th percentile up to 2.5 times the median" in limits(unsteady)[-1]
    assert len(limits(report())) == 4, "a teacher that was trained here has seen no test image"


def test_what_was_not_measured_is_absent(tmp_path):
    made = report()
    for row in made["rows"]:
        for key in ("latency", "reliability", "classes"):
            del row[key]
        del row["quality"]["roc_auc"]
        del row["cost"]["peak_memory_bytes"]
    made |= {"layers": {}, "labels": []}
    folder = save_run(tmp_path / "run", made)
    text = str(write_card(folder))
    for word in ("atency", "alibration", "ROC", "memory", "ecall"):
        assert word not in text.partition("## How to load")[0], word
    assert {path.name for path in (folder / "figures").iterdir()} == {"training.png", "rounds.png"}
    assert not re.search(r"\| *0(\.0+)?( \w+)? *\|", text.partition("## Data")[0])


def test_a_model_without_teacher_or_labels_has_a_card(tmp_path):
    made = report()
    for row in made["rows"]:
        row["quality"] = {"teacher_agreement": 0.5}
        del row["classes"]
    made["data"]["splits"]["test"] |= {"unlabelled_images": 30, "images_by_class": {}}
    card = render_card(save_run(tmp_path / "run", made))
    assert "its agreement with the teacher on 30 test images is 0.5000" in card.text
    assert card.data.eval_results is None


def test_a_users_own_template_is_escaped_too(tmp_path):
    folder = save_run(tmp_path / "run", report(labels=["<b>", "x|y", "z"]))
    template = tmp_path / "mine.md"
    template.write_text("---\n{{ card_data }}\n---\n{% for name in report.labels %}\n- {{ name }}\n{% endfor %}\n")
    assert render_card(folder, template).text == "- &#60;b&#62;\n- x&#124;y\n- z\n"


@pytest.mark.parametrize(
    ("template", "words"),
    [("{% for %}", "wrong in line 1"), ("{{ acuracy }}", "'acuracy' is undefined"), ("---\na: [\n---\n", "metadata")],
)
def test_a_wrong_template_is_one_sentence(tmp_path, template, words):
    folder = save_run(tmp_path / "run", report())
    (tmp_path / "mine.md").write_text(template)
    with pytest.raises(UsageError, match=words):
        render_card(folder, tmp_path / "mine.md")


def test_a_missing_template_leaves_the_folder_alone(tmp_path):
    folder = save_run(tmp_path / "run", report())
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match="cannot be read"):
        write_card(folder, tmp_path / "other.md")
    assert sorted(folder.rglob("*")) == before


def test_a_recipe_cannot_leave_its_block(tmp_path):
    recipe = "note: |\n  ```\n  # not a heading\n  ````\n"
    card = render_card(save_run(tmp_path / "run", report(), recipe))
    assert "not a heading</h1>" not in markdown(card.text)
    assert recipe.rstrip() in card.text
