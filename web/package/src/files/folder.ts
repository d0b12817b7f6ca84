/** From a model's name to its files: the one entrance to this folder. */

import { baseSource } from './base.js';
import { diskFolder } from './disk.js';
import { Download } from './download.js';
import { HUB, hubSource } from './hub.js';
import { Http, Unreachable } from './http.js';
import type { RemoteFile, Source } from './listing.js';
import type { FolderOptions, ModelFile, ModelFolder } from './model.js';
import { ModelParts, PART_SIZE } from './parts.js';
import { Progress } from './progress.js';
import { RangeFile } from './ranges.js';
import { askPersistence, checkRoom, openStores, type PartStore } from './store.js';

const AT_ONCE = 3;

/**
 * Finds a model's files and starts to download those that are not cached. Rejects with NETWORK, OFFLINE_MISS, NOT_FOUND,
 * BAD_CHECKPOINT, QUOTA_EXCEEDED, INVALID_ARGUMENT or the signal's reason; later failures reject reads and `finished`.
 */
export async function openFolder(model: string, options: FolderOptions): Promise<ModelFolder> {
  const { signal } = options;
  signal?.throwIfAborted();
  const stop = new AbortController();
  signal?.addEventListener('abort', () => stop.abort(signal.reason), { once: true, signal: stop.signal });
  try {
    return await open(model, options, stop);
  } catch (error) {
    stop.abort(error);
    throw error;
  }
}

async function open(model: string, options: FolderOptions, stop: AbortController): Promise<ModelFolder> {
  const cancel = () => stop.abort(new DOMException('the load was cancelled', 'AbortError'));
  if (options.files) return diskFolder(model, options.files, options.randomWeights ?? false, stop.signal, cancel);
  const { revision = 'main', baseUrl, endpoint = HUB, token = null, cache = true, retryMs = 500 } = options;
  const source = baseUrl === undefined ? hubSource(model, revision, endpoint) : baseSource(baseUrl);
  const http = new Http(stop.signal, source.hub ? token : null, retryMs);
  const store = cache ? (options.store ?? (await openStores())[0]) : undefined;
  const plan = store ? await planCached(store, source, http, options.partSize ?? PART_SIZE) : await source.list(http);
  const { opened, finished, distrust } = plan instanceof ModelParts ? await download(plan, http, options, stop) : ranged(plan, http, options);
  return {
    id: source.id,
    files: [...opened].map(([name, { size }]) => ({ name, size })),
    open: async (name) => opened.get(name) ?? null,
    finished,
    cancel,
    distrust,
  };
}

interface Opened {
  opened: Map<string, ModelFile>;
  finished: () => Promise<void>;
  distrust: () => Promise<void>;
}

/** What the cache holds and lacks of a model. */
async function planCached(store: PartStore, source: Source, http: Http, partSize: number): Promise<ModelParts> {
  const known = await ModelParts.open(store, source.id);
  if (known && (await known.whole())) return known;
  http.known = known !== null;
  const listed = await source.list(http).catch((error: unknown) => {
    if (known && error instanceof Unreachable) return known.files;
    throw error;
  });
  http.signal.throwIfAborted();
  const parts = await ModelParts.create(store, source.id, partSize);
  await parts.update(listed, known);
  return parts;
}

/** Downloads what is missing, small files first, and ends everything when one of them fails. */
async function download(parts: ModelParts, http: Http, options: FolderOptions, stop: AbortController): Promise<Opened> {
  const { files } = parts;
  const keys = await parts.keys();
  const total = files.reduce((sum, { size }) => sum + size, 0);
  const kept = (await Promise.all(files.map((file) => parts.kept(file, keys)))).reduce((sum, bytes) => sum + bytes, 0);
  const cached = files.every(({ checked }) => checked);
  if (!cached) {
    await checkRoom(total - kept);
    askPersistence();
  }
  http.signal.throwIfAborted();
  const progress = new Progress(files, options.onDownload ?? (() => {}), !cached && kept > 0);
  const downloads = files.map((file) => new Download(file, parts, http, progress, options.newHasher));
  const running = inTurn([...downloads].sort((a, b) => a.size - b.size)).then(() => progress.finish());
  const finished = Promise.race([running, aborted(http.signal)]);
  // Reads and whoever waits for `finished` get the reason; nobody has to.
  finished.catch((error: unknown) => stop.abort(error));
  const opened = new Map(files.map(({ name }, index) => [name, downloads[index] as Download]));
  return { opened, finished: () => finished, distrust: () => parts.distrust() };
}

function ranged(files: RemoteFile[], http: Http, options: FolderOptions): Opened {
  const progress = new Progress(files.map(({ name, size }) => ({ name, size, checked: false })), options.onDownload ?? (() => {}), false);
  return {
    opened: new Map(files.map((file) => [file.name, new RangeFile(file, http, progress, options.newHasher)])),
    finished: async () => {
      http.signal.throwIfAborted();
      progress.finish();
    },
    distrust: async () => {},
  };
}

async function inTurn(queue: Download[]): Promise<void> {
  const one = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await next.run();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
}
