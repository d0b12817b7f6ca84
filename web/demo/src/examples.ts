/** What the page opens with. Every example was written for this page. */

export type Language = 'python' | 'javascript';

export interface Example {
  name: string;
  language: Language;
  /** One sentence: what to press and what to look for. */
  hint: string;
  /** Length that suits it, in tokens for each hole. */
  length: number;
  text: string;
}

export const examples: Example[] = [
  {
    name: 'From what is around',
    language: 'python',
    hint: 'Two lines are missing. What they need stands above and below: even the small demo model finds it.',
    length: 24,
    text: `class Registry:
    """Named options, each with its value."""

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
`,
  },
  {
    name: 'A habit of Python',
    language: 'python',
    hint: 'What the logger is for comes after the hole, and how one is made is the same in most files.',
    length: 16,
    text: `import logging

logger = <infill>


def read(path, encoding="utf-8"):
    """The text of a file, or an empty text where there is none."""
    try:
        with open(path, encoding=encoding) as file:
            return file.read()
    except FileNotFoundError:
        logger.warning("no such file: %s", path)
        return ""
`,
  },
  {
    name: 'The other coordinate',
    language: 'python',
    hint: 'The line before the hole and the methods after it say what is missing.',
    length: 16,
    text: `class Point:
    """A point in a plane."""

    def __init__(self, x, y):
        self.x = x
        <infill>

    def __add__(self, other):
        return Point(self.x + other.x, self.y + other.y)

    def __repr__(self):
        return f"Point({self.x}, {self.y})"
`,
  },
  {
    name: 'Function to docstring',
    language: 'python',
    hint: 'The code is there, and the sentence that explains it is not.',
    length: 48,
    text: `import re


def slug(title, limit=60):
    """<infill>"""
    words = re.findall(r"[a-z0-9]+", title.lower())
    while words and len("-".join(words)) > limit:
        words.pop()
    return "-".join(words)
`,
  },
  {
    name: 'A class',
    language: 'python',
    hint: 'Four holes at once. Each is filled with all of the file in view, those before it already filled.',
    length: 32,
    text: `class Stack:
    """A list that only its top can be taken from."""

    def __init__(self, items=()):
        <infill>

    def push(self, item):
        self._items.append(item)

    def pop(self):
        if not self._items:
            raise IndexError("pop from an empty stack")
        <infill>

    def peek(self):
        <infill>

    def __len__(self):
        <infill>
`,
  },
  {
    name: 'Imports from the code below',
    language: 'python',
    hint: 'Continuing cannot do this one: what has to be imported is known only from what follows.',
    length: 32,
    text: `"""Tell which files of a folder changed since the last look."""

<infill>


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def snapshot(folder):
    return {str(path): checksum(path) for path in Path(folder).rglob("*") if path.is_file()}


def changed(folder, record="snapshot.json"):
    before = json.loads(Path(record).read_text()) if Path(record).exists() else {}
    after = snapshot(folder)
    Path(record).write_text(json.dumps(after))
    return sorted(path for path in after if before.get(path) != after[path])


if __name__ == "__main__":
    print("\\n".join(changed(sys.argv[1])))
`,
  },
  {
    name: 'JavaScript',
    language: 'javascript',
    hint: 'The demo model has seen less JavaScript than Python, and it shows. When this is filled, put the cursor at the end and press Extend.',
    length: 24,
    text: `/** Calls \`fn\` once \`ms\` milliseconds have passed without another call. */
export function debounce(fn, ms) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    <infill>
  };
}
`,
  },
];
