"""Named options: what the demo of `incoder infill` fills."""

import json


class Registry:
    """Options by name, each with its value."""

    def __init__(self):
        self.options = {}

    def add(self, name, item):
        <infill>

    def get(self, name):
        if name not in self.options:
            raise KeyError(name)
        <infill>

    def remove(self, name):
        del self.options[name]

    def names(self):
        return sorted(self.options)

    def __len__(self):
        return len(self.options)

    def save(self, path):
        with open(path, "w") as file:
            json.dump(self.options, file)
