/** Which files a model has, and which of them are needed. */

import { InCoderError } from '../errors.js';
import type { Http } from './http.js';

/** A file on a server; null where the server does not say. */
export interface RemoteFile {
  name: string;
  size: number;
  url: string;
  /** Lower-case hex. */
  sha256: string | null;
  /** ETag or Last-Modified. */
  validator: string | null;
  /** The commit that the URL is pinned to. */
  commit: string | null;
}

/** A place on the network that a model comes from. */
export interface Source {
  id: string;
  /** Whether the token may be sent there. */
  hub: boolean;
  /** The files that are needed; rejects with NETWORK, OFFLINE_MISS, NOT_FOUND or BAD_CHECKPOINT. */
  list(http: Http): Promise<RemoteFile[]>;
}

/** Looks a file up by name, and reads one that is JSON. */
export interface Listing<T> {
  find(name: string): Promise<T | null>;
  json(file: T): Promise<unknown>;
}

/** Every file but the weights: config.json, tokenizer.json and, where there is one, generation_config.json; rejects with NOT_FOUND. */
export async function withoutWeights<T>(listing: Listing<T>): Promise<T[]> {
  const asked = [required(listing, 'config.json'), required(listing, 'tokenizer.json'), listing.find('generation_config.json')] as const;
  // Of several that fail the first of the list is told, whichever answer came first.
  await Promise.allSettled(asked);
  return (await Promise.all(asked)).filter((file) => file !== null);
}

/** All files that are needed; the weights are one file or an index and its shards. Rejects with NOT_FOUND or BAD_CHECKPOINT. */
export async function chooseFiles<T>(listing: Listing<T>): Promise<T[]> {
  const asked = [withoutWeights(listing), listing.find('model.safetensors')] as const;
  await Promise.allSettled(asked);
  const [others, single] = await Promise.all(asked);
  const weights =
    (single && [single]) ??
    (await shards(listing, 'model.safetensors.index.json')) ??
    (await found(listing, 'pytorch_model.bin')) ??
    (await shards(listing, 'pytorch_model.bin.index.json')) ??
    [await required(listing, 'model.safetensors')];
  return [...others, ...weights];
}

/** A name from a server, safe as a file name and inside a URL; throws BAD_CHECKPOINT. */
export function plainName(name: unknown, where: string): string {
  if (typeof name === 'string' && /^[^/\\\p{Cc}\p{Cs}]{1,200}$/u.test(name) && name !== '.' && name !== '..') return name;
  throw new InCoderError('BAD_CHECKPOINT', `${where} holds ${JSON.stringify(name)}, which is no file name`, { file: where });
}

/** A length from a server; throws BAD_CHECKPOINT. */
export function plainSize(size: unknown, name: string, where: string): number {
  if (typeof size === 'number' && Number.isSafeInteger(size) && size >= 0) return size;
  throw new InCoderError('BAD_CHECKPOINT', `${where} gives no possible size for ${name}: ${JSON.stringify(size)}`, { file: name });
}

/** A hash from a server in lower case, null when there is none; throws BAD_CHECKPOINT. */
export function plainSha256(sha256: unknown, name: string, where: string): string | null {
  if (sha256 === undefined || sha256 === null) return null;
  if (typeof sha256 === 'string' && /^[0-9a-f]{64}$/i.test(sha256)) return sha256.toLowerCase();
  throw new InCoderError('BAD_CHECKPOINT', `${where} gives no possible sha256 for ${name}`, { file: name });
}

/** The fields of a JSON object; none where the value is something else. */
export function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

async function required<T>(listing: Listing<T>, name: string): Promise<T> {
  const file = await listing.find(name);
  if (file) return file;
  throw new InCoderError('NOT_FOUND', `The model has no ${name}`, { file: name });
}

async function found<T>(listing: Listing<T>, name: string): Promise<T[] | null> {
  const file = await listing.find(name);
  return file && [file];
}

async function shards<T>(listing: Listing<T>, name: string): Promise<T[] | null> {
  const index = await listing.find(name);
  if (!index) return null;
  const map = Object.values(fieldsOf(fieldsOf(await listing.json(index))['weight_map']));
  const names = [...new Set(map)].map((shard) => plainName(shard, name));
  if (names.length === 0) throw new InCoderError('BAD_CHECKPOINT', `${name} names no shards`, { file: name });
  return [index, ...(await Promise.all(names.map((shard) => required(listing, shard))))];
}
