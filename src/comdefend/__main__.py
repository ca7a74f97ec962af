"""`python -m comdefend`."""

import sys

from comdefend.cli import main

sys.exit(main())
