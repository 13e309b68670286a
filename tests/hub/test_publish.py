"""Publishing with the real client: what arrives, what is refused before anything is sent, and how it is sent."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from hashlib import sha256

import pytest
import torch
import yaml
from hub_client import ALICE, BOB, predict, same_predictions
from hub_storage import card_metadata
from safetensors.torch import load_file, save_file

from hf_compress import save
from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import MANIFEST, adding
from hf_compress.hub import contents
from hf_compress.models.students import build_registered
from hf_compress.report.examples import EXAMPLES
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner


def push(client, folder, to, *options, token=ALICE):
    return client.cli("publish", folder, "--to", to, *options, HF_TOKEN=token)


def commits(hub, name):
    return len(hub.repo(name).commits)


@pytest.fixture(scope="module")
def published(hub, client, run_folder):
    result = push(client, run_folder, "alice/small")
    assert result.code == 0, result.err
    return result


def test_one_commit_holds_the_folder_and_a_card_with_licence_and_origin(hub, run_folder, published):
    repo = hub.repo("alice/small")
    head = repo.resolve("main")
    assert commits(hub, "alice/small") == 2  # the Hub's own first commit, and ours
    url, left = published.out.strip().splitlines()[-2:]
    assert url.endswith(f"published: {hub.url}/alice/small/commit/{head.oid}")
    assert left == f"not sent: {EXAMPLES} (--include PATTERN sends it)", "test images are their owner's"
    remote = hub.files("alice/small")
    local = {p.relative_to(run_folder).as_posix(): p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    assert b"examples.png" not in remote["README.md"] and local.pop(EXAMPLES)
    assert remote == local | {name: remote[name] for name in ("README.md", MANIFEST)}
    sent = json.loads(remote[MANIFEST])["files"]
    assert sent == {name: [sha256(remote[name]).hexdigest()] for name in remote if name != MANIFEST}
    assert head.files["model.safetensors"].lfs
    data = card_metadata(remote["README.md"].decode())
    assert data["license"] == "apache-2.0"
    assert data["base_model"] in ("alice/teacher", ["alice/teacher"])
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["alice/digits"]
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == "transformers"
    assert not repo.private


def test_a_new_process_gets_the_same_predictions_from_the_hub(client, run_folder, published):
    assert same_predictions(client, run_folder, "alice/small")


def test_publishing_again_sends_nothing_and_makes_no_commit(hub, client, run_folder, published):
    before = len(hub.requests)
    result = push(client, run_folder, "alice/small")
    assert result.code == 0
    assert "nothing has changed" in result.out
    sent = [line for line in hub.requests[before:] if "/commit/" in line or line.startswith("PUT")]
    assert sent == []
    assert commits(hub, "alice/small") == 2


def test_only_changed_files_are_sent(hub, client, copied):
    folder, change = copied
    push(client, folder, "alice/changing")
    before = len(hub.requests)
    change(note="the report alone has changed")
    assert push(client, folder, "alice/changing", "--message", "Second").code == 0
    assert not [line for line in hub.requests[before:] if line.startswith("PUT")]
    head = hub.repo("alice/changing").resolve("main")
    previous = hub.repo("alice/changing").commits[head.parent].files
    assert head.title == "Second"
    assert {path for path in head.files if head.files[path] != previous.get(path)} <= {
        "report.json", "README.md", MANIFEST,
    }  # fmt: skip
    assert json.loads(hub.files("alice/changing")["report.json"])["note"]


def test_dry_run_shows_files_and_card_and_asks_nobody(hub, client, run_folder):
    before = len(hub.requests)
    result = push(client, run_folder, "alice/never", "--dry-run", "--license", "mit", token=None)
    assert result.code == 0, result.err
    assert len(hub.requests) == before
    size = (run_folder / "model.safetensors").stat().st_size
    assert f"{size:,} bytes" in result.out
    assert "would go to alice/never" in result.out
    assert card_metadata(result.out)["license"] == "mit"


def test_a_card_that_was_edited_is_sent_as_it_is(hub, client, copied):
    folder, _ = copied
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card + "\n## Intended use\nDigits alone.\n")
    result = push(client, folder, "alice/edited")
    assert result.code == 0 and "was edited: it is sent as it is" in result.err
    sent = hub.files("alice/edited")["README.md"].decode()
    assert sent.endswith("## Intended use\nDigits alone.\n")
    assert card_metadata(sent)["license"] == "apache-2.0"
    (folder / "README.md").write_text(card.replace("---\n", "---\nlicense: mit\n", 1))
    result = push(client, folder, "alice/edited")
    assert result.code == 2 and "says the licence mit, not apache-2.0: change it there" in result.error
    shutil.rmtree(folder)


def test_a_private_repository_is_private(hub, client, run_folder, published):
    assert push(client, run_folder, "alice/secret", "--private").code == 0
    assert hub.repo("alice/secret").private
    assert client.cli("evaluate", "alice/secret", "--data", "digits", HF_TOKEN=BOB).code == 2
    refused = push(client, run_folder, "alice/small", "--private")
    assert (refused.code, "alice/small is public already" in refused.error) == (2, True)
    assert commits(hub, "alice/small") == 2


def test_a_branch_is_made_and_main_left_alone(hub, client, run_folder, published):
    main = hub.repo("alice/small").resolve("main").oid
    assert push(client, run_folder, "alice/small", "--revision", "v2/try", "--license", "mit").code == 0
    assert hub.repo("alice/small").resolve("main").oid == main
    assert card_metadata(hub.files("alice/small", "v2/try")["README.md"].decode())["license"] == "mit"


def test_a_pull_request_to_somebody_elses_model(hub, client, run_folder):
    repo = hub.add("alice/open", {"README.md": b"# theirs"})
    main = repo.resolve("main")
    direct = push(client, run_folder, "alice/open", token=BOB)
    assert (direct.code, "--create-pr" in direct.error) == (2, True)
    result = push(client, run_folder, "alice/open", "--create-pr", "--message", "A smaller one", token=BOB)
    assert f"published: {hub.url}/alice/open/discussions/1\n" in result.out
    assert repo.pulls[0]["title"] == "A smaller one"
    assert repo.resolve("main") == main
    assert "model.safetensors" in repo.resolve("refs/pr/1").files
    missing = push(client, run_folder, "alice/nowhere", "--create-pr", token=BOB)
    assert (missing.code, "there is no repository alice/nowhere" in missing.error) == (2, True)


WITHOUT_PACKAGE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_compress":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

name, target = sys.argv[1:]
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
pixels = AutoImageProcessor.from_pretrained(name)(image, return_tensors="pt")
model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
with torch.inference_mode():
    torch.save(model(**pixels).logits, target)
"""


