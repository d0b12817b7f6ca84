/** One file on its way from its server into the cache. */

import { discard, type Http, Interrupted, validatorOf } from './http.js';
import { changed, changedMeanwhile, otherRange, startOf } from './integrity.js';
import { KeptFile } from './kept.js';
import type { Hasher } from './model.js';
import type { FileRecord, ModelParts } from './parts.js';
import type { Progress } from './progress.js';

/** Downloads a file, and goes on where an earlier download ended. */
export class Download extends KeptFile {
  constructor(
    file: FileRecord,
    parts: ModelParts,
    http: Http,
    private readonly progress: Progress,
    newHasher: () => Hasher,
  ) {
    super(file, parts, http, newHasher);
  }

  protected async bring(): Promise<void> {
    await this.http.retrying(
      this.file.name,
      () => this.#pull(),
      () => Math.floor(this.position / this.parts.partSize),
      () => ({ done: this.position, total: this.size }),
    );
  }

  protected tell(received: number): void {
    this.progress.set(this.file.name, this.position, received);
  }

  protected unkept(kept: number): number {
    return this.progress.unkept(this.file.name, kept);
  }

  /** One request for all that is missing; rejects with Interrupted where it ends early. */
  async #pull(): Promise<void> {
    if (this.position === this.size) return;
    const { response, start } = await this.#answer();
    let skipped = this.position - start;
    for await (const chunk of this.http.body(response)) {
      const known = Math.min(skipped, chunk.length);
      skipped -= known;
      if (known < chunk.length) await this.take(chunk.subarray(known));
    }
    const missing = this.size - this.position;
    if (missing > 0) throw new Interrupted(`the connection ended ${missing} bytes early`);
  }

  /**
   * An answer and where it begins: at the position or before it. The position is 0 again when the file changed, or the server
   * cannot go on from where the download was.
   */
  async #answer(): Promise<{ response: Response; start: number }> {
    const from = this.position;
    const { url, name } = this.file;
    const response = await this.http.request('GET', url, name, { from });
    try {
      const start = startOf(this.file, response, from);
      const beyond = start === null || start > from;
      if (beyond && from === 0) throw otherRange(this.file, from, start);
      const other = changed(this.file, response, this.file.validator);
      if (other && this.served) throw changedMeanwhile(this.file);
      if (from > 0 && (other || beyond || response.status === 200)) await this.restart();
      // Only now: parts of an old version must never lie beside the new one's validator.
      await this.#note(validatorOf(response));
      if (start !== null && start <= this.position) return { response, start };
    } catch (error) {
      discard(response);
      throw error;
    }
    discard(response);
    return this.#answer();
  }

  async #note(validator: string | null): Promise<void> {
    if (validator === null || validator === this.file.validator) return;
    this.file.validator = validator;
    await this.parts.save();
  }
}
