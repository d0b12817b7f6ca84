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
    hint: 'Two lines end too early. What they need stands above and below: even the small demo model finds it.',
    length: 12,
    text: `class Registry:
    """Named options, each with its value."""

    def __init__(self):
        self.options = {}

    def add(self, name, item):
        self.options[name] = item

    def get(self, name):
        if name not in self.options:
            raise KeyError(name)
        return <infill>

    def remove(self, name):
        del <infill>

    def names(self):
        return sorted(self.options)

    def __len__(self):
        return len(self.options)
`,
  },
  {
    name: 'Type prediction',
    language: 'python',
    hint: 'Two types are missing. The body, which comes after them, tells what they are.',
    length: 12,
    text: `def count_words(path: <infill>, ignore_case: bool = True) -> <infill>:
    """Count how often each word occurs in a file."""
    counts = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            for word in line.split():
                key = word.lower() if ignore_case else word
                counts[key] = counts.get(key, 0) + 1
    return counts
`,
  },
  {
    name: 'Docstring to function',
    language: 'python',
    hint: 'The docstring says what the function does, the code below how it is called. Infill writes the body.',
    length: 64,
    text: `def moving_average(values, width):
    """Return the mean of every \`width\` neighbouring values, left to right.

    >>> moving_average([1, 2, 3, 4], 2)
    [1.5, 2.5, 3.5]
    """
    <infill>


if __name__ == "__main__":
    print(moving_average([3, 1, 4, 1, 5, 9, 2, 6], 3))
`,
  },
  {
    name: 'Function to docstring',
    language: 'python',
    hint: 'The other way round: the code is there, the sentence that explains it is not.',
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
    hint: 'Two small helpers with their insides missing. When they are filled, put the cursor at the end and press Extend for a third.',
    length: 48,
    text: `/** Calls \`fn\` once \`ms\` milliseconds have passed without another call. */
export function debounce(fn, ms) {
  let timer;
  return (...args) => {
    <infill>
  };
}

/** Puts every item into the group that \`keyOf\` names. */
export function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    <infill>
  }
  return groups;
}
`,
  },
];
