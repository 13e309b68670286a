import datasets
import pytest


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """After each pass over parquet files `datasets` sleeps for 5 s, for processes that end right then."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
