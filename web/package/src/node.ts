/**
 * InCoder in Node.js, and in what is built on it: servers, Electron, extensions of editors. WebGPU comes from the package `webgpu`,
 * which is Dawn, the WebGPU of Chrome; models come from the disk or the hub.
 */

import { InCoderError } from './errors.js';
import { InCoder } from './index.js';
import type { LoadOptions } from './types.js';

/** As for a page, but there is no worker, and files are named by their place on the disk. */
export interface NodeLoadOptions extends Omit<LoadOptions, 'worker' | 'files'> {
  /** What `create([])` of the package `webgpu` returns. */
  gpu: GPU;
}

/** What is used of Node's own modules. Their names are put together, so that no bundler looks for them. */
interface NodeFs {
  openAsBlob(path: string): Promise<Blob>;
  promises: {
    readFile(path: string | URL): Promise<Uint8Array<ArrayBuffer>>;
    readdir(path: string): Promise<string[]>;
    stat(path: string): Promise<{ isDirectory(): boolean }>;
  };
}
interface NodePath {
  join(...parts: string[]): string;
  basename(path: string): string;
}
const node = <T>(name: string): Promise<T> => import(`node:${name}`) as Promise<T>;

/**
 * Loads a model: a folder or a GGUF file, by its path or `file:` URL, or a name on the hub where there is nothing of that path. What
 * comes from the hub is not kept.
 *
 * Rejects as `InCoder.load` does.
 */
export async function load(model: string | URL, { gpu, ...options }: NodeLoadOptions): Promise<InCoder> {
  await use(gpu);
  const { promises } = await node<NodeFs>('fs');
  const path = await onDisk(model);
  const wasm = options.wasm ?? (await promises.readFile(new URL('./wasm/incoder_bg.wasm', import.meta.url)));
  const files = path === null ? undefined : await filesOf(path);
  return InCoder.load(path ?? String(model), { ...options, ...(files && { files }), wasm, worker: false });
}

/** The engine looks for WebGPU where a page has it. */
async function use(gpu: GPU): Promise<void> {
  if (typeof gpu?.requestAdapter !== 'function') {
    throw new InCoderError('INVALID_ARGUMENT', 'gpu is no GPU: give what create([]) of the package webgpu returns');
  }
  const names = globalThis as Record<string, unknown>;
  // By name, as above. Another source of a GPU has made these names known itself.
  const dawn = (await import(['web', 'gpu'].join('')).catch(() => ({}))) as { globals?: Record<string, unknown> };
  for (const [name, value] of Object.entries(dawn.globals ?? {})) names[name] ??= value;
  const has = { value: gpu, configurable: true };
  if (globalThis.navigator) Object.defineProperty(globalThis.navigator, 'gpu', has);
  else Object.defineProperty(globalThis, 'navigator', { value: { gpu, userAgent: 'Node.js' }, configurable: true });
  if (!('Window' in globalThis) && !('WorkerGlobalScope' in globalThis)) {
    // wgpu asks whether the global object is one of these two, and takes no other.
    names.Window = class {
      static [Symbol.hasInstance](value: unknown): boolean {
        return value === globalThis;
      }
    };
  }
}

/** The path of a model on the disk; null where there is none. */
async function onDisk(model: string | URL): Promise<string | null> {
  const [{ promises }, { fileURLToPath }] = await Promise.all([
    node<NodeFs>('fs'),
    node<{ fileURLToPath(url: string | URL): string }>('url'),
  ]);
  const isUrl = /^file:/.test(String(model));
  const path = isUrl ? fileURLToPath(model) : String(model);
  const found = await promises.stat(path).catch(() => null);
  if (!found && isUrl) throw new InCoderError('NOT_FOUND', `${path}: there is no such model`, { file: path });
  return found ? path : null;
}

/** The files of a folder, or the one file; their bytes are read when they are wanted. */
async function filesOf(path: string): Promise<File[]> {
  const [{ openAsBlob, promises }, { join, basename }] = await Promise.all([node<NodeFs>('fs'), node<NodePath>('path')]);
  const isFolder = (await promises.stat(path)).isDirectory();
  const paths = isFolder ? (await promises.readdir(path)).map((name) => join(path, name)) : [path];
  const wanted = paths.filter((each) => /\.(json|safetensors|bin|gguf)$/i.test(each));
  return Promise.all(wanted.map(async (each) => new File([await openAsBlob(each)], basename(each))));
}
