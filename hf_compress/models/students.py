"""Students built by name from transformers' own classes, with random weights or those of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from hf_compress.ground.errors import CompressError, UsageError
from hf_compress.ground.files import user_path
from hf_compress.ground.registry import Registry, did_you_mean
from hf_compress.sections.models import TEACHER, StudentSection

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PretrainedConfig

    from hf_compress.models.load import LoadedModel
    from hf_compress.sections.models import TeacherSection


CLASSIFIERS = "AutoModelForImageClassification"


class Kind(Protocol):
    """What of a task tells how its models are made: see `tasks.base.Task`."""

    auto_class: str
    classes: bool
    processor_class: str
    dense: bool
    load: Callable[..., LoadedModel]


@dataclass(frozen=True)
class Checkpoint:
    """Weights for a registered student.

    Attributes:
        id: on the Hub.
        parameters: in millions, with the classes that it was trained for.
        license: as its page on the Hub states.
        width: of the student that they fit.
    """

    id: str
    parameters: float
    license: str
    width: float = 1.0

    def __str__(self) -> str:
        return f"{self.id} ({self.parameters} M parameters, licence {self.license})"


@dataclass(frozen=True)
class Architecture:
    """A registered student: `build(width, **label_options) -> transformers config`; checkpoints, the best first.

    `auto_class`, of transformers, makes the model that it is registered for.
    """

    build: Callable[..., PretrainedConfig]
    description: str
    checkpoints: tuple[Checkpoint, ...] = ()
    auto_class: str = CLASSIFIERS

    def of_width(self, width: float) -> list[Checkpoint]:
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.width == width]


STUDENTS: Registry[Architecture] = Registry("student", "hf_compress.students")
DEFAULT_IMAGE_SIZE = 224


def register_student(name: str, description: str, *checkpoints: Checkpoint, auto_class: str = CLASSIFIERS) -> Callable:
    """Return a decorator for `build(width, **label_options)`, which returns the student's transformers config."""

    def store(build: Callable[..., PretrainedConfig]) -> Callable[..., PretrainedConfig]:
        STUDENTS.register(name)(Architecture(build, description, checkpoints, auto_class))
        return build

    return store


def students_for(auto_class: str = CLASSIFIERS) -> list[str]:
    """Return the names of the students that are registered for an auto class of transformers."""
    return [name for name in STUDENTS if STUDENTS.get(name).auto_class == auto_class]


def build_registered(
    name: str,
    labels: list[str] | None,
    *,
    width: float = 1.0,
    image_size: int | None = None,
    auto_class: str | None = None,
    processor_class: str = "ViTImageProcessor",
) -> LoadedModel:
    """Build a registered architecture with random weights, and an image processor with ImageNet's normalisation.

    Args:
        labels: class names; None for a model that names no classes.
        width: multiplies the number of channels of every layer.
        image_size: height and width of the input in pixels, 224 when not given.
        auto_class: of transformers, which makes the model of the architecture's config; its own when not given.
        processor_class: of transformers.

    Raises:
        UsageError: the architecture has no model of that class.
    """
    import transformers
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from hf_compress.checkpoint.labels import label_options
    from hf_compress.ground.tensors import use_torch_momentum
    from hf_compress.models.load import LoadedModel

    architecture = STUDENTS.get(name)
    config = architecture.build(width, **({} if labels is None else label_options(labels)))
    auto = getattr(transformers, auto_class or architecture.auto_class)
    if type(config) not in auto._model_mapping:
        others = students_for(auto.__name__)
        known = f"name one of {', '.join(others)}" if others else "name a checkpoint"
        raise UsageError(f"transformers makes no {auto.__name__.removeprefix('AutoModelFor')} of '{name}': {known}")
    model = auto.from_config(config)
    use_torch_momentum(model)
    size = image_size or DEFAULT_IMAGE_SIZE
    processor = getattr(transformers, processor_class)(
        size={"height": size, "width": size}, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
    )
    return LoadedModel(model.eval(), processor, name, new_head=True)


