import { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';
import * as monaco from 'monaco-editor';
import EditorWorker from 'monaco-editor/editor/editor.worker.js?worker';
import { InCoder } from 'incoder';
import { inlineCompletions } from 'incoder/monaco';

self.MonacoEnvironment = { getWorker: () => new EditorWorker() };

let model = null;
monaco.languages.registerInlineCompletionsProvider('python', inlineCompletions({ engine: () => model }));

const START = `def add(a, b):
    return a + b


def subtract(a, b):
    return a - b


def multiply(a, b):
    `;

function Ide() {
  const [status, setStatus] = useState('Loading the model …');
  const element = useRef(null);

  useEffect(() => {
    const editor = monaco.editor.create(element.current, {
      value: START,
      language: 'python',
      automaticLayout: true,
      // Otherwise Monaco waits for an inline completion for 750 ms only, and shows its list of words instead.
      quickSuggestions: false,
    });
    editor.setPosition({ lineNumber: 10, column: 5 });
    editor.focus();
    return () => editor.dispose();
  }, []);

  useEffect(() => {
    InCoder.load('demo', { baseUrl: '/' }).then(
      (loaded) => ((model = loaded), setStatus('Ready: type, and accept a suggestion with Tab.')),
      (error) => setStatus(`The model could not be loaded: ${error.message}`),
    );
  }, []);

  return [<div role="status" key="status">{status}</div>, <div ref={element} key="editor" />];
}

createRoot(document.getElementById('root')).render(<Ide />);
