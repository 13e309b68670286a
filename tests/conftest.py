"""Tests never reach the network, and leave no trace in the user's caches."""

import os
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-compress-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
