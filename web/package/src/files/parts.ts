/** One model in the cache: a record of its files, and the parts they are kept in. */

import type { LockMode, Release } from './locks.js';
import { fieldsOf, plainName, plainSha256, plainSize, type RemoteFile } from './listing.js';
import { type PartStore, writeError } from './store.js';

/** Bytes of a part: large enough that files are few, small enough that losing one costs little. */
export const PART_SIZE = 4 << 20;

/** No file's folder is called that: its `@` would be escaped. */
const RECORD = '@record.json';
const VERSION = 1;

/** A file as the cache knows it. */
export interface FileRecord extends RemoteFile {
  /** Whether it was whole once and its length and hash were right; `sha256` is then known. */
  checked: boolean;
}

/** The record and the parts of one model. */
export class ModelParts {
  files: FileRecord[] = [];
  #saving: Promise<void> = Promise.resolve();

  private constructor(
    private readonly store: PartStore,
    private readonly folder: string,
    readonly id: string,
    /** Bytes of every part but a file's last. */
    readonly partSize: number,
  ) {}

  /** A model without a record, under the folder that is its own. */
  static async create(store: PartStore, id: string, partSize: number): Promise<ModelParts> {
    return new ModelParts(store, await folderOf(id), id, partSize);
  }

  /** The model of that id; null when the cache does not know it. */
  static async open(store: PartStore, id: string): Promise<ModelParts | null> {
    return ModelParts.#load(store, await folderOf(id));
  }

  /**
   * Waits for the right to read the model of that id, or to write it: whoever does hold it, in any tab. Rejects with the
   * signal's reason.
   */
  static async hold(store: PartStore, id: string, mode: LockMode, signal: AbortSignal): Promise<Release> {
    return store.locks.hold(await folderOf(id), mode, signal);
  }

