/** The model panel: choosing, loading, cancelling, what is kept in the browser. It hands an engine on, or null. */

import { InCoder, InCoderError } from 'incoder';
import type { CachedModel, FitQuery, LoadOptions, Probe } from 'incoder';
import { fitText, proposedWeights } from './device.js';
import { byId, bytes, fact, make, number } from './dom.js';
import { droppedFiles, isModelFile, missing } from './files.js';
import { DEMO_ADVICE, HUB_NOTE, LICENCE, QWEN_NOTE, isAbort, ofError, ofProbe, show } from './messages.js';
import type { Message } from './messages.js';
import { LoadMeter } from './progress.js';

type SourceId = 'demo' | '1b' | '6b' | 'qwen-small' | 'qwen-large' | 'disk';

interface Source {
  title: string;
  about: string;
  caution: string;
  licence: string;
  size: string;
  /** The name on the hub. */
  hub?: Exclude<FitQuery & string, 'demo'>;
}

const SOURCES: Record<SourceId, Source> = {
  demo: {
    title: 'demo model',
    about: 'A tiny InCoder that this project trained. It shows that everything works, and is too small to write useful code.',
    caution: '',
    licence: 'MIT or Apache-2.0',
    size: '',
  },
  '1b': {
    title: 'InCoder-1B',
    about: 'Meta’s smaller model, from the Hugging Face hub.',
    caution: HUB_NOTE,
    licence: LICENCE,
    size: 'about 2.6 GB in half precision',
    hub: 'facebook/incoder-1B',
  },
  '6b': {
    title: 'InCoder-6B',
    about: 'Meta’s larger model, from the Hugging Face hub.',
    caution: HUB_NOTE,
    licence: LICENCE,
    size: 'about 13 GB in half precision',
    hub: 'facebook/incoder-6B',
  },
  'qwen-small': {
    title: 'Qwen2.5-Coder-0.5B',
    about: 'Alibaba’s smallest code model, from the Hugging Face hub. It fills one hole at a time.',
    caution: QWEN_NOTE,
    licence: 'Apache-2.0',
    size: 'about 1.0 GB in half precision',
    hub: 'Qwen/Qwen2.5-Coder-0.5B',
  },
  'qwen-large': {
    title: 'Qwen2.5-Coder-1.5B',
    about: 'A larger one of the same family, from the Hugging Face hub. It fills one hole at a time.',
    caution: QWEN_NOTE,
    licence: 'Apache-2.0',
    size: 'about 3.1 GB in half precision',
    hub: 'Qwen/Qwen2.5-Coder-1.5B',
  },
  disk: {
    title: 'model from disk',
    about: 'config.json, tokenizer.json and the weights, as safetensors or .bin; or one GGUF file. Nothing is uploaded or copied.',
    caution: '',
    licence: `the files’ own. Meta’s weights: ${LICENCE}`,
    size: 'nothing chosen',
  },
};

const DEMO_URL = new URL('model/', document.baseURI).href;

