/** Every failure in words: what happened, and what to do about it. */

import { InCoderError } from 'incoder';
import type { Fit, Probe } from 'incoder';
import { bytes, make, number } from './dom.js';

export interface Message {
  title: string;
  /** What to do. */
  advice: string;
  /** The engine's own sentence, with its numbers. */
  detail?: string;
}

/** InCoder's published weights. */
export const LICENCE = 'CC-BY-NC 4.0: no commercial use';

export const HUB_NOTE =
  'The hub publishes this checkpoint as torch .bin files in single precision: twice its size is downloaded, and kept in ' +
  'this browser. A folder that `incoder convert` made loads faster, with “From disk”.';

export const QWEN_NOTE =
  'This project has compared the engine with the published code on small models of this architecture, and has not run these weights ' +
  'themselves.';

/** The demo model comes with the page: there is no name to check and no file to convert. */
export const DEMO_ADVICE = 'This page’s own copy of the demo model is not as it should be: whoever runs the page has to mend it.';

/** One for each code: the type makes a forgotten one an error. */
const ERRORS: Record<InCoderError['code'], Message> = {
  WEBGPU_UNAVAILABLE: {
    title: 'The GPU cannot be used.',
    advice: 'See “This device” for what is missing, and reload the page once it is there.',
  },
  LIMIT_TOO_SMALL: {
    title: 'This model is too large for this GPU’s limits.',
    advice: 'Choose a smaller model; the demo model fits every GPU with WebGPU.',
  },
  OUT_OF_MEMORY: {
    title: 'The GPU is out of memory.',
    advice: 'Close other tabs and programs that use the GPU, or choose a smaller model.',
  },
  DEVICE_LOST: {
    title: 'The browser took the GPU away.',
    advice: 'Press the button again: the model is loaded anew by itself. If it happens again, reload the page.',
  },
  NETWORK: {
    title: 'The download broke off.',
    advice: 'Load again: it goes on where it ended.',
  },
  NOT_FOUND: {
    title: 'A file of the model is not there.',
    advice: 'Check the name and the revision; a private model needs a token.',
  },
  INTEGRITY: {
    title: 'A downloaded file is damaged.',
    advice: 'It was thrown away. Load again to download it anew.',
  },
  QUOTA_EXCEEDED: {
    title: 'The browser gives this page no more storage.',
    advice: 'Delete a model under “Kept in this browser”, or free disk space, and load again.',
  },
  CACHE_BUSY: {
    title: 'This model is being loaded, here or in another tab.',
    advice: 'Wait until it is, or cancel that.',
  },
  OFFLINE_MISS: {
    title: 'You are offline, and this model is not in this browser yet.',
    advice: 'Go online once to download it; after that it loads without a network.',
  },
  BAD_CHECKPOINT: {
    title: 'These files are not a model that this version can read.',
    advice: 'It reads config.json, tokenizer.json and the weights of InCoder models, as safetensors or torch .bin files.',
  },
  UNSUPPORTED_MODEL: {
    title: 'This is another kind of model.',
    advice: 'Only InCoder models (XGLM architecture) are supported.',
  },
  CONTEXT_OVERFLOW: {
    title: 'The text is longer than what the model can read at once.',
    advice: 'What stands between the holes has to fit: shorten it, take a hole away, or set a smaller length.',
  },
  INVALID_ARGUMENT: {
    title: 'The engine refused this text or setting.',
    advice: 'If the text spells one of the model’s own marks, such as <|mask:0|>, take that out.',
  },
  DISPOSED: {
    title: 'The model was unloaded.',
    advice: 'Load it again.',
  },
  WORKER_FAILED: {
    title: 'The engine’s worker could not start, or stopped.',
    advice: 'Reload the page. If an extension blocks workers, allow them here.',
  },
  WASM_LOAD: {
    title: 'The engine’s WebAssembly could not be loaded.',
    advice: 'Reload the page. The server has to serve .wasm files, and extensions must not block them.',
  },
  SERVER_ERROR: {
    title: 'The server refused this.',
    advice: 'Check its address and its key, and see what it printed where it was started.',
  },
  NOT_SUPPORTED: {
    title: 'A server cannot do this.',
    advice: 'It fills one hole at a time: take the other holes away.',
  },
};

