/** One file that is read from its server piece by piece, and kept nowhere. */

import { InCoderError } from '../errors.js';
import { discard, type Http, Interrupted, validatorOf } from './http.js';
import { changed, changedMeanwhile, checkHash, otherRange, startOf } from './integrity.js';
import type { RemoteFile } from './listing.js';
import { checkRange, type Hasher, type ModelFile } from './model.js';
import type { Progress } from './progress.js';

/** Files below are kept in memory when their server knows no ranges. */
const MAX_WHOLE = 64 << 20;

/** The server sent the whole file where a part was asked for. */
class NoRanges extends InCoderError {}

/** Reads exactly the bytes asked for; a small file of a server without ranges is downloaded once. */
export class RangeFile implements ModelFile {
  readonly size: number;
  #validator: string | null;
  #whole: Promise<Uint8Array<ArrayBuffer>> | null = null;

  constructor(
    private readonly file: RemoteFile,
    private readonly http: Http,
    private readonly progress: Progress,
    private readonly newHasher: () => Hasher,
  ) {
    this.size = file.size;
    this.#validator = file.validator;
  }

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(this.file.name, this.size, offset, length);
    this.http.signal.throwIfAborted();
    if (length === 0) return new Uint8Array(0);
    try {
      if (!this.#whole) return await this.#fetch(offset, length);
    } catch (error) {
      if (!(error instanceof NoRanges) || this.size >= MAX_WHOLE) throw error;
      this.#whole ??= this.#download();
    }
    return (await this.#whole).slice(offset, offset + length);
  }

  #fetch(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const { name, url } = this.file;
    const bytes = new Uint8Array(length);
    let done = 0;
    const attempt = async () => {
      const response = await this.http.request('GET', url, name, { from: offset + done, to: offset + length - 1 });
      try {
        this.#check(response, offset + done, offset + length);
        if (response.status === 200) {
          if (length < this.size) throw this.#noRanges();
          done = 0;
        }
      } catch (error) {
        discard(response);
        throw error;
      }
      for await (const chunk of this.http.body(response)) {
        const piece = chunk.subarray(0, length - done);
        bytes.set(piece, done);
        done += piece.length;
        this.progress.add(name, piece.length);
        if (done === length) break;
      }
      if (done < length) throw new Interrupted(`the connection ended ${length - done} bytes early`);
      return bytes;
    };
    const told = () => ({ done, total: length });
    return this.http.retrying(name, attempt, () => 0, told);
  }

  #check(response: Response, from: number, end: number): void {
    const start = startOf(this.file, response, from, end);
    if (response.status === 206 && start !== from) throw otherRange(this.file, from, start);
    if (changed(this.file, response, this.#validator)) throw changedMeanwhile(this.file);
    this.#validator ??= validatorOf(response);
  }

  #noRanges(): NoRanges {
    const { name, url, size } = this.file;
    const message = `The server of ${name} sends whole files only; ${size} bytes take a cache: load it with \`cache: true\``;
    return new NoRanges('NETWORK', message, { file: name, url, size, limit: MAX_WHOLE });
  }

  async #download(): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = await this.#fetch(0, this.size);
    const hasher = this.newHasher();
    hasher.update(bytes);
    checkHash(this.file, hasher.digest());
    return bytes;
  }
}
