"""Tmp."""


def make_callbacks(config, say=None):
    return []
