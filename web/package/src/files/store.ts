/** Where this browser keeps files: the origin private file system, or the Cache API where that is missing or refused. */

import { InCoderError } from '../errors.js';
import { type Locks, openLocks } from './locks.js';

/** Whole values under keys that are paths of URL-safe names (`model/file/7`). */
export interface PartStore {
  /** The value; null when there is none, or it cannot be read. */
  get(key: string): Promise<Blob | null>;
  /** Writes a value; one that was interrupted is absent or has another length. `bytes` may be reused afterwards. */
  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Removes this key and all under it. */
  delete(key: string): Promise<void>;
  /** All keys under a folder; `''` is everything. */
  keys(folder: string): Promise<string[]>;
  /** The locks of all who use this store. */
  readonly locks: Locks;
}

const ROOT = 'incoder';

/** The stores of this browser, the one to write to first; empty where there are none or the user forbids them. */
export async function openStores(): Promise<PartStore[]> {
  const [files, cache] = await Promise.all([openFiles().catch(() => null), openCache().catch(() => null)]);
  if (!files) return cache ? [cache] : [];
  if (!cache) return files.writable ? [files] : [];
  return files.writable ? [files, cache] : [cache, files];
}

let persistenceAsked = false;

/** Asks the browser once not to evict what is stored; only a page can ask, in a worker this does nothing. */
export function askPersistence(): void {
  const storage = globalThis.navigator?.storage;
  if (persistenceAsked || !storage?.persist) return;
  persistenceAsked = true;
  // Not awaited: Firefox asks the user, who may take their time.
  storage.persist().catch(() => {});
}

/** Throws QUOTA_EXCEEDED when the browser says that `need` bytes have no room. */
export async function checkRoom(need: number): Promise<void> {
  const { quota, usage } = await estimate();
  if (quota === undefined || usage === undefined || quota - usage >= need) return;
  throw noRoom(need, quota, usage);
}

/** What a failed write means: QUOTA_EXCEEDED, with the store's own words when room is not the matter, or CACHE_BUSY. */
export async function writeError(error: unknown, need: number): Promise<InCoderError> {
  const { quota, usage } = await estimate();
  const name = error instanceof Error ? error.name : '';
  if (name === 'QuotaExceededError') return noRoom(need, quota, usage);
  const message = error instanceof Error ? error.message : String(error);
  // Somebody has the file open who asked for no lock: another version of this package, or the developer tools.
  if (name === 'NoModificationAllowedError') {
    return new InCoderError('CACHE_BUSY', `A file in this browser's storage is in use elsewhere: ${message}`, { cause: name });
  }
  return new InCoderError('QUOTA_EXCEEDED', `This browser's storage cannot be written: ${message}`, { need, quota, usage, cause: name });
}

function noRoom(need: number, quota: number | undefined, usage: number | undefined): InCoderError {
  // Chromium tells 10 GiB whatever the truth is: a number that cannot be the reason is left out.
  const known = quota !== undefined && usage !== undefined && quota - usage < need;
  const free = known ? `, and ${Math.max(0, quota - usage)} are free` : '';
  return new InCoderError('QUOTA_EXCEEDED', `${need} bytes are still to be stored in this browser${free}`, { need, quota, usage });
}

async function estimate(): Promise<StorageEstimate> {
  return (await globalThis.navigator?.storage?.estimate?.().catch(() => null)) ?? {};
}

async function openFiles(): Promise<FileStore | null> {
  const root = await globalThis.navigator?.storage?.getDirectory?.();
  return root ? new FileStore(await root.getDirectoryHandle(ROOT, { create: true })) : null;
}

async function openCache(): Promise<CacheStore | null> {
  return typeof caches === 'undefined' ? null : new CacheStore(await caches.open(ROOT));
}

/** One of the two exists: the second in dedicated workers only, and so not among the DOM's types. */
interface AnyFileHandle {
  createWritable?(): Promise<FileSystemWritableFileStream>;
  createSyncAccessHandle?(): Promise<SyncFile>;
}

