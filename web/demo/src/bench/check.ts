/** "Check this GPU": whether it computes right in this browser, as a text that can be pasted into an issue. */

import { InCoder } from 'incoder';
import type { GpuCheck, KernelCheck, LoadOptions } from 'incoder';
import recorded from '../../../../examples/demo-model/greedy.json';
import { byId, offerCopy } from '../dom.js';

/** A way to load the demo model, and what is said of it. */
type Way = Required<Pick<LoadOptions, 'subgroups' | 'kv'>>;

const WAYS: Way[] = [true, false].flatMap((subgroups) => (['f16', 'f32'] as const).map((kv) => ({ subgroups, kv })));

export function offerCheck(demoUrl: string): void {
  const button = byId('check-start', HTMLButtonElement);
  const field = byId('check-report', HTMLTextAreaElement);
  offerCopy(byId('check-copy', HTMLButtonElement), field);
  button.addEventListener('click', () => {
    button.disabled = true;
    byId('check-export', HTMLElement).hidden = true;
    void check(demoUrl)
      .then(({ right, text }) => {
        field.value = text;
        byId('check-export', HTMLElement).hidden = false;
        if (right) say('This GPU computes right.', 'ready', 'right');
        else say('This GPU computes wrong values: the report says which.', 'error', 'wrong');
      })
      .catch((error: unknown) => say(error instanceof Error ? error.message : String(error), 'error', 'failed'))
      .finally(() => (button.disabled = false));
  });
}

function say(text: string, state: 'busy' | 'ready' | 'error', label: string): void {
  byId('check-status', HTMLElement).textContent = text;
  const pill = byId('check-state', HTMLElement);
  pill.dataset['state'] = state;
  pill.textContent = label;
}

async function check(demoUrl: string): Promise<{ right: boolean; text: string }> {
  const wrong: string[] = [];
  const lines = [`InCoder, ${navigator.userAgent}`];
  say('The kernels …', 'busy', 'checking');
  const checks: [string, GpuCheck][] = [['with subgroups', await InCoder.check()]];
  const { adapter } = checks[0]![1];
  if (adapter.subgroups) checks.push(['without subgroups', await InCoder.check({ subgroups: false })]);
  else checks[0]![0] = 'without subgroups';
  const { vendor, architecture, description, limits, software } = adapter;
  lines.push(`${[vendor, architecture, description].filter(Boolean).join(', ') || 'an adapter without a name'}${software ? ', software' : ''}`);
  lines.push(`limits ${JSON.stringify(limits)}; f16 ${adapter.f16}, subgroups ${adapter.subgroups}`, '');
  for (const [way, { kernels, right, avoidedBy }] of checks) {
    lines.push(`kernels ${way}: ${right ? 'right' : 'WRONG'}; farthest off: ${told(farthest(kernels))}`);
    for (const kernel of kernels.filter((one) => !one.right)) wrong.push(`${way}: ${told(kernel)}`);
    if (avoidedBy) wrong.push(`${way}: right without ${avoidedBy}`);
  }
  for (const way of WAYS.filter(({ subgroups }) => adapter.subgroups || !subgroups)) {
    const name = `${way.subgroups ? 'with' : 'without'} subgroups, ${way.kv} cache`;
    say(`The demo model ${name} …`, 'busy', 'checking');
    const right = await sameTokens(demoUrl, way);
    lines.push(`greedy tokens of the demo model ${name}: ${right === recorded.ids.length ? 'right' : 'WRONG'}, ${right} of ${recorded.ids.length}`);
    if (right < recorded.ids.length) wrong.push(`${name}: token ${right + 1} of the demo model is not the recorded one`);
  }
  const verdict = wrong.length === 0 ? ['This GPU computes right.'] : ['This GPU computes wrong values:', ...wrong];
  return { right: wrong.length === 0, text: `${[...lines, '', ...verdict].join('\n')}\n` };
}

/** How many tokens are the recorded ones, up to the first that is not. */
async function sameTokens(baseUrl: string, way: Way): Promise<number> {
  const model = await InCoder.load('demo', { baseUrl, contextLength: 128, ...way });
  try {
    const { ids } = await model.generate(recorded.prompt, { maxTokens: recorded.ids.length, temperature: 0, ignoreEos: true });
    const at = recorded.ids.findIndex((id, i) => ids[i] !== id);
    return at < 0 ? recorded.ids.length : at;
  } finally {
    await model.dispose();
  }
}

/** The check that is farthest off, of what is tolerated. */
function farthest(checks: KernelCheck[]): KernelCheck {
  const share = ({ error, tolerance }: KernelCheck) => (error ?? Infinity) / (tolerance || 1);
  return checks.reduce((worst, one) => (share(one) > share(worst) ? one : worst));
}

function told({ kernel, kv, tokens, error, tolerance, token, value, got, expected }: KernelCheck): string {
  const where = `value ${value} of token ${token} is ${got ?? 'not a number'}, expected ${expected}`;
  return `${kernel} of ${tokens}, ${kv} cache: ${where}, off by ${error?.toExponential(1) ?? 'no number'} (${tolerance.toExponential(0)} is rounding)`;
}
