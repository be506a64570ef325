"""`python -m memorizz_async` is `memorizz-async`."""

from __future__ import annotations

import sys

from memorizz_async.cli import main

sys.exit(main())
