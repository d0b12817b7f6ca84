/** Whether what a server sends is the file that was listed. Everything here throws INTEGRITY unless it says otherwise. */

import { InCoderError } from '../errors.js';
import { contentRangeOf, validatorOf } from './http.js';
import type { RemoteFile } from './listing.js';

/** Throws when an answer is of a file with another length; NETWORK when it does not begin at `from`. */
export function checkAnswer(file: RemoteFile, response: Response, from: number): void {
  const { name, size } = file;
  const range = contentRangeOf(response);
  if (response.status === 416 || (range && range.total !== null && range.total !== size)) throw otherLength(file, range?.total ?? null);
  if (response.status === 206 && range && range.start !== from) {
    const details = { file: name, from, start: range.start };
    throw new InCoderError('NETWORK', `${name}: asked for bytes from ${from} on, got those from ${range.start} on`, details);
  }
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