/** An id without the slashes at its end. */
const bare = (id: string): string => id.replace(/#q\d-v\d+$/, '').replace(/\/+$/, '');
/** The type in which the cache keeps a model; empty where that is as it came. */
const typeOf = (id: string): string => /#(q\d)-v\d+$/.exec(id)?.[1] ?? '';

const size = (text: string): HTMLElement => make('span', { class: 'number' }, text);

const millions = (count: number): string =>
  count >= 1e9 ? `${(count / 1e9).toFixed(1)} billion` : `${(count / 1e6).toFixed(1)} million`;

export interface PanelHooks {
  engine(engine: InCoder | null): void;
  loading(loading: boolean): void;
  /** One sentence for the status line beside the editor. */
  status(text: string): void;
}

/** One way to a model. */
interface Bringing {
  /** For the status line while it is on its way, and when somebody cancelled it. */
  status: string;
  cancelled: string;
  load(options: Required<Pick<LoadOptions, 'signal' | 'onProgress'>>): Promise<InCoder>;
  failure(error: unknown): Message;
}

export class ModelPanel {
  private source: SourceId = 'demo';
  private engine: InCoder | null = null;
  private files: File[] = [];
  private abort: AbortController | null = null;
  /** What the server has of the demo model now. */
  private demoFiles: { name: string; size: number; sha256: string }[] = [];
  /** Why no model can be loaded here, once that is known. */
  private hindrance: Message | null = null;
  private kept: CachedModel[] = [];

  private readonly load = byId('load', HTMLButtonElement);
  private readonly quick = byId('quick-load', HTMLButtonElement);
  private readonly message = byId('load-message', HTMLElement);

  constructor(
    private readonly probe: Promise<Probe>,
    private readonly hooks: PanelHooks,
  ) {
    for (const id of Object.keys(SOURCES) as SourceId[]) {
      byId(`source-${id}`, HTMLInputElement).addEventListener('change', () => this.choose(id));
    }
    this.load.addEventListener('click', () => void this.start());
    this.quick.addEventListener('click', () => {
      this.choose('demo');
      void this.start();
    });
    byId('cancel-load', HTMLButtonElement).addEventListener('click', () => this.abort?.abort());
    byId('unload', HTMLButtonElement).addEventListener('click', () => void this.unload());
    byId('hub-revision', HTMLInputElement).addEventListener('input', () => this.render());
    byId('weights', HTMLSelectElement).addEventListener('change', () => this.render());
    byId('hub-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      void this.start();
    });
    byId('server-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      void this.connect();
    });
    // A server answers pages on its own machine without being told to.
    const local = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
    byId('server-command', HTMLElement).textContent = `incoder serve${local ? '' : ` --allow-origin ${location.origin}`}`;
    for (const id of ['disk-files', 'disk-folder']) {
      const input = byId(id, HTMLInputElement);
      input.addEventListener('change', () => this.pick([...(input.files ?? [])]));
    }
    this.acceptDrops(byId('model-panel', HTMLElement));
    this.render();
    void this.readManifest();
    void this.readCache();
    void probe.then((found) => {
      if (found.ok) return;
      this.hindrance = ofProbe(found);
      hooks.status(`No model can be loaded here. ${this.hindrance.title}`);
      show(this.message, this.hindrance);
      byId('server-form', HTMLFormElement).hidden = false;
      this.render();
    });
  }

  /** The size of the demo model, from the manifest that is built with the page. */
  private async readManifest(): Promise<void> {
    try {
      const manifest: unknown = await (await fetch(`${DEMO_URL}manifest.json`)).json();
      this.demoFiles = (manifest as { files: ModelPanel['demoFiles'] }).files;
    } catch {
      this.demoFiles = []; // loading says what is wrong, where anyone wants to load it
    }
    this.render();
  }

  private async readCache(): Promise<void> {
    try {
      // A load that failed before its first byte leaves a record, and nothing worth a line.
      this.kept = (await InCoder.cache.list()).filter((model) => model.bytes > 0);
    } catch {
      this.kept = []; // a browser that keeps nothing (private windows) has nothing to list
    }
    this.render();
  }

  private get demoBytes(): number {
    return this.demoFiles.reduce((sum, file) => sum + file.size, 0);
  }

  /** Whether the server has another demo model by now. The engine would not ask: it loads from the cache what is whole there. */
  private outdated({ id, complete, files }: CachedModel): boolean {
    // Of one that is kept quantized, only the tokenizer is as it came.
    const comparable = files.filter(({ name }) => typeOf(id) === '' || name === 'tokenizer.json');
    const other = ({ name, sha256 }: { name: string; sha256: string }): boolean =>
      comparable.some((file) => file.name === name && file.sha256 !== sha256);
    return bare(id) === bare(DEMO_URL) && complete && this.demoFiles.some(other);
  }

  private choose(id: SourceId): void {
    this.source = id;
    byId(`source-${id}`, HTMLInputElement).checked = true;
    show(this.message, this.hindrance);
    if (!this.engine && !this.hindrance) this.hooks.status('No model is loaded yet.');
    this.render();
  }

  private pick(files: File[]): void {
    if (files.length === 0) return;
    this.files = files.filter(isModelFile);
    this.choose('disk');
  }

  /** What the cache has of the chosen model. */
  private cached(): CachedModel | undefined {
    const { hub } = SOURCES[this.source];
    const revision = byId('hub-revision', HTMLInputElement).value.trim() || 'main';
    if (this.source === 'disk') return undefined;
    const wanted = hub ? `${hub}@${revision}` : bare(DEMO_URL);
    const type = byId('weights', HTMLSelectElement).value;
    return this.kept.find((model) => bare(model.id) === wanted && typeOf(model.id) === type && !this.outdated(model));
  }

  private render(): void {
    const source = SOURCES[this.source];
    const loading = this.abort !== null;
    byId('model-choice', HTMLElement).hidden = loading || this.engine !== null;
    byId('load-progress', HTMLElement).hidden = !loading;
    byId('model-loaded', HTMLElement).hidden = loading || this.engine === null;
    byId('model-panel', HTMLElement).ariaBusy = String(loading);
    const state = byId('model-state', HTMLElement);
    state.dataset.state = loading ? 'busy' : this.engine ? 'ready' : 'none';
    state.textContent = loading ? 'loading' : this.engine ? 'ready' : 'none loaded';

    byId('model-about', HTMLElement).textContent = source.about;
    byId('model-licence', HTMLElement).textContent = source.licence;
    byId('model-caution', HTMLElement).textContent = source.caution;
    byId('model-caution', HTMLElement).hidden = source.caution === '';
    byId('hub-fields', HTMLElement).hidden = source.hub === undefined;
    byId('disk-fields', HTMLElement).hidden = this.source !== 'disk';
    byId('disk-list', HTMLElement).replaceChildren(
      ...this.files.map((file) => make('li', {}, make('span', {}, file.name), size(bytes(file.size)))),
    );
    byId('model-size', HTMLElement).textContent = this.sizeText();

    const cached = this.cached();
    const kept = cached && !cached.complete && cached.bytes > 0;
    const lacking = this.source === 'disk' ? missing(this.files) : '';
    this.load.textContent = kept ? 'Continue loading' : `Load the ${source.title}`.replace(/the (?=In|Qwen)/, '');
    this.load.disabled = lacking !== '' || this.hindrance !== null;
    byId('disk-missing', HTMLElement).textContent = this.files.length > 0 ? lacking : '';

    this.quick.hidden = loading || this.engine !== null || this.hindrance !== null;
    this.quick.textContent = `Load the demo model${this.demoBytes > 0 ? ` (${bytes(this.demoBytes)})` : ''}`;
    this.renderCache();
    void this.renderFit();
  }

  private sizeText(): string {
    const cached = this.cached();
    let kept = '';
    if (cached?.complete) kept = ', in this browser already';
    else if (cached && cached.bytes > 0) kept = `, ${bytes(cached.bytes)} of it here already`;
    // Without a network the server does not tell; what was kept does.
    const demoBytes = this.demoBytes || (cached?.complete ? cached.bytes : 0);
    if (this.source === 'demo') return (demoBytes > 0 ? bytes(demoBytes) : 'unknown') + kept;
    if (this.source === 'disk' && this.files.length > 0) return bytes(this.files.reduce((sum, file) => sum + file.size, 0));
    return SOURCES[this.source].size + kept;
  }

  private async renderFit(): Promise<void> {
    const chosen = this.source;
    const files = this.files;
    const config = files.find((file) => file.name === 'config.json');
    let query: FitQuery | undefined = chosen === 'demo' ? 'demo' : SOURCES[chosen].hub;
    if (chosen === 'disk' && config) query = { config: await config.text() };
    const probe = await this.probe;
    const text = query ? await fitText(probe, query) : 'known once config.json is chosen';
    const proposed = query ? await proposedWeights(probe, query).catch(() => undefined) : undefined;
    // Another choice may have been made while the answer was on its way.
    if (chosen !== this.source || files !== this.files) return;
    byId('model-fit', HTMLElement).textContent = text;
    const weights = byId('weights', HTMLSelectElement);
    // What somebody chose stays chosen for that model.
    if (weights.dataset.proposedFor === chosen) return;
    weights.dataset.proposedFor = chosen;
    weights.value = proposed ?? '';
    // What the cache has of the model depends on it.
    this.render();
  }

  private renderCache(): void {
    const list = byId('cache-list', HTMLElement);
    byId('cache-empty', HTMLElement).hidden = this.kept.length > 0;
    byId('cache-size', HTMLElement).textContent =
      this.kept.length > 0 ? bytes(this.kept.reduce((sum, model) => sum + model.bytes, 0)) : '';
    list.replaceChildren(
      ...this.kept.map((model) => {
        const type = typeOf(model.id);
        const name = (bare(model.id) === bare(DEMO_URL) ? 'Demo model' : bare(model.id)) + (type ? `, ${type}` : '');
        const attributes = { type: 'button', 'aria-label': `Delete ${name}`, 'data-testid': 'cache-delete' };
        const button = make('button', attributes, 'Delete');
        button.addEventListener('click', () => void this.delete(model.id));
        const much = `${bytes(model.bytes)}${model.complete ? '' : ', not whole'}`;
        return make('li', { 'data-testid': 'cache-item' }, make('span', {}, name), size(much), button);
      }),
    );
  }

  private async delete(id: string): Promise<void> {
    try {
      await InCoder.cache.delete(id);
      this.hooks.status('Deleted from this browser.');
    } catch (error) {
      show(this.message, ofError(error));
    }
    await this.readCache();
  }

  private async start(): Promise<void> {
    if (this.abort || this.engine || this.load.disabled) return;
    const source = SOURCES[this.source];
    const name = this.source === 'demo' ? 'demo' : (source.hub ?? 'from-disk');
    const options: LoadOptions = {};
    const weights = byId('weights', HTMLSelectElement).value;
    if (weights === 'q8' || weights === 'q4') options.quantize = weights;
    if (this.source === 'demo') options.baseUrl = DEMO_URL;
    if (this.source === 'disk') options.files = this.files;
    if (source.hub) {
      const revision = byId('hub-revision', HTMLInputElement).value.trim();
      const token = byId('hub-token', HTMLInputElement).value.trim();
      if (revision) options.revision = revision;
      if (token) options.token = token;
    }
    await this.bring({
      status: `Loading the ${source.title} …`.replace(/the (?=In|Qwen)/, ''),
      cancelled: 'Loading was cancelled. What was downloaded is kept: loading again continues.',
      load: async (more) => {
        for (const model of this.kept.filter((each) => this.outdated(each))) await InCoder.cache.delete(model.id);
        const engine = await InCoder.load(name, { ...options, ...more });
        this.showLoaded(engine, source);
        return engine;
      },
      failure: (error) => {
        const message = ofError(error, 'load');
        const unread = error instanceof InCoderError && ['NOT_FOUND', 'BAD_CHECKPOINT', 'UNSUPPORTED_MODEL'].includes(error.code);
        if (unread && this.source === 'demo') message.advice = DEMO_ADVICE;
        return message;
      },
    });
  }

  /** Lets a server compute where this browser cannot. */
  private async connect(): Promise<void> {
    if (this.abort || this.engine) return;
    const server = byId('server-url', HTMLInputElement).value.trim();
    const apiKey = byId('server-key', HTMLInputElement).value.trim();
    await this.bring({
      status: 'Waiting for the server …',
      cancelled: 'Nobody waits for the server any more.',
      load: async (more) => {
        byId('load-phase', HTMLElement).textContent = 'Waiting for the server';
        const engine = await InCoder.load({ server, ...(apiKey && { apiKey }), ...more });
        this.showServer(engine);
        return engine;
      },
      failure: (error) => ofError(error, 'connect'),
    });
  }

  private async bring({ status, cancelled, load, failure }: Bringing): Promise<void> {
    const abort = new AbortController();
    this.abort = abort;
    show(this.message, null);
    const meter = new LoadMeter(this.source === 'disk');
    this.render();
    const cancel = byId('cancel-load', HTMLButtonElement);
    cancel.focus({ preventScroll: true });
    this.hooks.loading(true);
    this.hooks.status(status);
    try {
      this.engine = await load({ signal: abort.signal, onProgress: (progress) => meter.add(progress) });
      this.hooks.status('The model is ready.');
    } catch (error) {
      if (abort.signal.aborted || isAbort(error)) {
        this.hooks.status(cancelled);
      } else {
        show(this.message, failure(error));
        this.message.scrollIntoView({ block: 'nearest' });
        this.hooks.status('The model could not be loaded.');
      }
    }
    meter.stop();
    this.abort = null;
    this.hooks.loading(false);
    this.hooks.engine(this.engine);
    await this.readCache();
    // The button that had the focus is hidden now; browsers take the focus from it at once, or a little later.
    const next = this.engine ? byId('infill', HTMLButtonElement) : this.begin;
    if ([cancel, document.body].includes(document.activeElement as HTMLElement)) next.focus({ preventScroll: true });
  }

  /** The button that a model is loaded with here. */
  private get begin(): HTMLButtonElement {
    return this.hindrance ? byId('use-server', HTMLButtonElement) : this.load;
  }

  private showServer({ info }: InCoder): void {
    byId('model-facts', HTMLElement).replaceChildren(
      fact('Model', info.model, 'info-model'),
      fact('Parameters', millions(info.parameters), 'info-parameters'),
      fact('Context', `${number(info.contextLength)} tokens`, 'info-context'),
      fact('Server', info.server ?? '', 'info-server'),
      fact('Computed on', info.adapter.description, 'info-device'),
    );
  }

  private showLoaded(engine: InCoder, source: Source): void {
    const { info } = engine;
    const title = source.title.charAt(0).toUpperCase() + source.title.slice(1);
    byId('model-facts', HTMLElement).replaceChildren(
      fact('Model', title, 'info-model'),
      fact('Parameters', millions(info.parameters), 'info-parameters'),
      fact('Licence', source.licence, 'info-licence'),
      fact('Context', `${number(info.contextLength)} tokens`, 'info-context'),
      fact('GPU memory', bytes(info.gpuBytes), 'info-memory'),
      fact('Weights', info.weights, 'info-weights'),
      fact('Keys and values', info.kv, 'info-kv'),
      fact('Runs in', info.worker ? 'a worker' : 'the page', 'info-worker'),
    );
  }

  private async unload(): Promise<void> {
    const { engine } = this;
    this.engine = null;
    this.hooks.engine(null);
    this.hooks.status('The model was unloaded.');
    this.render();
    this.begin.focus({ preventScroll: true });
    await engine?.dispose();
  }

  private acceptDrops(zone: HTMLElement): void {
    const over = (on: boolean) => (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes('Files') || this.abort || this.engine) return;
      event.preventDefault();
      zone.classList.toggle('dropping', on);
    };
    zone.addEventListener('dragover', over(true));
    zone.addEventListener('dragleave', over(false));
    zone.addEventListener('drop', (event) => {
      over(false)(event);
      if (event.defaultPrevented && event.dataTransfer) void droppedFiles(event.dataTransfer).then((files) => this.pick(files));
    });
  }
}
