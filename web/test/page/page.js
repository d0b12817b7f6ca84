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

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

Object.assign(globalThis, { InCoder, load, outcome, sleep });
