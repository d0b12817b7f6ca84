/** What the tests call from outside, inside the page. */

import { InCoder } from '/package/index.js';

/** Loads the model in the folder of that name. */
const load = (name, options = {}) => InCoder.load(name, { baseUrl: `/${name}/`, ...options });

/** How a promise ends, as plain values. */
const outcome = (promise) =>
  promise.then(
    (value) => ({ value }),
    ({ name, code, message, details }) => ({ name, code, message, details }),
  );

/** Brings a model's files here as the engine does, without an engine; the SHA-256 of its weights. */
const bring = async (baseUrl, options = {}) => {
  const [{ openFolder }, { wasm }] = await Promise.all([import('/package/files/folder.js'), import('/package/wasm.js')]);
  const { Sha256 } = await wasm();
  const folder = await openFolder('m', { baseUrl, newHasher: () => new Sha256(), ...options });
  try {
    const weights = await folder.open('model.safetensors');
    const hasher = new Sha256();
    hasher.update(await weights.read(0, weights.size));
    await folder.finished();
    return hasher.digest();
  } finally {
    await folder.close();
  }
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

Object.assign(globalThis, { InCoder, load, bring, outcome, sleep });
