"""Class indices from whatever a column of labels holds, and lists of classes that differ."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_compress.checkpoint.labels import MOST_LABELS
from hf_compress.data import layout, load_data
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.label_columns import encoded
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection

FEATURES = {"image": datasets.Image()}
NONE = IGNORED_LABEL


def pictures(count, start=0):
    shades = range(start, start + count)
    return datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4), shade) for shade in shades]}).cast(
        datasets.Features(FEATURES)
    )


def write(file, labels, start=0):
    """Write a parquet file of different pictures with an arrow column of labels."""
    rows = pictures(len(labels), start)
    schema = rows.data.table.schema
    table = rows.data.table.append_column("label", labels)
    pq.write_table(table.replace_schema_metadata(schema.metadata if labels is None else None), file)


def classes(file, names, labels, start=0, image=True):
    rows = pictures(len(labels), start).add_column("label", labels, feature=datasets.ClassLabel(names=names))
    (rows if image else rows.remove_columns("image")).to_parquet(file)


def load(folder, **options):
    options = {"image_column": "image"} | options
    return load_data(DataSection(path=str(folder), **options), seed=0)


def labels_by_shade(part):
    """The names of the labels by the grey value of the pictures."""
    return {int(part[index]["view"][0, 0, 0]): part.labels[index] for index in range(len(part))}


def repeated(*values, kind=None):
    return pa.array([values[index % len(values)] for index in range(24)], kind)


COLUMNS = {
    "text": (repeated("cat", "dog"), ["cat", "dog"], True, [0, 1]),
    "large text": (repeated("dog", "cat", kind=pa.large_string()), ["cat", "dog"], True, [1, 0]),
    "text views": (repeated("dog", "cat", kind=pa.string_view()), ["cat", "dog"], True, [1, 0]),
    "categories": (repeated("dog", "cat").dictionary_encode(), ["cat", "dog"], True, [1, 0]),
    "large categories": (repeated("b", "a", kind=pa.large_string()).dictionary_encode(), ["a", "b"], True, [1, 0]),
    "numbered categories": (repeated(1, 0).dictionary_encode(), ["0", "1"], False, [1, 0]),
    "text and nothing": (repeated("dog", None, "cat"), ["cat", "dog"], True, [1, NONE, 0]),
    "text and empty text": (repeated("dog", "", " ", "cat"), ["cat", "dog"], True, [1, NONE, NONE, 0]),
    "text with spaces around": (repeated(" dog", "dog", "a cat ", "a cat"), ["a cat", "dog"], True, [1, 1, 0, 0]),
    "text of numbers": (repeated("10", "9", "9", "10"), ["10", "9"], True, [0, 1, 1, 0]),
    "int8": (repeated(1, 0, kind=pa.int8()), ["0", "1"], False, [1, 0]),
    "uint8": (repeated(1, 0, kind=pa.uint8()), ["0", "1"], False, [1, 0]),
    "int32 and -1": (repeated(1, -1, 0, kind=pa.int32()), ["0", "1"], False, [1, NONE, 0]),
    "uint64": (repeated(1, 0, kind=pa.uint64()), ["0", "1"], False, [1, 0]),
    "int64 and nothing": (repeated(1, None, 0), ["0", "1"], False, [1, NONE, 0]),
    "truth": (repeated(True, False), ["0", "1"], False, [1, 0]),
    "whole float32": (repeated(1, 0, kind=pa.float32()), ["0", "1"], False, [1, 0]),
    "whole float64, nan and nothing": (
        repeated(1.0, float("nan"), None, 0.0),
        ["0", "1"],
        False,
        [1, NONE, NONE, 0],
    ),
    "nothing": (pa.nulls(24), [], False, [NONE]),
    "fractions": (
        repeated(0.5, 1.0),
        "holds double, such as 0.5, not classes|holds float64, such as 0.5, not classes",
    ),
    "infinity": (repeated(float("inf"), 1.0), "such as inf, not classes"),
    "dates": (repeated(0, 1, kind=pa.int32()).cast(pa.date32()), "holds date32, such as .*, not classes"),
    "bytes": (repeated(b"cat", b"dog"), "holds binary, such as b'cat', not classes"),
    "lists": (pa.array([[0], [1]] * 12), "not classes"),
    "one class": (repeated("cat"), "one class only, 'cat', and a classifier needs two"),
    "a far number": (repeated(0, 1000), "label 1000 in column 'label' makes 1001 classes, of 24 images"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_becomes_classes_or_one_sentence(tmp_path, case):
    column, *expected = COLUMNS[case]
    write(tmp_path / "train.parquet", column)
    if len(expected) == 1:
        with pytest.raises((UsageError, RunError), match=expected[0]):
            load(tmp_path)
        return
    names, named, pattern = expected
    data = load(tmp_path)
    assert (data.label_names, data.named) == (names, named)
    parts = [*data.splits.values(), *([data.unlabelled] if data.unlabelled else [])]
    found = {shade: label for part in parts for shade, label in labels_by_shade(part).items()}
    assert found == {shade: pattern[shade % len(pattern)] for shade in range(24)}


def test_lists_of_classes_are_matched_by_name(tmp_path):
    """Within a split, between splits, in part, and with names instead of numbers."""
    classes(tmp_path / "train-0.parquet", ["cat", "dog", "owl"], [0, 1, 2] * 8)
    classes(tmp_path / "train-1.parquet", ["owl", "cat", "dog"], [0, 1, 2] * 8, start=50)
    classes(tmp_path / "validation.parquet", ["owl", "dog"], [0, 1, -1], start=100)
    classes(tmp_path / "test.parquet", ["dog", "owl", "cat"], [0, 1, 2], start=150)
    data = load(tmp_path)
    assert data.label_names == ["cat", "dog", "owl"]
    train = labels_by_shade(data.train)
    assert [train[shade] for shade in (0, 1, 2, 50, 51, 52)] == [0, 1, 2, 2, 0, 1]
    assert labels_by_shade(data.validation) == {100: 2, 101: 1, 102: NONE}
    assert labels_by_shade(data.test) == {150: 1, 151: 2, 152: 0}
    with pytest.raises(UsageError, match=r"different lists of class names in column 'label'.*'data.streaming'"):
        load(tmp_path, streaming=True, train_images=10)


def test_names_in_one_file_and_a_list_of_classes_in_the_other(tmp_path):
    classes(tmp_path / "train.parquet", ["cat", "dog"], [0, 1] * 12)
    write(tmp_path / "test.parquet", pa.array(["dog", "cat"]), start=100)
    assert labels_by_shade(load(tmp_path).test) == {100: 1, 101: 0}


def test_a_file_of_a_stream_that_cannot_be_read_is_named(tmp_path):
    for split in ("train", "validation", "test"):
        classes(tmp_path / f"{split}.parquet", ["cat", "dog"], [0, 1] * 12)
    (tmp_path / "train_2.parquet").write_bytes(b"no parquet")
    with pytest.raises(UsageError, match=r"'train_2.parquet' cannot be read: Parquet magic bytes not found"):
        load(tmp_path, streaming=True, train_images=10)


def test_a_stream_looks_at_the_splits_that_it_uses(tmp_path):
    for split in ("train", "validation", "test"):
        classes(tmp_path / f"{split}.parquet", ["cat", "dog"], [0, 1] * 12)
    classes(tmp_path / "extra.parquet", ["dog", "cat"], [0, 1] * 12)
    given = {"splits": {"train": "train", "validation": "validation", "test": "test"}, "train_images": 10}
    with pytest.raises(UsageError, match="names no split"):
        load(tmp_path, streaming=True, train_images=10)
    (tmp_path / "data").mkdir()
    (tmp_path / "extra.parquet").rename(tmp_path / "data" / "extra-00000-of-00001.parquet")
    assert load(tmp_path, streaming=True, **given).label_names == ["cat", "dog"]


MANY = MOST_LABELS + 1
TOO_MANY = {
    "a list of classes": (datasets.ClassLabel(names=list(map(str, range(MANY)))), [0, 1]),
    "text": (datasets.Value("string"), list(map(str, range(MANY)))),
    "numbers": (datasets.Value("int64"), list(range(MANY))),
}


@pytest.mark.parametrize(
    "case", ["text", *(pytest.param(case, marks=pytest.mark.long) for case in TOO_MANY if case != "text")]
)
def test_more_classes_than_a_model_may_have_are_refused(case):
    feature, labels = TOO_MANY[case]
    rows = datasets.Dataset.from_dict({"label": labels}, features=datasets.Features({"label": feature}))
    with pytest.raises(UsageError, match="column 'label' holds 100,001 classes, which is more than 100,000: name"):
        encoded(datasets.DatasetDict({"train": rows}), "label", {})


def test_more_class_folders_than_a_model_may_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MOST_LABELS", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    with pytest.raises(UsageError, match="there are 3 class folders, which is more than 2: join some"):
        load(tmp_path)


@pytest.mark.long
def test_more_classes_of_a_stream_than_a_model_may_have_are_refused(tmp_path):
    for split in ("train", "validation", "test"):
        classes(tmp_path / f"{split}.parquet", list(map(str, range(MANY))), [0, 1])
    with pytest.raises(UsageError, match="holds 100,001 classes"):
        load(tmp_path, streaming=True, train_images=2)


UNFIT = {
    "a class more": (
        lambda f: classes(f, ["dog", "cat", "owl"], [0, 1, 2], 100),
        "'test.parquet' names the class 'owl' in column 'label', which is none of split 'train'",
    ),
    "another class": (
        lambda f: classes(f, ["cat", "owl"], [0, 1], 100),
        "'test.parquet' names the class 'owl'",
    ),
    "no images": (
        lambda f: classes(f, ["cat", "dog"], [0, 1], 100, image=False),
        "'test.parquet' has no column 'image'",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_file_that_does_not_fit_the_first_is_refused(tmp_path, case):
    make, says = UNFIT[case]
    classes(tmp_path / "train.parquet", ["cat", "dog"], [0, 1] * 12)
    make(tmp_path / "test.parquet")
    with pytest.raises(UsageError, match=says):
        load(tmp_path)


@pytest.mark.parametrize(("first", "second"), [([0, 1], ["0", "1"]), (["0", "1"], [0, 1]), (["0", "1"], None)])
def test_labels_of_two_kinds_are_refused(tmp_path, first, second):
    write(tmp_path / "train.parquet", pa.array(first * 12))
    if second is None:
        classes(tmp_path / "test.parquet", ["cat", "dog"], [0, 1], start=100)
    else:
        write(tmp_path / "test.parquet", pa.array(second), start=100)
    with pytest.raises(UsageError, match=r"column 'label' holds .* in 'train.parquet' and .* in 'test.parquet'"):
        load(tmp_path)


def test_lists_of_classes_of_splits_that_were_loaded_apart(monkeypatch):
    """As a data set of the Hub, whose splits need not have one list."""
    from hf_compress.data import loading
    from hf_compress.data.sources import Source

    def rows(names, count, start):
        labels = [index % 2 for index in range(count)]
        return pictures(count, start).add_column("label", labels, feature=datasets.ClassLabel(names=names))

    splits = datasets.DatasetDict({"train": rows(["cat", "dog"], 24, 0), "test": rows(["dog", "cat"], 4, 100)})
    monkeypatch.setattr(loading, "load_raw", lambda section, key: Source(splits))
    assert labels_by_shade(load("someone/pets").test) == {100: 1, 101: 0, 102: 1, 103: 0}
    splits["test"] = rows(["cat", "owl"], 4, 100)
    with pytest.raises(UsageError, match="split 'test' names the class 'owl'"):
        load("someone/pets")


def test_pandas_writes_text_that_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    for name, count in (("train", 24), ("test", 4)):
        stored = pictures(count, 100 * (name == "test"))[:]["image"]
        frame = pandas.DataFrame({"label": pandas.Series(["cat", "dog"] * (count // 2))})
        folder = tmp_path / name
        folder.mkdir()
        for number, image in enumerate(stored):
            image.save(folder / f"{number}.png")
        frame.assign(file_name=[f"{number}.png" for number in range(count)]).to_csv(
            folder / "metadata.csv", index=False
        )
    data = load(tmp_path)
    assert data.label_names == ["cat", "dog"]
    assert np.bincount(data.test.labels).tolist() == [2, 2]


OTHER_COLUMNS = {
    "the column of WebDataset": (["cls"], {}, ["cls"]),
    "a name that nothing says is labels": (["class", "__key__"], {}, None),
    "the same, named": (["class", "__key__"], {"label_column": "class"}, ["class"]),
    "nothing but what a format adds": (["__key__"], {}, None),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", OTHER_COLUMNS)
def test_columns_that_may_be_labels_are_told(case, streaming, tmp_path, caplog):
    columns, options, found = OTHER_COLUMNS[case]
    for number, split in enumerate(("train", "validation", "test")):
        rows = pictures(24, 50 * number)
        for name in columns:
            kind = datasets.ClassLabel(names=["a", "b"]) if found and streaming else None  # a stream has to know them
            rows = rows.add_column(name, [0, 1] * 12, feature=kind)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = load(tmp_path, **options, **({"streaming": True, "train_images": 10} if streaming else {}))
    assert data.labelled == (found is not None)
    told = "is it one of 'class'? name it in 'data.label_column'" in caplog.text
    assert told == (found is None and "class" in columns)


def test_a_column_of_that_name_is_not_passed_over_for_another_kind_of_classes(tmp_path):
    rows = pictures(24).add_column("label", ["cat", "dog"] * 12)
    rows = rows.add_column("quality", [0, 1] * 12, feature=datasets.ClassLabel(names=["good", "bad"]))
    rows.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"label columns quality, label: name one in 'data\.label_column'"):
        load(tmp_path)
    assert load(tmp_path, label_column="label").label_names == ["cat", "dog"]
