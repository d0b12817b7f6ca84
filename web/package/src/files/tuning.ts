/** What was measured of this browser's GPU, kept beside the models: the engine's own text. */

import { openStores } from './store.js';

/** No model's folder is called that: theirs have hexadecimal names. */
const KEY = '@tuning.json';

/** The text; empty where there is none, or it cannot be read. */
export async function keptTuning(): Promise<string> {
  const [store] = await openStores();
  const read = async () => (await store?.get(KEY))?.text();
  return (await read().catch(() => undefined)) ?? '';
}

/** Keeps it; where that fails, the next load measures again. */
export async function keepTuning(text: string): Promise<void> {
  const [store] = await openStores();
  await store?.put(KEY, new TextEncoder().encode(text)).catch(() => undefined);
}