const OFFLINE: Message = {
  title: 'You are offline.',
  advice: 'What was downloaded so far is kept. Load again once the network is back.',
};

const UNREACHABLE: Message = {
  title: 'No server answers there.',
  advice: 'Check the address, and start `incoder serve` there so that it allows this page.',
};

/** Codes that mean no more than that there is no network; a load gets the engine's own files over it, too. */
const NETWORKED = { run: ['NETWORK'], load: ['NETWORK', 'WORKER_FAILED', 'WASM_LOAD'], connect: [] as string[] };

/** What to say of anything that was thrown. */
export function ofError(error: unknown, during: 'run' | 'load' | 'connect' = 'run'): Message {
  if (error instanceof InCoderError) {
    // A server on this machine needs no network, and nothing of it is downloaded.
    if (error.code === 'NETWORK' && during === 'connect') return { ...UNREACHABLE, detail: error.message };
    if (NETWORKED[during].includes(error.code) && !navigator.onLine) return { ...OFFLINE, detail: error.message };
    return { ...ERRORS[error.code], detail: error.message };
  }
  return {
    title: 'Something unexpected went wrong.',
    advice: 'Reload the page and try again.',
    detail: error instanceof Error ? error.message : String(error),
  };
}

/** Whether a call ended because someone wanted it to: Stop, Cancel, or another call that took its place. */
export function isAbort(error: unknown): boolean {
  return error === 'superseded' || (error instanceof Error && error.name === 'AbortError');
}

const PROBE: Record<Extract<Probe, { ok: false }>['reason'], Message> = {
  'no-api': {
    title: 'This browser has no WebGPU.',
    advice: 'A current Chrome or Edge has it, Safari from version 26 on, and Firefox on Windows and macOS.',
  },
  'not-a-browser': {
    title: 'This is no page of a browser.',
    advice: 'Open it in a current browser.',
  },
  'insecure-context': {
    title: 'This page came over an insecure connection.',
    advice: 'Browsers give WebGPU to https pages and to localhost only. Open it under https, or serve it on localhost.',
  },
  'no-adapter': {
    title: 'The browser found no GPU that it may use.',
    advice: 'Turn on hardware acceleration in the browser’s settings, update the graphics driver, and restart.',
  },
};

export function ofProbe(probe: Extract<Probe, { ok: false }>): Message {
  return { ...PROBE[probe.reason], detail: probe.message };
}

const LIMITS: Record<string, string> = {
  maxBufferSize: 'largest buffer',
  maxStorageBufferBindingSize: 'largest storage binding',
  maxComputeInvocationsPerWorkgroup: 'threads in a workgroup',
  maxComputeWorkgroupStorageSize: 'memory of a workgroup',
};

/** A limit in people's words; counts are counts and sizes are sizes. */
export function limit(name: string, value: number): string {
  return name.endsWith('Size') ? bytes(value) : number(value);
}

/** Whether a model fits, in a sentence. Browsers tell the limits of a GPU, and not how much of its memory is free. */
export function ofFit([fit, ...quantized]: [Fit, ...Fit[]], software: boolean): string {
  const memory = software ? 'main memory' : 'GPU memory';
  const less = quantized.map((other) => `${bytes(other.gpuBytes)} in ${other.weights}`);
  if (fit.fits) return [`within the limits; takes ${bytes(fit.gpuBytes)} of ${memory}`, ...less].join(', ');
  const blockers = fit.blockers.map(
    ({ limit: name, need, have }) => `${LIMITS[name] ?? name}: needs ${limit(name, need)}, has ${limit(name, have)}`,
  );
  return `too small. ${blockers.join('; ')}`;
}

/** Shows a message in its box, or nothing. */
export function show(box: HTMLElement, message: Message | null): void {
  box.hidden = message === null;
  box.replaceChildren();
  if (!message) return;
  box.append(make('strong', {}, message.title), make('p', {}, message.advice));
  if (message.detail) box.append(make('p', { class: 'detail' }, message.detail));
}
