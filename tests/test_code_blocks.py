"""What README and docs show as code is so: YAML is what the page says, Python calls what there is, JSON loads."""

import ast
import importlib
import inspect
import json
import re
import tomllib

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from documented import PAGES, ROOT, blocks

from hf_compress import Recipe, Study
from hf_compress.auto.space import Space
from hf_compress.checkpoint import rewrites
from hf_compress.checkpoint.quantizer import METHOD, CheckpointConfig
from hf_compress.ground.bounded_yaml import read_yaml
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import STUDENTS
from hf_compress.runtimes import RUNTIMES
from hf_compress.sections.base import validate
from hf_compress.sections.distillation import LOSSES
from hf_compress.steps import STEPS
from hf_compress.steps.pruning import CRITERIA
from hf_compress.steps.rewriting import REWRITINGS
from hf_compress.tasks import TASKS

RECIPE = {"teacher": "microsoft/resnet-50", "student": "mobilenet_v2", "data": "./photos", "steps": ["distill"]}
RUNS = {"resnet18-mse": {"student": "resnet18", "steps": ["finetune"]}}  # from which other runs of a page learn
SKYPILOT = {"resources", "file_mounts", "setup", "run"}
REGISTRIES = (STEPS, TASKS, STUDENTS, LOSSES, CRITERIA, REWRITINGS, RUNTIMES)


def check_yaml(text):
    """Read a block as what it is: a study, a space, steps, a recipe or a part of one, or another tool's file."""
    values = read_yaml(text)
    if isinstance(values, list):
        Recipe.from_dict(RECIPE | {"steps": values})
    elif "runs" in values:
        validate(Study, {"data": "./photos", **values, "runs": RUNS | values["runs"]})
    elif values.keys() <= Space.model_fields.keys():
        validate(Space, values)
    elif "distributed_type" in values:
        ClusterConfig(**ClusterConfig.process_config(values))  # accelerate's
    elif values.keys() != SKYPILOT:
        whole = "chain" in values or {"teacher", "data"} <= values.keys()
        Recipe.from_dict(values if whole else RECIPE | values)


def check_alternatives(text):
    """Read a block, or where all of its lines set one key, each of them."""
    lines = text.splitlines()
    same = len({line.partition(":")[0] for line in lines}) == 1
    for each in lines if same else [text]:
        check_yaml(each)


def check_json(text):
    """Read the `quantization_config` of a checkpoint."""
    values = json.loads(text)
    assert values["quant_method"] == METHOD
    CheckpointConfig(**values)


def named(node, names):
    """Return what of this package an expression names; None where it is something else, or only a run could tell."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Subscript):
        return named(node.value, names)
    owner = named(node.value, names) if isinstance(node, ast.Attribute) else None
    return None if owner is None else getattr(owner, node.attr)


def take_in(node, names):
    """Import into `names` what an import takes of this package; forget what others' names hide."""
    for alias in node.names:
        place = node.module if isinstance(node, ast.ImportFrom) else alias.name
        module = importlib.import_module(place) if place.split(".")[0] == "hf_compress" else None
        whole = module is None or isinstance(node, ast.Import)
        names[alias.asname or alias.name] = module if whole else getattr(module, alias.name)


def check_python(text, names):
    """Import what a block imports of this package, bind its calls' arguments, and find the methods that it overrides.

    Args:
        names: what blocks above have imported; this block adds its own.
    """
    nodes = list(ast.walk(ast.parse(text)))
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            take_in(node, names)
    for node in nodes:
        called = named(node.func, names) if isinstance(node, ast.Call) else None
        if called is not None and not (inspect.isclass(called) and issubclass(called, Exception)):
            inspect.signature(called).bind(*node.args, **{word.arg: word.value for word in node.keywords})
        for base in node.bases if isinstance(node, ast.ClassDef) else []:
            for method in node.body if named(base, names) is not None else []:
                if isinstance(method, ast.FunctionDef):
                    overridden = inspect.signature(getattr(named(base, names), method.name))
                    overridden.bind(*method.args.args, **{own.arg: own for own in method.args.kwonlyargs})


def test_every_language_is_known():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = [language for text in texts for language in re.findall(r"^```(.+)$", text, re.MULTILINE)]
    assert set(found) == {"bash", "json", "python", "text", "toml", "yaml"}
    assert len(found) == sum(len(list(blocks(page))) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_are_what_they_show(page):
    names = {}
    checks = {"yaml": check_alternatives, "json": check_json, "python": lambda text: check_python(text, names)}
    for language, check in checks.items():
        for line, text in blocks(page, language):
            try:
                check(text)
            except Exception as error:
                raise AssertionError(f"{page.name}, line {line}: {error}") from error


@pytest.mark.parametrize(
    ("check", "text", "said"),
    [
        (check_yaml, "steps: [{distill: {los: mse}}]", "unknown key 'steps.0.distill.los'"),
        (check_yaml, "teacher: a/b\ndata: ./photos\ndeploy: [onnx]", "'steps' is missing"),
        (check_yaml, "- distil: {}", "unknown step 'distil'"),
        (check_yaml, "runs: {one: {student: {run: two}, steps: [finetune]}}", "needs the unknown run 'two'"),
        (check_yaml, "macs: [2]", "'macs.0' cannot be 2"),
        (check_yaml, "distributed_type: MULTI\nnum_processes: 2", "'MULTI' is not a valid DistributedType"),
        (check_yaml, "data: a\ndata: b", "'data' a second time"),
        (check_alternatives, "student: resnet18\nstudent: {widht: 0.5}", "unknown key 'student.widht'"),
        (check_json, '{"quant_method": "awq"}', "awq"),
        (check_json, json.dumps({"quant_method": METHOD, "rewrites": {"a": {"kind": "b", "layers": []}}}), "damaged"),
        (check_python, "from hf_compress import compres", "no attribute 'compres'"),
        (check_python, "import hf_compress as h\nh.prune(m, x, amuont=1)", "unexpected keyword argument 'amuont'"),
        (check_python, "from hf_compress import Recipe\nRecipe.laod('a')", "laod"),
        (check_python, "from hf_compress import save\nsave(model)", "missing a required argument: 'folder'"),
        (check_python, "from hf_compress import Step\nclass A(Step[B]):\n  def apply(self): ...", "missing a"),
        (check_python, "from hf_compress import Step\nclass A(Step):\n  def aply(self): ...", "no attribute 'aply'"),
        (check_python, "for", "invalid syntax"),
    ],
)
def test_a_wrong_block_is_found(check, text, said):
    wrong = (AssertionError, AttributeError, RunError, SyntaxError, TypeError, UsageError, ValueError)
    with pytest.raises(wrong, match=said):
        check(text, *[{}] if check is check_python else [])


def test_what_contributing_shows_can_be_registered(monkeypatch):
    page = ROOT / "CONTRIBUTING.md"
    before = sum(len([*registry]) for registry in REGISTRIES)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    names = {}
    for _, text in blocks(page, "python"):
        exec(text, names)
    assert sum(len([*registry]) for registry in REGISTRIES) == before + len(list(blocks(page, "python")))
    for _, text in blocks(page, "toml"):
        groups = tomllib.loads(text)["project"]["entry-points"]
        assert groups.keys() <= {registry.group for registry in REGISTRIES}


def test_the_page_of_formats_names_every_layer():
    forms = rewrites._RECORDS.json_schema()["$defs"].values()
    types = [form["properties"]["type"] for form in forms if "type" in form["properties"]]
    known = {name for each in types for name in each.get("enum", [each.get("const")])}
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+)`", re.search(r"`type` is (.*?), the other", text, re.DOTALL)[1])) == known
