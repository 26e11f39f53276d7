# SPDX-License-Identifier: Apache-2.0
"""Fixtures all end-to-end tests share."""
import os
import subprocess
from pathlib import Path

import pytest

import contract
from pared_server import Server

ROOT = Path(__file__).resolve().parents[2]


def shared_data():
    """The folder of third-party models and data, or None. It is not part of the project."""
    path = Path(os.environ.get("PARED_SHARED", ROOT.parent / "shared"))
    return path if (path / "models").is_dir() else None


@pytest.fixture(scope="session")
def torch():
    """A Python that has PyTorch (PARED_TORCH), which is too large to be installed for a few tests."""
    path = Path(os.environ.get("PARED_TORCH", "/opt/torchvenv/bin/python"))
    if not path.exists() or subprocess.run([path, "-c", "import torch"], capture_output=True).returncode:
        pytest.skip("skipped: no PyTorch")
    return path


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


def pytest_configure():
    Server.observer = staticmethod(contract.observe)


@pytest.fixture(autouse=True)
def traffic():
    """What a server answered in a test is what openapi.yaml says."""
    yield
    faults = contract.take_faults()
    assert not faults, "not in the contract:\n" + "\n".join(faults[:20])
