/** From a model's name to its files: the one entrance to this folder. */

import { baseSource } from './base.js';
import { diskFolder } from './disk.js';
import { Download } from './download.js';
import { HUB, hubSource } from './hub.js';
import { Http, Unreachable } from './http.js';
import type { RemoteFile, Source } from './listing.js';
import type { Release } from './locks.js';
import type { FolderOptions, ModelFile, ModelFolder } from './model.js';
import { ModelParts, PART_SIZE } from './parts.js';
import { Progress, tellOfOthers } from './progress.js';
import { quantized, quantizedId } from './quantized.js';
import { RangeFile } from './ranges.js';
import { askPersistence, checkRoom, openStores, type PartStore } from './store.js';

const AT_ONCE = 3;

/**
 * Finds a model's files and starts to download those that are not cached. In the cache one load writes a model at a time; the
 * next one waits for its `close`, and then shares what is there. Rejects with NETWORK, OFFLINE_MISS, NOT_FOUND, BAD_CHECKPOINT,
 * QUOTA_EXCEEDED, CACHE_BUSY, INVALID_ARGUMENT or the signal's reason; later failures reject reads and `finished`.
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
  const http = new Http(stop.signal, source.hub ? token : null, retryMs, options.silentMs);
  const store = cache ? (options.store ?? (await openStores())[0]) : undefined;
  const { opened, ...rest } = store ? await kept(store, source, http, options, stop) : ranged(await source.list(http), http, options);
  return {
    id: source.id,
    files: [...opened].map(([name, { size }]) => ({ name, size })),
    open: async (name) => opened.get(name) ?? null,
    cancel,
    ...rest,
  };
}

/** The files of a model that can be read now. */
export type Opened = Pick<ModelFolder, 'finished' | 'distrust' | 'close'> & { opened: Map<string, ModelFile> };

/** The model in the cache: quantized, where that is wanted and it is not quantized already, or as it is. */
async function kept(store: PartStore, source: Source, http: Http, options: FolderOptions, stop: AbortController): Promise<Opened> {
  const { quantizer, randomWeights = false } = options;
  if (quantizer && !randomWeights) {
    const id = quantizedId(source, quantizer);
    const opened = await cached(store, id, http, options, stop, (known, release) =>
      quantized(store, source, quantizer, known, release, http, options, stop),
    );
    if (opened) return opened;
  }
  return cached(store, source.id, http, options, stop, async (known, release) => {
    const parts = await listedParts(store, source, http, known, options.partSize ?? PART_SIZE);
    return download(parts, release, http, options, stop);
  });
}

/**
 * The model as the cache has it, or as `bring` brings what is missing; held until it is closed. What `bring` makes of a model that
 * is not to be kept is returned as it is.
 */
async function cached<T extends Opened | null>(
  store: PartStore,
  id: string,
  http: Http,
  options: FolderOptions,
  stop: AbortController,
  bring: (known: ModelParts | null, release: Release) => Promise<T>,
): Promise<T | Opened> {
  const look = async () => {
    const known = await ModelParts.open(store, id);
    return { known, whole: known !== null && (await known.whole()) };
  };
  for (;;) {
    const mode = (await look()).whole ? 'shared' : 'exclusive';
    const stopTelling = tellOfOthers(options.onDownload, () => ModelParts.open(store, id));
    const release = await ModelParts.hold(store, id, mode, http.signal).finally(stopTelling);
    try {
      const { known, whole } = await look();
      if (known && whole && mode === 'shared') return await download(known, release, http, options, stop);
      if (!whole && mode === 'exclusive') {
        http.known = known !== null;
        const opened = await bring(known, release);
        if (!opened) release();
        return opened;
      }
    } catch (error) {
      release();
      throw error;
    }
    // While this load waited, another one brought the model, or took it away: then it takes the other kind of hold.
    release();
  }
}

/** What the server has, with what the cache holds of it. */
async function listedParts(store: PartStore, source: Source, http: Http, known: ModelParts | null, partSize: number): Promise<ModelParts> {
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
async function download(parts: ModelParts, release: Release, http: Http, options: FolderOptions, stop: AbortController): Promise<Opened> {
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
  const turns = inTurns([...downloads].sort((a, b) => a.size - b.size));
  const running = Promise.all(turns).then(() => progress.finish());
  const settled = Promise.allSettled(turns);
  const finished = Promise.race([running, aborted(http.signal)]);
  // Reads and whoever waits for `finished` get the reason; nobody has to.
  finished.catch((error: unknown) => stop.abort(error));
  const opened = new Map(files.map(({ name }, index) => [name, downloads[index] as Download]));
  return {
    opened,
    finished: () => finished,
    distrust: () => settled.then(() => parts.distrust()),
    close: () => settled.then(release),
  };
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
    close: async () => {},
  };
}

function inTurns(queue: Download[]): Promise<void>[] {
  const one = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await next.run();
  };
  return Array.from({ length: AT_ONCE }, one);
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
}
