"""`python -m gateway`: one gateway, until it is told to end."""

import sys

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog loads it where it can: 5 MB for colours

from gateway.app import main  # noqa: E402  # only now

sys.exit(main())
