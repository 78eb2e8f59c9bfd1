"""A deployment with SAEs, for the tests of what is written for them and of the commands that change it."""

import shutil

import pytest

from qkdrelay_deployment.provision import write_deployment
from support.network import DIAMOND_WITH_SAES


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The deployment as it was written; nobody changes it."""
    folder = tmp_path_factory.mktemp("written")
    write_deployment(DIAMOND_WITH_SAES, folder, environment={})
    return folder


@pytest.fixture
def root(written, tmp_path):
    """A copy of it, to change."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path
