"""Section `data` of a recipe."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hf_compress.sections.base import MOST, Section, shorthand

MOST_ALPHA = 100  # of which all shares are about a half


class SplitsSection(Section):
    """Each split is a name of the data set (`train`, `test[:500]`) or a fraction (0.2), stratified and seeded.

    All three fractions divide all images; a fraction beside names is one of the whole training split, and taken out of
    it. What is left out is found: `validation` and `test` by their usual names, or as a tenth of the training images.
    """

    train: str | float | None = None
    validation: str | float | None = None
    test: str | float | None = None

    @model_validator(mode="after")
    def _sensible(self):
        fractions = {k: v for k, v in vars(self).items() if isinstance(v, float)}
        if wrong := next((f"{key} is {value:g}" for key, value in fractions.items() if not 0 < value < 1), None):
            raise ValueError(f"{wrong}, and a fraction lies between 0 and 1")
        if isinstance(self.train, float) and len(fractions) < 3:
            raise ValueError("a fraction for train needs fractions for validation and test, too")
        if sum(fractions.values()) > 1 + 1e-6:
            raise ValueError("the fractions add up to more than 1")
        return self


class SourceSection(Section):
    """Where images come from.

    Attributes:
        wants_classes: whether each picture has to have a class where some have, by its folder or beside it.
    """

    wants_classes: ClassVar[bool] = True

    path: str = Field(
        description="Hub id, folder of images (one folder a class), folder of parquet files, or `digits`."
    )
    name: str | None = Field(None, description="Configuration of a Hub data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub data set.")
    image_column: str | None = Field(None, description="Found by its type when not given.")

    @property
    def wanted_splits(self) -> set[str]:
        """The names of the splits that stand in the recipe."""
        names = [self.split] if isinstance(self, UnlabelledSection) else vars(self.splits).values()
        return {name.partition("[")[0] for name in names if isinstance(name, str)}


class UnlabelledSection(SourceSection):
    """Images whose labels, if there are any, are not looked at."""

    wants_classes: ClassVar[bool] = False

    split: str | None = Field(None, description="`train`, `unlabeled`, `train[:500]`, ...; all images when not given.")


class DataSection(SourceSection):
    splits: SplitsSection = Field(default_factory=SplitsSection)
    label_column: str | None = Field(None, description="Found by its type when not given.")
    labelled: float = Field(
        1.0, gt=0, le=1, description="Fraction of the training images that keep their labels; the rest is unlabelled."
    )
    unlabelled: list[Annotated[UnlabelledSection, shorthand(UnlabelledSection, "path")]] = Field(
        [], description="More images, from which distillations learn, too."
    )
    augmentation: Literal["none", "light", "standard"] = Field(
        "none", description="`light`: shift and mirror; `standard`: random crop, mirror and colour."
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=MOST_ALPHA,
        description="Show training pictures blended with another one: alpha of the Beta distribution of the shares, "
        "as in timm. 0: never.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=MOST_ALPHA,
        description="The same with a box of the other picture; beside mixup, one of the two at random.",
    )
    views: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Augmented or mixed views of an image, shown in turn, one an epoch, so that a teacher sees each "
        "only once; endlessly many when not given.",
    )
    on_corrupt: Literal["skip", "stop"] = Field("skip", description="What to do with an image that cannot be decoded.")
    on_leak: Literal["warn", "stop", "drop"] = Field(
        "warn",
        description="What to do with pictures of the test or validation images that are in another split, too; `drop` "
        "takes them out of that one.",
    )
    workers: int = Field(0, ge=0, le=512, description="Processes that decode images; 0 decodes in the main process.")
    cache_mb: int = Field(1024, ge=0, le=2**30, description="Memory, in MiB, for images that are decoded only once.")
    streaming: bool = Field(False, description="Read training images anew for each epoch, and keep none on the disk.")
    train_images: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="Images in an epoch of a stream; all that the data set says it has when not given.",
    )

    @model_validator(mode="after")
    def _fits_together(self):
        if self.views is not None and self.augmentation == "none" and not self.mixes:
            raise ValueError(
                "views are made by an augmentation: set augmentation, mixup or cutmix, or leave out views"
            )
        if self.streaming:
            if self.path == "digits":
                raise ValueError("digits are in memory: leave out streaming")
            if self.views is not None:
                raise ValueError("images of a stream are not kept, so their views do not repeat: leave out views")
            if self.unlabelled or self.labelled < 1:
                raise ValueError("a stream cannot be mixed or divided: leave out 'unlabelled' and 'labelled'")
            if any(isinstance(split, float) or "[" in (split or "") for split in vars(self.splits).values()):
                raise ValueError("a stream cannot be divided: give 'splits' names of splits, not fractions or slices")
        elif self.train_images is not None:
            raise ValueError("train_images is for a stream: set 'streaming: true', or 'splits.train: train[:N]'")
        if any(source.path == self.path and source.split is None for source in self.unlabelled):
            raise ValueError("unlabelled holds the data set itself, with its test images: name the split to take")
        return self

    @property
    def mixes(self) -> bool:
        """Whether training pictures are mixed."""
        return self.mixup > 0 or self.cutmix > 0


class PicturesSection(DataSection):
    """The same for tasks that find elsewhere what a picture shows, or nowhere."""

    wants_classes: ClassVar[bool] = False

    @classmethod
    def of(cls, section: DataSection) -> "PicturesSection":
        return cls.model_construct(section.model_fields_set, **dict(section))
