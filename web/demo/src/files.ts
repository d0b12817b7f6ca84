/** A model from disk: which files it needs, and how to get them out of a drop. */

/** A folder brings its readme and more along; only what a model consists of is handed on. */
export function isModelFile(file: File): boolean {
  return /\.(json|safetensors|bin|gguf)$/i.test(file.name);
}

/** What keeps `files` from being a model, or ''. */
export function missing(files: File[]): string {
  if (files.length === 0) return 'Choose the model’s files first.';
  // One file that has everything.
  if (files.some((file) => /\.gguf$/i.test(file.name))) return '';
  const has = (pattern: RegExp): boolean => files.some((file) => pattern.test(file.name));
  const lacks = ['config.json', 'tokenizer.json'].filter((name) => !files.some((file) => file.name === name));
  if (!has(/\.(safetensors|bin)$/)) lacks.push('weights (.safetensors or .bin)');
  return lacks.length > 0 ? `Missing: ${lacks.join(', ')}.` : '';
}

/** The files of a drop, those inside dropped folders too. */
export async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  // Both lists die with the event: they have to be read before the first await.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  const plain = [...transfer.files];
  const read = async (entry: FileSystemEntry | null): Promise<File[]> => {
    // By flag and not by class: browsers do not all name the classes.
    if (entry?.isFile) return [await new Promise<File>((done, fail) => (entry as FileSystemFileEntry).file(done, fail))];
    if (!entry?.isDirectory) return [];
    const found: File[] = [];
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((done, fail) => reader.readEntries(done, fail));
      if (some.length === 0) return found;
      for (const inner of some) found.push(...(await read(inner)));
    }
  };
  const files = (await Promise.all(entries.map(read))).flat();
  return files.length > 0 ? files : plain;
}
