/** What is in this browser's cache of models. */

import { InCoderError } from '../errors.js';
import type { CachedModel, Verified } from '../types.js';
import type { Hasher } from './model.js';
import { type FileRecord, ModelParts } from './parts.js';
import { openStores, type PartStore } from './store.js';

/** How long to wait for a load to end: one that was aborted just now still finishes its last write. */
const BUSY_MS = 5000;

/** All models that are cached, whole or in part; rejects never for a damaged record, which is left out. */
export async function listModels(stores?: PartStore[]): Promise<CachedModel[]> {
  const found: CachedModel[] = [];
  for (const store of stores ?? (await openStores())) {
    const { models, keys } = await ModelParts.all(store);
    for (const model of models) {
      const entry = async (file: FileRecord) => ({
        name: file.name,
        done: await model.kept(file, keys),
        total: file.size,
        ...(file.sha256 === null ? {} : { sha256: file.sha256 }),
      });
      const files = await Promise.all(model.files.map(entry));
      const complete = model.files.every((file, index) => file.checked && files[index]?.done === file.size);
      found.push({ id: model.id, files, bytes: files.reduce((sum, { done }) => sum + done, 0), complete });
    }
  }
  return found;
}

/**
 * Reads a cached model through and deletes damaged files; rejects with NOT_FOUND when the cache does not know it, and with
 * CACHE_BUSY while it is being loaded.
 */
export async function verifyModel(id: string, newHasher: () => Hasher, stores?: PartStore[], waitMs?: number): Promise<Verified> {
  const problems = await alone(id, stores, waitMs, async (model) => {
    const problems: string[] = [];
    for (const file of model.files) {
      const problem = await problemOf(model, file, newHasher());
      if (problem !== null) problems.push(problem);
    }
    return problems;
  });
  if (!problems) throw new InCoderError('NOT_FOUND', `${id} is not in this browser's cache`, { id });
  return { id, ok: problems.length === 0, problems };
}

/** Deletes a cached model; false when the cache does not know it. Rejects with CACHE_BUSY while it is being loaded. */
export async function deleteModel(id: string, stores?: PartStore[], waitMs?: number): Promise<boolean> {
  const deleted = await alone(id, stores, waitMs, async (model) => {
    await model.delete();
    return true;
  });
  return deleted ?? false;
}

/** What `use` makes of a model that nobody else reads or writes meanwhile; null when the cache does not know it. */
async function alone<T>(id: string, stores: PartStore[] | undefined, waitMs = BUSY_MS, use: (model: ModelParts) => Promise<T>): Promise<T | null> {
  for (const store of stores ?? (await openStores())) {
    if (!(await ModelParts.open(store, id))) continue;
    const over = AbortSignal.timeout(waitMs);
    const release = await ModelParts.hold(store, id, 'exclusive', over).catch((error: unknown) => {
      if (!over.aborted) throw error;
      const problem = `${id} is being loaded, in this tab or another one: wait until it is, or abort the load`;
      throw new InCoderError('CACHE_BUSY', problem, { id, waitedMs: waitMs });
    });
    try {
      const model = await ModelParts.open(store, id);
      if (model) return await use(model);
    } finally {
      release();
    }
  }
  return null;
}

async function problemOf(model: ModelParts, file: FileRecord, hasher: Hasher): Promise<string | null> {
  let done = 0;
  for (let index = 0; index < model.count(file); index += 1) {
    const bytes = await (await model.get(file, index))?.arrayBuffer().catch(() => null);
    if (!bytes) break;
    hasher.update(new Uint8Array(bytes));
    done += bytes.byteLength;
  }
  const actual = hasher.digest();
  if (!file.checked) return `${file.name}: ${done} of ${file.size} bytes are here; the download has not ended`;
  if (done === file.size && actual === file.sha256) return null;
  await model.drop(file);
  const found = done === file.size ? `SHA-256 is ${actual}, should be ${file.sha256}` : `unreadable after ${done} of ${file.size} bytes`;
  return `${file.name}: ${found}; deleted`;
}
