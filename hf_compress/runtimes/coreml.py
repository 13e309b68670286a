"""Core ML packages, for iPhones and Macs."""

from __future__ import annotations

import logging
import warnings
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hf_compress.ground.errors import UsageError
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime

HANDLES = "executorch_debug_handle_mapping.json"  # of no use without ExecuTorch


@register_runtime("coreml")
class CoreMl(Runtime):
    """A `.mlpackage` (iOS 16, macOS 13) for one image at a time, stored and computed in float32.

    Labels and preprocessing are its user-defined metadata, and lie in the JSON beside it.
    """

    suffix = ".mlpackage"
    package = "coremltools"
    extra = "coreml"
    only_on = "a Mac"
    no_int8 = "what it would cost can only be measured on a Mac"
    batches = False

    def write(self, model: Exportable, file: Path) -> dict[str, Any]:
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        import coremltools

        program = model.program(dynamic_batch=False).run_decompositions({})
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # a bar for each of about a hundred passes
            warnings.simplefilter("ignore")
            converted = coremltools.convert(
                program,
                outputs=[coremltools.TensorType(name=name) for name in model.outputs],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
            )
        told = _structure(converted.get_spec(), model)
        converted.user_defined_metadata.update(model.metadata)
        converted.save(str(file))
        (file / HANDLES).unlink(missing_ok=True)
        return told

    def load(self, file: Path, threads: int) -> Call:
        raise UsageError(f"'{file}' runs on a Mac only")

    def files(self, file: Path) -> list[Path]:
        inside = file / "Data" / "com.apple.CoreML"
        return [file / "Manifest.json", inside / "model.mlmodel", inside / "weights" / "weight.bin"]


def _structure(spec: Any, model: Exportable) -> dict[str, Any]:
    """Return `structure`: what the file takes and gives, and how many operations it has.

    Raises:
        RuntimeError: it takes or gives something else than the model.
    """
    import torch

    with torch.no_grad():
        made = model.module(model.image)
    tensors = [made] if isinstance(made, torch.Tensor) else made
    wanted = {INPUT: [*model.image.shape]} | {
        name: [*tensor.shape] for name, tensor in zip(model.outputs, tensors, strict=True)
    }
    ends = [*spec.description.input, *spec.description.output]
    found = {end.name: [*end.type.multiArrayType.shape] for end in ends}
    if found != wanted:
        raise RuntimeError(f"the file takes and gives {found}, the model {wanted}")
    blocks = [block for each in spec.mlProgram.functions.values() for block in each.block_specializations.values()]
    operations = sum(operation.type != "const" for block in blocks for operation in block.operations)
    return {"structure": f"it takes and gives what the model does, in {operations} operations"}