def sparse(folder):
    """Write a model of which nine tenths of the weights are zero; return the folder."""
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    WeightPruner(built.model, PruneSection(granularity="weight", floor=0), set()).prune(built.model, 0.9)
    save(built.model, folder, built.processor)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", ["free", "sparse"])
def test_what_lies_on_the_hub_loads_with_transformers_alone(kind, hub, client, run_folder, tmp_path):
    name, folder = f"alice/{kind}-for-all", run_folder
    if kind == "free":
        assert push(client, folder, name).code == 0
    else:
        folder = sparse(tmp_path / "sparse")
        hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})
    assert hub.files(name)["modeling_hf_compress.py"].startswith(b'"""Rebuilds a model')
    environment = os.environ | client.environment | {"HF_TOKEN": ALICE}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, name, str(tmp_path / "logits.pt")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert client.call(predict, str(folder), tmp_path / "here.pt", HF_TOKEN=ALICE).code == 0
    assert torch.equal(torch.load(tmp_path / "logits.pt"), torch.load(tmp_path / "here.pt")["logits"])


def test_the_token_comes_from_the_login_when_the_environment_has_none(hub, client, run_folder):
    result = push(client, run_folder, "alice/login", token=None)
    assert result.code == 2
    assert "publishing needs a login: run `hf auth login`" in result.error
    token = client.folder / "home" / "token"
    token.write_text(ALICE)
    try:
        assert push(client, run_folder, "alice/login", token=None).code == 0
    finally:
        token.unlink()