def build_model(section: TeacherSection | StudentSection, labels: list[str] | None, kind: Kind) -> LoadedModel:
    """Build or load what a recipe's teacher or student section names; `model: teacher` is the caller's business.

    Args:
        labels: wanted class names; None keeps those of the checkpoint.
        kind: of model, as the recipe's task says.

    Raises:
        UsageError: options that do not fit the kind of model.
    """
    from hf_compress.models.torchvision_weights import is_of_torchvision

    if section.model in STUDENTS:
        if isinstance(section, StudentSection) and isinstance(section.pretrained, str):
            return _build_pretrained(section, labels, kind)
        names = labels or [] if kind.classes else None
        size: dict[str, Any] = {"width": section.width, "image_size": section.image_size}
        classes: dict[str, Any] = {"auto_class": kind.auto_class, "processor_class": kind.processor_class}
        return build_registered(section.model, names, **size, **classes)
    if not is_of_torchvision(section.model) and "/" not in section.model and not user_path(section.model).exists():
        near = did_you_mean(section.model, STUDENTS)
        if "did you mean" in near:
            raise UsageError(f"unknown model '{section.model}'{near}")
    options = {
        "revision": section.revision,
        "trust_remote_code": section.trust_remote_code,
        "pretrained": getattr(section, "pretrained", True),
    }
    loaded = kind.load(section.model, labels=labels, **options)
    return _at_size(loaded, section.image_size)


def build_student(section: StudentSection, labels: list[str], teacher: LoadedModel | None, kind: Kind) -> LoadedModel:
    """Return the model to compress: a copy of the teacher, yet with all channels and blocks, or what `section` names.

    A registered student that names no image size gets the teacher's, so that both see the same detail; and where each
    pixel is answered for, the teacher's processor, so that both see the same part of a picture.
    """
    from hf_compress.data.images import input_size
    from hf_compress.models.load import LoadedModel

    if section.model == TEACHER and teacher is not None:
        own = LoadedModel(copy.deepcopy(teacher.model), teacher.processor, teacher.name, teacher.commit)
        return _at_size(own, section.image_size)
    side = section.image_size
    if section.model in STUDENTS and side is None and teacher is not None:
        section = section.model_copy(update={"image_size": input_size(teacher.processor)[0]})
    built = build_model(section, labels, kind)
    if kind.dense and section.model in STUDENTS and teacher is not None:
        return replace(built, processor=teacher.processor if side is None else _resized(teacher.processor, side))
    return built


def find_checkpoint(section: StudentSection, labels: list[str], kind: Kind) -> tuple[str | bool, str]:
    """Return what `pretrained: auto` stands for, a checkpoint or False, and a sentence about it.

    That is the first one of the architecture and width that can be loaded, from the Hub or from the cache.
    """
    reasons = []
    architecture = STUDENTS.get(section.model)
    for checkpoint in architecture.of_width(section.width):
        try:
            _build_pretrained(section.model_copy(update={"pretrained": checkpoint.id}), labels, kind)
        except CompressError as error:
            reasons.append(str(error))
        else:
            return checkpoint.id, f"{section.model} begins with the weights of {checkpoint}"
    if not reasons:
        widths = ", ".join(f"{checkpoint.width:g}" for checkpoint in architecture.checkpoints)
        reasons = [f"no checkpoint of width {section.width:g} is known" + (f" ({widths} are)" if widths else "")]
    return False, f"{section.model} starts from scratch: {'; '.join(reasons)}"


def _build_pretrained(section: StudentSection, labels: list[str] | None, kind: Kind) -> LoadedModel:
    """Load the checkpoint that a registered student begins with, and let it see images of the student's size.

    Raises:
        UsageError: the checkpoint is of another architecture or width.
    """
    import torch

    from hf_compress.checkpoint.widths import tensor_shapes

    loaded = kind.load(section.pretrained, labels=labels, revision=section.revision)
    names = loaded.label_names if kind.classes else None
    with torch.device("meta"):
        built = build_registered(section.model, names, width=section.width, auto_class=kind.auto_class)
    if tensor_shapes(built.model) != tensor_shapes(loaded.model):
        raise UsageError(f"'pretrained': {section.pretrained} is no {section.model} of width {section.width:g}")
    return _at_size(loaded, section.image_size)


def _at_size(loaded: LoadedModel, side: int | None) -> LoadedModel:
    """Return a model that sees squares of `side` pixels; itself where that is None.

    Raises:
        UsageError: it does not take images of that size.
    """
    import torch

    from hf_compress.data.images import example_input

    if side is None:
        return loaded
    processor = _resized(loaded.processor, side)
    try:
        with torch.no_grad():
            loaded.model(pixel_values=example_input(processor))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"'image_size' {side}: {loaded.name} does not take images of that size: {error}") from None
    return replace(loaded, processor=processor)


def _resized(processor: BaseImageProcessor, side: int) -> BaseImageProcessor:
    """Return an image processor like this one that makes squares of `side` pixels.

    Raises:
        UsageError: its size cannot be changed.
    """
    from hf_compress.data.images import input_size

    changed, (height, width) = copy.deepcopy(processor), input_size(processor)
    for key in ("size", "crop_size"):
        if sizes := getattr(changed, key, None):
            scaled = {name: round(pixels * side / height) for name, pixels in dict(sizes).items() if pixels}
            setattr(changed, key, type(sizes)(**scaled))
    if input_size(changed) != (side, side):
        raise UsageError(
            f"'image_size' {side} cannot be had: the {type(processor).__name__} of the model makes images of "
            f"{height} x {width} pixels; leave it out"
        )
    return changed


