# SPDX-License-Identifier: Apache-2.0
"""Fixtures all end-to-end tests share."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared_data():
    """The folder of third-party models and data, or None. It is not part of the project."""
    path = Path(os.environ.get("PARED_SHARED", ROOT.parent / "shared"))
    return path if (path / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared():
    path = shared_data()
    if path is None:
        pytest.skip("skipped: no shared data")
    return path


@pytest.fixture(scope="session")
def pared():
    path = ROOT / "build/pared"
    assert path.exists(), "build it first: make"
    return path