  /** All models of a store, with all of its keys. */
  static async all(store: PartStore): Promise<{ models: ModelParts[]; keys: Set<string> }> {
    const keys = new Set(await store.keys(''));
    const folders = [...keys].filter((key) => key.endsWith(`/${RECORD}`)).map((key) => key.slice(0, -RECORD.length - 1));
    const models = await Promise.all(folders.map((folder) => ModelParts.#load(store, folder)));
    return { models: models.filter((model) => model !== null), keys };
  }

  /** A record that is unreadable, or of another version, is none. */
  static async #load(store: PartStore, folder: string): Promise<ModelParts | null> {
    try {
      const record = fieldsOf(JSON.parse((await (await store.get(`${folder}/${RECORD}`))?.text()) ?? 'null'));
      const { version, id, partSize, files } = record;
      if (version !== VERSION || typeof id !== 'string' || !Array.isArray(files) || !partSize) return null;
      const model = new ModelParts(store, folder, id, plainSize(partSize, RECORD, RECORD));
      model.files = files.map(fieldsOf).map(fileOf);
      return model;
    } catch {
      return null;
    }
  }

  /** How many parts a file has. */
  count(file: FileRecord): number {
    return Math.ceil(file.size / this.partSize);
  }

  /** Bytes of one part. */
  length(file: FileRecord, index: number): number {
    return Math.min(this.partSize, file.size - index * this.partSize);
  }

  /** A part; null when it is missing or not whole. */
  async get(file: FileRecord, index: number): Promise<Blob | null> {
    const part = await this.store.get(this.#key(file, index));
    return part?.size === this.length(file, index) ? part : null;
  }

  /** Writes a part; rejects as the store does. */
  put(file: FileRecord, index: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.store.put(this.#key(file, index), bytes);
  }

  /** Removes a file's parts; rejects with QUOTA_EXCEEDED when the storage cannot be written. */
  async drop(file: FileRecord): Promise<void> {
    await this.#delete(this.#fileKey(file));
    file.checked = false;
    await this.save();
  }

  /** Takes back that files were checked, so that the next load asks the server for what is wrong; rejects as `drop` does. */
  distrust(files: FileRecord[] = this.files): Promise<void> {
    for (const file of files) file.checked = false;
    return this.save();
  }

  /** Removes the whole model; rejects as `drop` does. */
  delete(): Promise<void> {
    return this.#delete(this.folder);
  }

  /** Writes the record; rejects with QUOTA_EXCEEDED. */
  save(): Promise<void> {
    const write = async () => {
      const { id, partSize, files } = this;
      const bytes = new TextEncoder().encode(JSON.stringify({ version: VERSION, id, partSize, files }));
      await this.store.put(`${this.folder}/${RECORD}`, bytes).catch(async (error: unknown) => {
        throw await writeError(error, bytes.length);
      });
    };
    // Files end at the same time; one write after the other leaves the newest state.
    this.#saving = this.#saving.then(write, write);
    return this.#saving;
  }

  /** All keys of this model. */
  async keys(): Promise<Set<string>> {
    return new Set(await this.store.keys(this.folder));
  }

  /** Bytes of a file in its leading parts, by the names of `keys`. */
  async kept(file: FileRecord, keys: Set<string>): Promise<number> {
    let count = 0;
    while (count < this.count(file) && keys.has(this.#key(file, count))) count += 1;
    // Parts are written one after the other: only the last can be half there.
    if (count > 0 && !(await this.get(file, count - 1))) count -= 1;
    return Math.min(count * this.partSize, file.size);
  }

  /** Whether every file is in the cache and was checked. */
  async whole(): Promise<boolean> {
    const keys = await this.keys();
    for (const file of this.files) if (!file.checked || (await this.kept(file, keys)) !== file.size) return false;
    return this.files.length > 0;
  }

  /** Takes over what the server lists now: parts of unchanged files stay, all others are removed. */
  async update(listed: RemoteFile[], old: ModelParts | null): Promise<void> {
    const known = old?.partSize === this.partSize ? old.files : [];
    const keys = await this.keys();
    const kept = new Set<string>();
    const update = async (now: RemoteFile): Promise<FileRecord> => {
      const before = known.find(({ name }) => name === now.name);
      if (!before || !unchanged(before, now)) return { ...now, checked: false };
      kept.add(this.#fileKey(now));
      const checked = before.checked && (await this.kept(before, keys)) === before.size;
      return { ...now, checked, sha256: checked ? before.sha256 : now.sha256, validator: now.validator ?? before.validator };
    };
    this.files = await Promise.all(listed.map(update));
    await this.save();
    const found = new Set([...keys].map((key) => key.slice(0, key.lastIndexOf('/'))));
    found.delete(this.folder);
    for (const folder of found) if (!kept.has(folder)) await this.#delete(folder);
  }

  async #delete(key: string): Promise<void> {
    await this.store.delete(key).catch(async (error: unknown) => {
      throw await writeError(error, 0);
    });
  }

  #fileKey(file: RemoteFile): string {
    return `${this.folder}/${encodeURIComponent(file.name)}`;
  }

  #key(file: FileRecord, index: number): string {
    return `${this.#fileKey(file)}/${index}`;
  }
}

function fileOf(entry: Record<string, unknown>): FileRecord {
  const name = plainName(entry['name'], RECORD);
  return {
    name,
    size: plainSize(entry['size'], name, RECORD),
    url: String(entry['url']),
    sha256: plainSha256(entry['sha256'], name, RECORD),
    validator: textOf(entry['validator']),
    commit: textOf(entry['commit']),
    checked: entry['checked'] === true,
  };
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function unchanged(before: FileRecord, now: RemoteFile): boolean {
  if (before.size !== now.size) return false;
  for (const key of ['sha256', 'commit', 'validator'] as const) {
    if (before[key] !== null && now[key] !== null) return before[key] === now[key];
  }
  return true;
}

/** Ids are long and hold any character; their hash is a name that every store takes. */
async function folderOf(id: string): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(id)));
  return [...hash.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
