"""What an agent puts into its prompt: memories of every type inside a budget of tokens."""

from __future__ import annotations

from memorizz_async.context.manager import ContextWindowManager
from memorizz_async.context.template import ContextMemory, ContextTemplate
from memorizz_async.context.window import ContextReport, ContextWindow, KeptMemory, LeftOut

__all__ = [
    "ContextMemory",
    "ContextReport",
    "ContextTemplate",
    "ContextWindow",
    "ContextWindowManager",
    "KeptMemory",
    "LeftOut",
]
