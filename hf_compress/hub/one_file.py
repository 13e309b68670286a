"""A deployed int8 file as a repository of its own: what goes there, so that it is used without the run folder."""

import json
from pathlib import Path, PurePosixPath

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_json
from hf_compress.ground.manifest import MANIFEST, Manifest, digest, is_plain_file
from hf_compress.hub.contents import CARD, Contents, refuse_secrets
from hf_compress.models.origin import publishable_license
from hf_compress.report.quantized_card import quantized_card
from hf_compress.report.run import Run
from hf_compress.runtimes import RUNTIMES
from hf_compress.sections.publish import PublishSection

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
OF_THE_WEIGHTS = ("auto_map", "quantization_config")


def file_contents(folder: Path, section: PublishSection, file: str, base_model: str | None) -> Contents:
    """Return the files by their path in the repository: the int8 file, what lies beside it, processor, config, card.

    The config says nothing of the weights, which are those of the file; it is for what reads labels there.

    Args:
        folder: the run folder.
        file: path of the file in it, as the report names it.
        base_model: repository of the model that was quantized.

    Raises:
        UsageError: there is no such file, it is not int8 or was changed since it was measured; no base is named; the
            licence does not allow it, or a file holds a secret.
    """
    report = Run.open(folder).report
    files = {row["file"]: row for row in report.get("deployed", []) if row["precision"] == "int8"}
    if file not in files:
        known = f"they are {', '.join(files)}" if files else "`hf-compress export FOLDER --to onnx --int8` makes one"
        raise UsageError(f"'{file}' is no int8 file of '{folder}': {known}")
    if section.template is not None:
        raise UsageError("a template is for the card of a run: leave it out for a single file")
    if base_model is None:
        raise UsageError("say of which repository the file is the int8 form: --base-model user/name")
    if base_model == section.to:
        raise UsageError(f"'{base_model}' is the repository of the model itself: send its int8 form to another one")
    try:
        validate_repo_id(base_model)
    except HFValidationError:
        raise UsageError(f"'{base_model}' is no repository of the Hub: name it user/name") from None
    license = publishable_license(report, section.license)
    contents: Contents = {PurePosixPath(name).name: folder / name for name in _beside(folder, files[file])}
    config = {key: value for key, value in read_json(folder / CONFIG).items() if key not in OF_THE_WEIGHTS}
    contents[CONFIG] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    contents[PROCESSOR] = folder / PROCESSOR
    contents[CARD] = str(quantized_card(report, files[file], section.to, base_model, license)).encode()
    digests = {name: [digest(content)] for name, content in contents.items()}
    contents[MANIFEST] = Manifest(kind="run", files=digests).text().encode()
    refuse_secrets(contents)
    return contents


def _beside(folder: Path, row: dict) -> list[str]:
    """Return the file and what was written with it: its data, its JSON, its script."""
    manifest, file = Manifest.of(folder), Path(row["file"])
    parts = [place.as_posix() for place in RUNTIMES.get(row["runtime"])().files(file)]
    names = [*parts, f"{row['file']}.json", *([row["script"]] if "script" in row else [])]
    for name in names:
        if not is_plain_file(folder, name) or digest(folder / name) not in manifest.files.get(name, []):
            raise UsageError(f"'{name}' in '{folder}' is not as it was measured: export it again")
    return names
