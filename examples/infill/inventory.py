"""A small stock list: what the demo of `incoder infill` fills."""

import json


class Inventory:
    """Items by name, with how many of each there are."""

    def __init__(self, items=None):
        self.items = dict(items or {})

    def add(self, name, count=1):
        if count < 0:
            raise ValueError("count must not be negative")
        <infill>

    def remove(self, name, count=1):
        if self.items.get(name, 0) < count:
            raise KeyError(name)
        self.items[name] = self.items[name] - count

    def total(self):
        return sum(self.items.values())

    @classmethod
    def load(cls, path):
        with open(path) as f:
            return cls(json.load(f))

    def save(self, path):
        with open(path, "w") as f:
            json.dump(self.items, f)
