"""`python -m bn_deploy` is `bn-deploy`."""

from __future__ import annotations

import sys

from bn_deploy.cli import main

if __name__ == "__main__":
    sys.exit(main())
