/** The device panel: what the browser says of its GPU, before anything is downloaded. */

import type { AdapterInfo, Fit, FitQuery, Probe, Quantize } from 'incoder';
import { byId, bytes, fact, number } from './dom.js';
import { ofError, ofFit, ofProbe, show } from './messages.js';

const MODELS: [FitQuery & string, string][] = [
  ['demo', 'Demo model'],
  ['facebook/incoder-1B', 'InCoder-1B'],
  ['facebook/incoder-6B', 'InCoder-6B'],
  ['Qwen/Qwen2.5-Coder-0.5B', 'Qwen2.5-Coder-0.5B'],
  ['Qwen/Qwen2.5-Coder-1.5B', 'Qwen2.5-Coder-1.5B'],
];

export async function showDevice(probe: Probe): Promise<void> {
  const state = byId('device-state', HTMLElement);
  const facts = byId('device-facts', HTMLElement);
  if (!probe.ok) {
    state.textContent = 'no WebGPU';
    state.dataset.state = 'error';
    show(byId('device-message', HTMLElement), ofProbe(probe));
    return;
  }
  state.textContent = probe.software ? 'software' : 'WebGPU';
  state.dataset.state = probe.software ? 'warn' : 'ready';
  if (probe.software) {
    byId('device-message', HTMLElement).classList.add('warn');
    show(byId('device-message', HTMLElement), {
      title: 'WebGPU is computed on the CPU here.',
      advice: 'Everything works, slowly. Hardware acceleration in the browser’s settings makes it fast.',
    });
  }
  const yesNo = (value: boolean): string => (value ? 'yes' : 'no');
  facts.replaceChildren(
    fact('GPU', deviceName(probe), 'device-name'),
    fact('Half precision (f16)', yesNo(probe.f16), 'device-f16'),
    fact('Subgroups', yesNo(probe.subgroups), 'device-subgroups'),
    fact('Largest buffer', bytes(probe.limits.maxBufferSize), 'device-buffer'),
    fact('Largest binding', bytes(probe.limits.maxStorageBufferBindingSize), 'device-binding'),
    fact('Threads in a workgroup', number(probe.limits.maxComputeInvocationsPerWorkgroup), 'device-threads'),
    fact('Memory of a workgroup', bytes(probe.limits.maxComputeWorkgroupStorageSize), 'device-workgroup'),
  );
  for (const [query, title] of MODELS) {
    facts.append(fact(title, await fitText(probe, query), `device-fit-${query.replace(/\W+/g, '-')}`));
  }
}

/** Browsers hide names; an empty one is no name. */
export const deviceName = ({ description, vendor, architecture }: AdapterInfo): string =>
  description || `${vendor} ${architecture}`.trim() || 'not told';

/** What a model takes with weights of each type, the largest first. One that is stored quantized has one type. */
async function fitsOf(probe: Probe, query: FitQuery): Promise<[Fit, ...Fit[]]> {
  const plain = await probe.fits(query);
  if (plain.weights !== 'f16') return [plain];
  return [plain, await probe.fits(query, { quantize: 'q8' }), await probe.fits(query, { quantize: 'q4' })];
}

/** Whether a model fits, in words, whatever goes wrong on the way to the answer. */
export async function fitText(probe: Probe, query: FitQuery): Promise<string> {
  if (!probe.ok) return 'no WebGPU here, see “This device”';
  try {
    return ofFit(await fitsOf(probe, query), probe.software);
  } catch (error) {
    return ofError(error).title;
  }
}

/**
 * The largest type of weights with which a model takes at most half of this machine's memory, which is all that a browser tells, and
 * only some do; undefined for as they are.
 */
export async function proposedWeights(probe: Probe, query: FitQuery): Promise<Quantize | undefined> {
  const { deviceMemory } = navigator as { deviceMemory?: number };
  if (deviceMemory === undefined) return undefined;
  const half = (deviceMemory * 2 ** 30) / 2;
  const all = await fitsOf(probe, query);
  const { weights } = all.find(({ gpuBytes }) => gpuBytes <= half) ?? all[all.length - 1] ?? all[0];
  return weights === 'f16' || all.length === 1 ? undefined : weights;
}
