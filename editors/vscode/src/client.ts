/** The connection to `incoder lsp`: what it says about itself becomes a state, and a failure a sentence for the user. */

import * as vscode from 'vscode';
import {
  CloseAction,
  ErrorAction,
  LanguageClient,
  LogMessageNotification,
  MessageType,
  type ErrorHandler,
  type LanguageClientOptions,
  type Middleware,
} from 'vscode-languageclient/node';
import { options, type Options } from './options.js';
import { start, type Started } from './program.js';

/** Milliseconds within which a server says that it is there. */
const SERVER_TIME = 3000;
/** So many ends of the program within so many milliseconds are too many to start it again. */
const MAX_CRASHES = 3;
const CRASH_TIME = 180_000;

export type State =
  | { readonly kind: 'off' }
  | { readonly kind: 'loading'; readonly detail: string }
  | { readonly kind: 'ready'; readonly detail: string }
  | { readonly kind: 'failed'; readonly detail: string };

/** Errors are shown by the extension, with what to do; the library's own notifications would come beside them. */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** Starts and stops the program, one after the other. */
export class Completions {
  private client: LanguageClient | undefined;
  private program: Started | undefined;
  private queue: Promise<void> = Promise.resolve();
  /** Why a server was not used, where the program said so. */
  private warning = '';
  private isStarting = false;
  private crashes: number[] = [];

  constructor(
    private readonly log: vscode.LogOutputChannel,
    private readonly key: () => PromiseLike<string | undefined>,
    private readonly onState: (state: State) => void,
    private readonly onWarning: (problem: string) => void,
  ) {}

  /** Starts the program, again where it runs already. */
  start(): Promise<void> {
    this.crashes = [];
    return this.next(async () => {
      await this.end();
      await this.begin();
    });
  }

  stop(): Promise<void> {
    return this.next(async () => {
      await this.end();
      this.onState({ kind: 'off' });
    });
  }

  private next(what: () => Promise<void>): Promise<void> {
    this.queue = this.queue.then(what).catch((error: unknown) => this.fail(said(error)));
    return this.queue;
  }

  private async begin(): Promise<void> {
    this.onState({ kind: 'loading', detail: 'starting' });
    this.warning = '';
    const chosen = options(vscode.workspace.getConfiguration('incoder'));
    if (chosen.server) await reach(chosen.server);
    const key = await this.key();
    const launch = async () => {
      this.program = await start(chosen, chosen.args, key);
      return this.program.child;
    };
    const client = new QuietClient('incoder', 'InCoder', launch, this.clientOptions(chosen));
    // In place of the library's handler, which only writes to the log.
    client.onNotification(LogMessageNotification.type, ({ type, message }) => this.told(client, type, message));
    this.client = client;
    this.isStarting = true;
    try {
      await client.start();
    } catch (error) {
      this.client = undefined;
      const words = this.program?.lastWords();
      // The library leaves it running where only the first message failed.
      this.program?.child.kill();
      throw words ? new Error(`incoder lsp could not start: ${words}`) : error;
    } finally {
      this.isStarting = false;
    }
  }

  private async end(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    try {
      if (client?.needsStop()) await client.stop();
      await client?.dispose();
    } catch (error) {
      // It had ended, or did not answer and was killed by the library: either way it is gone.
      this.log.warn(`incoder lsp did not end in order: ${said(error)}`);
    }
    this.program = undefined;
  }

  /** A message of the program for its log. Information says that completions are there, and from where. */
  private told(client: LanguageClient, type: MessageType, message: string): void {
    const text = message.replace(/^incoder: /, '');
    if (type === MessageType.Error) this.log.error(text);
    else if (type === MessageType.Warning) this.log.warn(text);
    else this.log.info(text);
    if (client !== this.client) return;
    if (type === MessageType.Error) {
      this.fail(text);
    } else if (type === MessageType.Warning) {
      this.warning = text;
      this.onWarning(text);
    } else if (type === MessageType.Info) {
      this.onState({ kind: 'ready', detail: text });
    }
  }