def test_push_to_hub_of_a_reloaded_pruned_model(hub, client, run_folder):
    result = client.call(push_to_hub, str(run_folder), "alice/pushed", HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    assert "quantization_config" in json.loads(hub.files("alice/pushed")["config.json"])
    assert same_predictions(client, run_folder, "alice/pushed")


def push_to_hub(folder, name):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    import hf_compress  # noqa: F401  pruned models reload

    AutoModelForImageClassification.from_pretrained(folder).push_to_hub(name)
    AutoImageProcessor.from_pretrained(folder).push_to_hub(name)


@pytest.mark.long
def test_a_recipe_publishes_and_python_does(hub, client, run_folder):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    recipe["publish"] = {"to": "alice/by-recipe", "private": True, "license": "mit", "message": "From a recipe"}
    file = client.folder / "publishing.yaml"
    file.write_text(yaml.safe_dump(recipe))
    result = client.cli("run", file, "--publish", "--output", client.folder / "by-recipe", HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    repo = hub.repo("alice/by-recipe")
    assert repo.private
    assert repo.resolve("main").title == "From a recipe"
    assert "publish" not in yaml.safe_load(hub.files("alice/by-recipe")["recipe.yaml"])  # others repeat the run
    assert client.call(run_publish, client.folder / "by-recipe", HF_TOKEN=ALICE).code == 0
    assert commits(hub, "alice/by-python") == 2


def run_publish(folder):
    from hf_compress import publish

    assert publish(folder, "alice/by-python", license="mit").changed
    assert not publish(folder, "alice/by-python", license="mit").changed


def test_a_recipe_that_publishes_fails_before_the_work_without_login_or_licence(hub, client, run_folder, teacher):
    file = client.folder / "impossible.yaml"
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    file.write_text(yaml.safe_dump(recipe | {"publish": {"to": "alice/never"}}))
    output = ("--publish", "--output", client.folder / "impossible")
    assert "publishing needs a login" in client.cli("run", file, *output, HF_TOKEN=None).error
    hub.add("alice/unlicensed", hub.files("alice/teacher") | {"README.md": b"# no licence"})
    result = client.cli("run", file, "--teacher", "alice/unlicensed", "--set", "teacher.revision=main", *output,
                        HF_TOKEN=ALICE)  # fmt: skip
    assert "the licence of alice/unlicensed is not known" in result.error
    assert "step 1" not in result.err


def damage(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_report(folder, change):
    (folder / "report.json").unlink()


def not_a_number(folder, change):
    damage(folder, lambda weights: weights["classifier.1.bias"].fill_(float("nan")))


def half_a_file(folder, change):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def unknown_licence(folder, change):
    source = json.loads((folder / "report.json").read_text())["teacher"]
    change(teacher=source | {"license": None})


def forbidding_licence(folder, change):
    source = json.loads((folder / "report.json").read_text())["teacher"]
    change(teacher=source | {"license": "cc-by-nc-nd-4.0"})


def token_inside(folder, change):
    change(command=f"HF_TOKEN={ALICE} hf-compress run")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (no_report, 2, "is not a run folder: it has no report.json"),
        (not_a_number, 1, "cannot be used: 1 of its weights hold nan or infinity"),
        (half_a_file, 1, "cannot be loaded"),
        (unknown_licence, 2, "the licence of alice/teacher is not known: read its terms, then pass --license"),
        (forbidding_licence, 2, "alice/teacher is under cc-by-nc-nd-4.0, which forbids derived works"),
        (token_inside, 2, "'report.json' contains your access token"),
    ],
)
def test_what_must_not_be_published_is_refused_before_anything_is_sent(spoil, code, says, hub, client, copied):
    spoil(*copied)
    before = len(hub.requests)
    result = push(client, copied[0], "alice/never")
    assert (result.code, says in result.error) == (code, True), result.error
    assert not [line for line in hub.requests[before:] if "alice/never" in line]
    assert ALICE not in result.out + result.err
    shutil.rmtree(copied[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "small"], "'publish.to' cannot be 'small': a repository is named user/name"),
        (["--to", "a/b", "--license", "MIT"], "'publish.license' cannot be 'MIT': give one of the Hub's"),
        (["--to", "a/b", "--create-pr", "--revision", "x"], "leave out create_pr or revision"),
    ],
)
def test_wrong_options(options, says, client, run_folder):
    result = client.cli("publish", run_folder, *options, HF_TOKEN=ALICE)
    assert (result.code, says in result.error) == (2, True), result.error


