/** The progress of loading, drawn: one bar for all of it, one row for each file. */

import type { LoadProgress } from 'incoder';
import { byId, bytes, duration, make } from './dom.js';

export const PHASES: Record<LoadProgress['phase'], string> = {
  plan: 'Looking at the files',
  download: 'Downloading',
  upload: 'Copying to the GPU',
  compile: 'Compiling the kernels',
  warmup: 'Warming up',
  ready: 'Ready',
};

/** Milliseconds without a byte after which a rate would mislead. */
const QUIET_MS = 3000;

/** Adds the phases, which overlap, up to one bar that never goes back. */
export class LoadMeter {
  private readonly shares = new Map<LoadProgress['phase'], number>();
  private readonly rows = new Map<string, { bar: HTMLProgressElement; text: HTMLElement }>();
  private readonly weights: Partial<Record<LoadProgress['phase'], number>>;
  private best = 0;
  private quiet: ReturnType<typeof setTimeout> | undefined;

  constructor(local: boolean) {
    this.weights = local
      ? { upload: 0.7, compile: 0.2, warmup: 0.1 }
      : { download: 0.75, upload: 0.1, compile: 0.1, warmup: 0.05 };
    byId('load-files', HTMLElement).replaceChildren();
    byId('load-bytes', HTMLElement).textContent = '';
    this.draw('plan');
  }

  add(progress: LoadProgress): void {
    const { phase, done, total } = progress;
    this.shares.set(phase, total > 0 ? done / total : 1);
    this.draw(phase);
    if (phase !== 'download') return;
    let how = progress.cached ? ' (kept in this browser)' : progress.resumed ? ' (continued)' : '';
    if (progress.waiting) how = ' (by another tab, whose download this one shares)';
    byId('load-bytes', HTMLElement).textContent = `${bytes(done)} of ${bytes(total)}${how}`;
    const running = done < total && progress.rate !== undefined;
    byId('load-rate', HTMLElement).textContent = running ? `${bytes(progress.rate ?? 0)}/s` : '';
    byId('load-eta', HTMLElement).textContent =
      running && progress.etaMs !== undefined ? `· ${duration(progress.etaMs)} left` : '';
    clearTimeout(this.quiet);
    if (running) this.quiet = setTimeout(() => this.waiting(), QUIET_MS);
    if (progress.file) this.drawFile(progress.file, progress.fileDone ?? 0, progress.fileTotal ?? 0);
  }

  /** Nothing more comes: the load has ended. */
  stop(): void {
    clearTimeout(this.quiet);
  }

  private waiting(): void {
    byId('load-rate', HTMLElement).textContent = 'waiting for the server';
    byId('load-eta', HTMLElement).textContent = '';
  }

  private draw(phase: LoadProgress['phase']): void {
    let sum = 0;
    for (const [name, share] of this.shares) sum += (this.weights[name] ?? 0) * share;
    this.best = Math.max(this.best, phase === 'ready' ? 1 : sum);
    byId('load-bar', HTMLProgressElement).value = this.best;
    byId('load-percent', HTMLElement).textContent = `${Math.round(this.best * 100)} %`;
    // While phases overlap, the one that holds the others up.
    const [slowest] = [...this.shares].find(([name, share]) => name === 'download' && share < 1) ?? [phase];
    byId('load-phase', HTMLElement).textContent = PHASES[slowest];
  }

  private drawFile(name: string, done: number, total: number): void {
    let row = this.rows.get(name);
    if (!row) {
      row = { bar: make('progress', { max: '1', value: '0', 'aria-label': name }), text: make('span', { class: 'number' }) };
      this.rows.set(name, row);
      const item = make('li', { 'data-testid': 'load-file' }, make('span', {}, name), row.text, row.bar);
      byId('load-files', HTMLElement).append(item);
    }
    row.bar.value = total > 0 ? done / total : 0;
    row.text.textContent = done >= total ? bytes(total) : `${bytes(done)} of ${bytes(total)}`;
  }
}
