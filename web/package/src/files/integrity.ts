/** Whether what a server sends is the file that was listed. Everything here throws INTEGRITY unless it says otherwise. */

import { InCoderError } from '../errors.js';
import { contentRangeOf, validatorOf } from './http.js';
import type { RemoteFile } from './listing.js';

/** Where an answer to a request for `from` to `end` begins in the file, null where nothing tells; throws when that has another length. */
export function startOf(file: RemoteFile, response: Response, from: number, end = file.size): number | null {
  const { size } = file;
  const range = contentRangeOf(response);
  if (response.status === 416 || (range && range.total !== null && range.total !== size)) throw otherLength(file, range?.total ?? null);
  if (response.status !== 206) return 0;
  if (range) return range.start;
  // The header is hidden from other origins unless their server shows it: the length of what comes tells as much.
  const length = response.headers.get('Content-Length');
  if (length === null || Number(length) === end - from) return from;
  if (from === 0 && end === size) throw otherLength(file, Number(length));
  return Number(length) === size ? 0 : null;
}

/** The error for an answer that is of other bytes than those asked for. */
export function otherRange({ name }: RemoteFile, from: number, start: number | null): InCoderError {
  const problem = `${name}: asked for bytes from ${from} on, got ${start === null ? 'others' : `those from ${start} on`}`;
  return new InCoderError('NETWORK', problem, { file: name, from, start });
}

/** Whether an answer is of another version than `validator`; never where hash or commit decide: mirrors have different ETags. */
export function changed(file: RemoteFile, response: Response, validator: string | null): boolean {
  const now = validatorOf(response);
  return now !== null && validator !== null && now !== validator && file.sha256 === null && file.commit === null;
}

/** Throws when the hash is known and another one. */
export function checkHash({ name, size, sha256 }: RemoteFile, actual: string): void {
  if (sha256 === null || sha256 === actual) return;
  const details = { file: name, expected: sha256, actual, size };
  throw new InCoderError('INTEGRITY', `${name} has the SHA-256 ${actual} and should have ${sha256}`, details);
}

/** The error for a file that is longer or shorter than listed; null where only that is known. */
export function otherLength({ name, size }: RemoteFile, actualSize: number | null): InCoderError {
  const details = { file: name, expectedSize: size, actualSize };
  return new InCoderError('INTEGRITY', `${name} should have ${size} bytes and has ${actualSize ?? 'another length'} on the server`, details);
}

/** The error for a file of which the engine has read another version. */
export function changedMeanwhile({ name }: RemoteFile): InCoderError {
  return new InCoderError('INTEGRITY', `${name} changed on the server while it was being loaded: load again`, { file: name });
}