def _scaled(channels: int, width: float) -> int:
    """Multiples of eight, as hardware likes them."""
    return max(8, round(channels * width / 8) * 8)


def _resnet(layer_type: str, depths: list[int], expansion: int) -> Callable[..., PretrainedConfig]:
    def build(width: float, **label_options: Any) -> PretrainedConfig:
        from transformers import ResNetConfig

        return ResNetConfig(
            layer_type=layer_type,
            depths=depths,
            embedding_size=_scaled(64, width),
            hidden_sizes=[_scaled(channels * expansion, width) for channels in (64, 128, 256, 512)],
            **label_options,
        )

    return build


register_student("resnet18", "ResNet-18 (He et al., 2016)", Checkpoint("microsoft/resnet-18", 11.7, "apache-2.0"))(
    _resnet("basic", [2, 2, 2, 2], 1)
)
register_student("resnet34", "ResNet-34 (He et al., 2016)", Checkpoint("microsoft/resnet-34", 21.8, "apache-2.0"))(
    _resnet("basic", [3, 4, 6, 3], 1)
)
register_student("resnet50", "ResNet-50 (He et al., 2016)", Checkpoint("microsoft/resnet-50", 25.6, "apache-2.0"))(
    _resnet("bottleneck", [3, 4, 6, 3], 4)
)


def _mobilenet(config: str) -> Callable[..., PretrainedConfig]:
    def build(width: float, **label_options: Any) -> PretrainedConfig:
        import transformers

        return getattr(transformers, config)(  # as in PyTorch versions: the defaults fit converted TensorFlow weights
            depth_multiplier=width, classifier_dropout_prob=0.2, tf_padding=False, layer_norm_eps=1e-5, **label_options
        )

    return build


register_student(
    "mobilenet_v2",
    "MobileNetV2 (Sandler et al., 2018)",
    Checkpoint("google/mobilenet_v2_1.0_224", 3.5, "other"),
    Checkpoint("google/mobilenet_v2_1.4_224", 6.1, "other", width=1.4),
    Checkpoint("google/mobilenet_v2_0.75_160", 2.6, "other", width=0.75),
    Checkpoint("google/mobilenet_v2_0.35_96", 1.7, "other", width=0.35),
)(_mobilenet("MobileNetV2Config"))
register_student(
    "mobilenet_v1",
    "MobileNetV1 (Howard et al., 2017)",
    Checkpoint("google/mobilenet_v1_1.0_224", 4.2, "other"),
    Checkpoint("google/mobilenet_v1_0.75_192", 2.6, "other", width=0.75),
)(_mobilenet("MobileNetV1Config"))


@register_student(
    "efficientnet_b0",
    "EfficientNet-B0 (Tan and Le, 2019)",
    Checkpoint("google/efficientnet-b0", 5.3, "apache-2.0"),
)
def _efficientnet_b0(width: float, **label_options: Any) -> PretrainedConfig:
    """transformers' defaults are those of B7, and so small at first that training does not begin."""
    from transformers import EfficientNetConfig
    from transformers.models.efficientnet.modeling_efficientnet import round_filters

    config = EfficientNetConfig(
        width_coefficient=width,
        depth_coefficient=1.0,
        dropout_rate=0.2,
        initializer_range=0.1,
        batch_norm_eps=1e-5,
        **label_options,
    )
    config.hidden_dim = round_filters(config, 1280)
    return config


@register_student(
    "regnet_y_400mf",
    "RegNetY-400MF (Radosavovic et al., 2020)",
    Checkpoint("facebook/regnet-y-004", 4.3, "apache-2.0"),
)
def _regnet_y_400mf(width: float, **label_options: Any) -> PretrainedConfig:
    from transformers import RegNetConfig

    return RegNetConfig(
        layer_type="y",
        depths=[1, 3, 6, 6],
        embedding_size=_scaled(32, width),
        hidden_sizes=[_scaled(channels, width) for channels in (48, 104, 208, 440)],
        groups_width=8,
        **label_options,
    )


@register_student("convnext_atto", "ConvNeXt-Atto (Liu et al., 2022; the size is timm's)")
def _convnext_atto(width: float, **label_options: Any) -> PretrainedConfig:
    from transformers import ConvNextConfig

    return ConvNextConfig(
        depths=[2, 2, 6, 2],
        hidden_sizes=[_scaled(channels, width) for channels in (40, 80, 160, 320)],
        **label_options,
    )
