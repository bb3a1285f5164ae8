"""The package's version, from its installed metadata."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The version of the installed package, such as "0.1.0"; "0" where it runs from an uninstalled tree."""
    try:
        return metadata.version("bn-deploy")
    except metadata.PackageNotFoundError:
        return "0"
