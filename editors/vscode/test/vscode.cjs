/** The part of the module `vscode` that the extension and the language client use, without an editor. */

const { EventEmitter } = require('node:events');
const { configuration } = require('../package.json').contributes;

const properties = Object.assign({}, ...configuration.map((part) => part.properties));

class Disposable {
  constructor(dispose) {
    this.dispose = dispose;
  }
}

class Position {
  constructor(line, character) {
    Object.assign(this, { line, character });
  }
}

class Range {
  constructor(...ends) {
    const [start, end] = ends.length === 2 ? ends : [new Position(ends[0], ends[1]), new Position(ends[2], ends[3])];
    Object.assign(this, { start, end });
  }
}

class InlineCompletionItem {
  constructor(insertText, range, command) {
    Object.assign(this, { insertText, range, command });
  }
}

class InlineCompletionList {
  constructor(items) {
    this.items = items;
  }
}

class CancellationTokenSource {
  #emitter = new EventEmitter();
  token = {
    isCancellationRequested: false,
    onCancellationRequested: (listener) => subscribe(this.#emitter, 'cancel', listener),
  };
  cancel() {
    this.token.isCancellationRequested = true;
    this.#emitter.emit('cancel');
  }
  dispose() {}
}

class Uri {
  constructor(text) {
    const url = new URL(text);
    Object.assign(this, { text, scheme: url.protocol.slice(0, -1), path: url.pathname, fsPath: url.pathname });
  }
  static parse(text) {
    return new Uri(text);
  }
  toString() {
    return this.text;
  }
}

class ThemeColor {
  constructor(id) {
    this.id = id;
  }
}

function subscribe(emitter, name, listener) {
  emitter.on(name, listener);
  return new Disposable(() => emitter.off(name, listener));
}

/** The editor: what the extension did to it, and what the user does. */
const editor = {
  events: new EventEmitter(),
  settings: {},
  status: {},
  errors: [],
  warnings: [],
  log: [],
  commands: new Map(),
  providers: new Set(),
  documents: [],
  /** What the user picks in a list and types into a box. */
  pick: (items) => items[0],
  typed: undefined,
};
editor.events.setMaxListeners(0);

/** `vscode.workspace.onDid…` and its like. */
const event = (name) => (listener, self) => subscribe(editor.events, name, self ? listener.bind(self) : listener);

/** An event of another object that never happens. */
const never = () => new Disposable(() => {});

const channel = (name) => ({
  name,
  logLevel: 3,
  onDidChangeLogLevel: never,
  show() {},
  dispose() {},
  ...Object.fromEntries(
    ['append', 'appendLine', 'trace', 'debug', 'info', 'warn', 'error'].map((level) => [
      level,
      (text) => editor.log.push(`${level}: ${text}`),
    ]),
  ),
});

const known = {
  version: '1.91.0',
  env: { appName: 'mock', language: 'en' },
  Disposable,
  Position,
  Range,
  InlineCompletionItem,
  InlineCompletionList,
  CancellationTokenSource,
  CancellationError: class extends Error {},
  Uri,
  ThemeColor,
  EventEmitter: class {
    #emitter = new EventEmitter();
    event = (listener, self) => subscribe(this.#emitter, 'event', self ? listener.bind(self) : listener);
    fire(value) {
      this.#emitter.emit('event', value);
    }
    dispose() {
      this.#emitter.removeAllListeners();
    }
  },
  LogLevel: { Off: 0, Trace: 1, Debug: 2, Info: 3, Warning: 4, Error: 5 },
  StatusBarAlignment: { Left: 1, Right: 2 },
  ConfigurationTarget: { Global: 1 },
  InlineCompletionTriggerKind: { Invoke: 0, Automatic: 1 },
  workspace: {
    get textDocuments() {
      return editor.documents;
    },
    notebookDocuments: [],
    workspaceFolders: undefined,
    getConfiguration: (section) => ({
      get: (name, otherwise) =>
        editor.settings[`${section}.${name}`] ?? properties[`${section}.${name}`]?.default ?? otherwise,
      update: async (name, value) => editor.change(`${section}.${name}`, value),
    }),
  },
  window: {
    visibleTextEditors: [],
    tabGroups: { all: [], onDidChangeTabs: never, onDidChangeTabGroups: never },
    createOutputChannel: channel,
    createStatusBarItem: () => Object.assign(editor.status, { show() {}, dispose() {} }),
    showErrorMessage: async (text) => void editor.errors.push(text),
    showWarningMessage: async (text) => void editor.warnings.push(text),
    showQuickPick: async (items) => editor.pick(items),
    showInputBox: async () => editor.typed,
  },
  languages: {
    match: (selector, { uri }) => (selector.some(({ scheme }) => scheme === uri.scheme) ? 10 : 0),
    registerInlineCompletionItemProvider: (_selector, provider) => {
      editor.providers.add(provider);
      return new Disposable(() => editor.providers.delete(provider));
    },
  },
  commands: {
    registerCommand: (name, command) => {
      editor.commands.set(name, command);
      return new Disposable(() => editor.commands.delete(name));
    },
    executeCommand: (name) => editor.commands.get(name)?.(),
  },
};

editor.change = (name, value) => {
  editor.settings[name] = value;
  editor.events.emit('onDidChangeConfiguration', { affectsConfiguration: (asked) => asked === name });
};

/** A document of the editor, opened. */
editor.open = (name, languageId, text) => {
  const document = {
    uri: new Uri(`file:///${name}`),
    languageId,
    version: 1,
    text,
    isClosed: false,
    getText: () => document.text,
  };
  editor.documents.push(document);
  editor.events.emit('onDidOpenTextDocument', document);
  return document;
};

/** Types at the end of a line of a document. */
editor.type = (document, line, typed) => {
  const lines = document.text.split('\n');
  const at = new Position(line, lines[line].length);
  lines[line] += typed;
  Object.assign(document, { text: lines.join('\n'), version: document.version + 1 });
  const contentChanges = [{ range: new Range(at, at), rangeLength: 0, rangeOffset: 0, text: typed }];
  editor.events.emit('onDidChangeTextDocument', { document, contentChanges, reason: undefined });
};

/** What is not written above: an event, or a class that something of the language client extends. */
const withRest = (object) =>
  new Proxy(object, {
    get: (target, name) => {
      if (name in target) return target[name];
      return /^on(Did|Will)/.test(String(name)) ? event(String(name)) : class {};
    },
  });

known.workspace = withRest(known.workspace);
known.window = withRest(known.window);

module.exports = { editor, vscode: withRest(known) };