interface SyncFile {
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}

class FileStore implements PartStore {
  readonly locks = openLocks();
  /** Older Safari writes in workers only. */
  readonly writable = 'createWritable' in FileSystemFileHandle.prototype || 'createSyncAccessHandle' in FileSystemFileHandle.prototype;
  readonly #root: FileSystemDirectoryHandle;

  constructor(root: FileSystemDirectoryHandle) {
    this.#root = root;
  }

  async get(key: string): Promise<Blob | null> {
    try {
      const { folder, name } = await this.#locate(key, false);
      return await (await folder.getFileHandle(name)).getFile();
    } catch (error) {
      return unlessDom(error, null);
    }
  }

  async put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const { folder, name } = await this.#locate(key, true);
    const handle: AnyFileHandle = await folder.getFileHandle(name, { create: true });
    const stream = await handle.createWritable?.();
    if (stream) {
      // Nothing is seen of the new bytes before close.
      try {
        await stream.write(bytes);
      } catch (error) {
        await stream.abort().catch(() => {});
        throw error;
      }
      return stream.close();
    }
    const file = await handle.createSyncAccessHandle?.();
    if (!file) throw new DOMException('files cannot be written here', 'NotSupportedError');
    try {
      file.truncate(0);
      const written = file.write(bytes, { at: 0 });
      if (written !== bytes.length) throw new DOMException(`${written} of ${bytes.length} bytes written`, 'QuotaExceededError');
      file.flush();
    } finally {
      file.close();
    }
  }

  async delete(key: string): Promise<void> {
    try {
      const { folder, name } = await this.#locate(key, false);
      await folder.removeEntry(name, { recursive: true });
    } catch (error) {
      if (!(error instanceof DOMException && error.name === 'NotFoundError')) throw error;
    }
  }

  async keys(folder: string): Promise<string[]> {
    try {
      return await keysUnder(await this.#folder(folder === '' ? [] : folder.split('/'), false), folder);
    } catch (error) {
      return unlessDom(error, []);
    }
  }

  async #locate(key: string, create: boolean): Promise<{ folder: FileSystemDirectoryHandle; name: string }> {
    const path = key.split('/');
    const name = path.pop() ?? '';
    return { folder: await this.#folder(path, create), name };
  }

  async #folder(path: string[], create: boolean): Promise<FileSystemDirectoryHandle> {
    let folder = this.#root;
    for (const name of path) folder = await folder.getDirectoryHandle(name, { create });
    return folder;
  }
}

async function keysUnder(folder: FileSystemDirectoryHandle, path: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const [name, entry] of folder.entries()) {
    const key = path === '' ? name : `${path}/${name}`;
    if (entry instanceof FileSystemDirectoryHandle) keys.push(...(await keysUnder(entry, key)));
    else keys.push(key);
  }
  return keys;
}

/** `fallback` where the file system refuses; other errors are mistakes of this program. */
function unlessDom<T>(error: unknown, fallback: T): T {
  if (error instanceof DOMException) return fallback;
  throw error;
}

class CacheStore implements PartStore {
  readonly locks = openLocks();
  /** A cache's keys are URLs; this one leads nowhere. */
  readonly #base = 'https://incoder.invalid/';
  readonly #cache: Cache;

  constructor(cache: Cache) {
    this.#cache = cache;
  }

  async get(key: string): Promise<Blob | null> {
    const found = await this.#cache.match(this.#base + key);
    return found ? found.blob() : null;
  }

  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.#cache.put(this.#base + key, new Response(bytes));
  }

  async delete(key: string): Promise<void> {
    const under = await this.keys(key);
    await Promise.all([key, ...under].map((each) => this.#cache.delete(this.#base + each)));
  }

  async keys(folder: string): Promise<string[]> {
    const prefix = this.#base + (folder === '' ? '' : `${folder}/`);
    const requests = await this.#cache.keys();
    return requests.filter(({ url }) => url.startsWith(prefix)).map(({ url }) => url.slice(this.#base.length));
  }
}
