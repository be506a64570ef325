"""Adapters to other frameworks: they translate, and hold no logic of their own."""