  /** After an unexpected end, unless it ended too often. */
  private startAgain(): void {
    const now = Date.now();
    this.crashes = [...this.crashes.filter((time) => now - time < CRASH_TIME), now];
    const words = this.program?.lastWords();
    if (this.crashes.length >= MAX_CRASHES) {
      return this.fail(`incoder lsp ended ${MAX_CRASHES} times${words ? `: ${words}` : '; the log may say why'}`);
    }
    this.log.warn(`incoder lsp ended${words ? `: ${words}` : ''}; it is started again`);
    void this.next(async () => {
      await this.end();
      await this.begin();
    });
  }

  private fail(problem: string): void {
    this.log.error(problem);
    this.onState({ kind: 'failed', detail: problem });
  }

  private clientOptions(chosen: Options): LanguageClientOptions {
    return {
      documentSelector: ['file', 'untitled', 'vscode-notebook-cell'].map((scheme) => ({ scheme })),
      outputChannel: this.log,
      traceOutputChannel: silent(this.log),
      initializationFailedHandler: () => false,
      errorHandler: this.errorHandler(),
      middleware: this.middleware(chosen),
    };
  }

  private middleware(chosen: Options): Middleware {
    return {
      provideInlineCompletionItems: (document, position, context, token, next) => {
        const settings = vscode.workspace.getConfiguration('incoder', document);
        const isUnasked =
          context.triggerKind === vscode.InlineCompletionTriggerKind.Automatic && settings.get('automatic') === false;
        const isDisabled = settings.get<string[]>('disabledLanguages')?.includes(document.languageId);
        return isUnasked || isDisabled ? null : next(document, position, context, token);
      },
      // The status bar shows it.
      handleWorkDoneProgress: (_token, params) => {
        if (params.kind !== 'begin') return;
        if (!chosen.server) return this.onState({ kind: 'loading', detail: params.message ?? 'loading the model' });
        // The program would load the model in place of a server that is gone: not where a server was asked for.
        const problem = unreachable(chosen.server, this.warning || 'it does not answer');
        void this.next(() => this.end().then(() => this.fail(problem)));
      },
    };
  }

  private errorHandler(): ErrorHandler {
    return {
      error: () => ({ action: ErrorAction.Continue, handled: true }),
      // Not by the library: a program that does not start a second time is a failure to be shown, too.
      closed: () => {
        if (!this.isStarting) this.startAgain();
        return { action: CloseAction.DoNotRestart, handled: true };
      },
    };
  }
}

/** Returns if an `incoder serve` answers, whether its model is loaded or not. */
async function reach(server: URL): Promise<void> {
  let response;
  try {
    response = await fetch(new URL('/health', server), { signal: AbortSignal.timeout(SERVER_TIME) });
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    throw new Error(unreachable(server, said(cause)));
  }
  await response.body?.cancel();
  if (!response.headers.get('server')?.startsWith('incoder/')) {
    throw new Error(unreachable(server, 'another program has this port'));
  }
}

function unreachable(server: URL, why: string): string {
  return (
    `No incoder serve at ${server.origin} (${why}). Start it there with \`incoder serve\`, ` +
    'or clear the setting incoder.server to load the model here.'
  );
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The library can trace all messages, documents included. This channel, which records nothing, keeps them out of every log. */
function silent(log: vscode.LogOutputChannel): vscode.LogOutputChannel {
  const nothing = () => {};
  return {
    name: log.name,
    logLevel: vscode.LogLevel.Off,
    onDidChangeLogLevel: () => new vscode.Disposable(nothing),
    append: nothing,
    appendLine: nothing,
    replace: nothing,
    clear: nothing,
    show: nothing,
    hide: nothing,
    dispose: nothing,
    trace: nothing,
    debug: nothing,
    info: nothing,
    warn: nothing,
    error: nothing,
  };
}
