/** Counts what has come and tells it, at most ten times a second and at the end of every file. */

import type { DownloadEvent } from './model.js';
import type { ModelParts } from './parts.js';

const EVERY_MS = 100;
const WINDOW_MS = 3000;
const OTHERS_MS = 500;

/** The progress of all files of one model. */
export class Progress {
  total = 0;
  readonly cached: boolean;
  #done = 0;
  #received = 0;
  #last = -Infinity;
  #file = '';
  #finished = false;
  readonly #files: Map<string, { done: number; size: number }>;
  /** When how many bytes had come from the network. */
  readonly #samples: { at: number; received: number }[] = [{ at: performance.now(), received: 0 }];

  /** `checked` files are here already. */
  constructor(
    files: readonly { name: string; size: number; checked: boolean }[],
    private readonly tell: (event: DownloadEvent) => void,
    private readonly resumed: boolean,
  ) {
    this.#files = new Map(files.map(({ name, size, checked }) => [name, { done: checked ? size : 0, size }]));
    for (const { done, size } of this.#files.values()) {
      this.total += size;
      this.#done += done;
    }
    this.cached = files.every(({ checked }) => checked);
    this.#file = files[0]?.name ?? '';
  }

  /** Bytes that have not come yet. */
  get missing(): number {
    return this.total - this.#done;
  }

  /** Bytes that are still to be kept, of a file of which `kept` are: some may have come and not been written yet. */
  unkept(name: string, kept: number): number {
    return this.missing + (this.#files.get(name)?.done ?? kept) - kept;
  }

  /** Bytes of a file that are here; `received` of them came from the network just now. */
  set(name: string, done: number, received: number): void {
    const file = this.#files.get(name);
    if (!file) return;
    const now = Math.min(done, file.size);
    this.#done += now - file.done;
    file.done = now;
    this.#file = name;
    this.#received += received;
    const due = performance.now() - this.#last >= EVERY_MS;
    // The end of a file is always told: a list of files must not stay behind.
    if (this.missing > 0 && (due || now === file.size)) this.#send();
  }

  /** So many more bytes of a file came from the network. */
  add(name: string, received: number): void {
    this.set(name, (this.#files.get(name)?.done ?? 0) + received, received);
  }

  /** Everything is here: the last event. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    for (const file of this.#files.values()) file.done = file.size;
    this.#done = this.total;
    this.#send();
  }

  #send(): void {
    const at = performance.now();
    this.#last = at;
    this.#samples.push({ at, received: this.#received });
    while (at - (this.#samples[1]?.at ?? at) >= WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0] ?? { at, received: 0 };
    const rate = at > first.at ? ((this.#received - first.received) / (at - first.at)) * 1000 : 0;
    const file = this.#files.get(this.#file) ?? { done: 0, size: 0 };
    this.tell({
      file: this.#file,
      fileDone: file.done,
      fileTotal: file.size,
      done: this.#done,
      total: this.total,
      cached: this.cached,
      resumed: this.resumed,
      ...(rate > 0 ? { rate, etaMs: (this.missing / rate) * 1000 } : {}),
    });
  }
}

/** Tells every half a second how far the load is that has the model for itself, until what is returned is called. */
export function tellOfOthers(tell: ((event: DownloadEvent) => void) | undefined, open: () => Promise<ModelParts | null>): () => void {
  if (!tell) return () => {};
  let ended = false;
  const look = async () => {
    const model = await open();
    if (!model) return;
    const keys = await model.keys();
    const done = await Promise.all(model.files.map((file) => model.kept(file, keys)));
    const at = Math.max(0, done.findIndex((bytes, index) => bytes !== model.files[index]?.size));
    const { name = '', size = 0 } = model.files[at] ?? {};
    const [all, total] = [sum(done), sum(model.files.map((file) => file.size))];
    // When it has downloaded everything, it is the GPU that it is busy with.
    if (ended || all >= total) return;
    tell({
      file: name,
      fileDone: done[at] ?? 0,
      fileTotal: size,
      done: all,
      total,
      cached: false,
      resumed: false,
      waiting: true,
    });
  };
  // What cannot be read now is told the next time.
  const timer = setInterval(() => void look().catch(() => {}), OTHERS_MS);
  return () => {
    ended = true;
    clearInterval(timer);
  };
}

const sum = (numbers: number[]): number => numbers.reduce((total, each) => total + each, 0);
