/** A model whose weights are quantized while they come: the cache keeps these, and the original nowhere. */

import { parseJson, type Http } from './http.js';
import type { Opened } from './folder.js';
import { Download } from './download.js';
import { KeptFile } from './kept.js';
import { fieldsOf, type RemoteFile, type Source } from './listing.js';
import type { Release } from './locks.js';
import type { FolderOptions, ModelFile, Quantizer } from './model.js';
import { ModelParts, PART_SIZE } from './parts.js';
import { Progress } from './progress.js';
import { askPersistence, checkRoom, type PartStore } from './store.js';
import { StreamFile } from './stream.js';

const CONFIG = 'config.json';
const WEIGHTS = 'model.safetensors';
/** Files that stay as they are. */
const AS_THEY_ARE = ['tokenizer.json', 'generation_config.json'];

/** What the cache calls the model in this type. A later version of the format has a name of its own. */
export function quantizedId(source: Source, { to, version }: Quantizer): string {
  return `${source.id}#${to}-v${version}`;
}

/** A promise and its two ends; older browsers have no Promise.withResolvers. */
function promised<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (reason: unknown) => void } {
  let ends!: { resolve: (value: T) => void; reject: (reason: unknown) => void };
  const promise = new Promise<T>((resolve, reject) => (ends = { resolve, reject }));
  // Nobody may be waiting for it.
  promise.catch(() => {});
  return { promise, ...ends };
}

/** A file that this program puts into the cache piece by piece. */
class Made extends KeptFile {
  readonly #begun = promised<number>();
  readonly #ended = promised<void>();

  override async run(): Promise<void> {
    try {
      await super.run();
    } catch (error) {
      this.#begun.reject(error);
      throw error;
    }
    this.#begun.resolve(this.size);
  }

  /** How many bytes of it an earlier load kept. */
  get begun(): Promise<number> {
    return this.#begun.promise;
  }

  /** The bytes from `offset` on, perhaps with some that are kept. */
  async put(offset: number, bytes: Uint8Array): Promise<void> {
    await this.take(bytes.subarray(Math.min(bytes.length, Math.max(0, this.position - offset))));
  }

  /** Puts what `bytes` gives as the whole of it, unless that is kept. */
  async whole(bytes: () => Promise<Uint8Array>): Promise<void> {
    if ((await this.begun) < this.size) await this.put(0, await bytes());
    this.end();
  }

  /** All of it was put. */
  end(): void {
    this.#ended.resolve();
  }

  fail(error: unknown): void {
    this.#ended.reject(error);
  }

  protected bring(): Promise<void> {
    this.#begun.resolve(this.position);
    return this.#ended.promise;
  }

  /** What is told is how much of the original came. */
  protected tell(): void {}

  protected unkept(kept: number): number {
    return this.size - kept;
  }
}

/** The original: its files, and what to do when they are not read any more. */
interface Original {
  files: RemoteFile[];
  open(file: RemoteFile, progress: Progress): StreamFile | Download;
  release: Release;
}

/** The original from its server, or from the cache where it is whole there. */
async function originalOf(store: PartStore, source: Source, http: Http, options: FolderOptions): Promise<Original> {
  const whole = async () => {
    const parts = await ModelParts.open(store, source.id);
    return parts && (await parts.whole()) ? parts : null;
  };
  if (await whole()) {
    const release = await ModelParts.hold(store, source.id, 'shared', http.signal);
    const parts = await whole();
    if (parts) {
      const open = (file: RemoteFile, progress: Progress) => new Download({ ...file, checked: true }, parts, http, progress, options.newHasher);
      return { files: parts.files, open, release };
    }
    release();
  }
  const files = await source.list(http);
  const open = (file: RemoteFile, progress: Progress) => new StreamFile(file, http, progress, options.newHasher);
  return { files, open, release: () => {} };
}

