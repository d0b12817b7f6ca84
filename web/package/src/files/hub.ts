/** The hub's listing of a model, pinned to one commit. */

import { InCoderError } from '../errors.js';
import type { Http } from './http.js';
import { chooseFiles, fieldsOf, plainSha256, plainSize, type RemoteFile, type Source } from './listing.js';

/** The hub that models are named after. */
export const HUB = 'https://huggingface.co';

/** A model of the hub at a branch, tag or commit; throws INVALID_ARGUMENT when the name can be none. */
export function hubSource(model: string, revision: string, endpoint: string): Source {
  const parts = model.split('/');
  if (parts.length > 2 || !parts.every((part) => /^\w[\w.-]*$/.test(part)) || revision === '') {
    const problem = `Not a model of the hub: ${model} at ${revision}. It takes organisation/name`;
    throw new InCoderError('INVALID_ARGUMENT', problem, { model, revision });
  }
  return { id: `${model}@${revision}`, hub: true, list: (http) => list(http, model, revision, endpoint) };
}

async function list(http: Http, model: string, revision: string, endpoint: string): Promise<RemoteFile[]> {
  const where = `${model}@${revision}`;
  const api = `${endpoint}/api/models/${model}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const { sha: commit, siblings } = fieldsOf(await http.json(api, where));
  if (typeof commit !== 'string' || !/^[0-9a-f]{40,64}$/.test(commit) || !Array.isArray(siblings)) {
    throw new InCoderError('NETWORK', `${endpoint} answered with something else than the files of ${where}`, { model, revision });
  }
  const entries = new Map(siblings.map((sibling) => [fieldsOf(sibling)['rfilename'], fieldsOf(sibling)]));
  return chooseFiles({
    async find(name) {
      const entry = entries.get(name);
      if (!entry) return null;
      const lfs = fieldsOf(entry['lfs']);
      return {
        name,
        size: plainSize(lfs['size'] ?? entry['size'], name, where),
        url: `${endpoint}/${model}/resolve/${commit}/${encodeURIComponent(name)}`,
        sha256: plainSha256(lfs['sha256'], name, where),
        validator: null,
        commit,
      };
    },
    json: (file) => http.json(file.url, file.name),
  });
}
