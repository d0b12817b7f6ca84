/** One file that is read from its server once, from front to back for the most part, and kept nowhere. */

import { discard, type Http, Interrupted, validatorOf } from './http.js';
import { changed, changedMeanwhile, checkHash, otherRange, startOf } from './integrity.js';
import type { RemoteFile } from './listing.js';
import { checkRange, type Hasher, type ModelFile } from './model.js';
import type { Progress } from './progress.js';

/** What lies so near behind the last byte that was read is read on to, without another request. */
const NEAR = 1 << 20;

/** Reads in as few requests as their order takes: one that begins where the last one ended takes none. One read at a time. */
export class StreamFile implements ModelFile {
  readonly size: number;
  #validator: string | null;
  #body: AsyncGenerator<Uint8Array> | null = null;
  /** What came last, and where in the file it begins. */
  #chunk: Uint8Array = new Uint8Array(0);
  #position = 0;
  #hasher: Hasher | null;
  /** Bytes that went through the hasher, from the first byte of the file on. */
  #hashed = 0;

  constructor(
    private readonly file: RemoteFile,
    private readonly http: Http,
    private readonly progress: Progress,
    newHasher: () => Hasher,
  ) {
    this.size = file.size;
    this.#validator = file.validator;
    this.#hasher = file.sha256 === null ? null : newHasher();
  }

  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const { name } = this.file;
    checkRange(name, this.size, offset, length);
    const bytes = new Uint8Array(length);
    let done = 0;
    const attempt = async () => {
      while (done < length) {
        const piece = (await this.#at(offset + done)).subarray(0, length - done);
        bytes.set(piece, done);
        done += piece.length;
      }
      return bytes;
    };
    return this.http.retrying(name, attempt, () => done, () => ({ done: offset + done, total: this.size }));
  }

  /** Everything that was wanted has been read: checks the hash, where all bytes came one after the other. */
  async finish(): Promise<void> {
    // What follows the last tensor.
    if (this.#hasher && this.#hashed > 0 && this.size - this.#hashed <= NEAR) await this.read(this.#hashed, this.size - this.#hashed);
    const [whole, actual] = [this.#hashed === this.size, this.#hasher?.digest() ?? ''];
    this.#hasher = null;
    if (this.file.sha256 !== null && whole) checkHash(this.file, actual);
    this.progress.set(this.file.name, this.size, 0);
  }

  /** Ends the transfer, where there is one. */
  async close(): Promise<void> {
    this.#hasher?.digest();
    this.#hasher = null;
    await this.#seal();
  }

  /** Bytes of the file that begin at `offset`, at least one. */
  async #at(offset: number): Promise<Uint8Array> {
    this.http.signal.throwIfAborted();
    const end = this.#position + this.#chunk.length;
    if (!this.#body || offset < this.#position || offset > end + NEAR) await this.#open(offset);
    while (offset >= this.#position + this.#chunk.length) {
      const next = await this.#body?.next().catch(async (error: unknown) => {
        await this.#seal();
        throw error;
      });
      this.#position += this.#chunk.length;
      if (!next || next.done) {
        const { name } = this.file;
        await this.#seal();
        throw new Interrupted(`the connection ended ${this.size - this.#position} bytes before the end of ${name}`);
      }
      this.#chunk = next.value;
      this.#note();
    }
    return this.#chunk.subarray(offset - this.#position);
  }

  /** Hashes what is new of the chunk, and tells how far the file is. */
  #note(): void {
    const end = this.#position + this.#chunk.length;
    if (this.#hasher && this.#position <= this.#hashed && end > this.#hashed) {
      this.#hasher.update(this.#chunk.subarray(this.#hashed - this.#position));
      this.#hashed = end;
    }
    // A torch file is read at its end first.
    if (end < this.size - NEAR) this.progress.set(this.file.name, end, this.#chunk.length);
  }

  /** Asks for all from `offset` on; from the first byte on where that is near, so that all can be hashed. */
  async #open(offset: number): Promise<void> {
    await this.#seal();
    const from = this.#hasher && this.#hashed === 0 && offset <= NEAR ? 0 : offset;
    const response = await this.http.request('GET', this.file.url, this.file.name, { from });
    try {
      const start = startOf(this.file, response, from);
      if (start === null || start > from) throw otherRange(this.file, from, start);
      if (changed(this.file, response, this.#validator)) throw changedMeanwhile(this.file);
      this.#validator ??= validatorOf(response);
      this.#position = start;
    } catch (error) {
      discard(response);
      throw error;
    }
    this.#body = this.http.body(response);
  }

  async #seal(): Promise<void> {
    const body = this.#body;
    this.#body = null;
    this.#chunk = new Uint8Array(0);
    await body?.return(undefined).catch(() => undefined);
  }
}
