/** A folder on any server: its manifest.json when it has one, otherwise the usual names are tried. */

import { InCoderError } from '../errors.js';
import { contentRangeOf, discard, Interrupted, type Http, Unreachable, validatorOf } from './http.js';
import { chooseFiles, fieldsOf, type Listing, plainName, plainSha256, plainSize, type RemoteFile, type Source } from './listing.js';

/** Files whose server does not tell their length are read through to count it, up to here. */
const MAX_COUNTED = 64 << 20;

/** The folder at `baseUrl`, absolute or relative to this page or worker; throws INVALID_ARGUMENT. */
export function baseSource(baseUrl: string): Source {
  let base: URL;
  try {
    base = new URL(baseUrl, globalThis.location?.href);
  } catch {
    throw new InCoderError('INVALID_ARGUMENT', `Not a URL: ${baseUrl}`, { baseUrl });
  }
  base.hash = '';
  if (!base.pathname.endsWith('/')) base.pathname += '/';
  return {
    id: base.href,
    hub: false,
    async list(http) {
      const manifest = await unlessMissing(http.json(urlOf(base, 'manifest.json'), 'manifest.json'));
      return chooseFiles(manifest === null ? probing(http, base) : listed(http, base, manifest));
    },
  };
}

/** The query stays on every file: it may be what opens the folder. */
function urlOf(base: URL, name: string): string {
  const url = new URL(base);
  url.pathname += encodeURIComponent(name);
  return url.href;
}

function listed(http: Http, base: URL, manifest: unknown): Listing<RemoteFile> {
  const { files } = fieldsOf(manifest);
  if (!Array.isArray(files)) {
    throw new InCoderError('BAD_CHECKPOINT', 'manifest.json has no list `files`', { file: 'manifest.json' });
  }
  const byName = new Map<string, RemoteFile>();
  for (const entry of files.map(fieldsOf)) {
    const name = plainName(entry['name'], 'manifest.json');
    const size = plainSize(entry['size'], name, 'manifest.json');
    const sha256 = plainSha256(entry['sha256'], name, 'manifest.json');
    byName.set(name, { name, size, url: urlOf(base, name), sha256, validator: null, commit: null });
  }
  return {
    find: async (name) => byName.get(name) ?? null,
    json: (file) => http.json(file.url, file.name),
  };
}

function probing(http: Http, base: URL): Listing<RemoteFile> {
  return {
    find(name) {
      const probe = http.retrying(name, () => probed(http, name, urlOf(base, name)));
      return name === 'config.json' ? probe : unlessMissing(probe);
    },
    json: (file) => http.json(file.url, file.name),
  };
}

/** Length and version of a file by HEAD, or from the head of a GET where the server does not answer that. */
async function probed(http: Http, name: string, url: string): Promise<RemoteFile> {
  let answer = await http.request('HEAD', url, name, { from: 0 }).catch((error: unknown) => {
    // An answer that the browser cannot take is an interruption without a status.
    if (error instanceof Interrupted && error.status === null) return null;
    if (error instanceof InCoderError && error.code === 'NETWORK') return null;
    throw error;
  });
  let size = answer && lengthOf(http, answer);
  if (!answer || size === null) {
    answer = await http.request('GET', url, name, { from: 0 });
    size = lengthOf(http, answer);
    if (size === null) size = await counted(http, name, url, answer);
    else discard(answer);
  }
  return { name, size, url, sha256: null, validator: validatorOf(answer), commit: null };
}

function lengthOf(http: Http, answer: Response): number | null {
  const range = contentRangeOf(answer);
  if (range) return range.total;
  const length = answer.headers.get('Content-Length');
  return length !== null && /^\d+$/.test(length) && !http.isEncoded(answer) ? Number(length) : null;
}

/** The length of a body, all of which is read for it; rejects with NETWORK where it is too long for that. */
async function counted(http: Http, name: string, url: string, answer: Response): Promise<number> {
  let size = 0;
  for await (const chunk of http.body(answer)) {
    size += chunk.length;
    if (size <= MAX_COUNTED) continue;
    const problem = `The server does not tell the length of ${name} (it compresses what it sends, perhaps); a manifest.json beside it can`;
    throw new InCoderError('NETWORK', problem, { file: name, url, limit: MAX_COUNTED });
  }
  return size;
}

/** Null where the server has no such file; some answer 403 for that. */
function unlessMissing<T>(asked: Promise<T>): Promise<T | null> {
  return asked.catch((error: unknown) => {
    if (!(error instanceof InCoderError) || error instanceof Unreachable) throw error;
    const status = Number(error.details['status']);
    if (error.code === 'NOT_FOUND' || (error.code === 'NETWORK' && status >= 400 && status < 500)) return null;
    throw error;
  });
}
