/** A model whose files the user picked or dropped. */

import { InCoderError } from '../errors.js';
import { parseJson } from './http.js';
import { chooseFiles, withoutWeights } from './listing.js';
import { checkRange, type ModelFolder } from './model.js';

/** The files needed among those picked, without weights where they are random; rejects with NOT_FOUND or BAD_CHECKPOINT. */
export async function diskFolder(
  id: string,
  picked: Iterable<File>,
  randomWeights: boolean,
  signal: AbortSignal,
  cancel: () => void,
): Promise<ModelFolder> {
  const byName = byBaseName(picked);
  const gguf = byName.has('config.json') ? undefined : [...byName.values()].find((file) => /\.gguf$/i.test(file.name));
  const choose = randomWeights ? withoutWeights : chooseFiles;
  const files = gguf ? [{ name: 'model.gguf', file: gguf }] : await choose<{ name: string; file: File }>({
    async find(name) {
      const file = byName.get(name);
      return file ? { name, file } : null;
    },
    json: async ({ name, file }) => parseJson(new TextDecoder().decode(await bytesOf(name, file)), name),
  });
  return {
    id,
    files: files.map(({ name, file }) => ({ name, size: file.size })),
    async open(name) {
      const file = files.find((each) => each.name === name)?.file;
      if (!file) return null;
      return {
        size: file.size,
        async read(offset, length) {
          checkRange(name, file.size, offset, length);
          signal.throwIfAborted();
          const bytes = await bytesOf(name, file.slice(offset, offset + length));
          signal.throwIfAborted();
          return bytes;
        },
      };
    },
    finished: async () => signal.throwIfAborted(),
    cancel,
    distrust: async () => {},
    close: async () => {},
  };
}

/** The files by base name; of equal names the one nearest the picked folder: exports for other programs lie further down. */
export function byBaseName(picked: Iterable<File>): Map<string, File> {
  const byName = new Map<string, File>();
  for (const file of [...picked].sort((a, b) => depth(a) - depth(b))) {
    const name = file.name.slice(file.name.lastIndexOf('/') + 1);
    if (!byName.has(name)) byName.set(name, file);
  }
  return byName;
}

function depth(file: File): number {
  return (file.webkitRelativePath || file.name).split('/').length;
}

async function bytesOf(name: string, blob: Blob): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch (error) {
    const cause = error instanceof Error ? error.message : String(error);
    const problem = `${name} cannot be read from disk; it was changed or removed since it was picked`;
    throw new InCoderError('NOT_FOUND', `${problem}: ${cause}`, { file: name, cause });
  }
}
