"""The public names: there, lazy, and the same thing however often and in whatever order they are fetched."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bn_deploy


@pytest.mark.parametrize("name", bn_deploy.__all__)
def test_a_public_name_stays_what_it_is(name: str) -> None:
    # In a fresh interpreter, before and after every module is loaded: a package of the same name would take
    # the name of a function.
    program = f"""
import importlib, pkgutil, types
import bn_deploy
first = getattr(bn_deploy, {name!r})
assert not isinstance(first, types.ModuleType)
assert getattr(bn_deploy, {name!r}) is first
for module in pkgutil.walk_packages(bn_deploy.__path__, "bn_deploy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert getattr(bn_deploy, {name!r}) is first
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flod'"):
        _ = bn_deploy.flod


def test_dir_lists_the_public_names() -> None:
    assert set(bn_deploy.__all__) <= set(dir(bn_deploy))
    assert sorted(bn_deploy.__all__) == bn_deploy.__all__


def test_the_package_itself_loads_no_framework() -> None:
    program = "import sys, bn_deploy; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
