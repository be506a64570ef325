"""Python loads this when it starts: also in the processes that a test of memorizz's spawns."""

import filesystem_swap  # noqa: F401
