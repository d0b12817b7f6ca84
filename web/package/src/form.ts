/** What a document has that the model is not shown: a byte-order mark, and line ends other than `\n`. */

const MARK = '\ufeff';

/**
 * The form of a document. The models were trained on `\n`: a text that uses `\r\n` throughout, or `\r`, is shown to them as if it
 * used `\n`, and what they write gets its line ends. A text that mixes them is left as it is.
 */
export class Form {
  private constructor(private readonly end: '\n' | '\r\n' | '\r') {}

  /** Nothing is changed. */
  static readonly asItIs = new Form('\n');

  /** The form of a document in parts. */
  static of(parts: string[]): Form {
    const count = (pattern: RegExp) => parts.reduce((sum, part) => sum + (part.match(pattern)?.length ?? 0), 0);
    const [pairs, returns, feeds] = [count(/\r\n/g), count(/\r/g), count(/\n/g)];
    if (pairs > 0 && returns === pairs && feeds === pairs) return new Form('\r\n');
    return new Form(returns > 0 && feeds === 0 ? '\r' : '\n');
  }

  /** Text of the document as the model is shown it. */
  toModel(text: string): string {
    return this.end === '\n' ? text : text.replaceAll(this.end, '\n');
  }

  /** Parts of the document as the model is shown them: a mark at its beginning is no part of its text. */
  partsToModel(parts: string[]): string[] {
    return parts.map((part, at) => this.toModel(at === 0 && part.startsWith(MARK) ? part.slice(1) : part));
  }

  /** Text of the model as the document has it. */
  toDocument(text: string): string {
    return this.end === '\n' ? text : text.replace(/\r?\n/g, this.end);
  }
}
