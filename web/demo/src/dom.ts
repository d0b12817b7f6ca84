/** Small helpers: elements by id, elements made, numbers as people write them. */

/** The element of index.html with this id, which must be one of `type`. */
export function byId<T extends HTMLElement>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html lacks a ${type.name} #${id}`);
  return element;
}

/** A new element with attributes and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** One row of a list of facts: a term and what is said of it. */
export function fact(term: string, text: string, testid?: string): HTMLElement {
  return make('div', {}, make('dt', {}, term), make('dd', testid ? { 'data-testid': testid } : {}, text));
}

/** 6 932 MB as `6.9 GB`: decimal units, two digits where one alone would round badly. */
export function bytes(count: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit > 0 && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

/** 1234567 as `1,234,567`. */
export function number(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 10 ? 1 : 0 });
}

/** `1 hole`, `2 holes`. */
export function plural(count: number, noun: string): string {
  return `${number(count)} ${noun}${count === 1 ? '' : 's'}`;
}

/** A button that copies the text of a field. */
export function offerCopy(button: HTMLButtonElement, field: HTMLTextAreaElement): void {
  button.addEventListener('click', () => {
    const copied = () => (button.textContent = 'Copied');
    // Where the clipboard is forbidden, the text is at least selected.
    navigator.clipboard.writeText(field.value).then(copied, () => field.select());
  });
}
