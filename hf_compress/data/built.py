"""A data set as it was found, and what `datasets` makes of files of many images each."""

from dataclasses import dataclass, field

import datasets

from hf_compress.data.folders import LeftOut

Rows = datasets.DatasetDict | datasets.IterableDatasetDict


@dataclass
class Source:
    """A data set as it was found.

    Attributes:
        rows: by split.
        files: the parquet files of each split, in the order of its rows, as paths or addresses; all under
            "" where nobody knows their splits, without a connection to the Hub.
        commit: of the Hub repository; None for what is not from the Hub.
        left_out: files that lie there and are not in `rows`.
    """

    rows: Rows
    files: dict[str, list[str]] = field(default_factory=dict)
    commit: str | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def source_of(builder: datasets.DatasetBuilder, streaming: bool) -> Source:
    """Let a builder of `datasets` read its files."""
    if streaming:
        rows = builder.as_streaming_dataset()
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset()
    if builder.name != "parquet":
        return Source(rows)
    return Source(rows, {split: list(map(str, files)) for split, files in builder.config.data_files.items()})
