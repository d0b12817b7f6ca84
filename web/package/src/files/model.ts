/** What a model's files look like to the engine, and how they are asked for. Sizes and offsets are bytes, times milliseconds. */

import { InCoderError } from '../errors.js';
import type { PartStore } from './store.js';

/** An incremental SHA-256. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** Lower-case hex; frees the hasher, which cannot be used any more. */
  digest(): string;
}

/** One file of a model, readable anywhere. */
export interface ModelFile {
  readonly size: number;
  /** `length` bytes from `offset` on, as soon as they are here; rejects with an InCoderError or the abort's reason. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** The files of one model. */
export interface ModelFolder {
  /** `name@revision` on the hub, otherwise the base URL; the model's name for files from disk. */
  readonly id: string;
  readonly files: readonly { name: string; size: number }[];
  /** The file of that name, or null when the model has none. */
  open(name: string): Promise<ModelFile | null>;
  /** Resolves when all downloads are whole and checked; rejects with what ended them. */
  finished(): Promise<void>;
  /** Ends downloads and reads, which reject with an AbortError; what is cached stays. */
  cancel(): void;
  /** These files are of no use: the next load asks the server whether it has others by then. */
  distrust(): Promise<void>;
  /** Lets others write the model in the cache, when the downloads have ended; nothing is read afterwards. */
  close(): Promise<void>;
}

/** How far the download of a model is: `file…` for one file, `done` and `total` for all. */
export interface DownloadEvent {
  file: string;
  fileDone: number;
  fileTotal: number;
  done: number;
  total: number;
  /** Whether all of it was in the cache. */
  cached: boolean;
  /** Whether an earlier download was taken up where it ended. */
  resumed: boolean;
  /** Set while another load, in this tab or another, has the model for itself: what is told is how far that one is. */
  waiting?: boolean;
  /** Bytes a second over the last three seconds; left out until it is known. */
  rate?: number;
  /** Milliseconds left at that rate. */
  etaMs?: number;
}

/** Takes a quantized model as it is made. */
export interface QuantizedSink {
  /** The text of config.json and the bytes of model.safetensors; how many of these are kept already. */
  begin(config: string, size: number): Promise<number>;
  /** Bytes of model.safetensors from `offset` on, one piece after the other. */
  put(offset: number, bytes: Uint8Array): Promise<void>;
}

/** What the engine quantizes models with. */
export interface Quantizer {
  /** What weights become. */
  to: 'q8' | 'q4';
  /** That of the format. */
  version: number;
  /** Reads the files of `folder` from front to back, one range at a time. */
  run(folder: { open(name: string): Promise<ModelFile | null> }, sink: QuantizedSink): Promise<void>;
}

/** Where a model's files come from and where they are kept. */
export interface FolderOptions {
  /** Branch, tag or commit on the hub; `main`. */
  revision?: string | undefined;
  /** Folder on any server, instead of the hub. */
  baseUrl?: string | undefined;
  /** Files from the user's disk, instead of any server. */
  files?: Iterable<File> | undefined;
  /** The files are those of a model without its weights; false. */
  randomWeights?: boolean | undefined;
  /** The hub's access token; never sent to `baseUrl`. */
  token?: string | undefined;
  /** Keep what is downloaded; true. */
  cache?: boolean | undefined;
  signal?: AbortSignal | undefined;
  newHasher: () => Hasher;
  /** Keep the weights quantized, and not as they come; what is not kept comes as it is. */
  quantizer?: Quantizer | undefined;
  onDownload?: ((event: DownloadEvent) => void) | undefined;
  /** The hub; `https://huggingface.co`. */
  endpoint?: string | undefined;
  /** Where parts are kept; this browser's storage. */
  store?: PartStore | undefined;
  /** Bytes of a part; 4 MiB. */
  partSize?: number | undefined;
  /** Pause before the first retry, doubled each time; 500. */
  retryMs?: number | undefined;
  /** How long a server may send nothing before it is asked again; a minute. */
  silentMs?: number | undefined;
}

/** Throws INVALID_ARGUMENT unless the range lies inside the file. */
export function checkRange(name: string, size: number, offset: number, length: number): void {
  if (Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0 && offset + length <= size) return;
  throw new InCoderError('INVALID_ARGUMENT', `${name} has ${size} bytes; ${length} from ${offset} on are not in it`, {
    file: name,
    size,
    offset,
    length,
  });
}
