"""`python -m gateway`: one gateway, until it is told to end."""

import sys

from gateway.app import main

sys.exit(main())
