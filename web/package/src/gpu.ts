/** What WebGPU offers here, and the one thing that wgpu cannot ask it for. */

import { InCoderError } from './errors.js';
import type { AdapterInfo } from './types.js';

/** Why there is no adapter, or the adapter. */
export type Found = { reason: keyof typeof MISSING; message: string } | { adapter: GPUAdapter };

const MISSING = {
  'insecure-context': 'WebGPU needs a secure context: open the page over https or on localhost',
  'not-a-browser': 'the engine finds WebGPU in a page or a worker of a browser, and this is neither: there is no Window here',
  'no-api': 'this browser has no WebGPU: use a current Chrome, Edge, Safari or Firefox, or turn WebGPU on in its settings',
  'no-adapter': 'the browser has WebGPU but offers no GPU adapter: its driver may be blocked or too old',
} as const;

/** The fastest adapter, as the engine will get it. */
export async function findAdapter(): Promise<Found> {
  const missing = (reason: keyof typeof MISSING) => ({ reason, message: MISSING[reason] });
  // Outside of browsers there is no such thing as a secure context.
  if (globalThis.isSecureContext === false) return missing('insecure-context');
  // The engine looks for these two by name, and would stop for good where neither is.
  if (!('Window' in globalThis) && !('WorkerGlobalScope' in globalThis)) return missing('not-a-browser');
  if (!globalThis.navigator?.gpu) return missing('no-api');
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  return adapter ? { adapter } : missing('no-adapter');
}

/** The adapter, or the typed error. */
export async function requireAdapter(): Promise<GPUAdapter> {
  const found = await findAdapter();
  if ('adapter' in found) return found.adapter;
  throw new InCoderError('WEBGPU_UNAVAILABLE', found.message, { reason: found.reason });
}

/** What the engine's shaders with subgroup operations need of WGSL. Chrome has the feature from 134 on, and this from 144 on. */
const SUBGROUP_LANGUAGE = 'subgroup_id';

/** The adapter in plain values. */
export function describe({ info, limits, features }: GPUAdapter): AdapterInfo {
  const { vendor, architecture, description } = info;
  const { maxBufferSize, maxStorageBufferBindingSize, maxComputeInvocationsPerWorkgroup } = limits;
  return {
    vendor,
    architecture,
    description,
    // Chromium's software adapter is not always flagged as the fallback.
    software: info.isFallbackAdapter === true || /swiftshader|llvmpipe|basic render/i.test(`${architecture} ${description}`),
    f16: features.has('shader-f16'),
    subgroups: features.has('subgroups') && navigator.gpu.wgslLanguageFeatures?.has(SUBGROUP_LANGUAGE) === true,
    limits: {
      maxBufferSize,
      maxStorageBufferBindingSize,
      maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    },
  };
}

let turn: Promise<unknown> = Promise.resolve();

/**
 * Runs `open`, which requests one device through wgpu, and returns that device too. wgpu has no name for the
 * feature `subgroups` in browsers, so it is added to the request on its way.
 */
export function openingDevice<T>(subgroups: boolean, open: () => Promise<T>): Promise<{ opened: T; device: GPUDevice }> {
  const run = async () => {
    const prototype = GPUAdapter.prototype;
    const original = prototype.requestDevice;
    let device: GPUDevice | undefined;
    prototype.requestDevice = async function (this: GPUAdapter, descriptor: GPUDeviceDescriptor = {}) {
      const features = new Set(descriptor.requiredFeatures ?? []);
      if (subgroups) features.add('subgroups');
      device = await original.call(this, { ...descriptor, requiredFeatures: [...features] });
      prototype.requestDevice = original;
      if ((await idleWaitMs(device)) > LONG_WAIT_MS) hurryMaps(device);
      return device;
    };
    try {
      const opened = await open();
      if (!device) throw new InCoderError('WEBGPU_UNAVAILABLE', 'the engine opened no GPU device');
      return { opened, device };
    } catch (error) {
      // What was allocated is released with its device.
      device?.destroy();
      throw error;
    } finally {
      prototype.requestDevice = original;
    }
  };
  // One at a time, so that no two loads take each other's device.
  const result = turn.then(run, run);
  turn = result.catch(() => undefined);
  return result;
}

/** An idle GPU that is waited for so long is not looked after all the time. */
const LONG_WAIT_MS = 20;
const POKE_MS = 3;

/** How long it takes to hear that a GPU with nothing to do has done it: the shorter of two times. */
async function idleWaitMs({ queue }: GPUDevice): Promise<number> {
  // Where finished work is looked for by a timer, the first wait is as long as it happens to be until the next look, and may be short.
  await queue.onSubmittedWorkDone();
  let shortest = Infinity;
  for (let i = 0; i < 2 && shortest > LONG_WAIT_MS; i++) {
    const start = performance.now();
    await queue.onSubmittedWorkDone();
    shortest = Math.min(shortest, performance.now() - start);
  }
  return shortest;
}

/**
 * Firefox looks for finished work ten times a second, and whenever something is submitted. While a buffer of this device is on its
 * way to be read, nothing is submitted, again and again.
 */
function hurryMaps(device: GPUDevice): void {
  const { queue } = device;
  let pending = 0;
  let poking: ReturnType<typeof setInterval> | undefined;
  const { createBuffer } = device;
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(device, descriptor);
    if (!(descriptor.usage & GPUBufferUsage.MAP_READ)) return buffer;
    const { mapAsync } = buffer;
    buffer.mapAsync = async (...range) => {
      pending += 1;
      poking ??= setInterval(() => queue.submit([]), POKE_MS);
      try {
        await mapAsync.apply(buffer, range);
      } finally {
        pending -= 1;
        if (pending === 0) {
          clearInterval(poking);
          poking = undefined;
        }
      }
      return undefined;
    };
    return buffer;
  };
}
