/** One file in the cache, readable as far as it has come. */

import { InCoderError } from '../errors.js';
import type { Http } from './http.js';
import { checkHash, otherLength } from './integrity.js';
import { checkRange, type Hasher, type ModelFile } from './model.js';
import type { FileRecord, ModelParts } from './parts.js';
import { writeError } from './store.js';

/** Someone who waits until the bytes before `end` are kept. */
interface Waiting {
  end: number;
  resolve: () => void;
  reject: (reason: unknown) => void;
}

/** Keeps the bytes of a file part by part, as they are given from its beginning to its end, and serves reads from the parts. */
export abstract class KeptFile implements ModelFile {
  readonly size: number;
  /** Bytes received and hashed: those kept, and those in the buffer. */
  protected position = 0;
  /** Bytes kept that may be read. */
  #kept = 0;
  protected served = false;
  #hasher: Hasher | null = null;
  #buffer: Uint8Array<ArrayBuffer> | null = null;
  #waiting: Waiting[] = [];

  constructor(
    protected readonly file: FileRecord,
    protected readonly parts: ModelParts,
    protected readonly http: Http,
    private readonly newHasher: () => Hasher,
  ) {
    this.size = file.size;
    if (file.checked) this.#kept = this.position = file.size;
    http.signal.addEventListener('abort', () => {
      for (const { reject } of this.#waiting) reject(http.signal.reason);
      this.#waiting = [];
    });
  }

  /** Resolves when the file is whole and checked; rejects with an InCoderError or the abort's reason. */
  async run(): Promise<void> {
    if (this.file.checked) return;
    try {
      await this.#takeKept();
      await this.bring();
      await this.#finish();
    } catch (error) {
      // Nothing of a damaged file is of use.
      if (error instanceof InCoderError && error.code === 'INTEGRITY') await this.parts.drop(this.file);
      throw error;
    } finally {
      this.#free();
    }
  }

  /** Takes all bytes from the position on. */
  protected abstract bring(): Promise<void>;

  /** The position is another one; `received` bytes came for that just now. */
  protected abstract tell(received: number): void;

  /** Bytes that are still to be written, when `kept` of the file are. */
  protected abstract unkept(kept: number): number;

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(this.file.name, this.size, offset, length);
    await this.#ready(offset + length);
    this.served = true;
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const index = Math.floor((offset + done) / this.parts.partSize);
      const from = offset + done - index * this.parts.partSize;
      const to = Math.min(this.parts.length(this.file, index), from + length - done);
      const piece = await this.#piece(index, from, to);
      if (piece.length === length) return piece;
      bytes.set(piece, done);
      done += piece.length;
    }
    return bytes;
  }

  async #piece(index: number, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> {
    const end = index * this.parts.partSize + to;
    for (;;) {
      await this.#ready(end);
      const part = await this.parts.get(this.file, index);
      const bytes = await part?.slice(from, to).arrayBuffer().catch(() => null);
      this.http.signal.throwIfAborted();
      if (bytes?.byteLength === to - from) return new Uint8Array(bytes);
      // The file may have begun anew meanwhile: then the part comes once more.
      if (this.#kept < end) continue;
      // Others may be reading the file: it is mended by the next load, which has it for itself.
      await this.parts.distrust([this.file]);
      const { name } = this.file;
      throw new InCoderError('INTEGRITY', `${name} is not whole in the cache any more: load again`, { file: name, part: index });
    }
  }

  #ready(end: number): Promise<void> {
    const { signal } = this.http;
    if (signal.aborted) return Promise.reject(signal.reason);
    if (end <= this.#kept) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiting.push({ end, resolve, reject }));
  }

  #keep(end: number): void {
    this.#kept = end;
    const now = this.#waiting.filter((each) => each.end <= end);
    this.#waiting = this.#waiting.filter((each) => each.end > end);
    for (const { resolve } of now) resolve();
  }

  /** Takes up what an earlier load kept: the parts that are whole go through the hasher. */
  async #takeKept(): Promise<void> {
    this.#hasher = this.newHasher();
    for (let index = 0; index < this.parts.count(this.file); index += 1) {
      const bytes = await (await this.parts.get(this.file, index))?.arrayBuffer().catch(() => null);
      this.http.signal.throwIfAborted();
      if (!bytes) return;
      this.#hasher.update(new Uint8Array(bytes));
      this.position += bytes.byteLength;
      // The end of a file is shown when all of it has been checked.
      if (this.position < this.size) this.#keep(this.position);
      this.tell(0);
    }
  }

  /** Forgets all that came. */
  protected async restart(): Promise<void> {
    this.#free();
    this.#hasher = this.newHasher();
    this.position = this.#kept = 0;
    this.tell(0);
    await this.parts.drop(this.file);
  }

  /** Takes the next bytes. */
  protected async take(chunk: Uint8Array): Promise<void> {
    if (this.position + chunk.length > this.size) throw otherLength(this.file, null);
    this.#hasher?.update(chunk);
    const { partSize } = this.parts;
    this.#buffer ??= new Uint8Array(Math.min(partSize, this.size));
    for (let taken = 0; taken < chunk.length; ) {
      const index = Math.floor(this.position / partSize);
      const end = Math.min(index * partSize + partSize, this.size);
      const piece = chunk.subarray(taken, taken + end - this.position);
      this.#buffer.set(piece, this.position - index * partSize);
      this.position += piece.length;
      taken += piece.length;
      if (this.position < end || end === this.size) continue;
      await this.#put(index, this.#buffer);
      this.#keep(end);
    }
    this.tell(chunk.length);
  }

  /** Checks the whole, keeps the last part and lets it be read. */
  async #finish(): Promise<void> {
    const { file, parts } = this;
    const actual = this.#hasher?.digest() ?? '';
    this.#hasher = null;
    checkHash(file, actual);
    if (this.#buffer) await this.#put(parts.count(file) - 1, this.#buffer);
    this.#buffer = null;
    file.sha256 = actual;
    file.checked = true;
    await parts.save();
    this.#keep(this.size);
  }

  async #put(index: number, buffer: Uint8Array<ArrayBuffer>): Promise<void> {
    const bytes = buffer.subarray(0, this.parts.length(this.file, index));
    await this.parts.put(this.file, index, bytes).catch(async (error: unknown) => {
      throw await writeError(error, this.unkept(this.#kept));
    });
    this.http.signal.throwIfAborted();
  }

  #free(): void {
    this.#hasher?.digest();
    this.#hasher = null;
  }
}
