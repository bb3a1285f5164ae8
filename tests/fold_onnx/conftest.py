from __future__ import annotations

from tests.lenets import one_thread  # noqa: F401 - a fixture is used by being there