def put(name, text="mine"):
    def change(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def exported(folder):
    with adding(folder) as new:
        put("model.onnx")(new)


STAYS = {
    "notes": (put("notes.md"), "notes.md"),
    "a key without ending": (put("id_rsa"), "id_rsa"),
    "credentials": (put("credentials"), "credentials"),
    "a hidden file": (put(".env", "PASSWORD=1"), ".env"),
    "a repository": (put(".git/config"), ".git/config"),
    "a figure of one's own": (put("figures/mine.png"), "figures/mine.png"),
    "a hidden folder that the Hub reads": (put(".eval_results/mine.yaml"), ".eval_results/mine.yaml"),
    "a link to a file outside": (lambda folder: (folder / "data").symlink_to("/etc/passwd"), "data"),
    "a link to a folder outside": (lambda folder: (folder / "data").symlink_to("/etc"), "data"),
    "a script with a token": (put("job.sh", f"HF_TOKEN={ALICE}"), "job.sh"),
}
GOES = {
    "an export": (exported, (), {"model.onnx"}),
    "a file that is named": (put("notes.md"), ("notes.md",), {"notes.md"}),
    "a pattern": (put("notes/a/b.md"), ("notes/**",), {"notes/a/b.md"}),
    "two patterns": (lambda folder: (put("a.md")(folder), put("b.txt")(folder)), ("a*", "*.txt"), {"a.md", "b.txt"}),
    "a hidden file that is named": (put(".notes"), (".notes",), {".notes"}),
}


def test_what_no_manifest_names_stays_and_is_told(hub, client, copied):
    folder, _ = copied
    expected = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for number, (change, _) in enumerate(STAYS.values()):
        if number != 8:  # a link of the same name
            change(folder)
    result = push(client, folder, "alice/tidy")
    assert result.code == 0, result.err
    assert set(hub.files("alice/tidy")) == expected - {EXAMPLES}
    (line,) = [line for line in result.out.splitlines() if line.startswith("not sent: ")]
    stays = sorted({EXAMPLES, *(name for _, name in STAYS.values())})
    assert line == f"not sent: {', '.join(stays)} (--include PATTERN sends it)"
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", GOES)
def test_what_is_sent_beside_the_run(case, copied):
    from hf_compress.hub.publish import plan_push

    folder, _ = copied
    before = set(plan_push(folder, "a/b").files)
    change, include, names = GOES[case]
    change(folder)
    put(".env")(folder)
    planned = plan_push(folder, "a/b", include=include)
    assert set(planned.files) - before == names
    assert planned.left == [".env", EXAMPLES]


PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n"
OTHER_TOKEN = "hf_" + "aB3" * 12
SECRETS = {
    "own token": (ALICE, "your access token"),
    "somebody else's token": (OTHER_TOKEN, "an access token of the Hub"),
    "token of an organisation": ("api_org_" + "aB3" * 12, "an access token of an organisation"),
    "private key": (PRIVATE_KEY, "a private key"),
    "old private key": (PRIVATE_KEY.replace("OPENSSH ", ""), "a private key"),
    "key of GnuPG": ("-----BEGIN PGP PRIVATE KEY BLOCK-----", "a private key"),
}
ENDINGS = (".log", ".sh", ".toml", ".ipynb", ".bin", ".safetensors", "")
HIDES = {
    "at the start": lambda text: text.encode() + b"\n",
    "within a word": lambda text: b"x" + text.encode() + b"x",
    "in binary": lambda text: bytes(range(256)) * 9 + text.encode() + b"\0\xff",
    "between two pieces": lambda text: b"." * (contents.CHUNK - 10) + text.encode() + b"." * 100,
    "in UTF-16": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize("place", HIDES)
@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_found_in_a_file_of_any_kind_and_not_shown(case, place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    text, kind = SECRETS[case]
    for ending in ENDINGS:
        file = tmp_path / f"file{ending}"
        file.write_bytes(HIDES[place](text))
        for content in (file, file.read_bytes()):
            with pytest.raises(UsageError, match=f"^'a/file' contains {kind}: remove it") as refused:
                contents.refuse_secrets({"harmless": b"hf_compress_manifest, hf_transfer", "a/file": content})
            assert text not in str(refused.value)
    shutil.rmtree(tmp_path)


def test_what_is_no_secret():
    words = (
        b"hf_compress_manifest.json HF_TOKEN hf_hub_download -----BEGIN CERTIFICATE----- -----BEGIN PUBLIC KEY-----"
    )
    contents.refuse_secrets({"words": words, "nothing": b""})


def relinked(folder):
    (folder / "recipe.yaml").unlink()
    (folder / "recipe.yaml").symlink_to("/etc/passwd")


def moved_figures(folder):
    (folder / "figures").rename(folder.parent / "figures")
    (folder / "figures").symlink_to(folder.parent / "figures")


@pytest.mark.parametrize(
    ("change", "include", "says"),
    [
        (relinked, (), "'recipe.yaml' is a link, or lies outside"),
        (moved_figures, (), "is a link, or lies outside"),
        (lambda folder: (folder / "x").symlink_to("/etc/passwd"), ("x",), "'x' is a link"),
        (put("../beside"), ("../beside",), r"'\.\./beside' is a link, or lies outside"),
        (put("notes.md"), ("/etc/passwd",), "'/etc/passwd' is a link, or lies outside"),
        (put("notes/a.md"), ("notes",), "no file .* matches --include 'notes'"),
        (put("job.sh", OTHER_TOKEN), ("*.sh",), "'job.sh' contains an access token of the Hub"),
        (lambda folder: (folder / MANIFEST).unlink(), (), "name what to send, --include"),
        (put(MANIFEST, "{"), (), "is damaged"),
    ],
)
def test_what_refuses_to_be_published(change, include, says, copied):
    from hf_compress.hub.publish import plan_push

    folder, _ = copied
    change(folder)
    with pytest.raises(UsageError, match=says) as refused:
        plan_push(folder, "a/b", include=include)
    assert OTHER_TOKEN not in str(refused.value)


def test_a_run_of_an_earlier_version_is_published_as_the_refusal_advises(copied):
    from hf_compress.hub.publish import plan_push

    folder, _ = copied
    whole = set(plan_push(folder, "a/b").files)
    (folder / MANIFEST).unlink()
    with pytest.raises(UsageError) as refused:
        plan_push(folder, "a/b")
    words = shlex.split(str(refused.value).partition("name what to send, ")[2])
    include = [word for word in words if word != "--include"]
    assert set(plan_push(folder, "a/b", include=include).files) == whole | {EXAMPLES}, "it is asked for"


def test_what_an_earlier_version_wrote_and_this_one_lacks_is_removed(hub, client, copied):
    folder, _ = copied
    exported(folder)
    put(".gitattributes")(folder)
    theirs = {"notes.md": b"theirs", "model.bin": b"theirs"}
    hub.add("alice/growing", theirs)
    assert push(client, folder, "alice/growing", "--include", ".gitattributes").code == 0
    (folder / "model.onnx").unlink()
    before = commits(hub, "alice/growing")
    result = push(client, folder, "alice/growing")
    assert "removed there: model.onnx" in result.out
    head = hub.repo("alice/growing").resolve("main")
    assert "model.onnx" not in head.files
    assert {*theirs, ".gitattributes", "model.safetensors", "README.md"} <= head.files.keys()
    assert commits(hub, "alice/growing") == before + 1
    assert "nothing has changed" in push(client, folder, "alice/growing").out


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ((), "only the empty repository alice/failing was made"),
        (("--revision", "v2"), "only the branch v2 of alice/failing was made"),
        (("--revision", "v2"), "alice/failing was left as it was"),
    ],
)
def test_a_failure_tells_what_was_made_before_it(options, made, hub, client, copied):
    folder, change = copied
    change(note=made)
    fault = hub.fail("POST .*alice/failing/commit", status=413, times=10)
    result = push(client, folder, "alice/failing", *options)
    fault.times = 0
    assert (result.code, f"{made}, and what was uploaded" in result.error) == (1, True), result.error


def test_a_publication_that_failed_is_made_up_for_by_resume(hub, client, run_folder):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text()) | {"publish": {"to": "alice/late"}}
    file = client.folder / "late.yaml"
    file.write_text(yaml.safe_dump(recipe))
    shutil.copytree(run_folder, client.folder / "late")
    for expected in ("published: ", "nothing has changed since "):
        result = client.cli("run", file, "--output", client.folder / "late", "--resume", "--publish", HF_TOKEN=ALICE)
        assert (result.code, "nothing is left to do but to publish it" in result.err) == (0, True), result.err
        assert expected in result.err
    assert commits(hub, "alice/late") == 2
