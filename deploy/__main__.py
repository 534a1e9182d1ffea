"""`python -m luciole.deploy` is the same as `luciole`."""

import sys

from luciole.deploy.cli import main

sys.exit(main())