/** What stands for this version of the original. */
async function fingerprint(files: readonly RemoteFile[]): Promise<string> {
  const facts = files.map(({ name, size, sha256, commit, validator }) => [name, size, sha256 ?? commit ?? validator]);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(JSON.stringify(facts))));
  return [...hash.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * Quantizes the model of `source` into the cache, which has `known` of it: resolves when its files can be read as far as they have
 * come, and with null where the original is quantized already. Rejects as `openFolder` does, and with what the engine says of the
 * model. A tensor that is whole in the cache is not brought again; the hash of the original is checked where all of it came at once.
 */
export async function quantized(
  store: PartStore,
  source: Source,
  quantizer: Quantizer,
  known: ModelParts | null,
  release: Release,
  http: Http,
  options: FolderOptions,
  stop: AbortController,
): Promise<Opened | null> {
  const keys = await known?.keys();
  const resumed = known && keys ? (await Promise.all(known.files.map((file) => known.kept(file, keys)))).some((bytes) => bytes > 0) : false;
  const original = await originalOf(store, source, http, options);
  const progress = new Progress(original.files.map((file) => ({ ...file, checked: false })), options.onDownload ?? (() => {}), resumed);
  const sources = new Map<string, StreamFile | Download>();
  const opened = async (name: string): Promise<ModelFile | null> => {
    const file = original.files.find((each) => each.name === name);
    if (file && !sources.has(name)) sources.set(name, original.open(file, progress));
    return sources.get(name) ?? null;
  };
  const wholeOf = async (name: string): Promise<Uint8Array> => {
    const file = await opened(name);
    return file ? file.read(0, file.size) : new Uint8Array(0);
  };
  const closeAll = async () => {
    for (const file of sources.values()) if (file instanceof StreamFile) await file.close();
    original.release();
  };
  const begun = promised<{ parts: ModelParts; files: Map<string, Made>; weights: Made }>();
  const begin = async (config: string, size: number): Promise<number> => {
    const validator = await fingerprint(original.files);
    const made = (name: string, size: number): RemoteFile => ({ name, size, url: source.id, sha256: null, validator, commit: null });
    const text = new TextEncoder().encode(config);
    const others = original.files.filter(({ name }) => AS_THEY_ARE.includes(name));
    const parts = await ModelParts.create(store, quantizedId(source, quantizer), options.partSize ?? PART_SIZE);
    await parts.update([made(CONFIG, text.length), ...others, made(WEIGHTS, size)], known);
    const keys = await parts.keys();
    const kept = await Promise.all(parts.files.map((file) => parts.kept(file, keys)));
    await checkRoom(parts.files.reduce((sum, file, index) => sum + file.size - (kept[index] ?? 0), 0));
    askPersistence();
    const files = new Map(parts.files.map((file) => [file.name, new Made(file, parts, http, options.newHasher)]));
    const weights = files.get(WEIGHTS) as Made;
    begun.resolve({ parts, files, weights });
    for (const [name, file] of files) {
      if (name !== WEIGHTS) file.whole(async () => (name === CONFIG ? text : await wholeOf(name))).catch((error: unknown) => file.fail(error));
    }
    return weights.begun;
  };
  try {
    const text = new TextDecoder().decode(await wholeOf(CONFIG));
    if ((fieldsOf(parseJson(text, CONFIG))['quantization_config'] ?? null) !== null) {
      await closeAll();
      return null;
    }
    const quantizing = quantizer.run({ open: opened }, { begin, put: async (offset, bytes) => (await begun.promise).weights.put(offset, bytes) });
    const checked = quantizing.then(async () => {
      for (const file of sources.values()) if (file instanceof StreamFile) await file.finish();
    });
    checked.catch(begun.reject);
    const { parts, files, weights } = await begun.promise;
    checked.then(() => weights.end()).catch((error: unknown) => weights.fail(error));
    const turns = [...files.values()].map((file) => file.run());
    const running = Promise.all(turns).then(() => progress.finish());
    const settled = Promise.allSettled([...turns, checked]).then(closeAll);
    running.catch((error: unknown) => stop.abort(error));
    return {
      opened: files,
      finished: () => running,
      distrust: () => settled.then(() => parts.distrust()),
      close: () => settled.then(release),
    };
  } catch (error) {
    await closeAll();
    throw error;
  }
}
