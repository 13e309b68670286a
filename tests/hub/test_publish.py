"""Publishing with the real client: what arrives, what is refused before anything is sent, and how it is sent."""

import json
import shutil

import pytest
import yaml
from hub_client import ALICE, BOB, same_predictions
from hub_storage import card_metadata
from safetensors.torch import load_file, save_file


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
    assert published.out.strip().endswith(f"published: {hub.url}/alice/small/commit/{head.oid}")
    remote = hub.files("alice/small")
    local = {p.relative_to(run_folder).as_posix(): p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    assert remote == local | {"README.md": remote["README.md"]}
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
    assert {path for path in head.files if head.files[path] != previous.get(path)} <= {"report.json", "README.md"}
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
    assert result.out.strip().endswith(f"published: {hub.url}/alice/open/discussions/1")
    assert repo.pulls[0]["title"] == "A smaller one"
    assert repo.resolve("main") == main
    assert "model.safetensors" in repo.resolve("refs/pr/1").files
    missing = push(client, run_folder, "alice/nowhere", "--create-pr", token=BOB)
    assert (missing.code, "there is no repository alice/nowhere" in missing.error) == (2, True)


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
    from hf_compress import Run, publish

    done = Run.open(folder).publish("alice/by-python", license="mit")
    assert done.changed
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
    assert "step 1" not in result.out


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


def test_hidden_files_stay_at_home(hub, client, copied):
    folder, _ = copied
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "figures" / ".cache").mkdir(parents=True)
    (folder / "figures" / ".cache" / "x").write_text("x")
    (folder / "figures" / "accuracy.png").write_bytes(b"\x89PNG\0")
    shutil.rmtree(folder / ".eval_results", ignore_errors=True)
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "digits.yaml").write_text("[]")
    assert push(client, folder, "alice/tidy").code == 0
    assert {"figures/accuracy.png", ".eval_results/digits.yaml"} <= set(hub.files("alice/tidy"))
    assert not {".env", "figures/.cache/x"} & set(hub.files("alice/tidy"))
